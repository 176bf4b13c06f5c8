//! Where the data of a task is published: its repository on the Hugging Face hub, and how its rows become those of the data folder.
//!
//! Tasks read the data folder only. Fetching a data set writes its rows there once, in the layout that a task reads, with a note of the
//! commit beside them; so equal data have equal hashes, wherever they came from.

use super::data_of;
use crate::images::{self, Part, celeba};
use crate::source::DataSource;
use peftbench_spec::Component;
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
    /// The columns that are read; of images those of what is known of them.
    pub columns: &'static [&'static str],
    /// What its rows are.
    pub form: Form,
}

/// What the rows of a data set are, and what becomes of them.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// Text and numbers: JSON Lines, in the folder of the task's name.
    Text(Convert),
    /// Images and what is known of them.
    Images(PublishedImages),
}

/// One row of the hub as a row of the data folder; none where it is left out, which only rows without a label are.
pub type Convert = fn(Columns) -> Result<Option<Columns>, String>;

/// How the images of a data set are published, in Parquet, and where they go.
#[derive(Debug, Clone, Copy)]
pub struct PublishedImages {
    /// The column of the pictures' files: groups of their `bytes` and `path`.
    pub column: &'static str,
    /// Below the data folder.
    pub folder: &'static str,
    /// Which files they become there.
    pub layout: ImageLayout,
}

/// The files of a data set of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageLayout {
    /// Pictures and classes together; a picture is published as PNG, its class in the only column. A split's file is what the names of
    /// its files begin with.
    Classes(images::Format),
    /// CelebA's: JPEG files as they are published, and lists of their attributes, which are the columns, and splits, which are in the
    /// order of [`celeba::SPLITS`].
    Celeba,
}

impl Published {
    /// The folder of the data of `task` below the data folder.
    pub fn folder<'a>(&self, task: &'a str) -> &'a str {
        match self.form {
            Form::Text(_) => task,
            Form::Images(images) => images.folder,
        }
    }

    /// Whether the files of `task` are there, from wherever.
    pub fn is_there(&self, task: &str, source: &DataSource) -> bool {
        match self.form {
            Form::Text(_) => {
                let is_file =
                    |split: &PublishedSplit| source.file(self.folder(task), &split.file_name()).is_some_and(|path| path.is_file());
                self.splits.iter().all(is_file)
            }
            Form::Images(images) => images.are_there(task, source),
        }
    }
}

impl PublishedImages {
    fn are_there(&self, task: &str, source: &DataSource) -> bool {
        match self.layout {
            ImageLayout::Classes(format) => {
                [Part::Train, Part::Test].into_iter().all(|part| format.files(source, task, self.folder, part).is_ok())
            }
            ImageLayout::Celeba => {
                let pictures = source.file(self.folder, celeba::PICTURES);
                celeba::lists(source, task).is_ok() && pictures.is_some_and(|path| path.is_dir())
            }
        }
    }
}

/// How the data of `task` is fetched, as the end of a sentence on what is missing; nothing where it is not on the hub.
pub(crate) fn or_fetch(task: &str) -> String {
    let parts = data_of(&Component::named(task)).unwrap_or_default();
    match parts.iter().any(|part| part.published.is_some()) {
        true => format!(", or fetch it with `peftbench fetch --task {task}`"),
        false => String::new(),
    }
}

/// One file of the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedSplit {
    /// Its name, without `.jsonl` or whatever else is behind it.
    pub file: &'static str,
    /// What the names of the repository's files begin with (Parquet, JSON or JSON Lines), the folders included.
    pub from: &'static str,
}

impl PublishedSplit {
    /// The name of the file of rows of text.
    pub fn file_name(&self) -> String {
        format!("{}.jsonl", self.file)
    }
}

/// GLUE's repository, for its tasks to fill in.
pub(crate) const GLUE_CARD: Published = Published {
    hub: "nyu-mll/glue",
    revision: "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    licence: "",
    splits: &[],
    columns: &[],
    form: Form::Text(as_they_are),
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

/// A column that must be one of ten classes.
///
/// # Errors
/// Where it is none.
pub fn class(columns: &Columns, name: &str) -> Result<u8, String> {
    let value = columns.get(name);
    value.and_then(Value::as_i64).and_then(images::write::class).ok_or_else(|| expected("a class from 0 to 9", name, value))
}

/// A column that must say yes (true, 1) or no (false, -1).
///
/// # Errors
/// Where it says neither.
pub fn answer(columns: &Columns, name: &str) -> Result<bool, String> {
    let value = columns.get(name);
    match (value.and_then(Value::as_bool), value.and_then(Value::as_i64)) {
        (Some(answer), _) => Ok(answer),
        (_, Some(1)) => Ok(true),
        (_, Some(-1)) => Ok(false),
        _ => Err(expected("true or false, or 1 or -1", name, value)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_and_answers_are_read_in_each_way_of_writing_them() {
        let columns = row([("yes", json!(true)), ("no", json!(false)), ("one", json!(1)), ("minus", json!(-1)), ("zero", json!(0))]);
        assert_eq!(["yes", "one", "no", "minus"].map(|name| answer(&columns, name)), [Ok(true), Ok(true), Ok(false), Ok(false)]);
        assert_eq!(answer(&columns, "zero").unwrap_err(), "column `zero`: expected true or false, or 1 or -1, found 0");
        assert_eq!((class(&columns, "zero"), class(&columns, "one")), (Ok(0), Ok(1)));
        assert_eq!(class(&columns, "minus").unwrap_err(), "column `minus`: expected a class from 0 to 9, found -1");
        assert_eq!(class(&columns, "label").unwrap_err(), "column `label`: expected a class from 0 to 9, found no such column");
    }
}
