//! The contract of a layer policy: which layers train at each step.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Decides before every optimizer step which layers train. It knows nothing of the method whose tensors these are.
pub trait LayerPolicy: Send {
    /// The layers that train in optimizer step `step` (from 1), and what there is to say about them.
    fn begin_step(&mut self, step: u64, probe: &mut dyn Probe) -> Result<Activity>;

    /// What becomes of the optimizer's moments of layers that do not train.
    fn inactive_moments(&self) -> InactiveMoments {
        InactiveMoments::Keep
    }

    /// Everything that a resumed run needs to go on with the same decisions.
    fn state(&self) -> Value;

    /// Takes up a state that [`LayerPolicy::state`] gave.
    fn restore(&mut self, state: &Value) -> Result<()>;
}

/// What a policy may find out about the model as it stands. Per-layer results have a value for each of the model's layers.
pub trait Probe {
    /// Mean token loss of a probe batch, in evaluation mode, with each layer's adapters scaled by its factor.
    fn loss(&mut self, batch: ProbeBatch, adapter_scale: &[f64]) -> Result<f64>;

    /// Norm of the gradient of each layer's trained tensors over the norm of these tensors, on a probe batch in evaluation mode; 0 for
    /// layers without any.
    fn relative_gradients(&mut self, batch: ProbeBatch) -> Result<Vec<f64>>;

    /// Share of each layer's base weights that are larger than `multiple` times the mean of their matrix.
    fn outlier_ratios(&mut self, multiple: f64) -> Result<Vec<f64>>;
}

/// The examples of a probe: drawn from a stream of its own named by `step`, so that probing changes nothing else, and equal for every
/// probe of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeBatch {
    /// Where from.
    pub source: ProbeSource,
    /// How many.
    pub size: usize,
    /// The optimizer step.
    pub step: u64,
}

/// Where probe examples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeSource {
    /// The training split, as in the released code of IST.
    #[default]
    Train,
    /// The validation split.
    Valid,
}

/// What becomes of the moments of layers that do not train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InactiveMoments {
    /// They stay, and go on where they were when the layer trains again (PyTorch's AdamW).
    #[default]
    Keep,
    /// They are freed as soon as a layer does not train, and begin anew when it does again.
    Evict,
    /// All begin anew, of layers that go on training too, whenever other layers are drawn (an optimizer made anew, as LISA does).
    Reset,
}

/// A policy's decision for one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activity {
    /// Layers that train, ascending.
    pub active: Vec<usize>,
    /// Whether the decision was made in this step, so that it is worth a record.
    pub decided: bool,
    /// Importance of each of the model's layers, where the policy has one: high for layers that matter.
    pub importance: Option<Vec<f64>>,
    /// Mean loss of the probes that suppressed each of the model's layers, in a step that probed.
    pub probe_loss: Option<Vec<Option<f64>>>,
}
