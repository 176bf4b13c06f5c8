//! The tables below a run: steps, evaluations, memory, layers, dimensions, parameters, predictions.

use super::columns::{count, flag, number, text};
use super::{Column, Row};
use serde::{Deserialize, Serialize};

/// `steps`: one optimizer step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt that made the step.
    pub attempt: u64,
    /// From 1.
    pub step: u64,
    /// Passes over the data so far, with fraction.
    pub epoch: f64,
    /// Stage of the method: `train`, `warmup`.
    pub stage: String,
    /// Mean loss over the label tokens, nats a token; `None` where it was not finite.
    pub loss: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Global gradient norm before clipping; `None` where it was not finite.
    pub grad_norm: Option<f64>,
    /// Tokens computed, padding included.
    pub tokens: u64,
    /// Of these, padding.
    pub padding_tokens: u64,
    /// Wall time.
    pub step_seconds: f64,
    /// Of it, making the batch.
    pub data_seconds: f64,
    /// Bytes the tape kept for the backward pass.
    pub activation_bytes: u64,
    /// Highest live bytes during the step.
    pub peak_bytes: u64,
    /// Layers that trained.
    pub layers_active: u64,
}

impl Row for StepRow {
    const TABLE: &'static str = "steps";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        count("step"),
        number("epoch"),
        text("stage"),
        number("loss"),
        number("lr"),
        number("grad_norm"),
        count("tokens"),
        count("padding_tokens"),
        number("step_seconds"),
        number("data_seconds"),
        count("activation_bytes"),
        count("peak_bytes"),
        count("layers_active"),
    ];
}

/// `evals`: one metric of one evaluation of one split. The loss, where it was computed, is the metric `loss`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt that evaluated.
    pub attempt: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// Epoch that ended; 0 before training.
    pub epoch: u64,
    /// `valid` or `test`.
    pub split: String,
    /// Dotted name of the metric.
    pub metric: String,
    /// Whether it is the task's primary metric.
    pub primary: bool,
    /// Its value; `None` where it was not finite.
    pub value: Option<f64>,
    /// Standard error over the items.
    pub stderr: Option<f64>,
    /// Items.
    pub n_items: Option<u64>,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Wall time of the whole evaluation.
    pub eval_seconds: f64,
    /// Tokens read and generated in it.
    pub eval_tokens: u64,
}

impl Row for EvalRow {
    const TABLE: &'static str = "evals";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        count("step"),
        count("epoch"),
        text("split"),
        text("metric"),
        flag("primary"),
        number("value"),
        number("stderr"),
        count("n_items"),
        flag("higher_is_better"),
        number("eval_seconds"),
        count("eval_tokens"),
    ];
}

/// `memory`: one phase that ended, with its time and its memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt.
    pub attempt: u64,
    /// Order in which phases ended, from 0.
    pub position: u64,
    /// `load`, `attach`, `train`, `eval`, `save`.
    pub phase: String,
    /// Wall time.
    pub seconds: f64,
    /// Of it, computed by the model.
    pub compute_seconds: f64,
    /// Highest live heap bytes.
    pub peak_bytes: u64,
    /// Live heap bytes at the end.
    pub live_bytes: u64,
    /// Highest resident memory of the process so far.
    pub rss_peak_bytes: Option<u64>,
    /// Base weights.
    pub weights_bytes: Option<u64>,
    /// Adapter tensors.
    pub adapter_bytes: Option<u64>,
    /// Gradients.
    pub gradients_bytes: Option<u64>,
    /// Optimizer state.
    pub optimizer_bytes: Option<u64>,
    /// What the tape keeps for the backward pass.
    pub activations_bytes: Option<u64>,
    /// Temporary buffers.
    pub workspace_bytes: Option<u64>,
    /// Every other kind that the run named, summed.
    pub other_bytes: Option<u64>,
}

impl Row for MemoryRow {
    const TABLE: &'static str = "memory";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        count("position"),
        text("phase"),
        number("seconds"),
        number("compute_seconds"),
        count("peak_bytes"),
        count("live_bytes"),
        count("rss_peak_bytes"),
        count("weights_bytes"),
        count("adapter_bytes"),
        count("gradients_bytes"),
        count("optimizer_bytes"),
        count("activations_bytes"),
        count("workspace_bytes"),
        count("other_bytes"),
    ];
}

/// `layers`: one layer's part in one step, where the policy had something to say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt.
    pub attempt: u64,
    /// Optimizer step.
    pub step: u64,
    /// Layer index.
    pub layer: u64,
    /// The policy's importance, high for layers that matter.
    pub importance: Option<f64>,
    /// Mean loss, in nats a token, of the probes that suppressed the layer at this step.
    pub probe_loss_nats: Option<f64>,
    /// Whether the layer trained at this step.
    pub selected: bool,
}

impl Row for LayerRow {
    const TABLE: &'static str = "layers";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        count("step"),
        count("layer"),
        number("importance"),
        number("probe_loss_nats"),
        flag("selected"),
    ];
}

/// `dimensions`: one channel of a layer's state space, or a state of one, that the method trains or prunes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DimensionRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt.
    pub attempt: u64,
    /// Path of the layer's A_log.
    pub path: String,
    /// Layer index.
    pub layer: u64,
    /// Channel; in Mamba-2 the head.
    pub channel: u64,
    /// State of it; `None` for a channel as a whole.
    pub state: Option<u64>,
    /// Whether it trains; otherwise it is pruned.
    pub trained: bool,
    /// What it was ranked by.
    pub score: Option<f64>,
    /// Channels of the layer.
    pub num_channels: u64,
    /// States of a channel.
    pub num_states: u64,
}

impl Row for DimensionRow {
    const TABLE: &'static str = "dimensions";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        text("path"),
        count("layer"),
        count("channel"),
        count("state"),
        flag("trained"),
        number("score"),
        count("num_channels"),
        count("num_states"),
    ];
}

/// `params`: one tensor of the model or the adapter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParamRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt.
    pub attempt: u64,
    /// Name, as in the checkpoint or the adapter file.
    pub path: String,
    /// Layer index, for tensors inside a layer.
    pub layer: Option<u64>,
    /// Dimensions as JSON: `[64,128]`.
    pub shape: String,
    /// Scalars.
    pub num_params: u64,
    /// Whether the optimizer updates it.
    pub trainable: bool,
    /// Whether the method added it.
    pub adapter: bool,
    /// The target term that selected it.
    pub matched_by: Option<String>,
}

impl Row for ParamRow {
    const TABLE: &'static str = "params";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        text("path"),
        count("layer"),
        text("shape"),
        count("num_params"),
        flag("trainable"),
        flag("adapter"),
        text("matched_by"),
    ];
}

/// `predictions`: one item's outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PredictionRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The run.
    pub run_id: String,
    /// The attempt.
    pub attempt: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// `valid` or `test`.
    pub split: String,
    /// The item's id within its dataset.
    pub item_id: String,
    /// What the model said.
    pub prediction: String,
    /// What was right.
    pub target: String,
    /// The item's score on the primary metric, from 0 to 1.
    pub score: Option<f64>,
}

impl Row for PredictionRow {
    const TABLE: &'static str = "predictions";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        count("step"),
        text("split"),
        text("item_id"),
        text("prediction"),
        text("target"),
        number("score"),
    ];
}
