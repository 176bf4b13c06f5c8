//! `peftbench fetch`: models and data sets into folders on this machine.

use crate::args::InputArgs;
use crate::exit::{Exit, Problem};
use crate::output;
use clap::Args;
use peftbench_runner::Environment;
use peftbench_runner::fetch::{put_dataset, put_model};
use peftbench_runner::hub::{HubId, HubSettings};
use peftbench_spec::SweepSpec;
use std::path::PathBuf;

/// Puts models and data sets into folders on this machine, from other folders, the Hugging Face cache, or the hub
///
/// Models go to the first of the model folders: that of `--models`, else of PEFTBENCH_MODELS, else `models`. One that is found already is
/// left alone, and what was stopped goes on with the same command. Only a build with the feature `hub` asks the hub itself. HF_HOME,
/// HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN mean what they mean to `huggingface_hub`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Names of models, or their ids on the hub: OWNER/NAME or OWNER/NAME@REVISION
    #[arg(value_name = "MODEL", required_unless_present_any = ["sweep", "dataset"])]
    names: Vec<String>,
    /// All models of a sweep file; repeatable
    #[arg(long, value_name = "FILE")]
    sweep: Vec<PathBuf>,
    /// Data set on the hub whose .jsonl files lie as in the data folder; they go to `--data`; repeatable
    #[arg(long, value_name = "ID", requires = "data")]
    dataset: Vec<String>,
    /// Folder to take models from before the cache and the hub are asked; repeatable
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    inputs: InputArgs,
}

/// Fetches everything; prints where each thing is, a line each.
pub fn run(verb: &Fetch) -> anyhow::Result<Exit> {
    let mut names = verb.names.clone();
    for file in &verb.sweep {
        names.extend(peftbench_sweep::expand(&SweepSpec::read(file)?)?.into_iter().map(|cell| cell.spec.model.name));
    }
    let mut asked = Vec::new();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        if !asked.contains(&name) {
            model(&name, verb)?;
            asked.push(name);
        }
    }
    for name in &verb.dataset {
        dataset(name, verb)?;
    }
    Ok(Exit::Done)
}

fn model(name: &str, verb: &Fetch) -> anyhow::Result<()> {
    let own = verb.inputs.environment(0);
    let place = match own.local_model(name) {
        Some(files) => files.path,
        None => {
            let others = Environment { models: verb.from.clone(), ..Environment::default() };
            put_model(&others.find_model(name)?, &own.models[0])?
        }
    };
    output::print(&format!("{name}: {}\n", place.display()))?;
    Ok(())
}

fn dataset(name: &str, verb: &Fetch) -> anyhow::Result<()> {
    let id = HubId::parse(name).ok_or_else(|| {
        let problem = Problem::new(Exit::Usage, format!("`{name}` is no id of a data set"));
        problem.hint("an id has the form OWNER/NAME or OWNER/NAME@REVISION")
    })?;
    let Some(folder) = &verb.inputs.data else { return Ok(()) };
    let count = put_dataset(&id, folder, &HubSettings::from_env())?;
    output::print(&format!("{name}: {count} files in {}\n", folder.display()))?;
    Ok(())
}
