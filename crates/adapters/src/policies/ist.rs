//! `ist`: importance-aware sparse tuning (Yao et al., 2024), as its released code computes it.
//!
//! Every step trains a few layers, drawn by importance. Every few steps some sets of layers are probed: with their adapters suppressed,
//! how much does a batch's loss suffer? A set whose suppression hurts less than the average of the sets loses importance.
//!
//! **Sign.** Importance here is high for layers that matter, as in the paper. The released code keeps its negative: there a high score
//! means that a layer may be suppressed.

use super::draws::{Draws, damaged};
use super::sampling::{Sampler, sigmoid, weighted};
use super::share::Share;
use super::{PolicyContext, PolicyOptions};
use crate::error::Result;
use crate::policy::{Activity, InactiveMoments, LayerPolicy, Probe, ProbeBatch, ProbeSource};
use peftbench_spec::SpecError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options; the defaults are the literals of the released code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ist {
    /// Layers that train at a time, N_u.
    pub layers_updated: Share,
    /// Layers whose adapters a probe suppresses, N_v.
    pub layers_suppressed: Share,
    /// Probes an update, N_c, each of another set of layers.
    pub probes: usize,
    /// Optimizer steps from one update of the importance to the next, T_v.
    pub update_interval: u64,
    /// Factor on suppressed adapters, β.
    pub suppression: f64,
    /// Step size of the importance, μ.
    pub importance_lr: f64,
    /// How layers are drawn.
    pub sampler: Sampler,
    /// Where probe examples come from.
    pub probe_source: ProbeSource,
    /// Examples of a probe.
    pub probe_batch_size: usize,
    /// Whether layers outside a probe's set get the opposite increment (a line that the released code has commented out).
    pub symmetric: bool,
    /// Optimizer steps from one draw of layers to the next.
    pub redraw_interval: u64,
    /// Moments of layers that do not train.
    pub inactive_moments: InactiveMoments,
}

impl Default for Ist {
    fn default() -> Self {
        Self {
            layers_updated: Share::Part(0.25),
            layers_suppressed: Share::Part(0.5),
            probes: 3,
            update_interval: 10,
            suppression: 0.25,
            importance_lr: 10.0,
            sampler: Sampler::Multinomial,
            probe_source: ProbeSource::Train,
            probe_batch_size: 16,
            symmetric: false,
            redraw_interval: 1,
            inactive_moments: InactiveMoments::Keep,
        }
    }
}

impl PolicyOptions for Ist {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.layers_updated.validate("layers_updated")?;
        self.layers_suppressed.validate("layers_suppressed")?;
        let counts = [
            ("probes", self.probes as u64),
            ("update_interval", self.update_interval),
            ("probe_batch_size", self.probe_batch_size as u64),
            ("redraw_interval", self.redraw_interval),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(SpecError::at(*field, "expected at least 1, found 0"));
        }
        for (field, value) in [("suppression", self.suppression), ("importance_lr", self.importance_lr)] {
            if !value.is_finite() || value < 0.0 {
                return Err(SpecError::at(field, format!("expected a finite number of at least 0, found {value}")));
            }
        }
        Ok(())
    }

    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        if !context.suppressible {
            let problem = "`ist` probes by suppressing what a method adds to the layers, and this method adds nothing to them; use `rst`";
            return Err(SpecError::at("type", problem));
        }
        let layers = context.layers.len();
        let updated = self.layers_updated.of(layers, "layers_updated")?;
        let suppressed = self.layers_suppressed.of(layers, "layers_suppressed")?;
        if choose_at_most(layers, suppressed, self.probes) < self.probes {
            let problem = format!("there are fewer than {} different sets of {suppressed} of {layers} layers; lower it", self.probes);
            return Err(SpecError::at("probes", problem));
        }
        let draws = Draws::new(context, self.redraw_interval);
        Ok(Box::new(Running { importance: vec![0.0; layers], draws, updated, suppressed, options: self }))
    }
}

/// The number of sets of `k` of `n`, or `limit` if it is larger.
fn choose_at_most(n: usize, k: usize, limit: usize) -> usize {
    let mut sets = 1usize;
    for i in 0..k.min(n - k) {
        // Exact at every step: a product of i + 1 consecutive numbers is divisible by (i + 1)!.
        sets = sets * (n - i) / (i + 1);
        if sets >= limit {
            return limit;
        }
    }
    sets
}

/// IST at work.
struct Running {
    options: Ist,
    draws: Draws,
    updated: usize,
    suppressed: usize,
    /// One value for each layer that may be drawn.
    importance: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct State {
    importance: Vec<f64>,
    drawn: Value,
}

/// A probe: indices of the suppressed layers, and the loss.
struct Probed {
    set: Vec<usize>,
    loss: f64,
}

impl Running {
    /// Probes N_c sets and moves the importance: J_i ← J_i − μ Σ_k [i ∈ S_k] (r_k − r̄) p_i (1 − p_i), r_k = exp(−ℓ_k), p = σ(J) from
    /// before.
    fn update(&mut self, step: u64, probe: &mut dyn Probe) -> Result<Vec<Probed>> {
        let batch = ProbeBatch { source: self.options.probe_source, size: self.options.probe_batch_size, step };
        let mut probed: Vec<Probed> = Vec::new();
        for set in self.sets(step) {
            let mut scale = vec![1.0; self.draws.context().num_layers];
            set.iter().for_each(|&i| scale[self.draws.layers()[i]] = self.options.suppression);
            let loss = probe.loss(batch, &scale)?;
            probed.push(Probed { set, loss });
        }
        let rewards: Vec<f64> = probed.iter().map(|probed| (-probed.loss).exp()).collect();
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let slopes: Vec<f64> = self.importance.iter().map(|&j| sigmoid(j) * (1.0 - sigmoid(j))).collect();
        for (probed, reward) in probed.iter().zip(rewards) {
            for (i, (importance, slope)) in self.importance.iter_mut().zip(&slopes).enumerate() {
                let increment = self.options.importance_lr * (reward - mean) * slope;
                match (probed.set.contains(&i), self.options.symmetric) {
                    (true, _) => *importance -= increment,
                    (false, true) => *importance += increment,
                    (false, false) => {}
                }
            }
        }
        Ok(probed)
    }

    /// N_c different sets of N_v layers, the less important the likelier. There are enough of them, but weights may make some all but
    /// impossible; after many vain draws layers are drawn evenly.
    fn sets(&self, step: u64) -> Vec<Vec<usize>> {
        const PATIENCE: usize = 1000;
        let mut stream = self.draws.stream("policy/probe", step);
        let mut sets: Vec<Vec<usize>> = Vec::new();
        let mut draws = 0;
        while sets.len() < self.options.probes {
            draws += 1;
            let log_weight = |&j: &f64| if draws < PATIENCE { sigmoid(-j).ln() } else { 0.0 };
            let set = weighted(self.importance.iter().map(log_weight), self.suppressed, &mut stream);
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// A value for each of the model's layers; `absent` for those that are never drawn.
    fn spread<T: Clone>(&self, values: &[T], absent: T) -> Vec<T> {
        let mut all = vec![absent; self.draws.context().num_layers];
        self.draws.layers().iter().zip(values).for_each(|(&layer, value)| all[layer] = value.clone());
        all
    }

    /// Mean loss of the probes that suppressed each layer.
    fn probe_losses(&self, probed: &[Probed]) -> Vec<Option<f64>> {
        let of = |i: usize| -> Option<f64> {
            let losses: Vec<f64> = probed.iter().filter(|p| p.set.contains(&i)).map(|p| p.loss).collect();
            (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
        };
        self.spread(&(0..self.importance.len()).map(of).collect::<Vec<_>>(), None)
    }
}

impl LayerPolicy for Running {
    fn begin_step(&mut self, step: u64, probe: &mut dyn Probe) -> Result<Activity> {
        let done = step - 1;
        let due = done > 0 && done.is_multiple_of(self.options.update_interval);
        let probed = if due { Some(self.update(step, probe)?) } else { None };
        let (sampler, count, importance) = (self.options.sampler, self.updated, self.importance.clone());
        let (active, decided) = self.draws.at(step, |stream| sampler.draw(&importance, count, stream));
        Ok(Activity {
            active,
            decided: decided || due,
            importance: Some(self.spread(&self.importance, 0.0)),
            probe_loss: probed.map(|probed| self.probe_losses(&probed)),
        })
    }

    fn inactive_moments(&self) -> InactiveMoments {
        self.options.inactive_moments
    }

    fn state(&self) -> Value {
        serde_json::json!({ "importance": self.importance, "drawn": self.draws.state() })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let State { importance, drawn } = serde_json::from_value(state.clone()).map_err(|error| damaged(&error))?;
        self.importance = importance;
        self.draws.restore(&drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::testing::{NoProbe, Rewards, context};

    /// Four layers, two suppressed a probe, rewards .5, .2, .8 in the order of the probes: worked out by hand.
    #[test]
    fn the_update_follows_a_hand_computed_trace() {
        let options = Ist { update_interval: 2, ..Ist::default() };
        let mut running =
            Running { importance: vec![0.0; 4], draws: Draws::new(context(4), 1), updated: 1, suppressed: 2, options: options.clone() };
        let mut probe = Rewards::new([0.5, 0.2, 0.8]);
        let sets = running.sets(3);
        running.update(3, &mut probe).unwrap();
        // r̄ = .5, so A = 0, −.3, +.3; p (1 − p) = .25; μ = 10: −.3 adds .75 to the importance of its set, +.3 takes .75 away.
        let mut expected = [0.0; 4];
        sets[1].iter().for_each(|&i| expected[i] += 0.75);
        sets[2].iter().for_each(|&i| expected[i] -= 0.75);
        assert!(running.importance.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12));
        // Suppressed layers were scaled by β, the others not.
        for (set, scale) in sets.iter().zip(&probe.scales) {
            assert!((0..4).all(|i| scale[i] == if set.contains(&i) { 0.25 } else { 1.0 }));
        }
        // A second update: p(1 − p) now differs by layer.
        let before = running.importance.clone();
        let sets = running.sets(5);
        running.update(5, &mut Rewards::new([0.4, 0.4, 0.1])).unwrap();
        for (i, before) in before.into_iter().enumerate() {
            let p = 1.0 / (1.0 + (-before).exp());
            let advantages = [0.1, 0.1, -0.2];
            let change: f64 = (0..3).filter(|&k| sets[k].contains(&i)).map(|k| advantages[k]).sum();
            assert!((running.importance[i] - (before - 10.0 * change * p * (1.0 - p))).abs() < 1e-12);
        }
    }

    #[test]
    fn the_first_interval_draws_evenly_and_probes_nothing() {
        let mut policy = Ist::default().build(context(8)).unwrap();
        for step in 1..=10 {
            // A probe would panic.
            let activity = policy.begin_step(step, &mut NoProbe).unwrap();
            assert_eq!((activity.active.len(), activity.probe_loss), (2, None));
        }
        let mut probe = Rewards::new([0.5, 0.2, 0.8]);
        let activity = policy.begin_step(11, &mut probe).unwrap();
        assert_eq!(probe.scales.len(), 3);
        let suppressed = |i: usize| probe.scales.iter().any(|scale| scale[i] < 1.0);
        assert!(activity.probe_loss.unwrap().iter().enumerate().all(|(i, loss)| loss.is_some() == suppressed(i)));
    }

    #[test]
    fn symmetric_updates_leave_the_sum_where_half_is_suppressed() {
        let options = Ist { symmetric: true, ..Ist::default() };
        let mut running = Running { importance: vec![0.0; 4], draws: Draws::new(context(4), 1), updated: 1, suppressed: 2, options };
        running.update(11, &mut Rewards::new([0.5, 0.2, 0.8])).unwrap();
        assert!(running.importance.iter().sum::<f64>().abs() < 1e-12);
        assert!(running.importance.iter().any(|j| j.abs() > 0.1));
    }

    #[test]
    fn a_resumed_policy_goes_on_as_it_would_have() {
        let trace = |policy: &mut dyn LayerPolicy, steps: std::ops::RangeInclusive<u64>| -> Vec<Activity> {
            steps.map(|step| policy.begin_step(step, &mut Rewards::new([0.5, 0.2, 0.8])).unwrap()).collect()
        };
        let mut whole = Ist::default().build(context(8)).unwrap();
        let all = trace(&mut *whole, 1..=40);
        let mut first = Ist::default().build(context(8)).unwrap();
        trace(&mut *first, 1..=25);
        let mut second = Ist::default().build(context(8)).unwrap();
        second.restore(&first.state()).unwrap();
        assert_eq!(trace(&mut *second, 26..=40), all[25..]);
    }

    #[test]
    fn what_the_layers_do_not_allow_is_refused_at_once() {
        let refused = |options: Ist, layers| options.build(context(layers)).err().unwrap().to_string();
        assert!(refused(Ist { layers_suppressed: Share::Count(2), ..Ist::default() }, 2).contains("fewer than 3 different sets of 2 of 2"));
        assert!(refused(Ist { layers_updated: Share::Count(5), ..Ist::default() }, 4).contains("`layers_updated`"));
        let own = PolicyContext { suppressible: false, ..context(8) };
        assert!(Ist::default().build(own).err().unwrap().to_string().contains("use `rst`"));
        assert!(Ist { probes: 0, ..Ist::default() }.validate().unwrap_err().to_string().contains("`probes`"));
        assert!(Ist { suppression: f64::NAN, ..Ist::default() }.validate().unwrap_err().to_string().contains("`suppression`"));
        assert_eq!(choose_at_most(4, 2, 100), 6);
        assert_eq!(choose_at_most(60, 30, 3), 3);
    }
}
