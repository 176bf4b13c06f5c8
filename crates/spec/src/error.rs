//! Errors of the specification: each names the place, what was found, what was expected, and the way out.

use std::path::PathBuf;

/// What can be wrong with a sweep file, a run spec, a selector or a manifest. The command line ends with exit code 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A key or value at a known place of a spec is wrong.
    #[error("{}{problem}", at.describe())]
    Invalid {
        /// Where: the dotted key, and file and line once they are known.
        at: Place,
        /// What is wrong and the way out, as a fragment.
        problem: String,
    },
    /// The text is not TOML at all.
    #[error("{file}:{line}: not valid TOML: {problem}", file = file.display())]
    Syntax {
        /// The file that was read.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's message.
        problem: String,
    },
    /// A file could not be read.
    #[error("could not read {path}: {problem}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's message.
        problem: String,
    },
}

/// A place in a spec: the dotted path of a key and, once [`SpecError::located`] has seen the source, its file and line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Dotted key, e.g. `train.lr` or `axes.method[1].r`.
    pub key: String,
    /// File and line (from 1), where known.
    pub source: Option<(PathBuf, usize)>,
}

impl Place {
    /// What stands before the problem: file and line, and the key, as far as there are any.
    fn describe(&self) -> String {
        let source = self.source.as_ref().map(|(file, line)| format!("{}:{line}: ", file.display())).unwrap_or_default();
        match self.key.as_str() {
            "" => source,
            key => format!("{source}`{key}`: "),
        }
    }
}

impl SpecError {
    /// An error at the dotted `key`.
    pub fn at(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { at: Place { key: key.into(), source: None }, problem: problem.into() }
    }

    /// The same error with `prefix` put before its key: `lr` below `train` becomes `train.lr`.
    pub fn below(self, prefix: &str) -> Self {
        match self {
            Self::Invalid { mut at, problem } if at.source.is_none() => {
                at.key = match at.key.as_str() {
                    "" => prefix.to_owned(),
                    key if key.starts_with('[') => format!("{prefix}{key}"),
                    key => format!("{prefix}.{key}"),
                };
                Self::Invalid { at, problem }
            }
            other => other,
        }
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, SpecError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_a_key_has_no_empty_quotes() {
        let whole = SpecError::at("", "missing field `name`");
        assert_eq!(whole.to_string(), "missing field `name`");
        assert_eq!(whole.clone().below("axes").to_string(), "`axes`: missing field `name`");
        assert_eq!(whole.located(std::path::Path::new("s.toml"), "").to_string(), "s.toml:1: missing field `name`");
    }
}
