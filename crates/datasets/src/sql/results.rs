//! Whether two results say the same, as `result_eq` of the official test-suite evaluator: the same rows under some order of the columns,
//! in the same order where the gold query asks for one, as often in any case.

use super::sandbox::Value;
use crate::metrics::python::float_text;
use std::cmp::Ordering;

/// Whether `predicted` is `gold` up to the order of columns, and of rows unless `ordered`.
pub fn same_result(gold: &[Vec<Value>], predicted: &[Vec<Value>], ordered: bool) -> bool {
    let [Some(first), Some(other)] = [gold.first(), predicted.first()] else { return gold.len() == predicted.len() };
    if gold.len() != predicted.len() || first.len() != other.len() || !same_unordered_rows(gold, predicted, ordered) {
        return false;
    }
    let columns =
        |rows: &[Vec<Value>]| -> Vec<Vec<Value>> { (0..first.len()).map(|k| rows.iter().map(|row| plain(&row[k])).collect()).collect() };
    match_columns(&columns(gold), &columns(predicted), &mut Vec::new(), ordered)
}

/// The evaluator's first look: rows with their values sorted as text. It tells apart some rows that are equal but for the type of a
/// number (3 and 3.0 sort differently), which therefore are not the same here either.
fn same_unordered_rows(gold: &[Vec<Value>], predicted: &[Vec<Value>], ordered: bool) -> bool {
    let sorted = |rows: &[Vec<Value>]| -> Vec<Vec<Value>> {
        let mut all: Vec<Vec<Value>> = rows
            .iter()
            .map(|row| {
                let mut row: Vec<&Value> = row.iter().collect();
                row.sort_by_cached_key(|value| sort_text(value));
                row.into_iter().map(plain).collect()
            })
            .collect();
        if !ordered {
            all.sort_by(|a, b| compare_rows(a, b));
            all.dedup();
        }
        all
    };
    sorted(gold) == sorted(predicted)
}

/// Assigns to each column of `gold` one of `predicted`, those in `chosen` first.
fn match_columns(gold: &[Vec<Value>], predicted: &[Vec<Value>], chosen: &mut Vec<usize>, ordered: bool) -> bool {
    let k = chosen.len();
    if k == gold.len() {
        return true;
    }
    for candidate in 0..predicted.len() {
        if chosen.contains(&candidate) {
            continue;
        }
        chosen.push(candidate);
        let fits = match ordered {
            true => gold[k] == predicted[candidate],
            false => {
                let here: Vec<usize> = (0..=k).collect();
                sorted_rows(gold, &here) == sorted_rows(predicted, chosen)
            }
        };
        if fits && match_columns(gold, predicted, chosen, ordered) {
            return true;
        }
        chosen.pop();
    }
    false
}

/// The rows of these columns, sorted.
fn sorted_rows<'a>(columns: &'a [Vec<Value>], chosen: &[usize]) -> Vec<Vec<&'a Value>> {
    let mut rows: Vec<Vec<&Value>> =
        (0..columns[0].len()).map(|row| chosen.iter().map(|&column| &columns[column][row]).collect()).collect();
    rows.sort_by(|a, b| a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal));
    rows
}

/// The value with numbers that are equal in Python made equal: a whole REAL is an INTEGER.
fn plain(value: &Value) -> Value {
    match value {
        Value::Real(number) if number.fract() == 0.0 && number.abs() < 9.0e18 => Value::Integer(*number as i64),
        other => other.clone(),
    }
}

/// Python's `str(x) + str(type(x))`.
fn sort_text(value: &Value) -> String {
    match value {
        Value::Null => "None<class 'NoneType'>".to_owned(),
        Value::Integer(number) => format!("{number}<class 'int'>"),
        Value::Real(number) => format!("{}<class 'float'>", float_text(*number)),
        Value::Text(text) => format!("{text}<class 'str'>"),
        Value::Blob(bytes) => format!("b'{}'<class 'bytes'>", bytes.escape_ascii()),
    }
}

fn compare_rows(a: &[Value], b: &[Value]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Any total order.
fn compare(a: &Value, b: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) => 1,
        Value::Real(_) => 2,
        Value::Text(_) => 3,
        Value::Blob(_) => 4,
    };
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => kind(a).cmp(&kind(b)),
    }
}
