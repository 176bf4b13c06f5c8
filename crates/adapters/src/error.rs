//! Errors of methods and policies.

use peftbench_spec::SpecError;
use std::path::PathBuf;

/// What can go wrong when a method is attached, an adapter is read or written, or a policy decides.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// An option, target or layer selection is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The method cannot do this on this model.
    #[error("method `{method}`: {problem}")]
    Unsupported {
        /// The method.
        method: String,
        /// What it cannot do, and the way out.
        problem: String,
    },
    /// An adapter folder cannot be used.
    #[error("adapter {}: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// A policy cannot take up the state that a checkpoint holds.
    #[error(
        "the state of the layer policy in the checkpoint cannot be read: {problem}; delete the run's folder `checkpoint` to begin anew"
    )]
    DamagedState {
        /// What is wrong with it.
        problem: String,
    },
    /// A model's part failed.
    #[error(transparent)]
    Model(#[from] peftbench_models::ModelError),
    /// A computation failed.
    #[error(transparent)]
    Compute(#[from] peftbench_ops::Error),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, AdapterError>;
