//! Names that tell configurations apart: the short name, and behind it only those options in which its namesakes differ.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Canonical JSON of a component (or a list of them) → its label.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    by_json: BTreeMap<String, String>,
}

impl Labels {
    /// Labels for pairs of short name and canonical JSON.
    pub fn of<'a>(components: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut namesakes: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (name, json) in components {
            let name = name_of_entries(json).unwrap_or_else(|| name.to_owned());
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
                let label = if suffix.is_empty() { name.clone() } else { format!("{name} {}", suffix.join(" ")) };
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

/// One component, or a list of them, as tables.
fn components(json: &str) -> Vec<Map<String, Value>> {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    tables(if value.is_array() { value } else { Value::Array(vec![value]) })
}

fn tables(list: Value) -> Vec<Map<String, Value>> {
    let Value::Array(items) = list else { return Vec::new() };
    items.into_iter().filter_map(|item| if let Value::Object(table) = item { Some(table) } else { None }).collect()
}

/// The entries of a component that is put together from others; none of one that is not.
fn entries(components: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
    match components {
        [single] => single.get("methods").cloned().map(tables).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The name of an entry, with its rank.
fn entry_name(entry: &Map<String, Value>) -> String {
    let name = entry.get("type").and_then(Value::as_str).unwrap_or_default();
    entry.get("r").map_or_else(|| name.to_owned(), |rank| format!("{name} r={rank}"))
}

/// What a component that is put together is called: its entries' names.
fn name_of_entries(json: &str) -> Option<String> {
    let names: Vec<String> = entries(&components(json)).iter().map(entry_name).collect();
    (!names.is_empty()).then(|| names.join(" + "))
}

/// The options of one component, or of a list of them, as key and value; those of entries behind the entry's name.
fn options_of(json: &str) -> BTreeSet<(String, String)> {
    let components = components(json);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let entries = entries(&components);
    let named = |entry: &Map<String, Value>| {
        let name = entry.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let kept = entry.clone().into_iter().filter(|(key, _)| key != "type" && key != "r");
        kept.map(|(key, value)| (format!("{name}.{key}"), text(&value))).collect::<Vec<_>>()
    };
    if !entries.is_empty() {
        return entries.iter().flat_map(named).collect();
    }
    components.iter().flatten().filter(|(key, _)| *key != "type").map(|(key, value)| (key.clone(), text(value))).collect()
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

    #[test]
    fn what_is_put_together_is_named_by_its_entries() {
        let of = |rank: usize, ratio: f64| {
            format!(
                r#"[{{"methods":[{{"ratio":{ratio},"type":"sdt"}},{{"r":{rank},"targets":["out_proj"],"type":"lora"}}],"type":"combined"}}]"#
            )
        };
        let (a, b, c) = (of(4, 0.5), of(4, 0.75), of(8, 0.5));
        let labels = Labels::of([a.as_str(), b.as_str(), c.as_str()].map(|json| ("combined", json)).into_iter());
        let expected = ["sdt + lora r=4 sdt.ratio=0.5", "sdt + lora r=4 sdt.ratio=0.75", "sdt + lora r=8"];
        assert_eq!([a, b, c].map(|json| labels.get(&json).to_owned()), expected);
    }
}
