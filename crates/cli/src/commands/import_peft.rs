//! `peftbench import-peft`: what an adapter of Hugging Face PEFT is here.

use crate::adapter_choice;
use crate::args::{ModelArgs, ResultsArgs};
use crate::exit::Exit;
use crate::{model_files, output};
use clap::Args;
use peftbench_adapters::{AdapterFolder, methods};
use peftbench_models::Network;
use peftbench_runner::{RunError, init_adapter};
use peftbench_spec::Component;
use serde_json::{Map, Value, json};

/// Reads an adapter of Hugging Face PEFT, or of this program, and writes it as the base of a sweep file: model, method and targets
///
/// Put a task behind it and train on with `peftbench run SPEC --init-adapter DIR`.
#[derive(Debug, Args)]
pub struct ImportPeft {
    /// The adapter's folder: adapter_config.json and adapter_model.safetensors
    #[arg(value_name = "DIR")]
    adapter: String,
    /// The base model [default: the one that the adapter names]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    models: ModelArgs,
}

/// Checks that the adapter fits its base, and prints what it is.
pub fn run(verb: &ImportPeft) -> anyhow::Result<Exit> {
    let folder = adapter_choice::folder(&verb.adapter, &verb.results.results)?;
    let adapter = AdapterFolder::open(&folder).map_err(RunError::from)?;
    let name = adapter_choice::base(&adapter, verb.model.as_deref(), &folder)?;
    let path = verb.models.environment().find_model(&name)?.path;
    // Without weights: the names and shapes of the tensors must be the base's.
    adapter.attach(&mut *model_files::shapes(&path)?).map_err(RunError::from)?;
    let base = base(&adapter, &name, &mut *model_files::shapes(&path)?)?;
    let text = toml::to_string(&json!({ "base": base }))?;
    output::print(&format!("# The adapter {}.\n{text}", init_adapter::hash(&folder)?))?;
    Ok(Exit::Done)
}

/// Model, method and targets; several methods are one that combines them.
fn base(adapter: &AdapterFolder, name: &str, model: &mut dyn Network) -> anyhow::Result<Map<String, Value>> {
    let mut entries = Vec::new();
    for (index, component) in adapter.methods().map_err(RunError::from)?.into_iter().enumerate() {
        let component = methods::resolve(&component)?;
        let targets = adapter.targets(model, index, &*methods::build(&component)?);
        entries.push((component, targets));
    }
    let mut base = Map::from_iter([("model".to_owned(), name.into())]);
    match entries.as_slice() {
        [(component, targets)] => {
            base.insert("method".to_owned(), component.to_value());
            if !targets.is_default() {
                base.insert("targets".to_owned(), serde_json::to_value(targets)?);
            }
        }
        entries => {
            let entry = |(component, targets): &(Component, _)| -> anyhow::Result<Value> {
                let mut value = component.to_value();
                value["targets"] = serde_json::to_value(targets)?;
                Ok(value)
            };
            let methods = entries.iter().map(entry).collect::<anyhow::Result<Vec<_>>>()?;
            base.insert("method".to_owned(), json!({ "type": "combined", "methods": methods }));
        }
    }
    Ok(base)
}
