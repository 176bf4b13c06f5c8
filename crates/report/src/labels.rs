//! Names that tell configurations apart: the short name, and behind it only those options in which its namesakes differ.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Canonical JSON of a component (or a list of them) → its label.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    by_json: BTreeMap<String, String>,
}

impl Labels {
    /// Labels for pairs of short name and canonical JSON.
    pub fn of<'a>(components: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut namesakes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, json) in components {
            namesakes.entry(name).or_default().insert(json);
        }
        let mut by_json = BTreeMap::new();
        for (name, jsons) in namesakes {
            let options: Vec<BTreeSet<(String, String)>> = jsons.iter().map(|json| options_of(json)).collect();
            let shared = options.iter().skip(1).fold(options[0].clone(), |all, one| all.intersection(one).cloned().collect());
            for (json, options) in jsons.iter().zip(&options) {
                // The short name already holds the rank.
                let telling = options.difference(&shared).filter(|(key, _)| key != "r" || !name.contains("r="));
                let suffix: Vec<String> = telling.map(|(key, value)| format!("{key}={value}")).collect();
                let label = if suffix.is_empty() { name.to_owned() } else { format!("{name} {}", suffix.join(" ")) };
                by_json.insert((*json).to_owned(), label);
            }
        }
        Self { by_json }
    }

    /// The label of a component; its JSON where it was not among those given.
    pub fn get<'a>(&'a self, json: &'a str) -> &'a str {
        self.by_json.get(json).map_or(json, String::as_str)
    }

    /// Every label once, in order.
    pub fn all(&self) -> BTreeSet<&str> {
        self.by_json.values().map(String::as_str).collect()
    }
}

/// The options of one component, or of a list of them, as key and value.
fn options_of(json: &str) -> BTreeSet<(String, String)> {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let components = match value {
        Value::Array(items) => items,
        single => vec![single],
    };
    let options = components.into_iter().filter_map(|component| match component {
        Value::Object(options) => Some(options),
        _ => None,
    });
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    options.flatten().filter(|(key, _)| key != "type").map(|(key, value)| (key, text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differing_options_are_named() {
        let a = r#"[{"alpha":8,"dropout":0,"r":8,"type":"lora"}]"#;
        let b = r#"[{"alpha":16,"dropout":0,"r":8,"type":"lora"}]"#;
        let c = r#"[{"type":"full"}]"#;
        let labels = Labels::of([("lora r=8", a), ("lora r=8", b), ("full", c)].into_iter());
        assert_eq!([a, b, c].map(|json| labels.get(json)), ["lora r=8 alpha=8", "lora r=8 alpha=16", "full"]);
    }
}
