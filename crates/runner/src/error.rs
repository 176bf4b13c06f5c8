//! Errors of a run, and what kind of failure each is.

use peftbench_adapters::AdapterError;
use peftbench_datasets::DataError;
use peftbench_models::ModelError;
use peftbench_spec::SpecError;
use peftbench_spec::event::FailureKind;
use std::path::PathBuf;

/// What can end a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The spec is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The method does not fit the model.
    #[error(transparent)]
    Adapter(AdapterError),
    /// The model is missing, damaged or fails.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data is missing or wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model was looked for and not found.
    #[error(
        "model `{name}` is in none of: {searched}; give its folder with `--models DIR` (a Hugging Face folder DIR/{name}, or DIR/{name}.gguf){hub}"
    )]
    NoModel {
        /// As in the spec.
        name: String,
        /// The places.
        searched: String,
        /// Why it does not come from the hub, with a `; ` in front; empty where the name is no hub's id.
        hub: String,
    },
    /// The hub does not give it.
    #[error("`{id}` does not come from the Hugging Face hub: {problem}")]
    Hub {
        /// The id.
        id: String,
        /// Why.
        problem: String,
    },
    /// Model and tokenizer do not belong together.
    #[error(
        "the tokenizer of `{model}` has {tokenizer} tokens, but the model's vocabulary has {vocabulary}: the files do not belong together"
    )]
    VocabularyMismatch {
        /// The model.
        model: String,
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// The adapter to start from does not fit or is damaged.
    #[error("the adapter to start from: {0}")]
    InitAdapter(#[source] AdapterError),
    /// The adapter to start from was looked for and not found.
    #[error("no adapter of the content {hash} in: {searched}; give its folder with `--init-adapter DIR`")]
    NoInitAdapter {
        /// As in the spec.
        hash: String,
        /// The places.
        searched: String,
    },
    /// Training went out of bounds.
    #[error("the loss is {loss} at step {step}; lower `train.lr` ({lr:e} here) or set `train.max_grad_norm`")]
    NanLoss {
        /// The step.
        step: u64,
        /// NaN or infinite.
        loss: f64,
        /// The learning rate of the spec.
        lr: f64,
    },
    /// Training went out of bounds without a loss that said so.
    #[error("`{metric}` on the {split} split is {value} after step {step}; lower `train.lr` ({lr:e} here)")]
    NanMetric {
        /// Name of the metric.
        metric: String,
        /// The split.
        split: &'static str,
        /// NaN or infinite.
        value: f64,
        /// Optimizer steps done.
        step: u64,
        /// The learning rate of the spec.
        lr: f64,
    },
    /// A file of the run could not be written or read.
    #[error("could not {action} {}: {problem}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's message.
        problem: String,
    },
    /// A computation failed.
    #[error(transparent)]
    Compute(#[from] peftbench_ops::Error),
}

impl From<AdapterError> for RunError {
    fn from(error: AdapterError) -> Self {
        match error {
            AdapterError::Spec(error) => Self::Spec(error),
            AdapterError::Model(error) => Self::Model(error),
            AdapterError::Compute(error) => Self::Compute(error),
            other => Self::Adapter(other),
        }
    }
}

impl RunError {
    /// An error about a file.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self::File { action, path: path.into(), problem: problem.to_string() }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Spec(_) | Self::Adapter(_) => FailureKind::InvalidSpec,
            Self::InitAdapter(AdapterError::Model(_)) | Self::NoInitAdapter { .. } => FailureKind::MissingInput,
            Self::InitAdapter(_) => FailureKind::InvalidSpec,
            Self::Model(ModelError::Unsupported { .. }) => FailureKind::InvalidSpec,
            Self::Model(ModelError::Compute(_)) | Self::Compute(_) => FailureKind::Crash,
            Self::Model(_) | Self::Data(_) | Self::NoModel { .. } | Self::Hub { .. } | Self::VocabularyMismatch { .. } => {
                FailureKind::MissingInput
            }
            Self::NanLoss { .. } | Self::NanMetric { .. } => FailureKind::NanLoss,
            Self::File { .. } => FailureKind::Io,
        }
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, RunError>;
