//! A sweep on a cluster: its runs as job arrays of Slurm.

use crate::args::WorkerArgs;
use crate::exit::{Exit, Problem};
use crate::worker_command::WorkerCommand;
use clap::{Args, ValueEnum};
use peftbench_sweep::slurm::Slurm;
use peftbench_sweep::{PlannedRun, Selection, Status, Store, SweepOutcome};
use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

/// Where the runs of a sweep are worked on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Executor {
    /// In processes on this machine
    #[default]
    Local,
    /// In a job array of Slurm, a task a run; all machines see the same files
    Slurm,
}

/// Which executor, and what it is told.
#[derive(Debug, Args)]
pub struct ExecutorArgs {
    /// Where runs are worked on
    #[arg(long, value_enum, default_value_t)]
    executor: Executor,
    /// Option of Slurm's `sbatch`, e.g. `--slurm=--partition=gpu`; repeatable
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true, hide_short_help = true)]
    slurm: Vec<String>,
    /// With Slurm: return when all tasks have ended, not when they are submitted
    #[arg(long, hide_short_help = true)]
    wait: bool,
}

impl ExecutorArgs {
    /// Slurm as it is asked for; nothing where this machine does the work.
    pub fn slurm(&self, workers: &WorkerArgs) -> anyhow::Result<Option<Slurm>> {
        match self.executor {
            Executor::Local if self.wait || !self.slurm.is_empty() => {
                Err(Problem::new(Exit::Usage, "`--slurm` and `--wait` go with `--executor slurm`").into())
            }
            Executor::Local => Ok(None),
            Executor::Slurm => Ok(Some(Slurm {
                options: self.slurm.clone(),
                at_once: workers.workers,
                threads: workers.threads.unwrap_or(1),
                wait: self.wait,
            })),
        }
    }
}

/// Submits those of `runs` that are to run, and with `wait` says what became of them.
pub fn submit(
    slurm: &Slurm,
    store: &Store,
    runs: &[PlannedRun],
    selection: Selection,
    worker: &WorkerCommand,
) -> anyhow::Result<SweepOutcome> {
    let begun = Instant::now();
    let left = selection.of(runs);
    let mut outcome = SweepOutcome::of_skipped(runs, selection);
    if left.is_empty() {
        return Ok(outcome);
    }
    let results = store.folder().parent().unwrap_or(Path::new("."));
    let mut task = worker.elsewhere("array-task")?;
    let place = [OsString::from("--results"), std::path::absolute(results)?.into(), "--sweep".into(), store.sweep().into()];
    task.extend(place);
    let runs = |count: usize| if count == 1 { "1 run".to_owned() } else { format!("{count} runs") };
    if slurm.wait {
        eprintln!("{}: waiting for {} in Slurm", store.sweep(), runs(left.len()));
    }
    for array in slurm.submit(store, &left, &task)? {
        eprintln!("{}: Slurm job {} has {}", store.sweep(), array.job, runs(array.tasks));
    }
    for run in left {
        match store.state(&run.id)?.map(|state| state.status).filter(|_| slurm.wait) {
            Some(Status::Done) => outcome.done += 1,
            Some(Status::Failed) => outcome.failed += 1,
            Some(Status::Interrupted) => outcome.interrupted += 1,
            _ => (outcome.not_started, outcome.elsewhere) = (outcome.not_started + 1, outcome.elsewhere + 1),
        }
    }
    outcome.wall_seconds = begun.elapsed().as_secs_f64();
    Ok(outcome)
}
