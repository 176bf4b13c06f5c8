//! Rows out of the files of a published data set: Parquet, JSON and JSON Lines; of images, Parquet.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use peftbench_datasets::tasks::published::Columns;
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;

/// Rows of a Parquet file that are held at a time.
const ROWS_AT_A_TIME: usize = 64;

/// Every row of a file, of which the `columns` are kept. The error says what is wrong with the file.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<Columns>, String> {
    let rows = match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => parquet(path)?.map(|row| row.map(|row| table(&row))).collect::<Result<_, _>>()?,
        Some("jsonl") => read_lines(path)?,
        _ => read_json(path)?,
    };
    let keep = |mut row: Columns| {
        row.retain(|name, _| columns.contains(&name.as_str()));
        row
    };
    Ok(rows.into_iter().map(keep).collect())
}

/// The rows of a Parquet file, of which only a few are held at a time.
fn parquet(path: &Path) -> Result<impl Iterator<Item = Result<Row, String>> + use<>, String> {
    let rows = open(path)?.into_iter().with_batch_size(ROWS_AT_A_TIME);
    Ok(rows.map(|row| row.map_err(|error| error.to_string())))
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    SerializedFileReader::new(file).map_err(|error| error.to_string())
}

/// How many rows a Parquet file has.
pub fn count(path: &Path) -> Result<u32, String> {
    let count = open(path)?.metadata().file_metadata().num_rows();
    u32::try_from(count).map_err(|_| format!("expected at most {} rows, found {count}", u32::MAX))
}

/// One image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRow {
    /// Its file.
    pub bytes: Vec<u8>,
    /// The name its file had.
    pub path: Option<String>,
    /// What is known of it.
    pub known: Columns,
}

/// The images of a Parquet file, one after the other: the files are in the column `image`, what is kept of the others in `columns`. The
/// outer error says what is wrong with the file, an inner one what with that row.
pub fn images<'a>(
    path: &Path,
    image: &'a str,
    columns: &'a [&'a str],
) -> Result<impl Iterator<Item = Result<ImageRow, String>> + use<'a>, String> {
    Ok(parquet(path)?.map(move |row| image_row(&row?, image, columns)))
}

fn image_row(row: &Row, image: &str, columns: &[&str]) -> Result<ImageRow, String> {
    let fields = || row.get_column_iter();
    let Some((_, Field::Group(file))) = fields().find(|(name, _)| *name == image) else {
        return Err(format!("column `{image}`: expected a group of `bytes` and `path`"));
    };
    let field = |name: &str| file.get_column_iter().find(|(known, _)| *known == name).map(|(_, field)| field);
    let Some(Field::Bytes(bytes)) = field("bytes") else {
        return Err(format!("column `{image}`: expected the bytes of a file in its `bytes`"));
    };
    let path = if let Some(Field::Str(path)) = field("path") { Some(path.clone()) } else { None };
    let known = fields().filter(|(name, _)| columns.contains(&name.as_str())).map(|(name, field)| (name.clone(), value(field)));
    Ok(ImageRow { bytes: bytes.data().to_vec(), path, known: known.collect() })
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
    fn images_are_files_in_a_group_beside_what_is_known_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("colours.parquet");
        std::fs::write(&path, include_bytes!("../../tests/fixtures/colours.parquet")).unwrap();
        let rows: Vec<ImageRow> = images(&path, "img", &["label"]).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!((rows.len(), count(&path).unwrap()), (4, 4));
        assert!(rows.iter().all(|row| row.bytes.starts_with(b"\x89PNG")));
        assert_eq!((rows[0].path.as_deref(), rows[1].path.as_deref()), (None, Some("1.png")));
        assert_eq!(Value::Object(rows[3].known.clone()), json!({"label": 9}));
        let error = |path: &Path, column: &str| images(path, column, &[]).unwrap().next().unwrap().unwrap_err();
        assert_eq!(error(&path, "label"), "column `label`: expected a group of `bytes` and `path`");
        std::fs::write(&path, PARQUET).unwrap();
        assert_eq!(error(&path, "choices"), "column `choices`: expected the bytes of a file in its `bytes`");
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
