//! The contract of a layer policy: which layers train at each step.

use crate::error::Result;
use serde_json::Value;

/// Decides before every optimizer step which layers train. It knows nothing of the method whose tensors these are.
pub trait LayerPolicy: Send {
    /// The layers that train in optimizer step `step` (from 1), and what there is to say about them.
    fn begin_step(&mut self, step: u64, probe: &mut dyn Probe) -> Result<Activity>;

    /// Everything that a resumed run needs to go on with the same decisions.
    fn state(&self) -> Value;

    /// Takes up a state that [`LayerPolicy::state`] gave.
    fn restore(&mut self, state: &Value) -> Result<()>;
}

/// The loss of the model as it stands, for policies that try layers out.
pub trait Probe {
    /// Mean loss of a probe batch, in evaluation mode, with each layer's adapters scaled by its factor.
    fn loss(&mut self, adapter_scale: &[f64]) -> Result<f64>;
}

/// A policy's decision for one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Activity {
    /// Layers that train, ascending.
    pub active: Vec<usize>,
    /// Importance of each of the model's layers, where the policy has one: high for layers that matter.
    pub importance: Option<Vec<f64>>,
}
