//! `peftbench run`: one run, watched.

use crate::args::{ChangeArgs, InputArgs, ProgressArgs, ResultsArgs, at_least_one};
use crate::exit::{Exit, Problem};
use crate::resolver::RunnerResolver;
use crate::{commands, interrupt, machine, one_run, output};
use clap::Args;
use peftbench_runner::init_adapter;
use peftbench_spec::{Manifest, SweepSpec, sweep_spec};
use peftbench_sweep::Store;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Runs one run: that of a manifest, or the only one of a sweep file
///
/// A run that failed is tried again; one that is done is shown. In a manifest that was changed, leave out `run_id`.
#[derive(Debug, Args)]
pub struct Run {
    /// A run's manifest.toml, or a sweep file that has one run
    #[arg(value_name = "MANIFEST|SPEC")]
    file: PathBuf,
    #[command(flatten)]
    changes: ChangeArgs,
    /// Starts from the adapter in this folder, of peft or of a run; its content becomes part of the run's identity
    #[arg(long, value_name = "DIR")]
    init_adapter: Option<PathBuf>,
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    inputs: InputArgs,
    /// Threads of the run [default: one a core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Runs it and shows what came out.
pub fn run(verb: &Run) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    let mut sweep = read(&verb.file, &verb.results.results)?;
    verb.changes.apply(&mut sweep)?;
    let store = Store::open(&verb.results.results, &sweep.name)?;
    let mut environment = verb.inputs.environment(verb.threads.unwrap_or_else(machine::cores));
    environment.adapters.extend(verb.file.parent().map(init_adapter::kept_in));
    if let Some(folder) = &verb.init_adapter {
        sweep.set(&format!("init_adapter=\"{}\"", init_adapter::hash(folder)?))?;
        environment.adapters.push(folder.clone());
    }
    let resolver = RunnerResolver::new(environment.clone(), verb.results.results.clone());
    // A look before anything is written: a sweep of many runs is not for this verb.
    let plan = peftbench_sweep::plan(&sweep, &store, &resolver).map_err(|error| resolver.explain(error))?;
    if sweep.select_lr.is_some() {
        let problem = format!("{} chooses learning rates by probes, and this verb runs one run", verb.file.display());
        let hint = "run it with `peftbench sweep`, or give the rate, e.g. `--set train.lr=1e-3`";
        return Err(Problem::new(Exit::Usage, problem).hint(hint).into());
    }
    if plan.runs.len() != 1 {
        let problem = format!("{} has {} runs, and this verb runs one", verb.file.display(), plan.runs.len());
        let hint = "narrow it with `--set`, e.g. `--set seed=0`, or run all with `peftbench sweep`";
        return Err(Problem::new(Exit::Usage, problem).hint(hint).into());
    }
    let ended = one_run::run(&sweep, &store, &resolver, environment, &verb.progress, stop)?;
    if !ended.is_done()? {
        eprintln!("stopped: the same command goes on from here");
        return Ok(Exit::Interrupted);
    }
    output::print(&commands::show::describe(&store, &ended.id)?)?;
    Ok(Exit::Done)
}

/// A manifest as a sweep of one run, or a sweep file as it is.
fn read(path: &Path, results: &Path) -> anyhow::Result<SweepSpec> {
    let sweep = SweepSpec::read(path);
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(sweep?) };
    let manifest = match sweep_spec::parse_toml(path, &text)? {
        Value::Object(table) if table.contains_key("run_id") => Manifest::read(path)?,
        Value::Object(table) if table.contains_key("spec") => one_run::edited_manifest(path, &text, table)?,
        _ => return Ok(sweep?),
    };
    // The sweep's own file, where it has one, stays what it is.
    let source = std::fs::read_to_string(results.join(&manifest.sweep).join("sweep.toml")).ok();
    one_run::as_sweep(&manifest, path, source)
}
