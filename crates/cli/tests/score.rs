//! `peftbench score`: files of predictions against a task, or by metrics of one's own choice.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Playground;
use serde_json::{Value, json};

const TASK: &str = "{ type = \"world/sentiment\", test = 12 }";

/// Predictions for the items of [`TASK`], made from its examples.
fn predictions(of: impl Fn(usize, &peftbench_datasets::Example) -> Option<Value>) -> String {
    let task = peftbench_spec::Component::parse(TASK).unwrap();
    let splits = peftbench_datasets::tasks::build(&task).unwrap().load(&peftbench_datasets::DataSource::default()).unwrap();
    let lines = splits.test.iter().enumerate().filter_map(|(index, example)| of(index, example));
    lines.map(|line| format!("{line}\n")).collect()
}

fn json_of(playground: &Playground, arguments: &[&str]) -> Value {
    let ran = playground.expect(0, &[&["score", "--json"], arguments].concat());
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_task_is_scored_with_missing_and_unknown_ids_counted() {
    let playground = Playground::new();
    let right = |example: &peftbench_datasets::Example| json!({"id": example.id, "prediction": example.answer});
    playground.write("all.jsonl", &predictions(|_, example| Some(right(example))));
    let all = json_of(&playground, &["--task", TASK, "--predictions", "all.jsonl"]);
    assert_eq!((&all["items"], &all["missing"], &all["unknown"]), (&json!(12), &json!([]), &json!([])));
    assert_eq!((&all["metrics"][0]["name"], &all["metrics"][0]["value"]), (&json!("accuracy"), &json!(1.0)));
    assert_eq!((&all["task"]["type"], &all["task"]["test"], &all["split"]), (&json!("world/sentiment"), &json!(12), &json!("test")));

    let some = predictions(|index, example| (index >= 3).then(|| right(example))) + "{\"id\": \"elsewhere\", \"prediction\": \"x\"}\n";
    playground.write("some.jsonl", &some);
    let arguments = ["--task", TASK, "--predictions", "some.jsonl"];
    let scored = json_of(&playground, &arguments);
    assert_eq!((scored["missing"].as_array().unwrap().len(), &scored["unknown"]), (3, &json!(["elsewhere"])));
    assert_eq!((&scored["metrics"][0]["value"], &scored["metrics"][0]["n_items"]), (&json!(0.75), &json!(12)));
    let given = json_of(&playground, &[&arguments[..], &["--only-given"]].concat());
    assert_eq!((&given["metrics"][0]["value"], &given["metrics"][0]["n_items"]), (&json!(1.0), &json!(9)));

    let ran = playground.expect(0, &[&["score"], &arguments[..]].concat());
    assert!(
        ran.stdout.starts_with(
            "test of world/sentiment: 12 items scored; 3 missing (scored as empty), 1 unknown (left out), the first `elsewhere`\n"
        ),
        "{}",
        ran.stdout
    );
    let accuracy: Vec<&str> = ran.stdout.lines().find(|line| line.starts_with("accuracy")).unwrap().split_whitespace().collect();
    assert_eq!(accuracy, ["accuracy", "0.7500", "0.1250", "12"], "{}", ran.stdout);
}

#[test]
fn a_file_with_its_own_references_needs_no_task() {
    let playground = Playground::new();
    playground.write(
        "own.jsonl",
        "{\"id\": 1, \"prediction\": \"the cat sat\", \"references\": [\"a cat sat\", \"the cat sat\"]}\n{\"id\": 2, \"prediction\": \"dogs\", \"reference\": \"dog\"}\n",
    );
    let arguments =
        ["--metric", "exact_match", "--metric", "{ type = \"rouge\", types = [\"rouge1\"], stemmer = true }", "--predictions", "own.jsonl"];
    let scored = json_of(&playground, &arguments);
    let values: Vec<_> =
        scored["metrics"].as_array().unwrap().iter().map(|value| (value["name"].clone(), value["value"].clone())).collect();
    assert_eq!(values, [(json!("exact_match"), json!(0.5)), (json!("rouge1"), json!(1.0))]);
    let ran = playground.expect(3, &["score", "--metric", "rogue", "--predictions", "own.jsonl"]);
    assert!(ran.error().contains("unknown metric `rogue`; did you mean `rouge`?"), "{}", ran.stderr);
    let ran = playground.expect(7, &["score", "--metric", "exec_accuracy", "--predictions", "own.jsonl"]);
    assert!(ran.error().contains("item 1 lacks the database"), "{}", ran.stderr);
    playground.write("none.jsonl", "{\"id\": 1, \"prediction\": \"x\"}\n");
    let ran = playground.expect(7, &["score", "--metric", "bleu", "--predictions", "none.jsonl"]);
    assert!(ran.error().contains("the line of `1` has no reference"), "{}", ran.stderr);
}

#[test]
fn what_is_wrong_is_named_and_ends_with_its_exit_code() {
    let playground = Playground::new();
    playground.write("bad.jsonl", "{\"id\": \"a\", \"prediction\": \"x\"}\n{\"id\": \"a\"}\n");
    let ran = playground.expect(7, &["score", "--task", "world/sentiment", "--predictions", "bad.jsonl"]);
    assert!(ran.error().contains("bad.jsonl:2: field `prediction`: expected a string"), "{}", ran.stderr);
    playground.write("other.jsonl", "{\"id\": \"a\", \"prediction\": \"x\"}\n");
    let ran = playground.expect(4, &["score", "--task", "world/sentiment", "--predictions", "other.jsonl"]);
    assert!(ran.error().contains("hint: its ids look like `") && ran.error().contains("the file's like `a`"), "{}", ran.stderr);
    playground.expect(7, &["score", "--task", "world/sentiment", "--predictions", "absent.jsonl"]);
    let ran = playground.expect(7, &["score", "--task", "glue/sst2", "--predictions", "other.jsonl"]);
    assert!(ran.error().contains("no data folder is given"), "{}", ran.stderr);
    let ran = playground.expect(3, &["score", "--task", "world/sentimnt", "--predictions", "other.jsonl"]);
    assert!(ran.error().contains("did you mean `world/sentiment`?"), "{}", ran.stderr);
    playground.expect(2, &["score", "--predictions", "other.jsonl"]);
    playground.expect(2, &["score", "--task", "dart", "--metric", "bleu", "--predictions", "other.jsonl"]);
}
