//! Rows out of the files of a published data set: Parquet, JSON and JSON Lines.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use peftbench_datasets::tasks::published::Columns;
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;

/// Every row of a file, of which the `columns` are kept. The error says what is wrong with the file.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<Columns>, String> {
    let rows = match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => read_parquet(path)?,
        Some("jsonl") => read_lines(path)?,
        _ => read_json(path)?,
    };
    let keep = |mut row: Columns| {
        row.retain(|name, _| columns.contains(&name.as_str()));
        row
    };
    Ok(rows.into_iter().map(keep).collect())
}

fn read_parquet(path: &Path) -> Result<Vec<Columns>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    let rows = reader.get_row_iter(None).map_err(|error| error.to_string())?;
    rows.map(|row| row.map(|row| table(&row)).map_err(|error| error.to_string())).collect()
}

fn table(row: &Row) -> Columns {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// A field as JSON; bytes that are no text, dates and decimals, which no task reads, become null.
fn value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, Value::from),
        Field::Group(row) => Value::Object(table(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        _ => Value::Null,
    }
}

fn read_lines(path: &Path) -> Result<Vec<Columns>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1))).collect()
}

/// A list of rows, or an object with the list as `data`.
fn read_json(path: &Path) -> Result<Vec<Columns>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let rows = match serde_json::from_str(&text).map_err(|error| error.to_string())? {
        Value::Object(mut table) => table.remove("data").unwrap_or(Value::Null),
        list => list,
    };
    serde_json::from_value::<Vec<Map<String, Value>>>(rows).map_err(|_| "expected a list of objects".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Written by pyarrow 26.0.1 (tests/fixtures/make_parquet.py): text, a number, a list of strings, a list of lists, a table of lists.
    const PARQUET: &[u8] = include_bytes!("../../tests/fixtures/rows.parquet");

    #[test]
    fn a_file_of_pyarrow_is_read_with_its_lists_and_tables() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        std::fs::write(&path, PARQUET).unwrap();
        let rows = read(&path, &["question", "label", "endings", "tripleset", "choices"]).unwrap();
        let expected = [
            json!({"question": "Wer, wo? é", "label": 0, "endings": ["a", "b"], "tripleset": [["s", "p", "o"], ["s", "q", "r"]],
                "choices": {"text": ["x", "y"], "label": ["A", "B"]}}),
            json!({"question": "", "label": -1, "endings": [], "tripleset": [["t", "p", "o"]], "choices": {"text": [], "label": []}}),
        ];
        assert_eq!(rows.into_iter().map(Value::Object).collect::<Vec<_>>(), expected);
        std::fs::write(&path, &PARQUET[..PARQUET.len() / 2]).unwrap();
        assert!(read(&path, &["question"]).is_err());
    }

    #[test]
    fn json_is_read_as_a_list_as_a_table_of_data_or_by_lines() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            read(&path, &["a"]).map(|rows| rows.len())
        };
        assert_eq!(read("x.json", r#"[{"a": 1, "b": 2}, {"a": 3}]"#), Ok(2));
        assert_eq!(read("y.json", r#"{"version": 1, "data": [{"a": 1}]}"#), Ok(1));
        assert_eq!(read("z.jsonl", "{\"a\": 1}\n\n{\"a\": 2}\n"), Ok(2));
        assert!(read("z.jsonl", "{\"a\": 1}\n[").unwrap_err().starts_with("line 2: "));
        assert_eq!(read("x.json", "[1]"), Err("expected a list of objects".to_owned()));
    }
}
