//! Progress of a sweep on standard error: bars on a terminal, plain lines elsewhere.

mod bars;
mod lines;
mod tracker;

pub use tracker::Tracker;

use crate::args::ProgressArgs;
use crate::interrupt;
use peftbench_results::write_fragments;
use peftbench_spec::Event;
use peftbench_sweep::{Observer, Outcome, PlannedRun, Store};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One way to show how far a sweep is.
trait Display {
    /// Something changed, or time went by.
    fn refresh(&mut self, tracker: &Tracker);

    /// A line that stays.
    fn say(&mut self, line: &str);

    /// A line that stays, about a run that went well.
    fn say_done(&mut self, line: &str);

    /// The sweep is over.
    fn close(&mut self);
}

/// Watches a sweep: shows its progress, and makes the tables of each run that ends while the others compute.
pub struct Watcher<'a> {
    store: &'a Store,
    stop: Arc<AtomicBool>,
    said_stop: bool,
    tracker: Tracker,
    display: Box<dyn Display>,
}

impl<'a> Watcher<'a> {
    /// Watches the `runs` that are to run, by so many workers at a time, until `stop` is set.
    pub fn new(store: &'a Store, runs: &[&PlannedRun], workers: usize, args: &ProgressArgs, stop: Arc<AtomicBool>) -> Self {
        let tracker = Tracker::new(runs, workers);
        let plain = args.no_progress || std::env::var_os("CI").is_some() || !std::io::stderr().is_terminal();
        let display: Box<dyn Display> = if plain { Box::new(lines::Lines::default()) } else { Box::new(bars::Bars::new(&tracker)) };
        Self { store, stop, said_stop: false, tracker, display }
    }

    /// Takes the bars away.
    pub fn close(mut self) {
        self.display.close();
    }
}

impl Observer for Watcher<'_> {
    fn run_started(&mut self, run: &PlannedRun, worker: usize) {
        self.tracker.start(run, worker);
        self.display.refresh(&self.tracker);
    }

    fn event(&mut self, _run: &PlannedRun, worker: usize, event: &Event) {
        self.tracker.take(worker, event);
    }

    fn run_ended(&mut self, run: &PlannedRun, worker: usize, outcome: &Outcome, seconds: f64) {
        let line = self.tracker.end(run, worker, outcome, seconds);
        match outcome {
            Outcome::Done => self.display.say_done(&line),
            _ => self.display.say(&line),
        }
        if let Err(error) = write_fragments(&self.store.run_dir(&run.id)) {
            // `collect` makes them again from the events, or says why it cannot.
            self.display.say(&format!("warning: the tables of run {} are not written yet: {error}", run.id));
        }
        self.display.refresh(&self.tracker);
    }

    fn heartbeat(&mut self) {
        if self.stop.load(Ordering::SeqCst) && !self.said_stop {
            self.said_stop = true;
            self.display.say(interrupt::MESSAGE);
        }
        self.display.refresh(&self.tracker);
    }
}
