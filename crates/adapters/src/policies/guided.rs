//! `owlore` and `surgical`: layers drawn or chosen by what the model's weights or gradients say.

use super::drawn::{Drawn, Guide};
use super::draws::Draws;
use super::share::Share;
use super::{PolicyContext, PolicyOptions};
use crate::policy::{InactiveMoments, LayerPolicy, ProbeSource};
use peftbench_spec::SpecError;
use serde::{Deserialize, Serialize};

/// Options of `owlore`: outlier-weighed layer sampling (Li et al., 2024), with the defaults of its released code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Owlore {
    /// Layers that train at a time, γ.
    pub layers_updated: Share,
    /// Optimizer steps from one draw to the next, K.
    pub redraw_interval: u64,
    /// A weight is an outlier if it is larger than this multiple of the mean of its matrix.
    pub outlier_multiple: f64,
    /// Moments of layers that do not train.
    pub inactive_moments: InactiveMoments,
}

impl Default for Owlore {
    fn default() -> Self {
        Self { layers_updated: Share::Part(0.25), redraw_interval: 50, outlier_multiple: 13.0, inactive_moments: InactiveMoments::Keep }
    }
}

/// Options of `surgical`: surgical fine-tuning by relative gradient norm (Lee et al., 2023, Auto-RGN) as a choice of layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Surgical {
    /// Layers that train: those with the largest relative gradients.
    pub layers_updated: Share,
    /// Optimizer steps from one choice to the next; 0 to choose once, at the first step.
    pub choice_interval: u64,
    /// Where probe examples come from.
    pub probe_source: ProbeSource,
    /// Examples of a probe.
    pub probe_batch_size: usize,
    /// Moments of layers that do not train.
    pub inactive_moments: InactiveMoments,
}

impl Default for Surgical {
    fn default() -> Self {
        Self {
            layers_updated: Share::Part(0.25),
            choice_interval: 0,
            probe_source: ProbeSource::Train,
            probe_batch_size: 16,
            inactive_moments: InactiveMoments::Keep,
        }
    }
}

impl PolicyOptions for Owlore {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.layers_updated.validate("layers_updated")?;
        if self.redraw_interval == 0 {
            return Err(SpecError::at("redraw_interval", "expected at least one step, found 0"));
        }
        match self.outlier_multiple.is_finite() && self.outlier_multiple > 0.0 {
            true => Ok(()),
            false => Err(SpecError::at("outlier_multiple", format!("expected a number above 0, found {}", self.outlier_multiple))),
        }
    }

    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        Ok(Box::new(Drawn {
            guide: Guide::Outliers { multiple: self.outlier_multiple },
            updated: self.layers_updated.of(context.layers.len(), "layers_updated")?,
            draws: Draws::new(context, self.redraw_interval),
            inactive_moments: self.inactive_moments,
        }))
    }
}

impl PolicyOptions for Surgical {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.layers_updated.validate("layers_updated")?;
        match self.probe_batch_size {
            0 => Err(SpecError::at("probe_batch_size", "expected at least one example, found 0")),
            _ => Ok(()),
        }
    }

    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        let interval = if self.choice_interval == 0 { u64::MAX } else { self.choice_interval };
        Ok(Box::new(Drawn {
            guide: Guide::Gradients { source: self.probe_source, size: self.probe_batch_size },
            updated: self.layers_updated.of(context.layers.len(), "layers_updated")?,
            draws: Draws::new(context, interval),
            inactive_moments: self.inactive_moments,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::testing::{Scores, context};

    #[test]
    fn surgical_takes_the_largest_gradients_once() {
        let mut policy = Surgical { layers_updated: Share::Count(2), ..Surgical::default() }.build(context(4)).unwrap();
        let mut probe = Scores(vec![0.1, 0.9, 0.2, 0.8]);
        let first = policy.begin_step(1, &mut probe).unwrap();
        assert_eq!((first.active, first.decided), (vec![1, 3], true));
        probe.0 = vec![9.0, 0.0, 0.0, 0.0];
        let later = policy.begin_step(2, &mut probe).unwrap();
        assert_eq!((later.active, later.decided), (vec![1, 3], false));
    }

    #[test]
    fn owlore_draws_in_proportion_to_outliers() {
        let mut policy = Owlore { layers_updated: Share::Count(1), redraw_interval: 1, ..Owlore::default() }.build(context(4)).unwrap();
        let mut probe = Scores(vec![0.0, 0.3, 0.0, 0.1]);
        let mut counts = [0; 4];
        for step in 1..=4000 {
            counts[policy.begin_step(step, &mut probe).unwrap().active[0]] += 1;
        }
        assert!(counts[0] == 0 && counts[2] == 0 && (2850..3150).contains(&counts[1]), "{counts:?}");
    }
}
