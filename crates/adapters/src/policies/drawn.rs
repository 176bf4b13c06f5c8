//! A policy that draws or chooses its layers by what it asks the model, every few steps.

use super::draws::Draws;
use super::sampling::{largest, weighted};
use crate::error::Result;
use crate::policy::{Activity, InactiveMoments, LayerPolicy, Probe, ProbeBatch, ProbeSource};
use serde_json::Value;

/// What the layers of a step follow from.
pub enum Guide {
    /// Nothing: every layer is as likely.
    Even,
    /// Draws in proportion to the share of weights above this multiple of their matrix's mean.
    Outliers {
        /// The multiple.
        multiple: f64,
    },
    /// The largest relative gradients on a probe batch.
    Gradients {
        /// Where examples come from.
        source: ProbeSource,
        /// How many.
        size: usize,
    },
}

/// The policy.
pub struct Drawn {
    /// What the layers follow from.
    pub guide: Guide,
    /// When, and among which.
    pub draws: Draws,
    /// Layers that train at a time.
    pub updated: usize,
    /// Moments of the others.
    pub inactive_moments: InactiveMoments,
}

impl Drawn {
    /// Importance of each of the model's layers, where the guide has one.
    fn importance(&self, step: u64, probe: &mut dyn Probe) -> Result<Option<Vec<f64>>> {
        match self.guide {
            Guide::Even => Ok(None),
            Guide::Outliers { multiple } => probe.outlier_ratios(multiple).map(Some),
            Guide::Gradients { source, size } => probe.relative_gradients(ProbeBatch { source, size, step }).map(Some),
        }
    }
}

impl LayerPolicy for Drawn {
    fn begin_step(&mut self, step: u64, probe: &mut dyn Probe) -> Result<Activity> {
        let importance = if self.draws.due(step) { self.importance(step, probe)? } else { None };
        let score = |&layer: &usize| importance.as_ref().map_or(1.0, |importance| importance[layer]);
        let scores: Vec<f64> = self.draws.layers().iter().map(score).collect();
        let (count, chooses) = (self.updated, matches!(self.guide, Guide::Gradients { .. }));
        let (active, decided) = self.draws.at(step, |stream| match chooses {
            true => largest(&scores, count),
            // Layers that score nothing come last, each as likely as another.
            false => weighted(scores.iter().map(|score| score.max(f64::MIN_POSITIVE).ln()), count, stream),
        });
        Ok(Activity { active, decided, importance, probe_loss: None })
    }

    fn inactive_moments(&self) -> InactiveMoments {
        self.inactive_moments
    }

    fn state(&self) -> Value {
        self.draws.state()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.draws.restore(state)
    }
}
