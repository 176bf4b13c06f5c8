//! The learning rate over the run.

use peftbench_spec::LrScheduler;

/// A schedule of `total` optimizer steps with linear warm-up.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Shape.
    pub scheduler: LrScheduler,
    /// Peak.
    pub lr: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// All steps.
    pub total: u64,
}

impl Schedule {
    /// The learning rate of optimizer step `step`, from 1, as Hugging Face's `get_scheduler` gives it; except that the first step of a
    /// warm-up is not wasted at a rate of 0.
    pub fn lr(&self, step: u64) -> f64 {
        // Hugging Face counts the steps done before this one.
        let done = (step - 1) as f64;
        if done < self.warmup as f64 {
            return self.lr * done.max(1.0) / self.warmup as f64;
        }
        let progress = (done - self.warmup as f64) / (self.total.saturating_sub(self.warmup).max(1)) as f64;
        self.lr
            * match self.scheduler {
                LrScheduler::Constant => 1.0,
                LrScheduler::Linear => (1.0 - progress).max(0.0),
                LrScheduler::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_warm_up_and_decay() {
        let at = |scheduler, step| Schedule { scheduler, lr: 1.0, warmup: 10, total: 110 }.lr(step);
        assert_eq!(at(LrScheduler::Linear, 6), 0.5);
        assert_eq!(at(LrScheduler::Linear, 11), 1.0);
        assert_eq!(at(LrScheduler::Linear, 61), 0.5);
        assert!((at(LrScheduler::Cosine, 61) - 0.5).abs() < 1e-12);
        assert_eq!(at(LrScheduler::Constant, 110), 1.0);
        assert!(at(LrScheduler::Linear, 110) > 0.0);
        assert_eq!(Schedule { scheduler: LrScheduler::Linear, lr: 1.0, warmup: 0, total: 4 }.lr(1), 1.0);
    }
}
