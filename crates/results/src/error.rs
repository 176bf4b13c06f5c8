//! Errors of reading and writing results: each names the file, what was found, and the way out.

use peftbench_spec::SpecError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What can go wrong with events, fragments and tables.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The system refused to read or write.
    #[error("could not {action} {path}: {source}{hint}", path = path.display(), hint = way_out(source))]
    Io {
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of `events.jsonl` that is not the last before a kill does not read as an event.
    #[error(
        "{path}:{line}: expected an event as JSON, {problem}; if the file was edited, restore it, else rerun the run",
        path = path.display()
    )]
    Event {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's message.
        problem: String,
    },
    /// A Parquet file is damaged, or does not hold what its name says.
    #[error("{path}: {problem}; delete it and run `peftbench collect` to make it again from the runs", path = path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// The record of chosen learning rates is damaged.
    #[error(
        "{path}: {problem}; which learning rates were chosen is not in the tables: give the same `peftbench sweep` again, which makes the choices \
         anew from the recorded probes",
        path = path.display()
    )]
    Choices {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        problem: String,
    },
    /// A table was written by a newer version.
    #[error("{path}: schema version {found} is newer than this program's {known}; use a newer peftbench", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version this program reads.
        known: u64,
    },
    /// A folder that should hold results holds none.
    #[error("{path}: no runs here; expected a sweep's folder with `runs/` or `tables/` in it (`peftbench sweep` makes one)", path = path.display())]
    NoRuns {
        /// The folder.
        path: PathBuf,
    },
    /// A value that does not fit a table's column.
    #[error("column `{column}`: expected {expected}, found {found}")]
    Value {
        /// The column.
        column: String,
        /// Its kind.
        expected: &'static str,
        /// The value as JSON.
        found: String,
    },
    /// A manifest cannot be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; change its permissions, or take a copy of the results",
        _ => "",
    }
}

impl ResultsError {
    /// An [`ResultsError::Io`] for `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// A [`ResultsError::Table`] for `path`.
    pub(crate) fn table(path: &Path, problem: impl ToString) -> Self {
        Self::Table { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, ResultsError>;
