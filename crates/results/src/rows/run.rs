//! `runs`: one row a run, its last attempt.

use super::columns::{count, flag, number, text, time};
use super::{Column, Row};
use serde::{Deserialize, Serialize};

/// How far a run came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has a manifest and has not begun.
    #[default]
    Planned,
    /// It has begun and said no last word: it is still going, or it was killed and can be resumed.
    Unfinished,
    /// It has a result.
    Done,
    /// It ended with an error.
    Failed,
    /// It was stopped on request and can be resumed.
    Interrupted,
}

impl Status {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Unfinished => "unfinished",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What a run is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A cell of the grid: its score on the test split is a result.
    #[default]
    Cell,
    /// It tries out a learning rate and is scored on validation only; it is no result.
    Probe,
}

/// Where a learning rate comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSource {
    /// The sweep file gives it.
    #[default]
    Fixed,
    /// Probes chose it.
    Selected,
    /// The sweep chooses rates, and its record of them, `select.json`, cannot be read.
    Unknown,
}

/// One run: its spec as columns, what was loaded, what came out, what it cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// First 16 hex digits of BLAKE3 over the canonical resolved spec.
    pub run_id: String,
    /// The last attempt, from 1; 0 for a run that has not begun.
    pub attempt: u64,
    /// Hash of the spec without its seed: runs that differ only in the seed share it.
    pub group_id: String,
    /// Name of the sweep.
    pub sweep: String,
    /// What it is for.
    pub role: Role,
    /// How far it came.
    pub status: Status,
    /// Kind of failure, for a failed or interrupted run.
    pub failure_kind: Option<String>,
    /// The error with its causes.
    pub failure_message: Option<String>,
    /// Start of the first attempt.
    pub created_at: Option<String>,
    /// End of the last one, where there is a result.
    pub finished_at: Option<String>,
    /// Base model.
    pub model: String,
    /// Base model with its options, canonical JSON.
    pub model_json: String,
    /// Task.
    pub task: String,
    /// Task with its options, canonical JSON.
    pub task_json: String,
    /// Method as figures name it: `lora r=8`.
    pub method: String,
    /// Method with all options, canonical JSON.
    pub method_json: String,
    /// Target expression; `default` leaves the choice to the method.
    pub targets: String,
    /// Layer selection as written: `all`, `first:25%`.
    pub layers: String,
    /// Layer policy.
    pub policy: String,
    /// Layer policy with its options, canonical JSON.
    pub policy_json: String,
    /// Seed.
    pub seed: u64,
    /// Passes over the training split.
    pub epochs: u64,
    /// Bound on the optimizer steps; `None` for no bound.
    pub max_steps: Option<u64>,
    /// Examples a micro-batch.
    pub batch_size: u64,
    /// Micro-batches an optimizer step.
    pub gradient_accumulation: u64,
    /// Examples an evaluation batch.
    pub eval_batch_size: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Where it comes from.
    pub lr_source: LrSource,
    /// Learning-rate schedule.
    pub lr_scheduler: String,
    /// Warm-up as a fraction of all steps.
    pub warmup_ratio: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// AdamW's decay rate of the first moment.
    pub beta1: f64,
    /// AdamW's decay rate of the second moment.
    pub beta2: f64,
    /// AdamW's term against division by zero.
    pub eps: f64,
    /// Bound on the global gradient norm; `None` for no clipping.
    pub max_grad_norm: Option<f64>,
    /// Whether each layer was run again in the backward pass.
    pub gradient_checkpointing: bool,
    /// Longest sequence, tokens.
    pub max_length: u64,
    /// Bound on the training examples; `None` for all.
    pub train_samples_limit: Option<u64>,
    /// Bound on the validation examples; `None` for all.
    pub valid_samples_limit: Option<u64>,
    /// Bound on the test examples; `None` for all.
    pub test_samples_limit: Option<u64>,
    /// Architecture, Hugging Face's `model_type`.
    pub model_arch: Option<String>,
    /// Scalars of the base model.
    pub model_num_params: Option<u64>,
    /// Layers of the base model.
    pub num_layers: Option<u64>,
    /// BLAKE3 over the model's files.
    pub model_hash: Option<String>,
    /// BLAKE3 over the tokenizer.
    pub tokenizer_hash: Option<String>,
    /// Scalars that get an update in at least one step.
    pub num_trainable_params: Option<u64>,
    /// Trainable scalars over the base model's scalars.
    pub trainable_fraction: Option<f64>,
    /// Scalars that the method added.
    pub num_adapter_params: Option<u64>,
    /// Layers with a trainable tensor, as ranges: `0-3,7`.
    pub trainable_layers: Option<String>,
    /// How many these are.
    pub num_trainable_layers: Option<u64>,
    /// Mean number of layers that trained at a step.
    pub layers_active_mean: Option<f64>,
    /// Slots that the targets selected.
    pub target_modules_matched: Option<u64>,
    /// Where the examples came from.
    pub dataset_id: Option<String>,
    /// The commit on the hub that the examples came from.
    pub dataset_revision: Option<String>,
    /// BLAKE3 over the examples.
    pub dataset_hash: Option<String>,
    /// BLAKE3 over the training examples.
    pub train_hash: Option<String>,
    /// BLAKE3 over the validation examples.
    pub valid_hash: Option<String>,
    /// BLAKE3 over the test examples.
    pub test_hash: Option<String>,
    /// Examples used for training.
    pub train_samples: Option<u64>,
    /// Examples used for validation.
    pub valid_samples: Option<u64>,
    /// Examples used for the test.
    pub test_samples: Option<u64>,
    /// Examples left out because they are too long.
    pub dropped_samples: Option<u64>,
    /// Test items that are in the training split too.
    pub test_overlap_samples: Option<u64>,
    /// Primary metric on the test split of answers that look at no prompt.
    pub test_chance: Option<f64>,
    /// Training examples that were shortened, as a fraction.
    pub truncated_fraction: Option<f64>,
    /// Optimizer steps the run makes.
    pub total_steps: Option<u64>,
    /// Kind of device.
    pub device: Option<String>,
    /// Threads.
    pub threads: Option<u64>,
    /// The task's primary metric.
    pub primary_metric: Option<String>,
    /// Its value on the test split at the best epoch on validation; `None` where no test item was scored.
    pub primary_value: Option<f64>,
    /// Its standard error over the items.
    pub primary_stderr: Option<f64>,
    /// Whether more of it is better.
    pub primary_higher_is_better: Option<bool>,
    /// Test items scored.
    pub n_items: Option<u64>,
    /// Its value on the validation split at the best epoch.
    pub valid_value: Option<f64>,
    /// Mean loss on the validation split at the best epoch, nats a token, where the evaluation has one.
    pub valid_loss: Option<f64>,
    /// The best epoch on validation; 0 where nothing was trained.
    pub best_epoch: Option<u64>,
    /// Mean loss on the text of `forgetting` before training.
    pub forgetting_loss_before: Option<f64>,
    /// The same after it.
    pub forgetting_loss_after: Option<f64>,
    /// Optimizer steps done.
    pub steps_done: Option<u64>,
    /// Mean training loss over the last tenth of the steps, nats a token.
    pub train_loss_final: Option<f64>,
    /// Tokens computed in training, padding included.
    pub train_tokens: Option<u64>,
    /// Padding among them, as a fraction.
    pub padding_fraction: Option<f64>,
    /// Training tokens a second, padding included, without the first steps.
    pub train_tokens_per_second: Option<f64>,
    /// How many first steps that leaves out.
    pub throughput_warmup_steps: Option<u64>,
    /// Evaluation tokens a second.
    pub eval_tokens_per_second: Option<f64>,
    /// Median seconds a step.
    pub step_seconds_p50: Option<f64>,
    /// 95th percentile.
    pub step_seconds_p95: Option<f64>,
    /// Highest live heap bytes while training.
    pub train_peak_bytes: Option<u64>,
    /// Highest live heap bytes while evaluating.
    pub eval_peak_bytes: Option<u64>,
    /// Highest resident memory of the process.
    pub rss_peak_bytes: Option<u64>,
    /// Base weights while training, at their highest.
    pub weights_bytes: Option<u64>,
    /// Adapter tensors while training.
    pub adapter_bytes: Option<u64>,
    /// Gradients while training.
    pub gradients_bytes: Option<u64>,
    /// Optimizer state while training.
    pub optimizer_bytes: Option<u64>,
    /// What the tape keeps for the backward pass.
    pub activations_bytes: Option<u64>,
    /// Temporary buffers while training.
    pub workspace_bytes: Option<u64>,
    /// Size of the saved adapter file.
    pub adapter_file_bytes: Option<u64>,
    /// Wall time of all attempts.
    pub total_seconds: Option<f64>,
    /// Of it, loading.
    pub load_seconds: Option<f64>,
    /// Of it, attaching the method.
    pub attach_seconds: Option<f64>,
    /// Of it, training without evaluation.
    pub train_seconds: Option<f64>,
    /// Of it, the stages before training: SDT's warm-up, and what it chooses by.
    pub warmup_seconds: Option<f64>,
    /// Of it, evaluation.
    pub eval_seconds: Option<f64>,
    /// Of it, saving.
    pub save_seconds: Option<f64>,
    /// Of all phases, computed by the model.
    pub compute_seconds: Option<f64>,
    /// Total minus compute: the harness's own.
    pub harness_seconds: Option<f64>,
    /// Version of peftbench.
    pub version: String,
    /// Commit it was built from, `-dirty` where the tree had changes.
    pub git: Option<String>,
    /// Compiler.
    pub rustc: String,
    /// BLAKE3 of `Cargo.lock`.
    pub cargo_lock_hash: String,
    /// Operating system and processor architecture.
    pub platform: String,
    /// Processor.
    pub cpu: Option<String>,
    /// Bytes of `events.jsonl` that the row was made from; tells a fragment that is behind its events.
    pub events_bytes: u64,
}

impl RunRow {
    /// Whether the run trained nothing: the zero-shot reference.
    pub fn is_zero_shot(&self) -> bool {
        self.num_trainable_params == Some(0)
    }
}

impl Row for RunRow {
    const TABLE: &'static str = "runs";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        text("group_id"),
        text("sweep"),
        text("role"),
        text("status"),
        text("failure_kind"),
        text("failure_message"),
        time("created_at"),
        time("finished_at"),
        text("model"),
        text("model_json"),
        text("task"),
        text("task_json"),
        text("method"),
        text("method_json"),
        text("targets"),
        text("layers"),
        text("policy"),
        text("policy_json"),
        count("seed"),
        count("epochs"),
        count("max_steps"),
        count("batch_size"),
        count("gradient_accumulation"),
        count("eval_batch_size"),
        number("lr"),
        text("lr_source"),
        text("lr_scheduler"),
        number("warmup_ratio"),
        number("weight_decay"),
        number("beta1"),
        number("beta2"),
        number("eps"),
        number("max_grad_norm"),
        flag("gradient_checkpointing"),
        count("max_length"),
        count("train_samples_limit"),
        count("valid_samples_limit"),
        count("test_samples_limit"),
        text("model_arch"),
        count("model_num_params"),
        count("num_layers"),
        text("model_hash"),
        text("tokenizer_hash"),
        count("num_trainable_params"),
        number("trainable_fraction"),
        count("num_adapter_params"),
        text("trainable_layers"),
        count("num_trainable_layers"),
        number("layers_active_mean"),
        count("target_modules_matched"),
        text("dataset_id"),
        text("dataset_revision"),
        text("dataset_hash"),
        text("train_hash"),
        text("valid_hash"),
        text("test_hash"),
        count("train_samples"),
        count("valid_samples"),
        count("test_samples"),
        count("dropped_samples"),
        count("test_overlap_samples"),
        number("test_chance"),
        number("truncated_fraction"),
        count("total_steps"),
        text("device"),
        count("threads"),
        text("primary_metric"),
        number("primary_value"),
        number("primary_stderr"),
        flag("primary_higher_is_better"),
        count("n_items"),
        number("valid_value"),
        number("valid_loss"),
        count("best_epoch"),
        number("forgetting_loss_before"),
        number("forgetting_loss_after"),
        count("steps_done"),
        number("train_loss_final"),
        count("train_tokens"),
        number("padding_fraction"),
        number("train_tokens_per_second"),
        count("throughput_warmup_steps"),
        number("eval_tokens_per_second"),
        number("step_seconds_p50"),
        number("step_seconds_p95"),
        count("train_peak_bytes"),
        count("eval_peak_bytes"),
        count("rss_peak_bytes"),
        count("weights_bytes"),
        count("adapter_bytes"),
        count("gradients_bytes"),
        count("optimizer_bytes"),
        count("activations_bytes"),
        count("workspace_bytes"),
        count("adapter_file_bytes"),
        number("total_seconds"),
        number("load_seconds"),
        number("attach_seconds"),
        number("train_seconds"),
        number("warmup_seconds"),
        number("eval_seconds"),
        number("save_seconds"),
        number("compute_seconds"),
        number("harness_seconds"),
        text("version"),
        text("git"),
        text("rustc"),
        text("cargo_lock_hash"),
        text("platform"),
        text("cpu"),
        count("events_bytes"),
    ];
}
