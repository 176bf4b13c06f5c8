//! `peftbench sweep`: plan, run what is left, collect, report.

use crate::args::{InputArgs, ProgressArgs, ResultsArgs, SpecArgs, WorkerArgs, at_least_one};
use crate::claim_files::ClaimArgs;
use crate::exit::{self, Exit, Problem};
use crate::progress::Watcher;
use crate::resolver::RunnerResolver;
use crate::worker_command::WorkerCommand;
use crate::{commands, interrupt, output, results_table};
use anyhow::Context;
use clap::{Args, ValueEnum};
use peftbench_report::{ReportError, ReportOptions, write_report};
use peftbench_results::plan_table::write_plan;
use peftbench_results::{ResultsError, collect};
use peftbench_sweep::units::Seconds;
use peftbench_sweep::{Claim, PlannedRun, Selection, Store, Supervisor, SweepOutcome, prepare};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a sweep file and reports on it; goes on where it stopped, and never repeats a finished run
#[derive(Debug, Args)]
#[command(after_long_help = exit::TABLE)]
pub struct Sweep {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    workers: WorkerArgs,
    /// Stop at the first run that fails; those under way stay resumable
    #[arg(long)]
    fail_fast: bool,
    /// Runs again what failed, or what is done and whose model or data have changed since; repeatable
    #[arg(long, value_enum, value_name = "WHICH")]
    retry: Vec<Retry>,
    /// Run at most so many of what is left
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_runs: Option<usize>,
    /// Draw no figures and write no page
    #[arg(long)]
    no_report: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Which runs to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Retry {
    Failed,
    Changed,
}

/// Runs what is left of the sweep.
pub fn run(verb: &Sweep) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    let sweep = verb.spec.read()?;
    let store = Store::open(&verb.results.results, &sweep.name)?;
    let environment = verb.inputs.environment(verb.workers.threads());
    let resolver = RunnerResolver::new(environment.clone(), verb.results.results.clone());
    let mut claim = prepare(&sweep, &store, &resolver).map_err(|error| resolver.explain(error))?;
    let rows: Vec<_> = claim.plan.rows()?.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    write_plan(&rows, &store.folder().join("plan.parquet"))?;
    let selection = Selection { failed: verb.retry.contains(&Retry::Failed), changed: verb.retry.contains(&Retry::Changed) };
    for warning in &claim.plan.warnings {
        eprintln!("warning: {warning}");
    }
    if let Some(limit) = verb.max_runs {
        keep_first(&mut claim, selection, limit);
    }
    let worker = WorkerCommand::new(environment)?;
    let supervisor = Supervisor {
        workers: verb.workers.workers(),
        command: &|_: &PlannedRun, folder: &Path| worker.command(folder),
        fail_fast: verb.fail_fast,
        selection,
        stop: stop.clone(),
    };
    let outcome = supervise(&supervisor, &claim, &store, &verb.progress, stop.clone())?;
    eprintln!("{}", describe(&sweep.name, &outcome));
    conclude(&store, verb.no_report)?;
    verdict(&sweep.name, &outcome, stop.load(Ordering::SeqCst))
}

/// Leaves only the first `limit` of the runs that are to run; those that are not stay, to be counted.
fn keep_first(claim: &mut Claim, selection: Selection, limit: usize) {
    let mut taken = 0;
    claim.plan.runs.retain(|run| {
        let takes = selection.takes(run);
        taken += usize::from(takes);
        !takes || taken <= limit
    });
}

/// Runs the claimed plan with its progress shown.
pub fn supervise(
    supervisor: &Supervisor<'_>,
    claim: &Claim,
    store: &Store,
    progress: &ProgressArgs,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<SweepOutcome> {
    let runs = claim.plan.to_run(supervisor.selection);
    let mut watcher = Watcher::new(store, &runs, supervisor.workers, progress, stop);
    let outcome = supervisor.run(claim, store, &mut watcher);
    watcher.close();
    outcome.context("the sweep stopped; runs under way can go on")
}

/// What became of the sweep, on one line.
fn describe(name: &str, outcome: &SweepOutcome) -> String {
    let counts = [
        (outcome.done, "done"),
        (outcome.failed, "failed"),
        (outcome.interrupted, "stopped"),
        (outcome.not_started, "not started"),
        (outcome.skipped_done, "done before"),
        (outcome.skipped_failed, "failed before (`--retry failed` runs them again)"),
        (outcome.skipped_changed, "done before with other inputs (`--retry changed` runs them again)"),
    ];
    let counts: Vec<String> = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let counts = if counts.is_empty() { "nothing to run".to_owned() } else { counts.join(", ") };
    format!("{name}: {counts} in {}", Seconds(outcome.wall_seconds))
}

/// Tables and report of what there is so far, also of a sweep that was stopped or in which runs failed. The results go to standard
/// output.
fn conclude(store: &Store, no_report: bool) -> anyhow::Result<()> {
    let page = if no_report {
        commands::collect::warn_of_damage(&collect(store.folder())?);
        None
    } else {
        let options = ReportOptions { papers: ClaimArgs::default().papers()?, ..ReportOptions::default() };
        match write_report(store.folder(), &options) {
            Ok(written) => {
                commands::collect::warn_of_damage(&written.collected);
                written.page
            }
            Err(error @ (ReportError::NothingFinished { .. } | ReportError::Results(ResultsError::NoRuns { .. }))) => {
                eprintln!("no report yet: {error}");
                return Ok(());
            }
            Err(error) => return Err(error).context("the runs are kept, but their report could not be written"),
        }
    };
    output::print(&results_table::render(store.folder())?)?;
    let tables = format!("\ntables: {}\n", store.folder().join("tables").display());
    let page = page.map(|page| format!("report: {}\n", page.display())).unwrap_or_default();
    output::print(&(tables + &page))?;
    Ok(())
}

/// The exit code.
fn verdict(name: &str, outcome: &SweepOutcome, stopped: bool) -> anyhow::Result<Exit> {
    if stopped && outcome.interrupted + outcome.not_started > 0 {
        eprintln!("stopped: the same command goes on from here");
        return Ok(Exit::Interrupted);
    }
    let failed = outcome.failed + outcome.skipped_failed;
    if failed > 0 {
        let runs = if failed == 1 { "1 run has".to_owned() } else { format!("{failed} runs have") };
        let problem = Problem::new(Exit::RunsFailed, format!("{runs} failed"));
        return Err(problem.hint(format!("`peftbench status {name}` says why; `--retry failed` runs them again")).into());
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_sweep_is_that_before_it_is_a_failed_one() {
        let outcome = SweepOutcome { done: 1, failed: 1, interrupted: 1, wall_seconds: 3.0, ..SweepOutcome::default() };
        assert_eq!(describe("s", &outcome), "s: 1 done, 1 failed, 1 stopped in 3.0 s");
        assert_eq!(verdict("s", &outcome, true).unwrap(), Exit::Interrupted);
        assert_eq!(verdict("s", &outcome, false).unwrap_err().to_string(), "1 run has failed");
        let done = SweepOutcome { done: 2, ..SweepOutcome::default() };
        assert_eq!(verdict("s", &done, true).unwrap(), Exit::Done, "the wish to stop came too late");
        let before = SweepOutcome { skipped_failed: 2, ..SweepOutcome::default() };
        assert_eq!(verdict("s", &before, false).unwrap_err().to_string(), "2 runs have failed");
    }
}
