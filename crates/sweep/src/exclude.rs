//! Which cells an exclusion leaves out.

use peftbench_spec::canonical::canonical_json;
use peftbench_spec::{LayerSelection, RunSpec, TargetExpr};
use serde_json::Value;

/// Whether every field of `conditions` has the asked value. Options of a method are looked for in one entry at a time, so that
/// `method.type` and `method.r` speak of the same entry; `method = "lora"` means LoRA alone.
pub(crate) fn leaves_out(conditions: &[(String, Value)], spec: &RunSpec) -> bool {
    let Ok(run) = serde_json::to_value(spec) else { return false };
    let holds = |entry: usize, field: &str, wanted: &Value| match field {
        "targets" => serde_json::from_value::<TargetExpr>(wanted.clone()).is_ok_and(|targets| targets == spec.targets),
        "layers" => serde_json::from_value::<LayerSelection>(wanted.clone()).is_ok_and(|layers| layers == spec.layers),
        "method" => has_value(&run["method"], wanted),
        _ => {
            let (head, rest) = field.split_once('.').unwrap_or((field, ""));
            let numbered = rest.split('.').next().is_some_and(|segment| segment.parse::<usize>().is_ok());
            let start = if head == "method" && !numbered { &run[head][entry] } else { &run[head] };
            look_up(start, rest).is_some_and(|found| has_value(found, wanted))
        }
    };
    (0..spec.method.len()).any(|entry| conditions.iter().all(|(field, wanted)| holds(entry, field, wanted)))
}

/// The value at a dotted path; the empty path is the value itself.
fn look_up<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|segment| !segment.is_empty()).try_fold(value, |value, segment| match value {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        _ => value.get(segment),
    })
}

/// Equal as canonical JSON (`8` is `8.0`); a name equals a component of that name, and anything equals the list of it alone.
fn has_value(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Array(items), Value::Array(wanted)) => {
            items.len() == wanted.len() && items.iter().zip(wanted).all(|(a, b)| has_value(a, b))
        }
        (Value::Array(items), _) => items.len() == 1 && has_value(&items[0], wanted),
        (Value::Object(table), Value::String(_)) => table.get("type") == Some(wanted),
        _ => matches!((canonical_json(found), canonical_json(wanted)), (Ok(a), Ok(b)) if a == b),
    }
}

#[cfg(test)]
mod tests {
    use crate::expand::expand;
    use crate::testing::sweep_spec;

    #[test]
    fn excludes_compare_what_is_meant() {
        let grid = "seeds = [0]\n[axes]\nmethod = [\"full\", { type = \"lora\", r = 8 }, [{ type = \"sdt\", r = 4 }, { type = \"lora\", r = 8 }]]\ntrain.epochs = [1, 2]\n";
        let kept = |conditions: &str| {
            let cells = expand(&sweep_spec(&format!("{grid}[[exclude]]\nmatch = {{ {conditions} }}"))).unwrap();
            cells.iter().map(|cell| format!("{} {}", cell.spec.method_label(), cell.spec.train.epochs)).collect::<Vec<_>>().join(", ")
        };
        let all = "full 1, full 2, lora r=8 1, lora r=8 2, sdt r=4 + lora r=8 1, sdt r=4 + lora r=8 2";
        assert_eq!(kept("model = \"other\""), all);
        assert_eq!(kept("method.type = \"full\", train.epochs = 2.0"), all.replace("full 2, ", ""));
        assert_eq!(kept("model = \"m\", method = \"full\""), &all[16..]);
        assert_eq!(kept("method.r = 8.0"), "full 1, full 2");
        assert_eq!(kept("method = \"lora\""), "full 1, full 2, sdt r=4 + lora r=8 1, sdt r=4 + lora r=8 2");
        assert_eq!(kept("method = [\"sdt\", \"lora\"]"), "full 1, full 2, lora r=8 1, lora r=8 2");
        assert_eq!(kept("method = { type = \"sdt\", r = 8 }"), all, "type and rank are of different entries");
        assert_eq!(kept("method.0.type = \"lora\""), "full 1, full 2, sdt r=4 + lora r=8 1, sdt r=4 + lora r=8 2");
        assert_eq!(
            kept("policy = \"static\", layers = \"all\", targets = \"default\", train.epochs = 1"),
            "full 2, lora r=8 2, sdt r=4 + lora r=8 2"
        );
    }
}
