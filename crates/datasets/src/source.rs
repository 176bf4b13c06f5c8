//! Where data comes from: a folder of JSON Lines files, read row by row with errors that say where.

use crate::error::{DataError, Result, RowProblem};
use crate::tasks::published::or_fetch;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where tasks over real data find their files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSource {
    /// The data folder (`--data` or PEFTBENCH_DATA); without one only the tasks of the invented world work.
    pub folder: Option<PathBuf>,
}

impl DataSource {
    /// The path of a file or folder `name` in the sub-folder `folder`, whether it is there or not.
    pub(crate) fn file(&self, folder: &str, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|root| root.join(folder).join(name))
    }

    /// The files of `task` in the sub-folder `folder` whose names start with `start` and end in `.jsonl`, sorted by name: one file in most
    /// data sets, several where a split is in parts. The start is a pattern because partial copies carry what they are in the name
    /// (`train_from_dev.jsonl`).
    pub(crate) fn files(&self, task: &str, folder: &str, start: &str) -> Result<Vec<PathBuf>> {
        self.files_ending(task, folder, start, &[".jsonl"])
    }

    /// The same, of files that end in one of `endings`; an error names the first.
    pub(crate) fn files_ending(&self, task: &str, folder: &str, start: &str, endings: &[&str]) -> Result<Vec<PathBuf>> {
        let root = self.folder.as_ref().ok_or_else(|| DataError::NoFolder { task: task.to_owned() })?;
        let folder = root.join(folder);
        let pattern = format!("{start}*{}", endings.first().unwrap_or(&""));
        let missing = || DataError::MissingFile { task: task.to_owned(), path: folder.join(&pattern), or_fetch: or_fetch(task) };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|_| missing())? {
            let path = entry.map_err(|error| DataError::Io { action: "read", path: folder.clone(), problem: error.to_string() })?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(start) && endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
        found.sort();
        if found.is_empty() { Err(missing()) } else { Ok(found) }
    }

    /// The rows of those files, at least one a file.
    pub(crate) fn rows(&self, task: &str, folder: &str, start: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for path in self.files(task, folder, start)? {
            rows.extend(read_rows(&path)?);
        }
        Ok(rows)
    }
}

/// The note that fetching leaves beside the files it wrote.
pub const ORIGIN_FILE: &str = "origin.json";

impl DataSource {
    /// The commit on the hub that the files of `folder` were made from, `owner/name@commit`, where a note beside them says so.
    pub(crate) fn revision(&self, folder: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.file(folder, ORIGIN_FILE)?).ok()?;
        let origin: Value = serde_json::from_str(&text).ok()?;
        Some(format!("{}@{}", origin["hub"].as_str()?, origin["commit"].as_str()?))
    }
}

/// The names of the files that `rows` came from, for the record.
pub(crate) fn file_names(rows: &[Row]) -> String {
    let mut names: Vec<String> =
        rows.iter().filter_map(|row| row.path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
    names.dedup();
    names.join("+")
}

/// One object of a JSON Lines file and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    path: Arc<Path>,
    line: usize,
    fields: Map<String, Value>,
}

/// Reads all rows of one file; blank lines are skipped.
pub(crate) fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            let problem = "expected JSON Lines in UTF-8, one object a line, found other bytes".to_owned();
            DataError::Damaged { path: path.to_owned(), problem }
        }
        _ => DataError::Io { action: "read", path: path.to_owned(), problem: error.to_string() },
    })?;
    let shared: Arc<Path> = Arc::from(path);
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        rows.push(parse_row(shared.clone(), index + 1, line)?);
    }
    if rows.is_empty() { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(rows) }
}

fn parse_row(path: Arc<Path>, line: usize, text: &str) -> Result<Row> {
    let problem = |found: String| {
        DataError::Row(Box::new(RowProblem {
            path: path.to_path_buf(),
            line,
            field: String::new(),
            expected: "one JSON object".to_owned(),
            found,
            way_out: "the file should be JSON Lines, one object a line, UTF-8".to_owned(),
        }))
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(Row { path, line, fields }),
        Ok(other) => Err(problem(describe(&other))),
        Err(error) => Err(problem(format!("text that is not JSON ({error})"))),
    }
}

impl Row {
    /// `file name:line`, unique within a split.
    pub(crate) fn id(&self) -> String {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        format!("{name}:{}", self.line)
    }

    /// A field that must be text.
    pub(crate) fn text(&self, field: &str) -> Result<&str> {
        match self.fields.get(field) {
            Some(Value::String(text)) => Ok(text),
            other => Err(self.wrong(field, "a string", other)),
        }
    }

    /// A field that must be a whole number from 0.
    pub(crate) fn integer(&self, field: &str) -> Result<u64> {
        let value = self.fields.get(field);
        value.and_then(Value::as_u64).ok_or_else(|| self.wrong(field, "a whole number from 0", value))
    }

    /// A field that must be a list of strings, at least one.
    pub(crate) fn texts(&self, field: &str) -> Result<Vec<String>> {
        let value = self.fields.get(field);
        strings(value).filter(|list| !list.is_empty()).ok_or_else(|| self.wrong(field, "a list of at least one string", value))
    }

    /// A field that must be a list of [subject, predicate, object], at least one.
    pub(crate) fn triples(&self, field: &str) -> Result<Vec<[String; 3]>> {
        let value = self.fields.get(field);
        let wrong = || self.wrong(field, "a list of at least one [subject, predicate, object]", value);
        let list = value.and_then(Value::as_array).filter(|list| !list.is_empty()).ok_or_else(wrong)?;
        list.iter().map(|item| strings(Some(item)).and_then(|three| three.try_into().ok()).ok_or_else(wrong)).collect()
    }

    /// Whether the row has `field` at all.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }

    /// An error about `field`, whose content is not as `expected`.
    pub(crate) fn wrong(&self, field: &str, expected: &str, found: Option<&Value>) -> DataError {
        let (found, way_out) = match found {
            Some(value) => (describe(value), "correct the row, or fetch the file again".to_owned()),
            None => {
                let names: Vec<String> = self.fields.keys().map(|key| format!("`{key}`")).collect();
                (
                    "no such field".to_owned(),
                    format!(
                        "the row has {}; is this the right data set?",
                        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                    ),
                )
            }
        };
        DataError::Row(Box::new(RowProblem {
            path: self.path.to_path_buf(),
            line: self.line,
            field: field.to_owned(),
            expected: expected.to_owned(),
            found,
            way_out,
        }))
    }
}

fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// A value as an error message shows it: at most 60 characters.
fn describe(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, text).unwrap();
        read_rows(&path)
    }

    fn message(error: DataError) -> String {
        let text = error.to_string();
        text.split_once("train.jsonl").map(|(_, rest)| format!("train.jsonl{rest}")).unwrap_or(text)
    }

    #[test]
    fn a_row_without_its_field_or_of_the_wrong_type_is_named() {
        let read = rows("{\"sentence\": 3}\n\n{\"text\": \"a\", \"label\": -1}\n").unwrap();
        assert_eq!(
            message(read[0].text("sentence").unwrap_err()),
            "train.jsonl:1: field `sentence`: expected a string, found 3; correct the row, or fetch the file again"
        );
        assert_eq!(
            message(read[1].text("sentence").unwrap_err()),
            "train.jsonl:3: field `sentence`: expected a string, found no such field; the row has `text`, `label`; is this the right data set?"
        );
        assert!(message(read[1].integer("label").unwrap_err()).contains("expected a whole number from 0, found -1"));
    }

    #[test]
    fn lists_and_triples_are_checked_item_by_item() {
        let read = rows("{\"t\": [[\"a\", \"b\", \"c\"]], \"u\": [[\"a\", \"b\"]], \"v\": [\"x\", 1], \"w\": []}").unwrap();
        assert_eq!(read[0].triples("t").unwrap(), [["a", "b", "c"].map(str::to_owned)]);
        assert!(
            message(read[0].triples("u").unwrap_err())
                .contains("expected a list of at least one [subject, predicate, object], found [[\"a\",\"b\"]]")
        );
        assert!(read[0].triples("w").is_err() && read[0].texts("w").is_err() && read[0].texts("v").is_err());
    }

    #[test]
    fn what_is_not_json_lines_is_named_with_its_line() {
        let error = message(rows("{\"a\": 1}\n{\"a\": \n").unwrap_err());
        assert!(error.starts_with("train.jsonl:2: row: expected one JSON object, found text that is not JSON"), "{error}");
        assert!(message(rows("[1]\n").unwrap_err()).contains("found [1]"));
        assert!(message(rows("\n").unwrap_err()).contains("expected at least one row"));
    }

    #[test]
    fn a_missing_folder_and_a_missing_file_say_how_to_give_one() {
        let none = DataSource::default().files("dart", "dart", "train").unwrap_err().to_string();
        assert!(none.contains("or fetch it with `peftbench fetch --task dart`"), "{none}");
        assert!(none.contains("`dart`") && none.contains("--data") && none.contains("PEFTBENCH_DATA"), "{none}");
        let empty = tempfile::tempdir().unwrap();
        let source = DataSource { folder: Some(empty.path().to_owned()) };
        let missing = source.files("dart", "dart", "train").unwrap_err().to_string();
        assert!(missing.contains("train*.jsonl") && missing.contains("does not exist"), "{missing}");
        assert!(missing.ends_with("with `--data FOLDER`, or fetch it with `peftbench fetch --task dart`"), "{missing}");
        let shared = source.files("sequence/mnist", "vision/mnist", "train").unwrap_err().to_string();
        assert!(shared.ends_with(", or fetch it with `peftbench fetch --task sequence/mnist`"), "{shared}");
        let nowhere = source.files("math/mawps", "math/mawps", "train").unwrap_err().to_string();
        assert!(nowhere.ends_with("with `--data FOLDER`"), "{nowhere}");
    }
}
