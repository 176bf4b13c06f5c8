//! `rst` and `lisa`: layers drawn uniformly at random.
//!
//! RST (random sparse tuning) is the baseline of IST (Yao et al., 2024): other layers at every step. LISA (Pan et al., 2024) draws every
//! few steps and trains everything outside the layers always; here, as everywhere, tensors outside the layers are not the policy's
//! business and train whenever the targets select them.

use super::drawn::{Drawn, Guide};
use super::draws::Draws;
use super::share::Share;
use super::{PolicyContext, PolicyOptions};
use crate::policy::{InactiveMoments, LayerPolicy};
use peftbench_spec::SpecError;
use serde::{Deserialize, Serialize};

/// Options of `rst`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rst {
    /// Layers that train at a time, N_u: a count, or a share of those with trained tensors.
    pub layers_updated: Share,
    /// Optimizer steps from one draw to the next.
    pub redraw_interval: u64,
    /// Moments of layers that do not train.
    pub inactive_moments: InactiveMoments,
}

impl Default for Rst {
    fn default() -> Self {
        Self { layers_updated: Share::Part(0.25), redraw_interval: 1, inactive_moments: InactiveMoments::Keep }
    }
}

/// Options of `lisa`: those of `rst` with LMFlow's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lisa {
    /// Layers that train at a time, γ.
    pub layers_updated: Share,
    /// Optimizer steps from one draw to the next, K.
    pub redraw_interval: u64,
    /// Moments of layers that do not train.
    pub inactive_moments: InactiveMoments,
}

impl Default for Lisa {
    fn default() -> Self {
        Self { layers_updated: Share::Count(2), redraw_interval: 20, inactive_moments: InactiveMoments::Keep }
    }
}

impl PolicyOptions for Rst {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.layers_updated.validate("layers_updated")?;
        match self.redraw_interval {
            0 => Err(SpecError::at("redraw_interval", "expected at least one step, found 0")),
            _ => Ok(()),
        }
    }

    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        let updated = self.layers_updated.of(context.layers.len(), "layers_updated")?;
        let draws = Draws::new(context, self.redraw_interval);
        Ok(Box::new(Drawn { guide: Guide::Even, draws, updated, inactive_moments: self.inactive_moments }))
    }
}

impl PolicyOptions for Lisa {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.clone().into_rst().validate()
    }

    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        self.into_rst().build(context)
    }
}

impl Lisa {
    fn into_rst(self) -> Rst {
        Rst { layers_updated: self.layers_updated, redraw_interval: self.redraw_interval, inactive_moments: self.inactive_moments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::testing::{NoProbe, context};

    #[test]
    fn every_step_draws_other_layers_and_all_get_their_turn() {
        let mut policy = Rst::default().build(context(8)).unwrap();
        let mut counts = [0; 8];
        for step in 1..=800 {
            let activity = policy.begin_step(step, &mut NoProbe).unwrap();
            assert_eq!(activity.active.len(), 2);
            assert!(activity.decided);
            activity.active.iter().for_each(|&layer| counts[layer] += 1);
        }
        assert!(counts.iter().all(|&n| (150..250).contains(&n)), "{counts:?}");
    }

    #[test]
    fn lisa_keeps_its_layers_between_draws_and_after_a_resume() {
        let options = Lisa { redraw_interval: 5, ..Lisa::default() };
        let trace = |from: u64, policy: &mut dyn LayerPolicy| -> Vec<Vec<usize>> {
            (from..=20).map(|step| policy.begin_step(step, &mut NoProbe).unwrap().active).collect()
        };
        let mut whole = options.clone().build(context(8)).unwrap();
        let all = trace(1, &mut *whole);
        assert!(all[..5].windows(2).all(|pair| pair[0] == pair[1]) && all[4] != all[5]);
        let mut first = options.clone().build(context(8)).unwrap();
        (1..=8).for_each(|step| drop(first.begin_step(step, &mut NoProbe).unwrap()));
        let mut second = options.build(context(8)).unwrap();
        second.restore(&first.state()).unwrap();
        assert_eq!(trace(9, &mut *second), all[8..]);
    }

    #[test]
    fn too_many_layers_are_refused_by_name() {
        let refused = Lisa { layers_updated: Share::Count(9), ..Lisa::default() }.build(context(8)).err().unwrap().to_string();
        assert!(refused.contains("`layers_updated`") && refused.contains("more than the 8"), "{refused}");
    }
}
