//! What a run says while it goes: one JSON object a line in `events.jsonl`, the only channel from the runner to recorders, progress
//! displays and tables. Append-only; a reader skips kinds it does not know.
//!
//! Units: seconds, bytes, tokens, fractions from 0 to 1. What is not known is absent, never a sentinel.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the events and of the tables made from them. Additive changes keep it.
pub const SCHEMA_VERSION: u32 = 1;

/// One thing that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process began to work on the run. The first event of every attempt.
    Started {
        /// Version of this format.
        schema_version: u32,
        /// From 1; a resumed run has the attempts before it in the same file.
        attempt: u32,
        /// UTC, RFC 3339.
        at: String,
        /// Step from which training goes on; 0 for a fresh start.
        resumed_from_step: u64,
    },
    /// What the run works on, once all is loaded and attached. A run of several stages says it for each; the last one counts.
    Setup(Box<Setup>),
    /// One trained, or merely existing, tensor of the model or the adapters.
    Param(ParamRecord),
    /// One optimizer step.
    Step(StepRecord),
    /// One evaluation of one split.
    Eval(EvalRecord),
    /// Per-item outcomes of an evaluation, kept for paired comparisons.
    Predictions {
        /// Optimizer steps done.
        step: u64,
        /// `valid` or `test`.
        split: String,
        /// One per item, in the split's order.
        items: Vec<Prediction>,
    },
    /// A layer's part in a step, where the policy has something to say about it.
    Layer {
        /// Optimizer step.
        step: u64,
        /// Layer index.
        layer: usize,
        /// The policy's importance, high for layers that matter.
        importance: Option<f64>,
        /// Mean loss, in nats a token, of the probes in which the layer was suppressed, where it was in any at this step.
        #[serde(default)]
        probe_loss: Option<f64>,
        /// Whether the layer trained at this step.
        selected: bool,
    },
    /// A part of a state space that the method has selected.
    Dimension(DimensionRecord),
    /// A phase ended. Phases of one name add up (evaluation happens once an epoch).
    Phase(PhaseRecord),
    /// A resumable state was written.
    Checkpoint {
        /// Optimizer steps done.
        step: u64,
    },
    /// The last event of a run that went well.
    Finished(Box<Summary>),
    /// The last event of an attempt that did not.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The error, with its causes.
        message: String,
    },
}

/// Why an attempt ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The spec asks for what this model, task or method cannot do.
    InvalidSpec,
    /// A model, tokenizer or dataset is missing or damaged.
    MissingInput,
    /// A file could not be written or read (full disk, no permission).
    Io,
    /// The loss or the metric became NaN or infinite.
    NanLoss,
    /// Memory ran out.
    Oom,
    /// The process ended without a word (panic, signal).
    Crash,
    /// Stopped on request; resumable.
    Interrupted,
}

impl FailureKind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidSpec => "invalid_spec",
            Self::MissingInput => "missing_input",
            Self::Io => "io",
            Self::NanLoss => "nan_loss",
            Self::Oom => "oom",
            Self::Crash => "crash",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Model, data and adapter of a run, as loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// Architecture, by Hugging Face's `model_type`.
    pub model_arch: String,
    /// Scalars of the base model, a tied tensor counted once.
    pub model_num_params: u64,
    /// Layers of the base model.
    pub num_layers: usize,
    /// BLAKE3 over the model's files.
    pub model_hash: String,
    /// Scalars that get an update in at least one step.
    pub num_trainable_params: u64,
    /// Scalars that the method added to the model.
    pub num_adapter_params: u64,
    /// Layers with a trainable tensor, ascending.
    pub trainable_layers: Vec<usize>,
    /// Slots (or row parts) that the targets selected.
    pub target_modules_matched: usize,
    /// Where the examples came from: a folder's dataset id, or `world`.
    pub dataset_id: String,
    /// The commit on the hub that the data came from, `owner/name@commit`, where the files say so.
    #[serde(default)]
    pub dataset_revision: Option<String>,
    /// BLAKE3 over the examples of all splits, in order.
    pub dataset_hash: String,
    /// BLAKE3 over the examples of the training, validation and test split.
    #[serde(default)]
    pub split_hashes: [String; 3],
    /// Examples used for training; 0 where nothing trains.
    pub train_samples: usize,
    /// Examples used for validation.
    pub valid_samples: usize,
    /// Examples used for the test.
    pub test_samples: usize,
    /// Examples of all splits left out because they are longer than `max_length`, where the task's format says so.
    #[serde(default)]
    pub dropped_samples: usize,
    /// Test items that are in the training split too.
    #[serde(default)]
    pub test_overlap_samples: usize,
    /// Primary metric on the test split of answers that look at no prompt, where there is such a thing.
    #[serde(default)]
    pub test_chance: Option<f64>,
    /// The same on the validation split, in a run that reads no test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_chance: Option<Chance>,
    /// Training examples shortened to `max_length`, as a fraction.
    pub truncated_fraction: f64,
    /// Optimizer steps the run will make, in all stages.
    pub total_steps: u64,
    /// Kind of device: `cpu` or `cuda`.
    pub device: String,
    /// Threads the run computes with.
    pub threads: usize,
}

/// The primary metric of answers that look at no prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    /// Its value.
    pub value: f64,
    /// Its standard error over the items.
    pub stderr: Option<f64>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamRecord {
    /// Name, as in the checkpoint or the adapter file.
    pub path: String,
    /// Layer index, for tensors inside a layer.
    pub layer: Option<usize>,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Whether the optimizer updates it.
    pub trainable: bool,
    /// Whether the method added it to the model.
    pub adapter: bool,
    /// The target term that selected it.
    pub matched_by: Option<String>,
}

/// A channel of a layer's state space, or a state of one, that the method trains or prunes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DimensionRecord {
    /// Path of the layer's A_log.
    pub path: String,
    /// Layer index.
    pub layer: usize,
    /// Channel; in Mamba-2 the head.
    pub channel: usize,
    /// State of it; absent for a channel as a whole.
    pub state: Option<usize>,
    /// Whether it trains; otherwise it is pruned.
    pub trained: bool,
    /// What it was ranked by.
    pub score: Option<f64>,
    /// Channels of the layer.
    pub num_channels: usize,
    /// States of a channel.
    pub num_states: usize,
}

/// One optimizer step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRecord {
    /// From 1.
    pub step: u64,
    /// Passes over the data so far, with fraction.
    pub epoch: f64,
    /// Name of the method's stage: `train`, or a stage of its own such as `warmup`.
    pub stage: String,
    /// Mean loss over the label tokens, nats a token.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens computed, padding included.
    pub tokens: u64,
    /// Of these, padding.
    pub padding_tokens: u64,
    /// Wall time.
    pub seconds: f64,
    /// Of it, spent making the batch.
    pub data_seconds: f64,
    /// Bytes the tape kept for the backward pass.
    pub activation_bytes: u64,
    /// Highest live bytes during the step.
    pub peak_bytes: u64,
    /// Number of layers that trained.
    pub active_layers: usize,
}

/// One evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalRecord {
    /// Optimizer steps done.
    pub step: u64,
    /// Epoch that ended; 0 before training.
    pub epoch: u32,
    /// `valid` or `test`.
    pub split: String,
    /// Metrics, the task's primary one first.
    pub metrics: Vec<MetricValue>,
    /// Mean loss on the split's label tokens.
    pub loss: Option<f64>,
    /// Wall time.
    pub seconds: f64,
    /// Tokens read and generated.
    pub tokens: u64,
}

/// One value of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// Dotted name: `accuracy`, `rougeL`, `exec_accuracy.hard`.
    pub name: String,
    /// The value; fractions from 0 to 1.
    pub value: f64,
    /// Standard error over the items.
    pub stderr: Option<f64>,
    /// Items.
    pub n_items: usize,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// One item's outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prediction {
    /// The item's id within its dataset.
    pub item_id: String,
    /// What the model said.
    pub prediction: String,
    /// What was right.
    pub target: String,
    /// The item's score on the primary metric, from 0 to 1 (1 or 0 for accuracy).
    pub score: f64,
}

/// A phase of the run: `load`, `attach`, `warmup`, `select`, `train`, `probe`, `eval`, `save`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseRecord {
    /// Name.
    pub phase: String,
    /// Wall time.
    pub seconds: f64,
    /// Of it, computed by the model (forward, backward, optimizer, decoding); the rest is the harness's own.
    pub compute_seconds: f64,
    /// Highest live heap bytes.
    pub peak_bytes: u64,
    /// Live heap bytes at the end.
    pub live_bytes: u64,
    /// Highest resident memory of the process so far (VmHWM), where the system tells.
    pub rss_peak_bytes: Option<u64>,
    /// Bytes by kind at the highest moment: `weights`, `adapter`, `gradients`, `optimizer`, `activations`, `workspace`, `other`.
    pub by_kind: BTreeMap<String, u64>,
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// UTC, RFC 3339.
    pub at: String,
    /// Name of the task's primary metric.
    pub primary_metric: String,
    /// Its value on the test split, at the best epoch on validation; 0 where no test item was scored.
    pub primary_value: f64,
    /// Its standard error over the items.
    pub primary_stderr: Option<f64>,
    /// Test items.
    pub n_items: usize,
    /// Its value on the validation split at that epoch.
    pub valid_value: f64,
    /// The epoch that was best on validation; 0 where nothing was trained.
    pub best_epoch: u32,
    /// Mean loss on the text of `forgetting` before anything was trained.
    #[serde(default)]
    pub forgetting_loss_before: Option<f64>,
    /// The same at the end.
    #[serde(default)]
    pub forgetting_loss_after: Option<f64>,
    /// Optimizer steps done, in all stages.
    pub steps_done: u64,
    /// Mean training loss over the last tenth of the last stage's steps.
    pub train_loss_final: Option<f64>,
    /// Wall time of all attempts.
    pub total_seconds: f64,
    /// Training tokens a second, padding included, without the first steps.
    pub train_tokens_per_second: Option<f64>,
    /// How many first steps the throughput leaves out.
    pub throughput_warmup_steps: u64,
    /// Evaluation tokens a second.
    pub eval_tokens_per_second: Option<f64>,
    /// Median seconds a step.
    pub step_seconds_p50: Option<f64>,
    /// 95th percentile.
    pub step_seconds_p95: Option<f64>,
    /// Highest live heap bytes while training.
    pub train_peak_bytes: u64,
    /// Highest live heap bytes while evaluating.
    pub eval_peak_bytes: u64,
    /// Size of the saved adapter file.
    pub adapter_file_bytes: u64,
}

impl Summary {
    /// The score a run is known by, and what to call it: the primary metric on the test split, or on validation where no test item was
    /// scored.
    pub fn score(&self) -> (String, f64) {
        match self.n_items {
            0 => (format!("validation {}", self.primary_metric), self.valid_value),
            _ => (self.primary_metric.clone(), self.primary_value),
        }
    }
}
