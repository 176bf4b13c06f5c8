//! From data to typed values, with the key of whatever is wrong; and from a key to its line in a TOML source.

use crate::error::{Place, Result, SpecError};
use crate::suggest;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Deserialises JSON data; an error carries the dotted key of the field at fault.
pub fn deserialize<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        reword(&path, &error.into_inner().to_string())
    })
}

/// Turns serde's message for an unknown field into one that offers the nearest right key.
fn reword(path: &str, message: &str) -> SpecError {
    let Some((unknown, known)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) else {
        return SpecError::at(path, message);
    };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let problem = match known.is_empty() {
        true => "unknown key; none is expected here".to_owned(),
        false => format!("unknown key; {}", suggest::hint(unknown, known)),
    };
    match path.ends_with(unknown) {
        true => SpecError::at(path, problem),
        false => SpecError::at(unknown, problem).below_unless_empty(path),
    }
}

impl SpecError {
    fn below_unless_empty(self, prefix: &str) -> Self {
        if prefix.is_empty() { self } else { self.below(prefix) }
    }

    /// The same error with file and line, found by following its key through the TOML `source`.
    pub fn located(self, file: &Path, source: &str) -> Self {
        match self {
            Self::Invalid { at: Place { key, source: None }, problem } => {
                let line = line_of_key(source, &key);
                Self::Invalid { at: Place { key, source: Some((file.to_owned(), line)) }, problem }
            }
            other => other,
        }
    }
}

/// The line (from 1) of the deepest part of the dotted `key` that `source` has; 1 if it has none.
fn line_of_key(source: &str, key: &str) -> usize {
    let Ok(document) = DeTable::parse(source) else { return 1 };
    let mut span = 0..0;
    let segments: Vec<String> = key.replace('[', ".[").split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    follow(document.get_ref(), &segments, &mut span);
    1 + source[..span.start.min(source.len())].matches('\n').count()
}

fn follow(table: &DeTable<'_>, segments: &[String], span: &mut Range<usize>) {
    let Some((first, rest)) = segments.split_first() else { return };
    // A quoted key may itself hold dots (`"train.lr" = …`): try the longest spelling first.
    for taken in (0..=rest.len()).rev() {
        let name = std::iter::once(first.as_str()).chain(rest[..taken].iter().map(String::as_str)).collect::<Vec<_>>().join(".");
        let entry = table.iter().find(|(key, _)| key.get_ref().as_ref() == name);
        if let Some((key, value)) = entry {
            *span = key.span();
            return follow_value(value, &rest[taken..], span);
        }
    }
}

fn follow_value(value: &Spanned<DeValue<'_>>, segments: &[String], span: &mut Range<usize>) {
    match (value.get_ref(), segments.split_first()) {
        (DeValue::Table(table), Some(_)) => follow(table, segments, span),
        (DeValue::Array(items), Some((index, rest))) => {
            let position = index.trim_matches(['[', ']']).parse::<usize>().ok();
            if let Some(item) = position.and_then(|i| items.get(i)) {
                *span = item.span();
                follow_value(item, rest, span);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_tables_arrays_and_quoted_names() {
        let source = "name = \"a\"\n[base.train]\nlr = 1\n[axes]\nmethod = [\n  \"full\",\n  { type = \"lora\", rnk = 8 },\n]\n\"train.epochs\" = [1]\n";
        for (key, line) in [("base.train.lr", 3), ("axes.method[1].rnk", 7), ("axes.train.epochs", 9), ("axes.none", 4), ("nothing", 1)] {
            assert_eq!(line_of_key(source, key), line, "{key}");
        }
    }
}
