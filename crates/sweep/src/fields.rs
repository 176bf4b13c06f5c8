//! The fields of a run as dotted paths: which there are, and how a value gets to one.

use peftbench_spec::{Component, RunSpec, suggest};
use serde_json::{Map, Value, json};

/// Puts `value` at the dotted `field` of a run that is still plain data.
pub(crate) fn set(run: &mut Value, field: &str, value: Value) -> Result<(), String> {
    let segments: Vec<&str> = field.split('.').collect();
    let Some((last, above)) = segments.split_last() else { return Ok(()) };
    let mut place = run;
    for (depth, segment) in above.iter().enumerate() {
        let path = segments[..=depth].join(".");
        place = into_table(child(place, segment)?, &path, segments[depth + 1])?;
    }
    let place = child(place, last)?;
    match (place, value) {
        (Value::Object(old), Value::Object(new)) if field == "train" => old.extend(new),
        (place, value) => *place = value,
    }
    Ok(())
}

/// The value at the dotted `field` of a run that is plain data, null where there is none. A field of a list of components is the list of
/// their values.
pub(crate) fn get(run: &Value, field: &str) -> Value {
    let Some((first, rest)) = (!field.is_empty()).then(|| field.split_once('.').unwrap_or((field, ""))) else { return run.clone() };
    match (run, first.parse::<usize>()) {
        (Value::Array(items), Ok(index)) => items.get(index).map(|item| get(item, rest)).unwrap_or_default(),
        (Value::Array(items), Err(_)) => items.iter().map(|item| get(item, field)).collect(),
        (value, _) => value.get(first).map(|value| get(value, rest)).unwrap_or_default(),
    }
}

/// The value at `segment` of a table or a list, made where a table has none.
fn child<'a>(place: &'a mut Value, segment: &str) -> Result<&'a mut Value, String> {
    match place {
        Value::Object(table) => Ok(table.entry(segment).or_insert(Value::Null)),
        Value::Array(items) => {
            let count = items.len();
            let index = segment.parse::<usize>().ok().filter(|&i| i < count);
            index.and_then(|i| items.get_mut(i)).ok_or_else(|| format!("expected the number of an entry below {count}, found `{segment}`"))
        }
        other => Err(format!("cannot be set below {other}")),
    }
}

/// Makes `value` fit to hold the option `next`: a shorthand becomes a table, a list of one method stands for its entry.
fn into_table<'a>(value: &'a mut Value, path: &str, next: &str) -> Result<&'a mut Value, String> {
    let entries = value.as_array().map(Vec::len);
    let value = match entries {
        None => value,
        Some(_) if next.parse::<usize>().is_ok() => return Ok(value),
        Some(1) => &mut value[0],
        Some(entries) => return Err(format!("`{path}` is a list of {entries}: say which entry is meant, e.g. `{path}.0.{next}`")),
    };
    match value {
        Value::Null => *value = Value::Object(Map::new()),
        Value::String(name) => *value = json!({ "type": name }),
        Value::Object(_) => {}
        other => return Err(format!("cannot be set: `{path}` is {other}, not a table")),
    }
    Ok(value)
}

/// What is wrong with `field` as a path into a run. Options of components are open: only the crate that builds one knows them.
pub(crate) fn check(field: &str) -> Result<(), String> {
    let (head, rest) = field.split_once('.').unwrap_or((field, ""));
    let unknown = |name: &str, names: &[&str]| format!("`{name}` is not a field of a run; {}", suggest::hint(name, names.iter().copied()));
    let run = blank_run();
    let names = |value: &Value| value.as_object().map(|table| table.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let fields = names(&run);
    let train: Vec<String> = names(&run["train"]);
    fn borrowed(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }
    match head {
        _ if !fields.iter().any(|name| name == head) => {
            // A field of `train` written without its table is the likeliest slip.
            match train.iter().any(|name| name == head) {
                true => Err(format!("`{head}` is not a field of a run; did you mean `train.{head}`?")),
                false => Err(unknown(head, &borrowed(&fields))),
            }
        }
        "train" if !rest.is_empty() && !train.iter().any(|name| name == rest) => {
            Err(format!("`{rest}` is not a field of `train`; {}", suggest::hint(rest, borrowed(&train))))
        }
        "targets" | "layers" | "seed" | "init_adapter" | "allow_overlap" | "evaluate_test" if !rest.is_empty() => {
            Err(format!("`{head}` is a value of its own and has no field `{rest}`"))
        }
        _ => Ok(()),
    }
}

/// Any run, as data: it has every field.
fn blank_run() -> Value {
    let run = json!({"model": "m", "task": "t", "method": "none"});
    // What is left out of the data of a run that has none of it.
    let every = |run| RunSpec {
        init_adapter: Some(String::new()),
        forgetting: Some(Component::named("")),
        allow_overlap: true,
        evaluate_test: false,
        ..run
    };
    RunSpec::from_value(run).ok().and_then(|run| serde_json::to_value(every(run)).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expand::expand;
    use crate::testing::sweep_spec;

    #[test]
    fn values_reach_tables_shorthands_and_entries_of_lists() {
        let only = |text: &str| expand(&sweep_spec(&format!("seeds = [0]\n[axes]\n{text}"))).unwrap().remove(0).spec;
        let spec = only("method.r = [8]\ntask.size = [3]");
        assert_eq!((spec.method_label().as_str(), &spec.task.options["size"]), ("full r=8", &json!(3)));
        // The option is written before the method it belongs to, and still lands in it.
        let spec = only("\"method.r\" = [8]\nmethod = [{ type = \"lora\", r = 1, dropout = 0.1 }]");
        assert_eq!((spec.method_label().as_str(), &spec.method[0].options["dropout"]), ("lora r=8", &json!(0.1)));
        let spec = only("\"method.1.r\" = [8]\nmethod = [[\"sdt\", \"lora\"]]");
        assert_eq!(spec.method_label(), "sdt + lora r=8");
        let spec = only("\"train.lr\" = [0.5]\ntrain = [{ epochs = 9 }]\n\"policy.type\" = [\"ist\"]\n\"policy.every\" = [4]");
        assert_eq!((spec.train.lr, spec.train.epochs, spec.policy.name.as_str()), (0.5, 9, "ist"));
        let mut sweep = sweep_spec("axes.train = [{ epochs = 9 }]");
        sweep.base.insert("train".into(), json!({"batch_size": 2}));
        assert_eq!(expand(&sweep).unwrap()[0].spec.train.batch_size, 2, "the base's train is kept");
    }

    #[test]
    fn values_are_found_by_their_fields() {
        let run = json!({"task": {"type": "t", "train": 3}, "method": [{"type": "sdt"}, {"type": "lora", "r": 8}], "seed": 0});
        for (field, value) in [
            ("seed", json!(0)),
            ("task", json!({"type": "t", "train": 3})),
            ("task.train", json!(3)),
            ("method.type", json!(["sdt", "lora"])),
            ("method.1.r", json!(8)),
            ("method.r", json!([null, 8])),
            ("train.epochs", Value::Null),
        ] {
            assert_eq!(get(&run, field), value, "{field}");
        }
    }

    #[test]
    fn fields_that_most_runs_leave_out_can_be_given() {
        let only = |text: &str| expand(&sweep_spec(&format!("seeds = [0]\n[axes]\n{text}"))).unwrap().remove(0).spec;
        let spec = only("forgetting = [\"text/wikitext2\"]\nallow_overlap = [true]\ninit_adapter = [\"0f\"]");
        assert_eq!(spec.forgetting.map(|task| task.name).as_deref(), Some("text/wikitext2"));
        assert_eq!((spec.allow_overlap, spec.init_adapter.as_deref()), (true, Some("0f")));
        assert!(check("forgetting.length").is_ok(), "an option of the task");
        assert!(check("allow_overlap.x").is_err());
    }
}
