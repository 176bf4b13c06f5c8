//! A selection over fields of runs.

use super::fields::{self, Fields};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Which runs are meant: field → the values it may have. A run is selected that has one of them in every field; the empty selection selects
/// every run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection(BTreeMap<String, Vec<Value>>);

impl Selection {
    /// Reads the table form. `method = "lora"` and `method.type = "lora"` are the same; a list is a choice; `*` in a text stands for
    /// anything, except in `targets`, where it is a target.
    fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(table) = value else {
            return Err(format!("expected a table of fields of a run, found {value}"));
        };
        let mut conditions = BTreeMap::new();
        flatten("", table, &mut conditions)?;
        conditions.keys().try_for_each(|field| fields::check(field))?;
        Ok(Self(conditions))
    }

    /// Whether the run is meant.
    pub(super) fn selects(&self, run: &Fields) -> bool {
        self.0.keys().all(|field| self.holds(field, run))
    }

    /// Whether the run has what is asked for in this field; true where nothing is.
    pub(super) fn holds(&self, field: &str, run: &Fields) -> bool {
        let Some(wanted) = self.0.get(field) else { return true };
        run.get(field).is_some_and(|found| wanted.iter().any(|wanted| is_value(field, found, wanted)))
    }

    /// What is asked for in a field.
    pub(super) fn asked(&self, field: &str) -> Option<&[Value]> {
        self.0.get(field).map(Vec::as_slice)
    }

    /// The fields it looks at, in order.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Both conditions. Where both ask for a field, `other` says what.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.0.extend(other.0.clone());
        both
    }

    /// Every text asked for in a field, as names to look up.
    pub(super) fn names(&self, field: &str) -> impl Iterator<Item = &str> {
        self.asked(field).into_iter().flatten().filter_map(Value::as_str)
    }
}

impl<'de> Deserialize<'de> for Selection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn flatten(above: &str, table: Map<String, Value>, into: &mut BTreeMap<String, Vec<Value>>) -> Result<(), String> {
    for (key, value) in table {
        let field = match (above, key.as_str()) {
            ("", _) => key,
            (_, "type") => above.to_owned(),
            _ => format!("{above}.{key}"),
        };
        match value {
            Value::Object(below) => flatten(&field, below, into)?,
            Value::Array(choice) if choice.is_empty() => return Err(format!("the empty list of `{field}` selects nothing")),
            Value::Array(choice) => drop(into.insert(field, choice)),
            single => drop(into.insert(field, vec![single])),
        }
    }
    Ok(())
}

fn is_value(field: &str, found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::String(found), Value::String(wanted)) if field.ends_with("targets") => terms(found) == terms(wanted),
        (Value::String(found), Value::String(wanted)) => is_like(found, wanted),
        (Value::Number(found), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        _ => found == wanted,
    }
}

/// The terms of a target expression, whatever their order.
fn terms(targets: &str) -> Vec<&str> {
    let mut terms: Vec<&str> = targets.split(',').map(str::trim).collect();
    terms.sort_unstable();
    terms
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
pub(super) fn is_like(text: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(text) = text.strip_prefix(start) else { return false };
    (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)).any(|cut| is_like(&text[cut..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_results::RunRow;
    use serde_json::json;

    fn selection(value: Value) -> Selection {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_star_stands_for_anything() {
        let like = |text: &str| ["mamba-*", "*mamba-130m*", "glue/*"].map(|pattern| is_like(text, pattern));
        assert_eq!(like("state-spaces/mamba-130m-hf"), [false, true, false]);
        assert_eq!(like("mamba-130m"), [true, true, false]);
        assert_eq!(like("glue/rte"), [false, false, true]);
    }

    #[test]
    fn every_field_must_have_one_of_its_values() {
        let run = Fields::of(&RunRow {
            method_json: r#"[{"type":"lora","r":8}]"#.into(),
            targets: "out_proj,in_proj".into(),
            epochs: 4,
            ..RunRow::default()
        });
        let selects = |value: Value| selection(value).selects(&run);
        assert!(selects(json!({})));
        assert!(selects(json!({"method": "lora", "targets": ["x_proj", "in_proj, out_proj"]})));
        assert!(selects(json!({"method": {"type": ["dora", "lora"], "r": 8.0}, "train": {"epochs": 4}})));
        assert!(!selects(json!({"method": "lora", "targets": "in_proj"})));
        assert!(!selects(json!({"targets": "*"})), "a star is a target");
        assert!(!selects(json!({"method": {"num_virtual_tokens": 4}})));
    }

    #[test]
    fn what_cannot_select_is_an_error() {
        let error = |value: Value| serde_json::from_value::<Selection>(value).unwrap_err().to_string();
        assert!(error(json!({"train": {"epoch": 3}})).contains("did you mean `epochs`?"));
        assert!(error(json!({"method": []})).contains("the empty list of `method` selects nothing"));
        assert!(error(json!("lora")).contains("expected a table of fields of a run"));
    }
}
