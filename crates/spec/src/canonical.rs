//! Canonical JSON and the run id made from it.

use crate::error::{Result, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// The identity of a run: the first 16 hex digits of BLAKE3 over the canonical JSON of its resolved spec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// The id of `spec`.
    pub fn of<T: Serialize>(spec: &T) -> Result<Self> {
        let text = canonical_json(spec)?;
        Ok(Self(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()))
    }

    /// Reads an id as printed.
    pub fn parse(text: &str) -> Result<Self> {
        match text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            true => Ok(Self(text.to_owned())),
            false => Err(SpecError::at("run_id", format!("expected 16 hex digits, found `{text}`"))),
        }
    }

    /// The 16 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// JSON with sorted keys, no spaces, shortest round-trip numbers, and integral floats written as integers (`8.0` is `8`), so that
/// equal values have equal bytes however they were written.
pub fn canonical_json<T: Serialize>(value: &T) -> Result<String> {
    let value = serde_json::to_value(value).map_err(|error| SpecError::at("", format!("cannot be written as JSON: {error}")))?;
    let mut text = String::new();
    write_canonical(&value, &mut text);
    Ok(text)
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(item, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Number(number) => match number.as_f64() {
            // 2^53: every integral float below it is exact as an integer.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9.007_199_254_740_992e15 => {
                out.push_str(&(float as i64).to_string());
            }
            _ => out.push_str(&number.to_string()),
        },
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn order_and_number_spelling_do_not_matter() {
        let a = canonical_json(&json!({"b": 8.0, "a": [1e-3, true, null]})).unwrap();
        let b = canonical_json(&json!({"a": [0.001, true, null], "b": 8})).unwrap();
        assert_eq!(a, b);
        assert_eq!(a, r#"{"a":[0.001,true,null],"b":8}"#);
    }

    #[test]
    fn ids_are_sixteen_hex_digits() {
        let id = RunId::of(&json!({"seed": 1})).unwrap();
        assert_eq!(RunId::parse(id.as_str()).unwrap(), id);
        assert!(RunId::parse("xyz").is_err());
    }

    proptest! {
        #[test]
        fn canonical_text_parses_back_to_itself(float in -1e12f64..1e12, int in any::<i32>(), text in ".{0,12}") {
            let once = canonical_json(&json!({"f": float, "i": int, "s": text})).unwrap();
            let again = canonical_json(&serde_json::from_str::<Value>(&once).unwrap()).unwrap();
            prop_assert_eq!(once, again);
        }
    }
}
