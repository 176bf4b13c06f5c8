//! Where the data of a task is published: its repository on the Hugging Face hub, and how its rows become those of the data folder.
//!
//! Tasks read the data folder only. Fetching a data set writes its rows there once, in the layout that a task reads, with a note of the
//! commit beside them; so equal data have equal hashes, wherever they came from.

use serde_json::{Map, Value};

/// A row, by the names of its columns.
pub type Columns = Map<String, Value>;

/// A data set on the hub.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// `owner/name`.
    pub hub: &'static str,
    /// A commit where one is known to hold what is described here, else a branch.
    pub revision: &'static str,
    /// Of the data.
    pub licence: &'static str,
    /// Files of the data folder and what they are made from.
    pub splits: &'static [PublishedSplit],
    /// The columns that are read.
    pub columns: &'static [&'static str],
    /// One row of the hub as a row of the data folder; none where it is left out, which only rows without a label are.
    pub convert: fn(Columns) -> Result<Option<Columns>, String>,
}

/// One file of the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedSplit {
    /// Its name, without `.jsonl`.
    pub file: &'static str,
    /// What the names of the repository's files begin with (Parquet, JSON or JSON Lines), the folders included.
    pub from: &'static str,
}

/// GLUE's repository, for its tasks to fill in.
pub(crate) const GLUE_CARD: Published = Published {
    hub: "nyu-mll/glue",
    revision: "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    licence: "",
    splits: &[],
    columns: &[],
    convert: as_they_are,
};

/// Rows that are the data folder's already.
pub(crate) fn as_they_are(columns: Columns) -> Result<Option<Columns>, String> {
    Ok(Some(columns))
}

/// A column that must be text.
pub(crate) fn text(columns: &Columns, name: &str) -> Result<String, String> {
    match columns.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        other => Err(expected("a string", name, other)),
    }
}

/// A column that must be a list of texts.
pub(crate) fn texts(columns: &Columns, name: &str) -> Result<Vec<String>, String> {
    let value = columns.get(name);
    let list = value.and_then(Value::as_array).and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| expected("a list of strings", name, value))
}

/// What is wrong with a column.
pub(crate) fn expected(what: &str, name: &str, found: Option<&Value>) -> String {
    let found = found.map_or_else(|| "no such column".to_owned(), |value| value.to_string().chars().take(60).collect());
    format!("column `{name}`: expected {what}, found {found}")
}

/// A row of these fields.
pub(crate) fn row<const N: usize>(fields: [(&str, Value); N]) -> Columns {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
