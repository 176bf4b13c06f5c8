//! `plan.parquet`: the expansion of a sweep as a table, a row a planned run. Its columns are whatever the planner knows.

use crate::error::{Result, ResultsError};
use crate::rows::Kind;
use crate::store::Table;
use serde_json::{Map, Value};
use std::path::Path;

/// Writes flat `rows` (JSON objects of numbers, strings, booleans and nulls) to `path`. Columns come in the order they are first seen;
/// a column of whole numbers and fractions becomes one of fractions, and lists and tables are written as their JSON text.
///
/// # Errors
/// A row is no object, a column mixes kinds, or the file cannot be written.
pub fn write_plan(rows: &[Value], path: &Path) -> Result<()> {
    let mut objects = Vec::with_capacity(rows.len());
    for row in rows {
        let object = row.as_object().ok_or_else(|| mismatch("row", "an object", row))?;
        objects.push(object.iter().map(|(key, value)| (key.clone(), flat(value))).collect::<Map<_, _>>());
    }
    let kinds = kinds_of(&objects)?;
    Table::of_objects(kinds.iter().map(|(name, kind)| (name.as_str(), *kind)), &objects)?.write(path)
}

fn flat(value: &Value) -> Value {
    match value {
        Value::Array(_) | Value::Object(_) => Value::String(value.to_string()),
        other => other.clone(),
    }
}

/// Each column's kind, in the order of first sight; a column of nulls only is text.
fn kinds_of(objects: &[Map<String, Value>]) -> Result<Vec<(String, Kind)>> {
    let mut kinds: Vec<(String, Option<Kind>)> = Vec::new();
    for (key, value) in objects.iter().flatten() {
        let found = match value {
            Value::Null => None,
            Value::Bool(_) => Some(Kind::Flag),
            Value::Number(number) if number.is_u64() => Some(Kind::Count),
            Value::Number(_) => Some(Kind::Number),
            _ => Some(Kind::Text),
        };
        match kinds.iter_mut().find(|(name, _)| name == key) {
            None => kinds.push((key.clone(), found)),
            Some((_, known)) => *known = join(*known, found).ok_or_else(|| mismatch(key, "one kind of value in all rows", value))?,
        }
    }
    Ok(kinds.into_iter().map(|(name, kind)| (name, kind.unwrap_or(Kind::Text))).collect())
}

/// The kind that holds both; `None` where there is none.
fn join(a: Option<Kind>, b: Option<Kind>) -> Option<Option<Kind>> {
    match (a, b) {
        (kind, None) | (None, kind) => Some(kind),
        (Some(a), Some(b)) if a == b => Some(Some(a)),
        (Some(Kind::Count | Kind::Number), Some(Kind::Count | Kind::Number)) => Some(Some(Kind::Number)),
        _ => None,
    }
}

fn mismatch(column: &str, expected: &'static str, found: &Value) -> ResultsError {
    ResultsError::Value { column: column.to_owned(), expected, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_become_columns_and_mixed_kinds_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.parquet");
        let rows = [json!({"run_id": "a", "seed": 0, "lr": 1, "note": null}), json!({"run_id": "b", "lr": 0.5, "layers": [1, 2]})];
        write_plan(&rows, &path).unwrap();
        let table = Table::read(&path).unwrap();
        assert_eq!(table.height(), 2);
        assert_eq!(table.names(), ["run_id", "seed", "lr", "note", "layers"]);
        let message = write_plan(&[json!({"a": 1}), json!({"a": "x"})], &path).unwrap_err().to_string();
        assert_eq!(message, "column `a`: expected one kind of value in all rows, found \"x\"");
    }
}
