//! Probes for the tests of policies.

use super::PolicyContext;
use crate::error::Result;
use crate::policy::{Probe, ProbeBatch};

/// All of `layers` layers have trained tensors.
pub fn context(layers: usize) -> PolicyContext {
    PolicyContext { num_layers: layers, layers: (0..layers).collect(), suppressible: true, seed: 0, total_steps: None }
}

/// A probe that nobody may ask.
pub struct NoProbe;

impl Probe for NoProbe {
    fn loss(&mut self, _batch: ProbeBatch, _adapter_scale: &[f64]) -> Result<f64> {
        panic!("no probe was due")
    }

    fn relative_gradients(&mut self, _batch: ProbeBatch) -> Result<Vec<f64>> {
        panic!("no probe was due")
    }

    fn outlier_ratios(&mut self, _multiple: f64) -> Result<Vec<f64>> {
        panic!("no probe was due")
    }
}

/// A probe whose losses give these rewards, one after the other.
pub struct Rewards {
    rewards: std::vec::IntoIter<f64>,
    /// The scales asked for.
    pub scales: Vec<Vec<f64>>,
}

impl Rewards {
    pub fn new(rewards: impl IntoIterator<Item = f64>) -> Self {
        Self { rewards: rewards.into_iter().collect::<Vec<_>>().into_iter(), scales: Vec::new() }
    }
}

impl Probe for Rewards {
    fn loss(&mut self, _batch: ProbeBatch, adapter_scale: &[f64]) -> Result<f64> {
        self.scales.push(adapter_scale.to_vec());
        Ok(-self.rewards.next().unwrap().ln())
    }

    fn relative_gradients(&mut self, _batch: ProbeBatch) -> Result<Vec<f64>> {
        panic!("only losses were expected")
    }

    fn outlier_ratios(&mut self, _multiple: f64) -> Result<Vec<f64>> {
        panic!("only losses were expected")
    }
}

/// A probe with these gradients and outliers.
pub struct Scores(pub Vec<f64>);

impl Probe for Scores {
    fn loss(&mut self, _batch: ProbeBatch, _adapter_scale: &[f64]) -> Result<f64> {
        panic!("no loss was expected")
    }

    fn relative_gradients(&mut self, _batch: ProbeBatch) -> Result<Vec<f64>> {
        Ok(self.0.clone())
    }

    fn outlier_ratios(&mut self, _multiple: f64) -> Result<Vec<f64>> {
        Ok(self.0.clone())
    }
}
