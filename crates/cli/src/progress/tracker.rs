//! How far a sweep is: counts, what each worker does, and when it will be over.

use peftbench_spec::Event;
use peftbench_sweep::units::{Bytes, Count, Seconds};
use peftbench_sweep::{Outcome, PlannedRun};
use std::time::Instant;

/// How much a new step counts in the smoothed throughput.
const SMOOTHING: f64 = 0.1;

/// A sweep under way.
pub struct Tracker {
    begun: Instant,
    total: usize,
    /// Estimated seconds of all runs that are to run; each 1 where a run's is not known.
    total_weight: f64,
    ended_weight: f64,
    /// Whether every run has an estimate.
    estimated: bool,
    /// Runs with a result.
    pub done: usize,
    /// Runs without.
    pub failed: usize,
    stopped: usize,
    /// What each worker does.
    pub workers: Vec<Option<Work>>,
}

/// One run under way.
pub struct Work {
    /// The run on one line.
    pub label: String,
    weight: f64,
    step: u64,
    total_steps: u64,
    loss: Option<f64>,
    tokens_per_second: Option<f64>,
    peak_bytes: u64,
    result: Option<(String, f64)>,
    /// What it does when it does not train.
    phase: &'static str,
}

impl Tracker {
    /// Nothing has begun yet.
    pub fn new(runs: &[&PlannedRun], workers: usize) -> Self {
        let estimated = runs.iter().all(|run| run.estimate.seconds.is_some());
        let mut tracker = Self {
            begun: Instant::now(),
            total: runs.len(),
            total_weight: 0.0,
            ended_weight: 0.0,
            estimated,
            done: 0,
            failed: 0,
            stopped: 0,
            workers: (0..workers.clamp(1, runs.len().max(1))).map(|_| None).collect(),
        };
        tracker.total_weight = runs.iter().map(|run| tracker.weight(run)).sum();
        tracker
    }

    /// Starting a process and loading a model takes a moment however small the run is.
    fn weight(&self, run: &PlannedRun) -> f64 {
        if self.estimated { run.estimate.seconds.unwrap_or(0.0) + 0.2 } else { 1.0 }
    }

    /// A worker begins a run.
    pub fn start(&mut self, run: &PlannedRun, worker: usize) {
        let work = Work {
            label: run.label(),
            weight: self.weight(run),
            step: 0,
            total_steps: 0,
            loss: None,
            tokens_per_second: None,
            peak_bytes: 0,
            result: None,
            phase: "loading",
        };
        self.workers[worker] = Some(work);
    }

    /// A worker's run says something.
    pub fn take(&mut self, worker: usize, event: &Event) {
        let Some(work) = &mut self.workers[worker] else { return };
        match event {
            Event::Started { resumed_from_step, .. } => work.step = *resumed_from_step,
            Event::Setup(setup) => {
                work.total_steps = setup.total_steps;
                work.phase = "evaluating";
            }
            Event::Step(record) => {
                work.step = record.step;
                work.loss = Some(record.loss);
                work.peak_bytes = work.peak_bytes.max(record.peak_bytes);
                let rate = record.tokens as f64 / record.seconds.max(1e-9);
                work.tokens_per_second = Some(work.tokens_per_second.map_or(rate, |old| old + SMOOTHING * (rate - old)));
            }
            Event::Phase(record) => work.peak_bytes = work.peak_bytes.max(record.peak_bytes),
            Event::Finished(summary) => work.result = Some(summary.score()),
            _ => {}
        }
    }

    /// A worker's run ended; the line that says so.
    pub fn end(&mut self, run: &PlannedRun, worker: usize, outcome: &Outcome, seconds: f64) -> String {
        self.ended_weight += self.weight(run);
        let result = self.workers[worker].take().and_then(|work| work.result);
        let (id, label, time) = (&run.id.as_str()[..6], run.label(), Seconds(seconds));
        match outcome {
            Outcome::Done => {
                self.done += 1;
                let result = result.map(|(metric, value)| format!("  {metric} {value:.4}")).unwrap_or_default();
                format!("done    {id}  {label}{result}  ({time})")
            }
            Outcome::Failed(failure) => {
                self.failed += 1;
                format!("failed  {id}  {label}  ({})\n        {}", failure.kind.name(), failure.message.replace('\n', "\n        "))
            }
            Outcome::Interrupted => {
                self.stopped += 1;
                format!("stopped {id}  {label}  (resumable)")
            }
        }
    }

    /// How much is done, 0 to 1, runs under way with their part.
    pub fn fraction(&self) -> f64 {
        let under_way: f64 = self.workers.iter().flatten().map(|work| work.weight * work.fraction()).sum();
        match self.total_weight > 0.0 {
            true => ((self.ended_weight + under_way) / self.total_weight).min(1.0),
            false => 0.0,
        }
    }

    /// Seconds that are left, once enough is done to tell.
    fn seconds_left(&self) -> Option<f64> {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let fraction = self.fraction();
        (fraction > 0.01 && elapsed > 2.0).then(|| elapsed / fraction * (1.0 - fraction))
    }

    /// `12/54 done, 1 failed, about 3 min left`.
    pub fn summary(&self) -> String {
        let mut text = format!("{}/{} done", self.done, self.total);
        for (count, what) in [(self.failed, "failed"), (self.stopped, "stopped")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        if let Some(seconds) = self.seconds_left() {
            text += &format!(", about {} left", Seconds(seconds));
        }
        text
    }
}

impl Work {
    /// How much of its steps is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.total_steps == 0 { 0.0 } else { (self.step as f64 / self.total_steps as f64).min(1.0) }
    }

    /// `step 40/120  loss 1.234  5.1 k tok/s  120 MiB`.
    pub fn detail(&self) -> String {
        if self.step == 0 {
            return self.phase.to_owned();
        }
        let mut text = format!("step {}/{}", self.step, self.total_steps);
        if let Some(loss) = self.loss {
            text += &format!("  loss {loss:.3}");
        }
        if let Some(rate) = self.tokens_per_second {
            text += &format!("  {} tok/s", Count(rate as u64));
        }
        text + &format!("  {}", Bytes(self.peak_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::event::{FailureKind, Setup, StepRecord, Summary};
    use peftbench_spec::{RunId, RunSpec};
    use peftbench_sweep::{Estimate, Failure, PlanStatus};

    fn run(seed: u64, seconds: Option<f64>) -> PlannedRun {
        let spec = serde_json::json!({"model": "m", "task": "t", "method": "full", "seed": seed});
        let spec = RunSpec::from_value(spec).unwrap();
        let estimate = Estimate { seconds, ..Estimate::default() };
        PlannedRun { id: RunId::of(&spec).unwrap(), spec, axes: vec![], status: PlanStatus::New, inputs_changed: false, estimate }
    }

    #[test]
    fn runs_count_by_their_estimates_and_those_under_way_with_their_part() {
        let runs = [run(0, Some(9.8)), run(1, Some(29.8))];
        let mut tracker = Tracker::new(&[&runs[0], &runs[1]], 8);
        assert_eq!(tracker.workers.len(), 2);
        tracker.start(&runs[0], 0);
        tracker.start(&runs[1], 1);
        tracker.take(1, &Event::Setup(Box::new(Setup { total_steps: 100, ..Setup::default() })));
        assert_eq!(tracker.workers[1].as_ref().unwrap().detail(), "evaluating");
        let step = StepRecord { step: 50, loss: 1.5, tokens: 200, seconds: 0.1, peak_bytes: 3 << 20, ..StepRecord::default() };
        tracker.take(1, &Event::Step(step));
        assert_eq!(tracker.workers[1].as_ref().unwrap().detail(), "step 50/100  loss 1.500  2.0 k tok/s  3.0 MiB");
        assert!((tracker.fraction() - 15.0 / 40.0).abs() < 1e-12);
        let summary = Summary { primary_metric: "accuracy".into(), primary_value: 0.5, n_items: 10, ..Summary::default() };
        tracker.take(0, &Event::Finished(Box::new(summary)));
        let line = tracker.end(&runs[0], 0, &Outcome::Done, 4.0);
        assert_eq!(line, format!("done    {}  m · t · full · seed 0  accuracy 0.5000  (4.0 s)", &runs[0].id.as_str()[..6]));
        let failure = Failure { kind: FailureKind::NanLoss, message: "the loss\nis NaN".into() };
        let line = tracker.end(&runs[1], 1, &Outcome::Failed(failure), 1.0);
        assert!(line.ends_with("(nan_loss)\n        the loss\n        is NaN"), "{line}");
        assert_eq!((tracker.fraction(), tracker.summary().as_str()), (1.0, "1/2 done, 1 failed"));
    }

    #[test]
    fn without_estimates_every_run_counts_the_same() {
        let runs = [run(0, None), run(1, Some(1000.0))];
        let mut tracker = Tracker::new(&[&runs[0], &runs[1]], 1);
        tracker.start(&runs[0], 0);
        tracker.end(&runs[0], 0, &Outcome::Done, 1.0);
        assert_eq!(tracker.fraction(), 0.5);
        assert_eq!(Tracker::new(&[], 2).fraction(), 0.0);
    }
}
