//! `peftbench array-task`: one run of a sweep, as a task of a job array. Not for people; `sweep --executor slurm` writes the command.

use crate::args::{InputArgs, ProgressArgs, at_least_one};
use crate::exit::{Exit, Problem};
use crate::resolver::RunnerResolver;
use crate::{interrupt, one_run};
use clap::Args;
use peftbench_sweep::{Store, prepare_run, slurm};
use std::path::PathBuf;

/// Runs the run that the array's task is for
#[derive(Debug, Args)]
pub struct ArrayTask {
    /// Folder of results
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// Name of the sweep
    #[arg(long, value_name = "SWEEP")]
    sweep: String,
    #[command(flatten)]
    inputs: InputArgs,
    /// Threads of the run
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: usize,
    /// List of the runs, one a line
    #[arg(value_name = "LIST")]
    list: PathBuf,
}

/// Runs it, unless it is done or another process has it.
pub fn run(verb: &ArrayTask) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    let id = slurm::run_of_task(&verb.list)?;
    let store = Store::open(&verb.results, &verb.sweep)?;
    let Some(manifest) = store.manifest(&id)? else {
        let problem = format!("run {id} has no manifest in {}", store.run_dir(&id).display());
        return Err(Problem::new(Exit::BadSpec, problem).hint("`peftbench sweep` writes it").into());
    };
    let sweep = one_run::as_sweep(&manifest, &store.run_dir(&id).join("manifest.toml"), None)?;
    let environment = verb.inputs.environment(verb.threads);
    let resolver = RunnerResolver::new(environment.clone(), verb.results.clone());
    let claim = prepare_run(&sweep, &store, &resolver).map_err(|error| resolver.explain(error))?;
    let ended = one_run::run_claimed(&claim, &store, environment, &ProgressArgs { no_progress: true }, stop)?;
    Ok(if ended.is_done()? { Exit::Done } else { Exit::Interrupted })
}
