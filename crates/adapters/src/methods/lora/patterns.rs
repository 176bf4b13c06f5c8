//! `rank_pattern` and `alpha_pattern`: values for some modules, by regular expressions on their paths.

use peftbench_spec::SpecError;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values by pattern. As in peft, a pattern stands for the modules whose path it matches from its beginning, or from behind a dot, to its
/// end. Where two patterns give one module different values it is an error, where peft takes the first: a table has no order here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern<T>(BTreeMap<String, T>);

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy + PartialEq> Pattern<T> {
    /// The values with the keys at which they stand; `option` is the pattern's own key.
    pub(crate) fn entries(&self, option: &str) -> peftbench_spec::error::Result<Vec<(String, T)>> {
        let entry = |(pattern, value): (&String, &T)| {
            expression(option, pattern)?;
            Ok((format!("{option}.{pattern}"), *value))
        };
        self.0.iter().map(entry).collect()
    }

    /// The value for the module `path`, if a pattern stands for it.
    pub(crate) fn find(&self, option: &str, path: &str) -> peftbench_spec::error::Result<Option<T>> {
        let mut found: Option<(&str, T)> = None;
        for (pattern, &value) in &self.0 {
            if !expression(option, pattern)?.is_match(path) {
                continue;
            }
            match found {
                Some((other, before)) if before != value => {
                    let problem = format!("`{other}` and `{pattern}` give `{path}` different values; make one of them narrower");
                    return Err(SpecError::at(option, problem));
                }
                _ => found = Some((pattern, value)),
            }
        }
        Ok(found.map(|(_, value)| value))
    }
}

fn expression(option: &str, pattern: &str) -> peftbench_spec::error::Result<Regex> {
    let whole = format!(r"^(?:.*\.)?(?:{pattern})$");
    Regex::new(&whole).map_err(|e| SpecError::at(format!("{option}.{pattern}"), format!("not a regular expression: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(entries: &[(&str, usize)]) -> Pattern<usize> {
        Pattern(entries.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect())
    }

    #[test]
    fn a_pattern_stands_for_whole_segments_at_the_end_of_a_path() {
        let ranks = pattern(&[("q_proj", 2), (r"layers\.1\.mlp\.up_proj", 6), (r"layers.(0|3).mlp.\w+", 5)]);
        let find = |path: &str| ranks.find("rank_pattern", path).unwrap();
        assert_eq!(find("model.layers.0.self_attn.q_proj"), Some(2));
        assert_eq!(find("q_proj"), Some(2));
        assert_eq!(find("model.layers.1.mlp.up_proj"), Some(6));
        assert_eq!(find("model.layers.3.mlp.down_proj"), Some(5));
        assert_eq!(find("model.layers.2.mlp.up_proj"), None);
        assert_eq!(find("model.layers.0.self_attn.iq_proj"), None);
    }

    #[test]
    fn patterns_that_contradict_each_other_or_are_none_are_errors() {
        let error = pattern(&[("up_proj", 2), (r"mlp\.up_proj", 6)]).find("rank_pattern", "model.layers.1.mlp.up_proj").unwrap_err();
        assert!(error.to_string().contains("give `model.layers.1.mlp.up_proj` different values"), "{error}");
        let error = pattern(&[("(", 2)]).entries("rank_pattern").unwrap_err().to_string();
        assert!(error.starts_with("`rank_pattern.(`: not a regular expression"), "{error}");
    }
}
