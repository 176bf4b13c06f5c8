//! Time and memory by phase.

use peftbench_ops::memory;
use peftbench_spec::event::PhaseRecord;
use std::collections::BTreeMap;
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
    /// Bytes by kind at the phase's peak.
    pub by_kind: BTreeMap<String, u64>,
}

impl Phase {
    /// Begins a phase.
    pub fn start(name: &'static str) -> Self {
        memory::reset_peak();
        Self { name, started: Instant::now(), compute_seconds: 0.0, apart_seconds: 0.0, peak: 0, by_kind: BTreeMap::new() }
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
        let record = inner.finish();
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

    /// Ends the phase.
    pub fn finish(mut self) -> PhaseRecord {
        self.part_peak();
        PhaseRecord {
            phase: self.name.to_owned(),
            seconds: self.started.elapsed().as_secs_f64() - self.apart_seconds,
            compute_seconds: self.compute_seconds,
            peak_bytes: self.peak,
            live_bytes: memory::live_bytes(),
            rss_peak_bytes: memory::resident_peak_bytes(),
            by_kind: self.by_kind,
        }
    }
}
