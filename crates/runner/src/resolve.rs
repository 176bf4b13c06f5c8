//! From a spec as written to the run it means: names looked up, options checked, defaults filled in, and what cannot matter set to
//! one fixed value, so that equal experiments have equal ids.

use crate::environment::Environment;
use crate::error::{Result, RunError};
use crate::init_adapter;
use peftbench_adapters::method::{AttachContext, Carried, Stage, joint_stages, own_stage};
use peftbench_adapters::policies::PolicyContext;
use peftbench_adapters::{Attachment, Method, choose, methods, policies};
use peftbench_datasets::{Scoring, numbers, tasks};
use peftbench_models::config::ModelConfig;
use peftbench_models::gguf::GgufFile;
use peftbench_models::s4d::S4D;
use peftbench_models::weights::{Fresh, On, Shapes};
use peftbench_models::{Model, Network, model};
use peftbench_ops::Device;
use peftbench_ops::device::host;
use peftbench_spec::seed;
use peftbench_spec::{Component, LayerSelection, RunSpec, SpecError, TargetExpr};

/// Checks `spec` and fills in every default.
pub fn resolve(spec: &RunSpec, environment: &Environment) -> Result<RunSpec> {
    let mut resolved = spec.clone();
    resolved.task = tasks::resolve(&spec.task).map_err(|e| e.below("task"))?;
    resolved.forgetting = spec.forgetting.as_ref().map(resolve_forgetting).transpose().map_err(|e| e.below("forgetting"))?;
    for (i, method) in resolved.method.iter_mut().enumerate() {
        *method = methods::resolve(method).map_err(|e| e.below(&format!("method[{i}]")))?;
    }
    resolved.policy = policies::resolve(&spec.policy).map_err(|e| e.below("policy"))?;
    if let Some(option) = spec.model.options.keys().next() {
        return Err(SpecError::at(format!("model.{option}"), "unknown key; a model has no options here").into());
    }
    check_kinds(&resolved, environment)?;
    let built = build_methods(&resolved)?;
    if built.iter().all(|method| method.slot_kinds().is_empty()) {
        resolved.targets = TargetExpr::default();
        resolved.layers = LayerSelection::All;
    }
    if !built.iter().any(|method| method.trains()) {
        let (test, valid, max_length, eval_batch_size) =
            (spec.train.test_samples, spec.train.valid_samples, spec.train.max_length, spec.train.eval_batch_size);
        resolved.train =
            peftbench_spec::TrainSpec { test_samples: test, valid_samples: valid, max_length, eval_batch_size, ..Default::default() };
        resolved.seed = 0;
        resolved.policy = policies::resolve(&Component::named("static"))?;
    }
    // Attaching to a model without content finds whatever does not fit: targets, layers, ranks, and the adapter to start from.
    let (model, attachment) = attach_shapes(&resolved, environment)?;
    if let Some(wanted) = &resolved.init_adapter {
        init_adapter::check_stages(built.iter().map(|method| method.stages().len()).max().unwrap_or(0))?;
        init_adapter::load(&init_adapter::find(wanted, environment, None)?, &resolved, &attachment)?;
    }
    let context = PolicyContext::new(model.num_layers(), &attachment, resolved.seed);
    policies::build(&resolved.policy, context).map_err(|e| e.below("policy"))?;
    Ok(resolved)
}

fn resolve_forgetting(task: &Component) -> std::result::Result<Component, SpecError> {
    match tasks::build(task)?.format().scoring {
        Scoring::Perplexity => tasks::resolve(task),
        _ => Err(SpecError::at("", format!("`{}` is no task of plain text; take one of `text/…` or `world/text`", task.name))),
    }
}

/// A network over numbers has tasks over numbers, and a language model has tasks in words.
fn check_kinds(spec: &RunSpec, environment: &Environment) -> Result<()> {
    let model_reads_numbers = model_config(spec, environment)?.model_type == S4D;
    let (model, task) = (&spec.model.name, &spec.task.name);
    let problem = match (model_reads_numbers, numbers::find(&spec.task).is_some()) {
        (true, false) => format!("`{task}` is in words, and `{model}` reads sequences of numbers; give it one of the tasks `sequence/…`"),
        (false, true) => format!("`{task}` has sequences of numbers, and `{model}` reads text; give it to a model of the type `{S4D}`"),
        (true, true) if spec.forgetting.is_some() => {
            return Err(SpecError::at("forgetting", format!("`{model}` reads sequences of numbers and knows no text to forget")).into());
        }
        _ => return Ok(()),
    };
    Err(SpecError::at("task", problem).into())
}

/// The methods of a resolved spec.
pub fn build_methods(spec: &RunSpec) -> Result<Vec<Box<dyn Method>>> {
    spec.method.iter().enumerate().map(|(i, method)| Ok(methods::build(method).map_err(|e| e.below(&format!("method[{i}]")))?)).collect()
}

/// Attaches every method of the spec to `model` for one stage; returns what trains and how many slots were selected.
pub fn attach_all(
    spec: &RunSpec,
    built: &[Box<dyn Method>],
    model: &mut dyn Network,
    stage: usize,
    carried: &Carried,
) -> Result<(Attachment, usize)> {
    let mut all = Attachment::default();
    let mut matched = 0;
    for (i, (method, component)) in built.iter().zip(&spec.method).enumerate() {
        let chosen = choose(model, &component.name, &**method, &spec.targets, &spec.layers, spec.seed)?;
        let mut init = seed::stream(spec.seed, &format!("init/{i}"));
        let stage = own_stage(&**method, stage);
        let attached = method
            .attach(model, &mut AttachContext { chosen: &chosen, stage, carried, init: &mut init, loading: false })
            .map_err(|error| match RunError::from(error) {
                RunError::Spec(error) => RunError::Spec(error.below(&format!("method[{i}]"))),
                other => other,
            })?;
        matched += chosen.len();
        all = all.join(attached);
    }
    Ok((all, matched))
}

fn model_config(spec: &RunSpec, environment: &Environment) -> Result<ModelConfig> {
    let files = environment.find_model(&spec.model.name)?;
    Ok(match files.path.is_file() {
        true => GgufFile::open(&files.path, &host())?.config()?,
        false => ModelConfig::read(&files.path)?,
    })
}

/// The spec's model with weights drawn from its seed; only its config is read.
pub fn fresh_model(spec: &RunSpec, environment: &Environment, device: &Device) -> Result<Box<dyn Model>> {
    Ok(model::build(&model_config(spec, environment)?, &On { weights: &Fresh { seed: spec.seed }, device })?)
}

fn shapes(spec: &RunSpec, environment: &Environment) -> Result<Box<dyn Network>> {
    Ok(model::build_network(&model_config(spec, environment)?, &Shapes)?)
}

/// The stages of a run with these methods.
pub(crate) fn stages_of(methods: &[Box<dyn Method>]) -> Vec<Stage> {
    joint_stages(methods.iter().map(AsRef::as_ref))
}

/// The model of the spec, with shapes and no content, and its methods attached as in the last of their stages; the stages before it are
/// tried, too.
pub(crate) fn attach_shapes(spec: &RunSpec, environment: &Environment) -> Result<(Box<dyn Network>, Attachment)> {
    let methods = build_methods(spec)?;
    let last = stages_of(&methods).len().saturating_sub(1);
    let attach = |stage| {
        let mut model = shapes(spec, environment)?;
        let (attachment, _) = attach_all(spec, &methods, &mut *model, stage, &Carried::new())?;
        Ok((model, attachment))
    };
    for stage in 0..last {
        attach(stage)?;
    }
    attach(last)
}
