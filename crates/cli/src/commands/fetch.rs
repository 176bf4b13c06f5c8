//! `peftbench fetch`: models and data sets into folders on this machine.

use crate::args::{InputArgs, OWN_DATA};
use crate::exit::{Exit, Problem};
use crate::output;
use anyhow::Context;
use clap::Args;
use peftbench_datasets::{DataSource, TaskEntry, tasks};
use peftbench_runner::Environment;
use peftbench_runner::fetch::{data_id, has_data, put_data, put_dataset, put_model};
use peftbench_runner::hub::{self, Description, HubId, HubSettings, Kind};
use peftbench_spec::{Component, SweepSpec};
use peftbench_sweep::units::Bytes;
use std::path::PathBuf;

/// Puts models and data sets into folders on this machine, from other folders, the Hugging Face cache, or the hub
///
/// What it takes is printed first: from where, how much, under which licence. Models go to the first of the model folders: that of
/// `--models`, else of PEFTBENCH_MODELS, else `models`; data goes to that of `--data`, else of PEFTBENCH_DATA, else `data`. What is found
/// already is left alone, and what was stopped goes on with the same command. Only a build with the feature `hub` asks the hub itself.
/// HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN mean what they mean to `huggingface_hub`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Names of models, or their ids on the hub (OWNER/NAME or OWNER/NAME@REVISION), or sweep files (.toml) for all that they need
    #[arg(value_name = "MODEL|SPEC", required_unless_present_any = ["sweep", "task", "dataset"])]
    names: Vec<String>,
    /// All models and data of a sweep file; repeatable
    #[arg(long, value_name = "FILE")]
    sweep: Vec<PathBuf>,
    /// The data of a task; repeatable
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,
    /// Data set on the hub whose .jsonl files lie as in the data folder; they go to `--data`; repeatable
    #[arg(long, value_name = "ID", requires = "data")]
    dataset: Vec<String>,
    /// Folder to take models from before the cache and the hub are asked; repeatable
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// Prints what would be fetched and stops there
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    inputs: InputArgs,
}

/// Fetches everything; prints what that will be, and then where each thing is, a line each.
pub fn run(verb: &Fetch) -> anyhow::Result<Exit> {
    let wanted = Wanted::of(verb)?;
    wanted.announce(verb)?;
    if verb.dry_run {
        return Ok(Exit::Done);
    }
    for name in &wanted.models {
        model(name, verb)?;
    }
    for task in &wanted.tasks {
        data(task, verb)?;
    }
    for name in &verb.dataset {
        dataset(name, verb)?;
    }
    Ok(Exit::Done)
}

/// What is to be fetched, each once.
#[derive(Default)]
struct Wanted {
    models: Vec<String>,
    tasks: Vec<&'static TaskEntry>,
}

impl Wanted {
    fn of(verb: &Fetch) -> anyhow::Result<Self> {
        let mut wanted = Self::default();
        let (specs, models): (Vec<&String>, Vec<&String>) = verb.names.iter().partition(|name| name.ends_with(".toml"));
        if models.iter().any(|name| name.is_empty()) {
            return Err(Problem::new(Exit::Usage, "expected the name of a model, found an empty one").into());
        }
        models.into_iter().for_each(|name| wanted.add_model(name));
        for task in &verb.task {
            wanted.add_task(&Component::named(task))?;
        }
        for file in verb.sweep.iter().cloned().chain(specs.into_iter().map(PathBuf::from)) {
            for cell in peftbench_sweep::cells_and_probes(&SweepSpec::read(&file)?)? {
                wanted.add_model(&cell.spec.model.name);
                for task in std::iter::once(&cell.spec.task).chain(&cell.spec.forgetting) {
                    wanted.add_task(task)?;
                }
            }
        }
        Ok(wanted)
    }

    fn add_model(&mut self, name: &str) {
        if !name.is_empty() && !self.models.iter().any(|known| known == name) {
            self.models.push(name.to_owned());
        }
    }

    fn add_task(&mut self, task: &Component) -> anyhow::Result<()> {
        for entry in tasks::data_of(task)? {
            let is_made = entry.name.starts_with("world/");
            if !is_made && !self.tasks.iter().any(|known| known.name == entry.name) {
                self.tasks.push(entry);
            }
        }
        Ok(())
    }

    /// Says of everything that is not there yet where it comes from, what it weighs and its licence.
    fn announce(&self, verb: &Fetch) -> anyhow::Result<()> {
        let (settings, everywhere) = (HubSettings::from_env(), everywhere(verb));
        let mut lines = String::new();
        for name in self.models.iter().filter(|name| everywhere.local_model(name).is_none()) {
            let Some(id) = HubId::parse(name) else {
                // No id of the hub: the error says where it was looked for.
                everywhere.find_model(name)?;
                continue;
            };
            if !hub::is_cached(&id, Kind::Model, &settings) {
                let found = hub::describe(&id, Kind::Model, &settings)?;
                let licence = found.licence.unwrap_or_else(|| "see its page".to_owned());
                lines += &format!("to fetch: model {id}, {}, licence: {licence}\n", size(found.bytes));
            }
        }
        for task in self.tasks.iter().filter(|task| !has_data(task, &data_folder(verb))) {
            if let Some(published) = task.published {
                let (id, kind) = (data_id(published), Kind::Published(published.splits));
                let found =
                    if hub::is_cached(&id, kind, &settings) { Description::default() } else { hub::describe(&id, kind, &settings)? };
                lines += &format!("to fetch: data of {} from {id}, {}, licence: {}\n", task.name, size(found.bytes), published.licence);
            }
        }
        let known = self.tasks.iter().all(|task| task.published.is_some() || has_data(task, &data_folder(verb)));
        if lines.is_empty() && verb.dry_run && verb.dataset.is_empty() && known {
            lines = "nothing to download: all of it is on this machine, or is made where it is needed\n".to_owned();
        }
        output::print(&lines)?;
        Ok(())
    }
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "size unknown".to_owned(), |bytes| Bytes(bytes).to_string())
}

fn data_folder(verb: &Fetch) -> PathBuf {
    verb.inputs.data.clone().unwrap_or_else(|| PathBuf::from(OWN_DATA))
}

/// One's own folders of models, and behind them those to take models from.
fn everywhere(verb: &Fetch) -> Environment {
    let own = verb.inputs.environment(0).models;
    let others = verb.from.iter().filter(|folder| !own.contains(folder)).cloned().collect::<Vec<_>>();
    Environment { models: own.into_iter().chain(others).collect(), ..Environment::default() }
}

fn model(name: &str, verb: &Fetch) -> anyhow::Result<()> {
    let own = verb.inputs.environment(0);
    let place = match own.local_model(name) {
        Some(files) => files.path,
        None => {
            let found = everywhere(verb).find_model(name)?;
            // What lies in one's own folder is not looked for again.
            found.check().with_context(|| format!("model `{name}` in {} is not whole, and was not taken", found.path.display()))?;
            put_model(&found, &own.models[0])?
        }
    };
    output::print(&format!("{name}: {}\n", place.display()))?;
    Ok(())
}

/// Fetches the data of one task. What is there may be files of one's own, in part or whole: the task itself says what it lacks.
fn data(task: &'static TaskEntry, verb: &Fetch) -> anyhow::Result<()> {
    let folder = data_folder(verb);
    let own = DataSource { folder: Some(folder.clone()) };
    let lacks = match has_data(task, &folder) {
        true => None,
        false => tasks::build(&Component::named(task.name))?.load(&own).err(),
    };
    let what = match (lacks, task.published) {
        (None, _) => "there already".to_owned(),
        (Some(_), Some(published)) => format!("{} rows", put_data(task, published, &folder, &HubSettings::from_env())?),
        (Some(lacks), None) => {
            let problem = format!("the data of `{}` is not on the hub in a form that is read here: {lacks}", task.name);
            return Err(Problem::new(Exit::MissingInput, problem).hint("docs/tasks.md says where the files of each task belong").into());
        }
    };
    output::print(&format!("{}: {what}, in {}\n", task.name, folder.display()))?;
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
