//! `peftbench sweep`: plan, run what is left, collect, report.

use crate::args::{InputArgs, ProgressArgs, ResultsArgs, SpecArgs, WorkerArgs, at_least_one};
use crate::claim_files::ClaimArgs;
use crate::cluster::{self, ExecutorArgs};
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
use peftbench_spec::lr_selection::LrChoice;
use peftbench_sweep::units::Seconds;
use peftbench_sweep::{Claim, Plan, PlannedRun, Selection, Store, Supervisor, SweepOutcome, prepare};
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
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Stop at the first run that fails; those under way stay resumable. A probe of a learning rate may fail
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

/// Runs what is left of the sweep: the probes of learning rates, where it chooses these, and then its cells.
pub fn run(verb: &Sweep) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    let slurm = verb.executor.slurm(&verb.workers)?;
    let sweep = verb.spec.read()?;
    let store = Store::open(&verb.results.results, &sweep.name)?;
    let environment = verb.inputs.environment(slurm.as_ref().map_or_else(|| verb.workers.threads(), |slurm| slurm.threads));
    let resolver = RunnerResolver::new(environment.clone(), verb.results.results.clone());
    let mut claim = prepare(&sweep, &store, &resolver).map_err(|error| resolver.explain(error))?;
    keep_plan(&claim.plan, &store)?;
    let worker = WorkerCommand::new(environment)?;
    let command = |_: &PlannedRun, folder: &Path| worker.command(folder);
    let selection = Selection { failed: verb.retry.contains(&Retry::Failed), changed: verb.retry.contains(&Retry::Changed) };
    let supervisor =
        Supervisor { workers: verb.workers.workers(), command: &command, fail_fast: verb.fail_fast, selection, stop: stop.clone() };
    let execute = |claim: &Claim, runs: &[PlannedRun], fail_fast: bool| match &slurm {
        Some(slurm) => cluster::submit(slurm, &store, runs, selection, &worker),
        None => {
            let supervisor = Supervisor { fail_fast, stop: stop.clone(), ..supervisor };
            supervise(&supervisor, claim, runs, &store, &verb.progress, stop.clone())
        }
    };
    let mut limit = verb.max_runs.unwrap_or(usize::MAX);
    let mut probed = SweepOutcome::default();
    if !claim.plan.probes.is_empty() {
        keep_first(&mut claim.plan.probes, selection, limit);
        // A rate that fails has lost, and the others are tried.
        probed = claim.probe(&sweep, &store, &resolver, |claim, probes| execute(claim, probes, false))?;
        limit = limit.saturating_sub(probed.begun() + probed.elsewhere);
        keep_plan(&claim.plan, &store)?;
        eprintln!("{}", describe(&format!("{}: probes of learning rates", sweep.name), &probed));
        let calm = |choice: &&LrChoice| probed.begun() > 0 && choice.lr().is_some() && choice.warning().is_none();
        claim.plan.selection.lr.iter().filter(calm).for_each(|choice| eprintln!("chosen  {}", choice.describe()));
    }
    for warning in &claim.plan.warnings {
        eprintln!("warning: {warning}");
    }
    keep_first(&mut claim.plan.runs, selection, limit);
    let outcome = execute(&claim, &claim.plan.runs, verb.fail_fast)?;
    eprintln!("{}", describe(&sweep.name, &outcome));
    conclude(&store, verb.no_report)?;
    // Who waits for Slurm is told of tasks that it lost or cancelled as of a stop.
    let stopped = stop.load(Ordering::SeqCst) || slurm.is_some_and(|slurm| slurm.wait);
    verdict(&claim.plan, &probed, &outcome, stopped)
}

/// Keeps the plan as a table.
fn keep_plan(plan: &Plan, store: &Store) -> anyhow::Result<()> {
    let rows: Vec<_> = plan.rows()?.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    Ok(write_plan(&rows, &store.folder().join("plan.parquet"))?)
}

/// Leaves only the first `limit` of the runs that are to run; those that are not stay, to be counted.
fn keep_first(runs: &mut Vec<PlannedRun>, selection: Selection, limit: usize) {
    let mut taken = 0;
    runs.retain(|run| {
        let takes = selection.takes(run);
        taken += usize::from(takes);
        !takes || taken <= limit
    });
}

/// Runs `runs` of the claimed plan with their progress shown.
pub fn supervise(
    supervisor: &Supervisor<'_>,
    claim: &Claim,
    runs: &[PlannedRun],
    store: &Store,
    progress: &ProgressArgs,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<SweepOutcome> {
    let mut watcher = Watcher::new(store, &supervisor.selection.of(runs), supervisor.workers, progress, stop);
    let outcome = supervisor.run(claim, runs, store, &mut watcher);
    watcher.close();
    outcome.context("the sweep stopped; runs under way can go on")
}

/// What became of the sweep, on one line.
fn describe(name: &str, outcome: &SweepOutcome) -> String {
    let counts = [
        (outcome.done, "done"),
        (outcome.failed, "failed"),
        (outcome.interrupted, "stopped"),
        (outcome.not_started - outcome.elsewhere, "not started"),
        (outcome.elsewhere, "with Slurm or another process (the same command goes on with what is left)"),
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

/// The exit code. A probe that failed has done its work; a cell without a learning rate has not.
fn verdict(plan: &Plan, probed: &SweepOutcome, outcome: &SweepOutcome, stopped: bool) -> anyhow::Result<Exit> {
    if stopped && !(probed.is_complete() && outcome.is_complete()) {
        eprintln!("stopped: the same command goes on from here");
        return Ok(Exit::Interrupted);
    }
    let has = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what} has")),
        count => Some(format!("{count} {what}s have")),
    };
    let failed = has(outcome.failed + outcome.skipped_failed, "run").map(|runs| format!("{runs} failed"));
    let without_rate = plan.waiting.iter().filter(|cell| plan.selection.lr[cell.choice].is_failed()).count();
    let without_rate = has(without_rate, "cell").map(|cells| format!("{cells} no learning rate, because its probes failed"));
    let problems: Vec<String> = failed.into_iter().chain(without_rate).collect();
    if !problems.is_empty() {
        let problem = Problem::new(Exit::RunsFailed, problems.join("; "));
        return Err(problem.hint(format!("`peftbench status {}` says why; `--retry failed` runs them again", plan.sweep)).into());
    }
    if !plan.waiting.is_empty() {
        eprintln!("{} of the cells wait for their learning rates: the same command goes on from here", plan.waiting.len());
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_sweep_is_that_before_it_is_a_failed_one() {
        let verdict = |outcome: &SweepOutcome, stopped| verdict(&Plan::default(), &SweepOutcome::default(), outcome, stopped);
        let outcome = SweepOutcome { done: 1, failed: 1, interrupted: 1, wall_seconds: 3.0, ..SweepOutcome::default() };
        assert_eq!(describe("s", &outcome), "s: 1 done, 1 failed, 1 stopped in 3.0 s");
        assert_eq!(verdict(&outcome, true).unwrap(), Exit::Interrupted);
        assert_eq!(verdict(&outcome, false).unwrap_err().to_string(), "1 run has failed");
        let done = SweepOutcome { done: 2, ..SweepOutcome::default() };
        assert_eq!(verdict(&done, true).unwrap(), Exit::Done, "the wish to stop came too late");
        let before = SweepOutcome { skipped_failed: 2, ..SweepOutcome::default() };
        assert_eq!(verdict(&before, false).unwrap_err().to_string(), "2 runs have failed");
    }
}
