//! `greedy`: all layers train, and at the end their adapters are taken away one after the other, each time the one whose loss is least
//! missed (the preliminary study on layer-wise sparsity of Yao et al., 2024).
//!
//! It answers, of a fully trained adapter, how many layers it needs and which. The record of the step at which layers are removed holds for each
//! layer its importance, the part of the layers that were removed no later than it, and the loss with it and all before it taken away:
//! sorted by importance this is the curve of the loss over the number of layers. To train the layers kept from scratch, name them in `layers`.

use super::{PolicyContext, PolicyOptions};
use crate::error::Result;
use crate::policy::{Activity, LayerPolicy, Probe, ProbeBatch, ProbeSource};
use peftbench_spec::SpecError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Greedy {
    /// Whether a removed layer stays removed. Otherwise each layer is taken away alone (leave one layer out): its importance is then by how much
    /// the loss grows, and L layers take L + 1 probes.
    pub cumulative: bool,
    /// The optimizer step in front of which layers are removed; 0 for the last one of the run.
    pub removal_step: u64,
    /// Where probe examples come from.
    pub probe_source: ProbeSource,
    /// Examples of a probe. L layers take (L + 1) · L / 2 probes.
    pub probe_batch_size: usize,
}

impl Default for Greedy {
    fn default() -> Self {
        Self { cumulative: true, removal_step: 0, probe_source: ProbeSource::Valid, probe_batch_size: 64 }
    }
}

impl PolicyOptions for Greedy {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        match self.probe_batch_size {
            0 => Err(SpecError::at("probe_batch_size", "expected at least one example, found 0")),
            _ => Ok(()),
        }
    }

    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        if !context.suppressible {
            let problem = "`greedy` takes away what a method has added to the layers, and this method adds nothing to them";
            return Err(SpecError::at("type", problem));
        }
        if context.total_steps.is_some_and(|total| self.removal_step > total) {
            let problem = format!("the run has {} steps, so layers would never be removed; lower it", context.total_steps.unwrap_or(0));
            return Err(SpecError::at("removal_step", problem));
        }
        Ok(Box::new(Removal { options: self, context }))
    }
}

struct Removal {
    options: Greedy,
    context: PolicyContext,
}

impl Removal {
    /// Whether layers are removed in front of `step`.
    fn due(&self, step: u64) -> bool {
        match self.options.removal_step {
            0 => self.context.total_steps == Some(step),
            removal => removal == step,
        }
    }

    /// Importance of each layer, and the loss without it.
    fn importance(&self, step: u64, probe: &mut dyn Probe) -> Result<(Vec<f64>, Vec<Option<f64>>)> {
        let batch = ProbeBatch { source: self.options.probe_source, size: self.options.probe_batch_size, step };
        let (mut importance, mut losses) = (vec![0.0; self.context.num_layers], vec![None; self.context.num_layers]);
        if self.options.cumulative {
            let removed = self.remove(batch, probe)?;
            for (place, &(layer, loss)) in removed.iter().enumerate() {
                importance[layer] = (place + 1) as f64 / removed.len() as f64;
                losses[layer] = Some(loss);
            }
            return Ok((importance, losses));
        }
        let mut scale = vec![1.0; self.context.num_layers];
        let whole = probe.loss(batch, &scale)?;
        for &layer in &self.context.layers {
            scale[layer] = 0.0;
            let loss = probe.loss(batch, &scale)?;
            scale[layer] = 1.0;
            importance[layer] = loss - whole;
            losses[layer] = Some(loss);
        }
        Ok((importance, losses))
    }

    /// The layers in the order in which they are removed, and the loss behind each removal.
    fn remove(&self, batch: ProbeBatch, probe: &mut dyn Probe) -> Result<Vec<(usize, f64)>> {
        let mut scale = vec![1.0; self.context.num_layers];
        let (mut left, mut removed) = (self.context.layers.clone(), Vec::new());
        while !left.is_empty() {
            let mut best: Option<(usize, f64)> = None;
            for &layer in &left {
                scale[layer] = 0.0;
                let loss = probe.loss(batch, &scale)?;
                scale[layer] = 1.0;
                if best.is_none_or(|(_, least)| loss < least) {
                    best = Some((layer, loss));
                }
            }
            let Some((layer, loss)) = best else { break };
            scale[layer] = 0.0;
            left.retain(|&other| other != layer);
            removed.push((layer, loss));
        }
        Ok(removed)
    }
}

impl LayerPolicy for Removal {
    fn begin_step(&mut self, step: u64, probe: &mut dyn Probe) -> Result<Activity> {
        let all = Activity { active: self.context.layers.clone(), ..Activity::default() };
        if !self.due(step) {
            return Ok(all);
        }
        let (importance, losses) = self.importance(step, probe)?;
        Ok(Activity { decided: true, importance: Some(importance), probe_loss: Some(losses), ..all })
    }

    fn state(&self) -> Value {
        Value::Null
    }

    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::testing::{NoProbe, context};

    /// A layer whose adapter is taken away costs its worth; layers 0 and 2 stand in for each other.
    struct Worths;

    impl Probe for Worths {
        fn loss(&mut self, _batch: ProbeBatch, scale: &[f64]) -> Result<f64> {
            let gone = |layer: usize| scale[layer] == 0.0;
            let cost = |layer: usize, worth: f64| if gone(layer) { worth } else { 0.0 };
            Ok(1.0 + cost(1, 0.3) + cost(3, 0.1) + cost(0, 0.05) + cost(2, 0.06) + if gone(0) && gone(2) { 1.0 } else { 0.0 })
        }

        fn relative_gradients(&mut self, _batch: ProbeBatch) -> Result<Vec<f64>> {
            panic!("only losses were expected")
        }

        fn outlier_ratios(&mut self, _multiple: f64) -> Result<Vec<f64>> {
            panic!("only losses were expected")
        }
    }

    #[test]
    fn the_least_missed_goes_first_given_what_is_gone_already() {
        let mut policy = Greedy { removal_step: 7, ..Greedy::default() }.build(context(4)).unwrap();
        let before = policy.begin_step(6, &mut NoProbe).unwrap();
        assert_eq!((before.active, before.decided), (vec![0, 1, 2, 3], false));
        let found = policy.begin_step(7, &mut Worths).unwrap();
        // 0 first (.05); then 3 (.1), for 2 without 0 would cost 1.06; then 1 (.3); 2 last.
        assert_eq!(found.importance, Some(vec![0.25, 0.75, 1.0, 0.5]));
        let expected = [1.05, 1.45, 2.51, 1.15];
        let losses = found.probe_loss.unwrap();
        assert!(losses.iter().zip(expected).all(|(found, expected)| (found.unwrap() - expected).abs() < 1e-12), "{losses:?}");
        assert_eq!((found.active, found.decided), (vec![0, 1, 2, 3], true));
        assert!(!policy.begin_step(8, &mut NoProbe).unwrap().decided);
    }

    #[test]
    fn one_layer_at_a_time_is_put_back() {
        let mut policy = Greedy { removal_step: 1, cumulative: false, ..Greedy::default() }.build(context(4)).unwrap();
        let found = policy.begin_step(1, &mut Worths).unwrap().importance.unwrap();
        assert!(found.iter().zip([0.05, 0.3, 0.06, 0.1]).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn the_last_step_is_the_runs_and_one_beyond_it_is_refused() {
        let of = |steps| PolicyContext { total_steps: Some(steps), ..context(4) };
        let mut policy = Greedy::default().build(of(3)).unwrap();
        assert!(!policy.begin_step(2, &mut NoProbe).unwrap().decided && policy.begin_step(3, &mut Worths).unwrap().decided);
        let late = Greedy { removal_step: 9, ..Greedy::default() }.build(of(3)).err().unwrap().to_string();
        assert!(late.starts_with("`removal_step`: the run has 3 steps"), "{late}");
    }
}
