//! From a task's files to rows of its own type, split in three.

use crate::error::{DataError, Result};
use crate::example::{Example, Splits};
use crate::hold_out::Validation;
use crate::source::{DataSource, Row, file_names};
use crate::world::rows::{SplitRows, TooFew};

/// Which files of the data folder are a task's splits. Names are starts: `dev` finds `dev.jsonl`, `dev_from_dev.jsonl` and
/// `dev_matched.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitFiles {
    /// Below the data folder.
    pub(crate) folder: &'static str,
    /// Training rows.
    pub(crate) train: &'static str,
    /// Validation rows; none where they are held out of the training rows.
    pub(crate) valid: Option<&'static str>,
    /// Test rows.
    pub(crate) test: &'static str,
    /// Whether the test is worth having where there is no file to train on.
    pub(crate) test_alone: bool,
}

/// The rows of a task, and which data they are.
pub(crate) struct Loaded<T> {
    pub(crate) dataset_id: String,
    pub(crate) revision: Option<String>,
    pub(crate) rows: SplitRows<T>,
}

impl<T> Loaded<T> {
    /// Rows of the invented world.
    pub(crate) fn of_world(task: &str, seed: u64, rows: SplitRows<T>) -> Self {
        Self { dataset_id: format!("{task} (world {seed})"), revision: None, rows }
    }

    /// The examples of each row; `examples` is told whether it is a row to train on.
    pub(crate) fn into_splits<I: IntoIterator<Item = Example>>(self, examples: impl Fn(T, bool) -> I) -> Splits {
        let make = |rows: Vec<T>, training: bool| rows.into_iter().flat_map(|row| examples(row, training)).collect();
        let SplitRows { train, valid, test } = self.rows;
        Splits {
            dataset_id: self.dataset_id,
            revision: self.revision,
            train: make(train, true),
            valid: make(valid, false),
            test: make(test, false),
        }
    }
}

/// Reads a task's files, each row by `read`. Where there is no validation file, training rows are held out as `validation` says, by
/// default so that rows of one `group` stay on one side.
pub(crate) fn load_files<T>(
    source: &DataSource,
    task: &str,
    files: SplitFiles,
    validation: Validation,
    read: impl Fn(&Row) -> Result<T>,
    group: impl Fn(usize, &T) -> String,
) -> Result<Loaded<T>> {
    let rows = |start: &str| source.rows(task, files.folder, start);
    let train = match rows(files.train) {
        Err(DataError::MissingFile { .. }) if files.test_alone => Vec::new(),
        other => other?,
    };
    let held = files.valid.map(rows).transpose()?;
    let test = rows(files.test)?;
    let all = [Some(&train), held.as_ref(), Some(&test)];
    let names: Vec<String> = all.into_iter().flatten().map(|rows| file_names(rows)).filter(|names| !names.is_empty()).collect();
    let parse = |rows: &[Row]| rows.iter().map(&read).collect::<Result<Vec<T>>>();
    let (train, valid) = match held {
        Some(held) => (parse(&train)?, parse(&held)?),
        None => validation.split(parse(&train)?, group),
    };
    Ok(Loaded {
        dataset_id: format!("{task} ({})", names.join(", ")),
        revision: source.revision(files.folder),
        rows: SplitRows { train, valid, test: parse(&test)? },
    })
}

/// Says which option to change where the invented world ran out of different rows.
pub(crate) fn too_small(task: &str, short: TooFew, way_out: &'static str) -> DataError {
    DataError::WorldTooSmall { task: task.to_owned(), split: short.split, wanted: short.wanted, found: short.found, way_out }
}
