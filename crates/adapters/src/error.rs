//! Errors of methods and policies.

use peftbench_spec::SpecError;

/// What can go wrong when a method is attached or a policy decides.
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
    /// A model's part failed.
    #[error(transparent)]
    Model(#[from] peftbench_models::ModelError),
    /// A computation failed.
    #[error(transparent)]
    Compute(#[from] peftbench_ops::Error),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, AdapterError>;
