//! Errors of making a report.

use peftbench_results::ResultsError;
use std::path::PathBuf;

/// What can go wrong with figures, tables and the page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The results cannot be read or a file cannot be written.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// There are runs, but none has a result yet.
    #[error(
        "{path}: none of the {runs} runs has a result yet{reasons}; finish the sweep with `peftbench sweep`, or see `peftbench status`",
        path = path.display()
    )]
    NothingFinished {
        /// The sweep's folder.
        path: PathBuf,
        /// How many runs it has.
        runs: usize,
        /// How they stand, in brackets.
        reasons: String,
    },
    /// `--only` names no figure or table.
    #[error("unknown figure or table `{asked}`; {hint}")]
    UnknownFigure {
        /// What was asked for.
        asked: String,
        /// The way out.
        hint: String,
    },
    /// There is no table of this name.
    #[error("unknown table `{asked}`; {hint}")]
    UnknownTable {
        /// What was asked for.
        asked: String,
        /// The way out.
        hint: String,
    },
    /// A table has no column of this name.
    #[error("table `{table}` has no column `{asked}`; {hint}")]
    UnknownColumn {
        /// The table.
        table: String,
        /// What was asked for.
        asked: String,
        /// The way out.
        hint: String,
    },
    /// The results have nothing for a table.
    #[error("{path}: these results have nothing for the table `{table}`", path = path.display())]
    EmptyTable {
        /// The table.
        table: String,
        /// The sweep's folder.
        path: PathBuf,
    },
    /// A figure cannot be drawn.
    #[error("figure `{figure}`: could not draw: {problem}")]
    Draw {
        /// Its id.
        figure: String,
        /// The backend's message.
        problem: String,
    },
    /// The page's template failed.
    #[error("could not make index.html: {0}")]
    Page(#[from] minijinja::Error),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, ReportError>;
