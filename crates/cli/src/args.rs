//! The command line, as clap reads it. What several verbs share is here; the rest is with each verb.

use crate::commands;
use crate::exit;
use crate::machine;
use crate::provenance;
use clap::{Args, Parser, Subcommand};
use peftbench_ops::device::DeviceChoice;
use peftbench_runner::Environment;
use peftbench_spec::SweepSpec;
use std::path::{Path, PathBuf};

/// The sweep that ships, and that `peftbench sweep` runs when it is given none.
pub const QUICK: &str = "experiments/quick.toml";

/// Where `peftbench fetch` puts models, and the base models that ship, relative to the current folder.
const OWN_MODELS: [&str; 2] = ["models", "bases"];

/// Where `peftbench fetch` puts data sets, relative to the current folder.
pub const OWN_DATA: &str = "data";

/// Environment variable with folders of models, separated as in PATH.
const MODELS_VARIABLE: &str = "PEFTBENCH_MODELS";

/// Benchmarks methods of parameter-efficient fine-tuning: one TOML file in, tables and plots out.
#[derive(Debug, Parser)]
#[command(name = "peftbench", version = provenance::VERSION, after_long_help = exit::TABLE)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Sweep(commands::sweep::Sweep),
    Plan(commands::plan::Plan),
    Run(commands::run::Run),
    Merge(commands::merge::Merge),
    ImportPeft(commands::import_peft::ImportPeft),
    Rerun(commands::rerun::Rerun),
    Status(commands::status::Status),
    Collect(commands::collect::Collect),
    Report(commands::report::Report),
    Compare(commands::compare::Compare),
    Export(commands::export::Export),
    Claims(commands::claims::Claims),
    Score(commands::score::Score),
    Show(commands::show::Show),
    Inspect(commands::inspect::Inspect),
    Fetch(commands::fetch::Fetch),
    Ls(commands::ls::Ls),
    Pretrain(commands::pretrain::Pretrain),
    Profile(commands::profile::ProfileVerb),
    Doctor(commands::doctor::Doctor),
    Completions(commands::completions::Completions),
    #[command(hide = true)]
    Worker(commands::worker::Worker),
    #[command(hide = true)]
    ArrayTask(commands::array_task::ArrayTask),
    #[command(hide = true)]
    ProfileCell(commands::profile::ProfileCell),
}

/// Where results go.
#[derive(Debug, Clone, Args)]
pub struct ResultsArgs {
    /// Folder of results; each sweep has a folder of its name in it
    #[arg(long, value_name = "DIR", env = "PEFTBENCH_RESULTS", hide_env_values = true, default_value = "results")]
    pub results: PathBuf,
}

/// Where models lie.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Folder of models (DIR/NAME with config.json, or DIR/NAME.gguf), searched before PEFTBENCH_MODELS, `models` and `bases`; repeatable
    #[arg(long = "models", value_name = "DIR")]
    folders: Vec<PathBuf>,
}

impl ModelArgs {
    /// The folders of models, in the order in which they are searched.
    pub fn folders(&self) -> Vec<PathBuf> {
        let variable = std::env::var_os(MODELS_VARIABLE).unwrap_or_default();
        let variable = std::env::split_paths(&variable).filter(|folder| !folder.as_os_str().is_empty());
        // A worker is given its parent's folders, and has its own besides.
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in self.folders.iter().cloned().chain(variable).chain(OWN_MODELS.map(PathBuf::from)) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }

    /// An environment in which models are looked at and nothing is computed.
    pub fn environment(&self) -> Environment {
        Environment { models: self.folders(), data: None, adapters: Vec::new(), threads: 0, device: DeviceChoice::Auto }
    }
}

/// Where models and data lie, and what computes.
#[derive(Debug, Clone, Args)]
pub struct InputArgs {
    /// Folder of real data sets [default: `data`, if it is there]; without one only the tasks of the invented world work
    #[arg(long, value_name = "DIR", env = "PEFTBENCH_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    models: ModelArgs,
    /// Folder of an adapter that a run may start from, if its spec names it by `init_adapter`; repeatable
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub adapters: Vec<PathBuf>,
    /// What computes: `cpu`, `cuda` or `cuda:N` (in a build with CUDA), or `auto`, a GPU if there is one
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
}

impl InputArgs {
    /// The places a run reads from.
    pub fn environment(&self, threads: usize) -> Environment {
        let own = || Path::new(OWN_DATA).is_dir().then(|| PathBuf::from(OWN_DATA));
        let data = self.data.clone().or_else(own);
        Environment { models: self.models.folders(), data, adapters: self.adapters.clone(), threads, device: self.device }
    }
}

/// A sweep file and what the command line changes in it.
#[derive(Debug, Clone, Args)]
pub struct SpecArgs {
    /// Sweep file
    #[arg(value_name = "SPEC", default_value = QUICK)]
    pub spec: PathBuf,
    #[command(flatten)]
    changes: ChangeArgs,
}

/// What the command line changes in every run of a file.
#[derive(Debug, Clone, Args)]
pub struct ChangeArgs {
    /// Gives a field one value in every run, whatever the file says, e.g. `--set train.lr=1e-3`; repeatable
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Runs although the test split has items of the training split; the same as `--set allow_overlap=true`
    #[arg(long)]
    allow_overlap: bool,
}

impl ChangeArgs {
    /// Changes what was read of the file.
    pub fn apply(&self, sweep: &mut SweepSpec) -> anyhow::Result<()> {
        for assignment in &self.set {
            sweep.set(assignment)?;
        }
        if self.allow_overlap {
            sweep.set("allow_overlap=true")?;
        }
        Ok(())
    }
}

impl SpecArgs {
    /// Reads the file and applies the changes.
    pub fn read(&self) -> anyhow::Result<SweepSpec> {
        if !self.spec.exists() && self.spec.as_path() == Path::new(QUICK) {
            let problem = exit::Problem::new(exit::Exit::BadSpec, format!("no sweep file is given, and there is no {QUICK} here"));
            return Err(problem.hint("go to the folder of the repository, or name a sweep file").into());
        }
        let mut sweep = SweepSpec::read(&self.spec)?;
        self.changes.apply(&mut sweep)?;
        Ok(sweep)
    }
}

/// How many processes and threads compute.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// Runs at a time, each in a process of its own [default: one a core]
    #[arg(short = 'j', long, value_name = "N", value_parser = at_least_one)]
    pub workers: Option<usize>,
    /// Threads of each run [default: cores divided by workers]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub threads: Option<usize>,
}

impl WorkerArgs {
    /// Runs at a time.
    pub fn workers(&self) -> usize {
        self.workers.unwrap_or_else(machine::cores)
    }

    /// Threads of each run.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| (machine::cores() / self.workers()).max(1))
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Args)]
pub struct ProgressArgs {
    /// Plain lines instead of progress bars, as where there is no terminal or CI is set
    #[arg(long)]
    pub no_progress: bool,
}

/// Reads a count of at least one.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("expected a whole number from 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cores_are_shared_among_workers() {
        let threads = |workers, threads| WorkerArgs { workers, threads }.threads();
        assert_eq!(threads(Some(1), None), machine::cores());
        assert_eq!(threads(Some(10_000), None), 1);
        assert_eq!(threads(None, Some(3)), 3);
    }

    #[test]
    fn each_folder_of_models_is_searched_once() {
        let folders = ModelArgs { folders: ["far", "bases", "far"].map(PathBuf::from).to_vec() }.folders();
        assert_eq!(folders.iter().filter(|folder| folder.ends_with("bases")).count(), 1);
        assert_eq!(folders[..2], ["far", "bases"].map(PathBuf::from));
    }
}
