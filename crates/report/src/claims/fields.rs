//! The fields of a run, by the names that a sweep file has for them, so that claims can select by them and pair by them.

use peftbench_results::RunRow;
use peftbench_spec::suggest;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A run as a flat table: dotted field → value. A component's name stands at the field itself and its options below it (`method`,
/// `method.r`). A method that is put together has the names of its entries joined by ` + `, and their options below these names
/// (`method.lora.r`); of two entries of one name the second is `lora 2`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fields(BTreeMap<String, Value>);

/// What reads a field of `train` from a run.
type Read = fn(&RunRow) -> Value;

/// The fields of `train` that can change a result other than by time and memory.
const TRAIN: [(&str, Read); 17] = [
    ("epochs", |run| json!(run.epochs)),
    ("max_steps", |run| json!(run.max_steps.unwrap_or(0))),
    ("batch_size", |run| json!(run.batch_size)),
    ("gradient_accumulation", |run| json!(run.gradient_accumulation)),
    ("lr", |run| json!(run.lr)),
    ("lr_scheduler", |run| json!(run.lr_scheduler)),
    ("warmup_ratio", |run| json!(run.warmup_ratio)),
    ("weight_decay", |run| json!(run.weight_decay)),
    ("beta1", |run| json!(run.beta1)),
    ("beta2", |run| json!(run.beta2)),
    ("eps", |run| json!(run.eps)),
    ("max_grad_norm", |run| json!(run.max_grad_norm.unwrap_or(0.0))),
    ("gradient_checkpointing", |run| json!(run.gradient_checkpointing)),
    ("max_length", |run| json!(run.max_length)),
    ("train_samples", |run| json!(run.train_samples_limit.unwrap_or(0))),
    ("valid_samples", |run| json!(run.valid_samples_limit.unwrap_or(0))),
    ("test_samples", |run| json!(run.test_samples_limit.unwrap_or(0))),
];

/// The components, whose options are open: only the crate that builds one knows them.
const COMPONENTS: [&str; 4] = ["model", "task", "method", "policy"];

/// Fields that are a value of their own. `arch` is the model's architecture, Hugging Face's `model_type`.
const VALUES: [&str; 3] = ["arch", "targets", "layers"];

impl Fields {
    /// The fields of a run.
    pub(crate) fn of(run: &RunRow) -> Self {
        let mut fields = BTreeMap::new();
        put(&mut fields, "model", &parsed(&run.model_json));
        put(&mut fields, "task", &parsed(&run.task_json));
        put(&mut fields, "policy", &parsed(&run.policy_json));
        put_method(&mut fields, &parsed(&run.method_json));
        fields.insert("arch".to_owned(), json!(run.model_arch));
        fields.insert("targets".to_owned(), json!(run.targets));
        fields.insert("layers".to_owned(), json!(run.layers));
        fields.extend(TRAIN.iter().map(|(name, read)| (format!("train.{name}"), read(run))));
        Self(fields)
    }

    /// The value at a field.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// Every field with its value, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(field, value)| (field.as_str(), value))
    }
}

/// Whether `field` is a field of a run.
///
/// # Errors
/// It is not; the error has the nearest that is.
pub(super) fn check(field: &str) -> Result<(), String> {
    let (head, rest) = field.split_once('.').unwrap_or((field, ""));
    let heads = || COMPONENTS.iter().chain(&VALUES).copied().chain(["train"]).collect::<Vec<_>>();
    let train = || TRAIN.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    Err(match head {
        "train" if train().contains(&rest) => return Ok(()),
        "train" => format!("`{rest}` is not a field of `train`; {}", suggest::hint(rest, train())),
        _ if COMPONENTS.contains(&head) => return Ok(()),
        _ if VALUES.contains(&head) && rest.is_empty() => return Ok(()),
        _ if VALUES.contains(&head) => format!("`{head}` is a value of its own and has no field `{rest}`"),
        _ if train().contains(&field) => format!("`{field}` is not a field of a run; did you mean `train.{field}`?"),
        _ => format!("`{head}` is not a field of a run; {}", suggest::hint(head, heads())),
    })
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// A component below `field`.
fn put(fields: &mut BTreeMap<String, Value>, field: &str, component: &Value) {
    let Value::Object(table) = component else { return };
    for (key, value) in table {
        match key.as_str() {
            "type" => fields.insert(field.to_owned(), value.clone()),
            _ => fields.insert(format!("{field}.{key}"), flat(key, value)),
        };
    }
}

/// One method, or the entries of one that is put together.
fn put_method(fields: &mut BTreeMap<String, Value>, methods: &Value) {
    let tables = |list: &Value| list.as_array().into_iter().flatten().filter_map(|item| item.as_object().cloned()).collect::<Vec<_>>();
    let nested = |table: &Map<String, Value>| table.get("methods").map_or_else(|| vec![table.clone()], tables);
    let entries: Vec<Map<String, Value>> = tables(methods).iter().flat_map(nested).collect();
    if let [only] = entries.as_slice() {
        return put(fields, "method", &Value::Object(only.clone()));
    }
    let name = |entry: &Map<String, Value>| entry.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let names: Vec<String> = entries.iter().map(name).collect();
    fields.insert("method".to_owned(), json!(names.join(" + ")));
    for (index, (name, entry)) in names.iter().zip(entries.iter()).enumerate() {
        let place = match names[..index].iter().filter(|before| *before == name).count() {
            0 => name.clone(),
            before => format!("{name} {}", before + 1),
        };
        put(fields, &format!("method.{place}"), &Value::Object(entry.clone()));
    }
}

/// Targets within a method as figures write them; anything else as it is.
fn flat(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("targets", Value::Array(terms)) => json!(terms.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_flat_and_its_entries_have_their_names() {
        let run = RunRow {
            model_json: r#"{"type":"tiny-mamba"}"#.into(),
            method_json: r#"[{"methods":[{"type":"sdt","warmup_steps":30},{"r":8,"targets":["out_proj","x_proj"],"type":"lora"},{"r":2,"type":"lora"}],"type":"combined"}]"#.into(),
            model_arch: Some("mamba".into()),
            lr: 1e-3,
            ..RunRow::default()
        };
        let fields = Fields::of(&run);
        let get = |field: &str| fields.get(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let found = ["method", "method.sdt.warmup_steps", "method.lora.targets", "method.lora 2.r", "model", "arch", "train.lr"].map(get);
        let expected = ["sdt + lora + lora", "30", "out_proj,x_proj", "2", "tiny-mamba", "mamba", "0.001"];
        assert_eq!(found.map(Option::unwrap), expected);
    }

    #[test]
    fn a_wrong_field_is_an_error_with_the_nearest() {
        let problem = |field: &str| check(field).unwrap_err();
        assert_eq!(problem("metod"), "`metod` is not a field of a run; did you mean `method`?");
        assert_eq!(problem("epochs"), "`epochs` is not a field of a run; did you mean `train.epochs`?");
        assert_eq!(problem("train.epoch"), "`epoch` is not a field of `train`; did you mean `epochs`?");
        assert_eq!(problem("layers.x"), "`layers` is a value of its own and has no field `x`");
        assert!(["method.lora.r", "arch", "task.difficulty", "train.lr"].into_iter().all(|field| check(field).is_ok()));
    }
}
