//! Runs what is left of a plan: one process a run, so many at a time.
//!
//! Each worker is a thread that takes the next run, starts its process, listens to its events, and writes down how it ended. The calling
//! thread alone speaks to the observer and passes on a wish to stop. Only this module writes the `state.json` of a claimed run.

use crate::atomic;
use crate::child::{Attempt, StartError, StopPipe};
use crate::error::StoreError;
use crate::plan::{PlanStatus, PlannedRun, Selection};
use crate::schedule;
use crate::state::{State, Status};
use crate::store::Store;
use crate::sweep::Claim;
use peftbench_spec::event::FailureKind;
use peftbench_spec::{Event, Manifest, RunId};
use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use crate::child::Outcome;

/// How often the observer hears a heartbeat and a wish to stop is looked for.
const TICK: Duration = Duration::from_millis(50);

/// Events on their way to the observer; a child that is faster waits.
const EVENTS_IN_FLIGHT: usize = 1024;

/// How to run a plan.
pub struct Supervisor<'a> {
    /// Processes at a time, at least one.
    pub workers: usize,
    /// The command that runs one run in its folder, by the protocol of [`crate::child`]. Input, output and error stream are set here.
    pub command: &'a (dyn Fn(&PlannedRun, &Path) -> Command + Sync),
    /// Stop at the first failure: no new run starts, and those under way are told to stop; they stay resumable.
    pub fail_fast: bool,
    /// Which runs, beyond those never finished, are to run.
    pub selection: Selection,
    /// Set it to stop: no new run starts, and those under way are told to stop and waited for.
    pub stop: Arc<AtomicBool>,
}

/// Who watches a sweep. All calls come from the thread that called [`Supervisor::run`].
pub trait Observer {
    /// A process works on `run`. Workers count from 0.
    fn run_started(&mut self, run: &PlannedRun, worker: usize) {
        let _ = (run, worker);
    }

    /// The process said `event`.
    fn event(&mut self, run: &PlannedRun, worker: usize, event: &Event) {
        let _ = (run, worker, event);
    }

    /// The attempt at `run` ended after so many seconds.
    fn run_ended(&mut self, run: &PlannedRun, worker: usize, outcome: &Outcome, seconds: f64) {
        let _ = (run, worker, outcome, seconds);
    }

    /// Time goes by: several times a second.
    fn heartbeat(&mut self) {}
}

/// An observer that looks away.
impl Observer for () {}

/// What became of a sweep.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SweepOutcome {
    /// Runs that finished now.
    pub done: usize,
    /// Runs that failed now.
    pub failed: usize,
    /// Runs that were stopped and can go on.
    pub interrupted: usize,
    /// Runs that were to run and were not begun.
    pub not_started: usize,
    /// Of these, runs that another process works on, or has done meanwhile.
    pub elsewhere: usize,
    /// Runs that were finished before.
    pub skipped_done: usize,
    /// Runs that failed before and were not asked for again.
    pub skipped_failed: usize,
    /// Finished runs whose inputs have changed since and that were not asked for again.
    pub skipped_changed: usize,
    /// Wall time.
    pub wall_seconds: f64,
}

impl SweepOutcome {
    /// Of runs that `selection` leaves out, why; nothing has run yet.
    pub fn of_skipped(planned: &[PlannedRun], selection: Selection) -> Self {
        let skipped = |wanted: fn(PlanStatus) -> bool| planned.iter().filter(|run| wanted(run.status) && !selection.takes(run)).count();
        Self {
            skipped_done: skipped(|status| status == PlanStatus::Done),
            skipped_failed: skipped(|status| matches!(status, PlanStatus::Failed(_))),
            skipped_changed: skipped(|status| status == PlanStatus::Changed),
            ..Self::default()
        }
    }

    /// Whether every run that was to run has ended of itself.
    pub fn is_complete(&self) -> bool {
        self.interrupted + self.not_started == 0
    }

    /// Runs that were begun now.
    pub fn begun(&self) -> usize {
        self.done + self.failed + self.interrupted
    }

    /// This outcome, where so many of its failed runs were run once more.
    pub(crate) fn then_again(&self, second: &Self) -> Self {
        let again = second.done + second.failed + second.interrupted + second.not_started;
        Self {
            done: self.done + second.done,
            failed: (self.failed + second.failed).saturating_sub(again),
            interrupted: self.interrupted + second.interrupted,
            not_started: self.not_started + second.not_started,
            elsewhere: self.elsewhere + second.elsewhere,
            wall_seconds: self.wall_seconds + second.wall_seconds,
            ..self.clone()
        }
    }
}

/// What workers tell the calling thread.
enum Report<'a> {
    Started { run: &'a PlannedRun, worker: usize },
    Event { run: &'a PlannedRun, worker: usize, event: Box<Event> },
    Ended { run: &'a PlannedRun, worker: usize, outcome: Outcome, seconds: f64 },
    Elsewhere,
    Broken(StoreError),
}

/// What workers share.
struct Crew<'a> {
    supervisor: &'a Supervisor<'a>,
    store: &'a Store,
    queue: Mutex<VecDeque<&'a PlannedRun>>,
    /// Set within: a failure with `fail_fast`, or a store that cannot be written.
    halt: AtomicBool,
    /// One a worker.
    pipes: Vec<StopPipe>,
}

impl Supervisor<'_> {
    /// Runs those of `planned`, which are probes or runs of the claimed plan, that are not done. A failing run never stops the others, unless
    /// `fail_fast`. An error means that the store could not be written; whatever was under way is stopped and resumable.
    pub fn run(
        &self,
        _claim: &Claim,
        planned: &[PlannedRun],
        store: &Store,
        observer: &mut dyn Observer,
    ) -> Result<SweepOutcome, StoreError> {
        let begun = Instant::now();
        let runs = self.selection.of(planned);
        let seconds: Vec<_> = runs.iter().map(|run| run.estimate.seconds).collect();
        let workers = self.workers.clamp(1, runs.len().max(1));
        let crew = Crew {
            supervisor: self,
            store,
            queue: Mutex::new(schedule::start_order(&seconds, workers).into_iter().map(|index| runs[index]).collect()),
            halt: AtomicBool::new(false),
            pipes: (0..workers).map(|_| StopPipe::default()).collect(),
        };
        let mut outcome = SweepOutcome::of_skipped(planned, self.selection);
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
            for worker in 0..workers {
                let (crew, sender) = (&crew, sender.clone());
                scope.spawn(move || crew.work(worker, &sender));
            }
            drop(sender);
            crew.watch(&receiver, observer, &mut outcome)
        })?;
        outcome.not_started = runs.len() - outcome.done - outcome.failed - outcome.interrupted;
        outcome.wall_seconds = begun.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

impl<'a> Crew<'a> {
    /// The calling thread's part: passes reports on until every worker has ended.
    fn watch(
        &self,
        reports: &mpsc::Receiver<Report<'a>>,
        observer: &mut dyn Observer,
        outcome: &mut SweepOutcome,
    ) -> Result<(), StoreError> {
        let mut broken = None;
        let mut last_beat = Instant::now();
        loop {
            match reports.recv_timeout(TICK) {
                Ok(Report::Broken(error)) => broken = broken.or(Some(error)),
                Ok(report) => tell(observer, report, outcome),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if last_beat.elapsed() >= TICK {
                last_beat = Instant::now();
                observer.heartbeat();
                if self.is_halted() {
                    self.pipes.iter().for_each(StopPipe::tell);
                }
            }
        }
        broken.map_or(Ok(()), Err)
    }

    fn is_halted(&self) -> bool {
        self.supervisor.stop.load(Ordering::SeqCst) || self.halt.load(Ordering::SeqCst)
    }

    /// Sends to the calling thread. If that is no more (its observer panicked), nobody is left to pass on a wish to stop: all stop now.
    fn report(&self, reports: &SyncSender<Report<'a>>, report: Report<'a>) {
        if reports.send(report).is_err() {
            self.halt.store(true, Ordering::SeqCst);
            self.pipes.iter().for_each(StopPipe::tell);
        }
    }

    /// A worker's part: one run after the other.
    fn work(&self, worker: usize, reports: &SyncSender<Report<'a>>) {
        while !self.is_halted() {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(run) = next else { return };
            if let Err(error) = self.attempt(run, worker, reports) {
                self.halt.store(true, Ordering::SeqCst);
                self.report(reports, Report::Broken(error));
            }
        }
    }

    /// One attempt at one run, from claim to verdict.
    fn attempt(&self, run: &'a PlannedRun, worker: usize, reports: &SyncSender<Report<'a>>) -> Result<(), StoreError> {
        let lock = self.store.lock_run(&run.id)?;
        // Since it was planned another process may have taken it up, or done it.
        let is_done_since = !matches!(run.status, PlanStatus::Done | PlanStatus::Changed) && self.store.is_done(&run.id)?;
        if lock.is_none() || is_done_since {
            self.report(reports, Report::Elsewhere);
            return Ok(());
        }
        if !self.outlives_orphan(&run.id)? {
            return Ok(());
        }
        let begun = Instant::now();
        let (folder, state) = self.claim(run)?;
        let outcome = match Attempt::start((self.supervisor.command)(run, &folder), &folder, state.attempt) {
            Ok(attempt) => {
                self.report(reports, Report::Started { run, worker });
                self.accompany(attempt, run, state.clone(), worker, reports)?
            }
            Err(StartError::Store(error)) => return Err(error),
            Err(StartError::Program(message)) => Outcome::failed(FailureKind::Crash, message),
        };
        let (status, failure) = outcome.clone().into_parts();
        let last = self.store.state(&run.id)?.unwrap_or(state);
        self.store.write_state(&run.id, &last.ended(status, failure))?;
        if status == Status::Failed && self.supervisor.fail_fast {
            self.halt.store(true, Ordering::SeqCst);
        }
        self.report(reports, Report::Ended { run, worker, outcome, seconds: begun.elapsed().as_secs_f64() });
        Ok(())
    }

    /// A supervisor that was killed leaves a child that ends at its next step, having seen the end of its input. Two processes must not
    /// write to one folder, so it is waited for. False: the wish to stop came first.
    fn outlives_orphan(&self, id: &RunId) -> Result<bool, StoreError> {
        while self.store.state(id)?.is_some_and(|state| state.is_alive()) {
            if self.is_halted() {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
        Ok(true)
    }

    /// Makes the run's folder ready and its state `running`.
    fn claim(&self, run: &PlannedRun) -> Result<(std::path::PathBuf, State), StoreError> {
        let folder = self.store.run_dir(&run.id);
        atomic::make_folder(&folder)?;
        atomic::remove_leftovers(&folder)?;
        if run.inputs_changed {
            self.store.reset_run(&run.id)?;
            self.store.write_manifest(&Manifest::new(self.store.sweep(), run.spec.clone())?)?;
        }
        let state = self.store.state(&run.id)?.unwrap_or_else(State::planned).next_attempt();
        self.store.write_state(&run.id, &state)?;
        Ok((folder, state))
    }

    /// Listens to a started process until it ends.
    fn accompany(
        &self,
        mut attempt: Attempt,
        run: &'a PlannedRun,
        mut state: State,
        worker: usize,
        reports: &SyncSender<Report<'a>>,
    ) -> Result<Outcome, StoreError> {
        let pipe = &self.pipes[worker];
        pipe.connect(attempt.take_stdin());
        // The wish may have come between the last look and the connection.
        if self.is_halted() {
            pipe.tell();
        }
        state.process = Some(attempt.mark());
        let mut written = self.store.write_state(&run.id, &state);
        if written.is_err() {
            pipe.tell();
        }
        attempt.listen(|event| {
            let step = match &event {
                Event::Checkpoint { step } => Some(*step),
                Event::Started { resumed_from_step, .. } => Some(*resumed_from_step),
                _ => None,
            };
            if let (Some(step), Ok(())) = (step.filter(|&step| step != state.step), &written) {
                state = State { step, updated_at: crate::state::now(), ..state.clone() };
                written = self.store.write_state(&run.id, &state);
                if written.is_err() {
                    // Better an attempt cut short than one whose progress is unknown.
                    pipe.tell();
                }
            }
            self.report(reports, Report::Event { run, worker, event: Box::new(event) });
        });
        let finished = || Ok(matches!(self.store.last_event(&run.id)?, Some(Event::Finished(_))));
        let outcome = attempt.end(finished, || pipe.disconnect());
        written.and(outcome)
    }
}

fn tell(observer: &mut dyn Observer, report: Report<'_>, sum: &mut SweepOutcome) {
    match report {
        Report::Started { run, worker } => observer.run_started(run, worker),
        Report::Event { run, worker, event } => observer.event(run, worker, &event),
        Report::Ended { run, worker, outcome, seconds } => {
            match outcome {
                Outcome::Done => sum.done += 1,
                Outcome::Failed(_) => sum.failed += 1,
                Outcome::Interrupted => sum.interrupted += 1,
            }
            observer.run_ended(run, worker, &outcome, seconds);
        }
        Report::Elsewhere => sum.elsewhere += 1,
        Report::Broken(_) => {}
    }
}
