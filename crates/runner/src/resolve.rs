//! From a spec as written to the run it means: names looked up, options checked, defaults filled in, and what cannot matter set to
//! one fixed value, so that equal experiments have equal ids.

use crate::environment::Environment;
use crate::error::{Result, RunError};
use crate::trainer::total_steps;
use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{Attachment, Method, choose, methods, policies};
use peftbench_datasets::{Encoded, encode_example, tasks};
use peftbench_models::config::ModelConfig;
use peftbench_models::gguf::GgufFile;
use peftbench_models::weights::Shapes;
use peftbench_models::{Model, model};
use peftbench_ops::Device;
use peftbench_spec::manifest::Inputs;
use peftbench_spec::seed;
use peftbench_spec::{LayerSelection, RunSpec, SpecError, TargetExpr};

/// What a run will take, before it is run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// Scalars of the base model.
    pub total_params: u64,
    /// Scalars that train.
    pub trainable_params: u64,
    /// Peak heap bytes, roughly.
    pub memory_bytes: u64,
    /// Wall time on one core, roughly.
    pub seconds: Option<f64>,
}

/// Checks `spec` and fills in every default.
pub fn resolve(spec: &RunSpec, environment: &Environment) -> Result<RunSpec> {
    let mut resolved = spec.clone();
    resolved.task = tasks::resolve(&spec.task).map_err(|e| e.below("task"))?;
    for (i, method) in resolved.method.iter_mut().enumerate() {
        *method = methods::resolve(method).map_err(|e| e.below(&format!("method[{i}]")))?;
    }
    resolved.policy = policies::resolve(&spec.policy).map_err(|e| e.below("policy"))?;
    if let Some(option) = spec.model.options.keys().next() {
        return Err(SpecError::at(format!("model.{option}"), "unknown key; a model has no options here").into());
    }
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
    }
    // Attaching to a model without content finds whatever does not fit: targets, layers, ranks.
    attach_shapes(&resolved, environment)?;
    Ok(resolved)
}

/// The methods of a resolved spec.
pub fn build_methods(spec: &RunSpec) -> Result<Vec<Box<dyn Method>>> {
    spec.method.iter().enumerate().map(|(i, method)| Ok(methods::build(method).map_err(|e| e.below(&format!("method[{i}]")))?)).collect()
}

/// Attaches every method of the spec to `model` for one stage; returns what trains and how many slots were selected.
pub fn attach_all(
    spec: &RunSpec,
    built: &[Box<dyn Method>],
    model: &mut dyn Model,
    stage: usize,
    carried: &Carried,
) -> Result<(Attachment, usize)> {
    let mut all = Attachment::default();
    let mut matched = 0;
    for (i, (method, component)) in built.iter().zip(&spec.method).enumerate() {
        let chosen = choose(model, &component.name, &**method, &spec.targets, &spec.layers, spec.seed)?;
        let mut init = seed::stream(spec.seed, &format!("init/{i}"));
        let attached = method.attach(model, &mut AttachContext { chosen: &chosen, stage, carried, init: &mut init }).map_err(|error| {
            match RunError::from(error) {
                RunError::Spec(error) => RunError::Spec(error.below(&format!("method[{i}]"))),
                other => other,
            }
        })?;
        matched += chosen.len();
        all = all.join(attached);
    }
    Ok((all, matched))
}

fn shapes(spec: &RunSpec, environment: &Environment) -> Result<Box<dyn Model>> {
    let files = environment.find_model(&spec.model.name)?;
    let config = match files.path.is_file() {
        true => GgufFile::open(&files.path, &Device::Cpu)?.config()?,
        false => ModelConfig::read(&files.path)?,
    };
    Ok(model::build(&config, &Shapes)?)
}

fn attach_shapes(spec: &RunSpec, environment: &Environment) -> Result<(Box<dyn Model>, Attachment)> {
    let mut model = shapes(spec, environment)?;
    let (attachment, _) = attach_all(spec, &build_methods(spec)?, &mut *model, 0, &Carried::new())?;
    Ok((model, attachment))
}

/// Multiply-adds a second of one core, for estimates only; what a run takes is recorded when it has run.
const ASSUMED_RATE: f64 = 12e9;

/// Estimates a resolved run from its shapes and its data.
pub fn estimate(spec: &RunSpec, environment: &Environment) -> Result<Estimate> {
    let (mut model, attachment) = attach_shapes(spec, environment)?;
    let total: u64 = model.params().iter().map(|p| p.elem_count() as u64).sum();
    let trainable = attachment.num_trainable();
    let task = tasks::build(&spec.task).map_err(|e| e.below("task"))?;
    let mut splits = task.load(&environment.data_source())?;
    splits.limit(spec.train.train_samples, spec.train.valid_samples, spec.train.test_samples);
    let tokenizer = environment.find_model(&spec.model.name)?.tokenizer()?;
    let sample = splits.train.iter().take(64);
    let encoded: Vec<Encoded> = sample
        .map(|e| encode_example(&tokenizer, &e.prompt, &e.answer, false, spec.train.max_length))
        .collect::<std::result::Result<_, _>>()?;
    let mean_length = encoded.iter().map(|e| e.ids.len()).sum::<usize>() as f64 / encoded.len().max(1) as f64;
    let per_token = model.multiply_adds_per_token() as f64;
    let trains = trainable > 0;
    let steps = if trains { total_steps(splits.train.len(), spec) } else { 0 };
    let train_tokens = steps as f64 * (spec.train.batch_size * spec.train.gradient_accumulation) as f64 * mean_length;
    let options = splits.test.first().map_or(1, |e| e.choices.len().max(1)) as f64;
    let evaluations = if trains { f64::from(spec.train.epochs) } else { 1.0 };
    let eval_tokens = (splits.valid.len() as f64 * evaluations + splits.test.len() as f64) * mean_length * options;
    // Backward costs as much as forward for the inputs, and the trained share of the weights once more.
    let backward = 1.0 + trainable as f64 / total as f64;
    let seconds = (train_tokens * (1.0 + backward) + eval_tokens) * per_token / ASSUMED_RATE;
    // Some 24 activations of the residual width a layer and token are kept or in flight.
    let batch_tokens = spec.train.batch_size as f64 * mean_length;
    let activations = batch_tokens * model.hidden_size() as f64 * model.num_layers() as f64 * 24.0 * 4.0;
    let memory_bytes = total * 4 + trainable * 16 + if trains { activations as u64 } else { 0 };
    Ok(Estimate { total_params: total, trainable_params: trainable, memory_bytes, seconds: Some(seconds) })
}

/// Hashes of what the run would read now.
pub fn inputs(spec: &RunSpec, environment: &Environment) -> Result<Inputs> {
    let files = environment.find_model(&spec.model.name)?;
    let task = tasks::build(&spec.task).map_err(|e| e.below("task"))?;
    let mut splits = task.load(&environment.data_source())?;
    splits.limit(spec.train.train_samples, spec.train.valid_samples, spec.train.test_samples);
    Ok(Inputs { model: Some(files.hash()?), tokenizer: Some(files.tokenizer()?.hash()), dataset: Some(splits.hash()) })
}
