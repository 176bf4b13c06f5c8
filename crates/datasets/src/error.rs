//! Errors of data: each names the file and line, what was expected, what was found, and the way out.

use crate::tasks::published::or_fetch;
use std::path::PathBuf;

/// What can be wrong with data files and tokenizers. The command line ends with exit code 7.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// A task over real data was asked for, and no data folder is known.
    #[error(
        "task `{task}` reads data files, and no data folder is given; pass `--data FOLDER` or set PEFTBENCH_DATA, or take a `world/…` task, which needs none{}",
        or_fetch(task)
    )]
    NoFolder {
        /// The task.
        task: String,
    },
    /// A data file is not where the task looks for it.
    #[error("task `{task}` needs {path}, which does not exist; put the file there, or name the folder that holds it with `--data FOLDER`{or_fetch}", path = path.display())]
    MissingFile {
        /// The task.
        task: String,
        /// The file, or a pattern such as `train*.jsonl`.
        path: PathBuf,
        /// How it is fetched, as the end of the sentence; empty where it is not on the hub.
        or_fetch: String,
    },
    /// A file exists and cannot be read or written.
    #[error("could not {action} {path}: {problem}", path = path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's message.
        problem: String,
    },
    /// A row of a JSON Lines file is not what the task expects.
    #[error(transparent)]
    Row(Box<RowProblem>),
    /// A split that cannot be empty has no row.
    #[error("{path}: expected at least one row, found none; the file is empty or was cut off, fetch it again", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what its format says.
    #[error("{path}: {problem}; name another file, or fetch this one again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// The invented world cannot supply as many different examples as a task asks for.
    #[error("task `{task}`: expected {wanted} different examples for {split}, the invented world gave {found}; {way_out}")]
    WorldTooSmall {
        /// The task.
        task: String,
        /// `train`, `valid` or `test`.
        split: &'static str,
        /// Examples asked for.
        wanted: usize,
        /// Examples there are.
        found: usize,
        /// Which option to change.
        way_out: &'static str,
    },
    /// The test was trained on.
    #[error(
        "task `{task}`: {found} of {items} test items are in the training split too, where its publishers left {known}; take other files, or set `allow_overlap = true` (`--allow-overlap`) to run all the same"
    )]
    Overlap {
        /// The task.
        task: String,
        /// Test items that training has.
        found: usize,
        /// Test items.
        items: usize,
        /// How many the published splits share.
        known: usize,
    },
    /// There is nothing to train on.
    #[error(
        "task `{task}` has no training examples; take another task or `method = \"none\"`, or put its training file into the data folder"
    )]
    NothingToTrainOn {
        /// The task.
        task: String,
    },
    /// A metric that a task names is not one.
    #[error(transparent)]
    Metric(#[from] peftbench_spec::SpecError),
    /// A tokenizer cannot be read, built or used.
    #[error("tokenizer {name}: {problem}")]
    Tokenizer {
        /// The file, or what it was built from.
        name: String,
        /// What is wrong and the way out.
        problem: String,
    },
    /// A metric needs more of an item than it is given.
    #[error("metric `{metric}`: item {item} lacks {what}, which the metric needs; take a metric that goes by texts alone, or give it", item = item + 1)]
    ItemLacks {
        /// The metric.
        metric: &'static str,
        /// Which item, from 0.
        item: usize,
        /// What is missing.
        what: &'static str,
    },
    /// A database cannot be opened.
    #[error("database {name}: {problem}; check that the file is a whole SQLite database, or fetch it again")]
    Database {
        /// Its name.
        name: String,
        /// SQLite's message.
        problem: String,
    },
    /// A query that is right by definition does not run, or is not of the form that the metric reads.
    #[error("item {item}: the reference query `{query}` cannot be scored against: {problem}; correct the reference, or leave the item out", item = item + 1)]
    GoldQuery {
        /// Which item, from 0.
        item: usize,
        /// The query.
        query: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An example does not fit, even with its whole prompt dropped but for one token.
    #[error(
        "example `{example}`: the answer alone has {tokens} tokens and must leave room for one of the prompt in {max_length}; raise the maximum length to at least {}", tokens + 1
    )]
    AnswerTooLong {
        /// The head of the prompt.
        example: String,
        /// Tokens of the answer, with the end-of-text token where one is added.
        tokens: usize,
        /// The maximum length asked for.
        max_length: usize,
    },
}

impl DataError {
    /// A file that fetching does not bring.
    pub(crate) fn missing(task: impl Into<String>, path: PathBuf) -> Self {
        Self::MissingFile { task: task.into(), path, or_fetch: String::new() }
    }
}

/// What is wrong with one row of a JSON Lines file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}:{line}: {at}: expected {expected}, found {found}; {way_out}", path = path.display(), at = describe(field))]
pub struct RowProblem {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// The field; empty for the row itself.
    pub field: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What to do.
    pub way_out: String,
}

fn describe(field: &str) -> String {
    if field.is_empty() { "row".to_owned() } else { format!("field `{field}`") }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, DataError>;
