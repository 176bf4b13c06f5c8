//! Errors of models: each names the file or tensor, what was expected, what was found, and the way out.

use std::path::PathBuf;

/// What can go wrong when a model is loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model is missing or unreadable.
    #[error("could not read {}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's message and the way out.
        problem: String,
    },
    /// A file of the model is damaged or cut short.
    #[error("{} is damaged: {problem}; fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// A tensor is absent.
    #[error("{origin} has no tensor `{name}`; nearest: {nearest}")]
    MissingTensor {
        /// Where it was looked for.
        origin: String,
        /// Its Hugging Face name.
        name: String,
        /// The most similar name there, or `none`.
        nearest: String,
    },
    /// A tensor has another shape than the config says.
    #[error("tensor `{name}` of {origin} has shape {found:?}, but its config says {expected:?}")]
    WrongShape {
        /// Where it was found.
        origin: String,
        /// Its name.
        name: String,
        /// From the config.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor has numbers of another type than a model can be read from.
    #[error("tensor `{name}` of {origin} has numbers of type {found}; expected {expected}")]
    WrongType {
        /// Where it was found.
        origin: String,
        /// Its name.
        name: String,
        /// What can be read.
        expected: &'static str,
        /// In the file.
        found: String,
    },
    /// A checkpoint has tensors for which the model of its config has no place.
    #[error("{origin} has {} its config has no place for: {}; is the config that of another model?", count(names.len()), list(names))]
    ExtraTensors {
        /// The checkpoint.
        origin: String,
        /// Their names.
        names: Vec<String>,
    },
    /// The config asks for what this program does not do.
    #[error("{origin}: {problem}")]
    Unsupported {
        /// The model or file.
        origin: String,
        /// What, and what is supported.
        problem: String,
    },
    /// A computation failed.
    #[error(transparent)]
    Compute(#[from] peftbench_ops::Error),
}

/// Within an operator of the tape, a block that is run again.
impl From<ModelError> for peftbench_ops::Error {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Compute(error) => error,
            other => Self::Msg(other.to_string()),
        }
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;

fn count(tensors: usize) -> String {
    if tensors == 1 { "a tensor that".to_owned() } else { format!("{tensors} tensors that") }
}

/// The first few names.
fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { format!(" and {} more", names.len() - shown.len()) } else { String::new() };
    shown.join(", ") + &more
}
