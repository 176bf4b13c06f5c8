//! Time and memory by phase.

use crate::account::Kinds;
use peftbench_ops::memory;
use peftbench_spec::event::PhaseRecord;
use std::time::Instant;

/// A phase under way.
pub struct Phase {
    name: &'static str,
    started: Instant,
    compute_seconds: f64,
    /// Time of phases within this one, which is not its own.
    apart_seconds: f64,
    /// Highest peak of the parts measured apart (each step of training resets the allocator's peak).
    peak: u64,
    /// Bytes by kind at the highest moment of training.
    highest: Option<Kinds>,
}

impl Phase {
    /// Begins a phase.
    pub fn start(name: &'static str) -> Self {
        memory::reset_peak();
        Self { name, started: Instant::now(), compute_seconds: 0.0, apart_seconds: 0.0, peak: 0, highest: None }
    }

    /// Runs `work` and counts its time as the model's.
    pub fn compute<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let started = Instant::now();
        let result = work();
        self.compute_seconds += started.elapsed().as_secs_f64();
        result
    }

    /// Runs `work` as a phase of its own within this one: its time and memory are recorded apart.
    pub fn apart<R>(&mut self, name: &'static str, work: impl FnOnce() -> R) -> (R, PhaseRecord) {
        self.part_peak();
        let mut inner = Self::start(name);
        let result = inner.compute(work);
        let record = inner.finish(&Kinds::default());
        self.apart_seconds += record.seconds;
        memory::reset_peak();
        (result, record)
    }

    /// Ends one part of the phase: its peak, after which a new one begins.
    pub fn part_peak(&mut self) -> u64 {
        let peak = memory::peak_bytes();
        self.peak = self.peak.max(peak);
        memory::reset_peak();
        peak
    }

    /// A training step held so much at its highest moment.
    pub fn reached(&mut self, kinds: &Kinds) {
        if self.highest.is_none_or(|highest| kinds.total() > highest.total()) {
            self.highest = Some(*kinds);
        }
    }

    /// Ends the phase. `resident` is what the model's and the adapter's tensors take at its end. Where no training step has told more, `other`
    /// is what else stays, and `workspace` what the phase had on top.
    pub fn finish(mut self, resident: &Kinds) -> PhaseRecord {
        self.part_peak();
        let live = memory::live_bytes();
        let (other, workspace) = (live.saturating_sub(resident.total()), self.peak.saturating_sub(live));
        let kinds = self.highest.unwrap_or(Kinds { other, workspace, ..*resident });
        PhaseRecord {
            phase: self.name.to_owned(),
            seconds: self.started.elapsed().as_secs_f64() - self.apart_seconds,
            compute_seconds: self.compute_seconds,
            peak_bytes: self.peak,
            live_bytes: live,
            rss_peak_bytes: memory::resident_peak_bytes(),
            by_kind: kinds.by_name(),
        }
    }
}
