//! Bad input: each a clear error with its exit code, the other runs unharmed.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Playground, is_done};
use peftbench_models::checkpoint::{Storage, to_safetensors};
use std::fs;

const LORA: &str = "method = \"lora\"";

/// Planning and sweeping say the same, with the same exit code, and nothing is run.
fn refused(playground: &Playground, code: i32, more: &str) -> String {
    let file = playground.sweep_file("bad", more);
    let file = file.file_name().unwrap().to_str().unwrap();
    let planned = playground.expect(code, &["plan", file]);
    let swept = playground.expect(code, &["sweep", file]);
    assert_eq!(planned.error(), swept.error());
    assert!(playground.runs("results", "bad").is_empty(), "something was run");
    swept.error().to_owned()
}

#[test]
fn what_is_wrong_in_a_sweep_file_is_named_with_its_line() {
    let playground = Playground::new();
    let refused = |more: &str| refused(&playground, 3, more);
    assert_eq!(refused("method = \"lora\"\n[axse]\nseed = [1]"), "error: bad.toml:9: `axse`: unknown key; did you mean `axes`?\n");
    let message = refused("method = \"lora\"\n[axes]\ntrain.lr = [\"fast\"]");
    assert!(message.starts_with("error: bad.toml:10: `axes.train.lr[0]`: invalid type: string \"fast\""), "{message}");
    let message = refused("method = \"lora\"\nlayers = \"9\"");
    assert!(message.starts_with("error: bad.toml:9: `base.layers`: layer 9 is out of range: the model has layers 0 to 1"), "{message}");
    let message = refused("method = { type = \"lora\", rnak = 4 }");
    assert!(message.contains("bad.toml:8: `base.method") && message.contains("unknown key"), "{message}");
    let message = refused("method = \"lroa\"");
    assert!(message.contains("unknown method `lroa`; did you mean `lora`?"), "{message}");
    let message = refused("method = \"lora\"\n[axes]\nseed = []");
    assert!(message.contains("bad.toml:10: `axes.seed`: expected at least one value"), "{message}");
    let message = refused("method = \"lora\"\n[[exclude]]\nmatch = { seed = 0 }");
    assert!(message.contains("bad.toml:9: `exclude`: leaves out all 1 cells: the grid is empty"), "{message}");
    let message = refused("method = \"lora\"\nno toml");
    assert!(message.starts_with("error: bad.toml:9: not valid TOML"), "{message}");
}

#[test]
fn a_target_that_matches_nothing_names_the_nearest() {
    let playground = Playground::new();
    playground.sweep_file("bad", LORA);
    let ran = playground.expect(3, &["sweep", "bad.toml", "--set", "targets=[\"q_porj\"]"]);
    assert!(ran.error().contains("`q_porj` matches nothing here; did you mean `q_proj`?"), "{}", ran.stderr);
    let ran = playground.expect(3, &["sweep", "bad.toml", "--set", "train.lrr=1"]);
    assert!(ran.error().contains("`lrr` is not a field of `train`; did you mean `lr`?"), "{}", ran.stderr);
}

#[test]
fn no_sweep_file_and_no_sweep_say_where_to_go() {
    let playground = Playground::new();
    let ran = playground.expect(3, &["sweep"]);
    assert!(ran.error().contains("there is no experiments/quick.toml here\nhint: "), "{}", ran.stderr);
    let ran = playground.expect(3, &["sweep", "other.toml"]);
    assert!(ran.error().starts_with("error: could not read other.toml"), "{}", ran.stderr);
    for verb in ["status", "collect", "report"] {
        let ran = playground.expect(4, &[verb]);
        assert!(ran.error().starts_with("error: no sweep in results"), "{}", ran.stderr);
    }
    playground.expect(4, &["show", "abc"]);
    playground.expect(4, &["rerun", "abc"]);
}

#[test]
fn a_missing_model_is_found_out_before_anything_is_run() {
    let playground = Playground::new();
    let message = refused(&playground, 7, "method = \"lora\"\n[axes]\nmodel = [\"tiny\", \"absent\"]");
    assert!(message.contains("bad.toml:10: `axes.model[1]`: model `absent` is in none of: models, bases"), "{message}");
    assert!(message.contains("(in the cell model = absent, seed = 0)") && message.contains("hint: "), "{message}");
}

#[test]
fn missing_data_and_a_row_without_its_field_are_found_out_before_anything_is_run() {
    let playground = Playground::new();
    let task = "method = \"lora\"\n[axes]\ntask = [\"glue/sst2\"]";
    let message = refused(&playground, 7, task);
    assert!(message.contains("pass `--data FOLDER`"), "{message}");
    let file = |split: &str| format!("data/glue/sst2/{split}.jsonl");
    let rows: String = (0..40).map(|i| format!("{{\"sentence\": \"good number {i}\", \"label\": {}}}\n", i % 2)).collect();
    playground.write(&file("dev"), &rows);
    let run = |code| playground.expect(code, &["sweep", "bad.toml", "--data", "data", "--no-report"]);
    assert!(run(7).error().contains("glue/sst2/train*.jsonl, which does not exist"));
    playground.write(&file("train"), &format!("{rows}{{\"text\": \"no sentence\", \"label\": 1}}\n"));
    let ran = run(7);
    assert!(ran.error().contains("train.jsonl:41: field `sentence`: expected a string, found no such field"), "{}", ran.stderr);
    playground.write(&file("train"), &rows.replace("good", "fine"));
    run(0);
}

#[test]
fn a_test_that_is_trained_on_is_refused_unless_allowed() {
    let playground = Playground::new();
    let rows: String = (0..40).map(|i| format!("{{\"sentence\": \"good number {i}\", \"label\": {}}}\n", i % 2)).collect();
    playground.write("data/glue/sst2/train.jsonl", &rows);
    playground.write("data/glue/sst2/dev.jsonl", &rows.replace("good number", "Good, number"));
    playground.sweep_file("s", "method = \"lora\"\n[axes]\ntask = [\"glue/sst2\"]");
    let sweep = |code, more: &[&str]| playground.expect(code, &[&["sweep", "s.toml", "--no-report"], more].concat());
    let ran = sweep(7, &[]);
    assert!(ran.error().contains("test items are in the training split too, where its publishers left 2"), "{}", ran.stderr);
    assert!(ran.error().contains("--allow-overlap"), "{}", ran.stderr);
    sweep(0, &["--allow-overlap"]);
    assert!(playground.expect(7, &["run", "s.toml", "--set", "seed=1"]).error().contains("--allow-overlap"));
    playground.expect(0, &["run", "s.toml", "--set", "seed=1", "--allow-overlap"]);
}

#[test]
fn a_truncated_model_fails_its_run_and_no_other() {
    let playground = Playground::new();
    playground.make_model("broken");
    let weights = playground.path("bases/broken/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    playground.sweep_file("s", "method = \"lora\"\n[axes]\nmodel = [\"broken\", \"tiny\"]");
    let ran = playground.expect(5, &["sweep", "s.toml"]);
    assert!(ran.stderr.contains("model.safetensors is damaged: not a whole safetensors file"), "{}", ran.stderr);
    assert!(ran.error().starts_with("error: 1 run has failed\nhint: `peftbench status s` says why"), "{}", ran.stderr);
    let done: Vec<bool> = playground.runs("results", "s").iter().map(|run| is_done(run)).collect();
    assert_eq!(done.iter().filter(|&&done| done).count(), 1);
    let status = playground.expect(0, &["status", "s"]).stdout;
    assert!(status.starts_with("s: 1 done, 1 failed\n\nmissing_input (") && status.contains("is damaged"), "{status}");
    assert!(playground.path("results/s/report/index.html").exists(), "a report of what there is");
    // Once the cause is gone, the failed run can be had too; without being asked for it is not tried again.
    fs::write(&weights, &bytes).unwrap();
    playground.expect(5, &["sweep", "s.toml", "--no-report"]);
    let ran = playground.expect(0, &["sweep", "s.toml", "--retry", "failed", "--no-report"]);
    assert!(ran.stderr.contains("s: 1 done, 1 done before"), "{}", ran.stderr);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_fails_its_run() {
    let playground = Playground::new();
    // The vocabulary of the model shrinks below the tokenizer's.
    let folder = playground.path("bases/tiny");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), config.replace("\"vocab_size\": 300", "\"vocab_size\": 290")).unwrap();
    let model = peftbench_models::config::ModelConfig::read(&folder).unwrap();
    let mut model = peftbench_models::model::build(&model, &peftbench_models::weights::Fresh { seed: 0 }).unwrap();
    fs::write(folder.join("model.safetensors"), to_safetensors(&model.params(), Storage::F16).unwrap()).unwrap();
    playground.sweep_file("s", LORA);
    let ran = playground.expect(5, &["sweep", "s.toml"]);
    let message = "the tokenizer of `tiny` has 300 tokens, but the model's vocabulary has 290: the files do not belong together";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}

#[test]
fn a_loss_that_is_no_number_fails_its_run_and_no_other() {
    let playground = Playground::new();
    playground.sweep_file("s", "method = \"full\"\n[axes]\ntargets = [\"default\"]\ntrain.lr = [1e30, 1e-3]");
    let ran = playground.expect(5, &["sweep", "s.toml", "-j", "1", "--no-report", "--fail-fast"]);
    assert!(ran.stderr.contains("(nan_loss)") && ran.stderr.contains("lower `train.lr`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("s: 1 failed, 1 not started in"), "{}", ran.stderr);
    let ran = playground.expect(5, &["sweep", "s.toml", "--no-report"]);
    assert!(ran.stderr.contains("s: 1 done, 1 failed before (`--retry failed` runs them again) in"), "{}", ran.stderr);
    assert_eq!(playground.runs("results", "s").iter().filter(|run| is_done(run)).count(), 1);
}

#[test]
fn a_manifest_that_was_changed_is_refused_with_the_way_out() {
    let playground = Playground::new();
    playground.sweep_file("s", LORA);
    playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    let manifest = fs::read_to_string(playground.only_run("results", "s").join("manifest.toml")).unwrap();
    let changed = manifest.replace("batch_size = 4\n", "batch_size = 8\n");
    assert_ne!(changed, manifest);
    playground.write("changed.toml", &changed);
    let ran = playground.expect(3, &["run", "changed.toml"]);
    assert!(ran.error().contains("is not the hash of the spec below it"), "{}", ran.stderr);
    let without_id: String = changed.lines().filter(|line| !line.starts_with("run_id")).map(|line| format!("{line}\n")).collect();
    playground.write("changed.toml", &without_id);
    let ran = playground.expect(0, &["run", "changed.toml"]);
    assert!(ran.stdout.contains("batch_size = 8"), "{}", ran.stdout);
    assert_eq!(playground.runs("results", "s").len(), 2);
    let kept = fs::read_to_string(playground.path("results/s/sweep.toml")).unwrap();
    assert!(kept.contains("epochs = 2, batch_size = 4"), "the sweep's file stays what it was: {kept}");
}

#[test]
fn a_record_that_is_not_whole_is_found_out_before_the_run_is_made_again() {
    let playground = Playground::new();
    playground.sweep_file("s", LORA);
    playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    let run = playground.runs("results", "s").remove(0);
    let id = run.file_name().unwrap().to_str().unwrap().to_owned();
    let check = |problem: &str| {
        let ran = playground.expect(4, &["rerun", &id, "--check"]);
        assert!(ran.error().contains("has no whole record to compare with") && ran.error().contains(problem), "{}", ran.stderr);
        assert!(!ran.stderr.contains("done  "), "it was run: {}", ran.stderr);
    };
    let (events, adapter) = (run.join("events.jsonl"), run.join("adapter/adapter_model.safetensors"));
    let (whole_events, whole_adapter) = (fs::read_to_string(&events).unwrap(), fs::read(&adapter).unwrap());
    fs::write(&adapter, &whole_adapter[..whole_adapter.len() / 2]).unwrap();
    check("adapter_model.safetensors is damaged: it is not a whole safetensors file");
    fs::remove_file(&adapter).unwrap();
    check("adapter_model.safetensors is missing or empty");
    fs::write(&adapter, whole_adapter).unwrap();
    let lines: Vec<&str> = whole_events.lines().collect();
    fs::write(&events, lines[..lines.len() / 2].join("\n")).unwrap();
    check("events.jsonl it has not finished");
    fs::write(&events, "{}\n{}\n").unwrap();
    check("events.jsonl:1: expected an event as JSON");
    // The tables say what they lack, wherever they go.
    let exported = playground.expect(0, &["export", "--table", "runs"]);
    assert!(exported.stderr.contains(&format!("warning: run {id} is left out: ")), "{}", exported.stderr);
    fs::remove_file(&events).unwrap();
    check("there is no events.jsonl");
    let ran = playground.expect(2, &["rerun", "s.toml"]);
    assert!(ran.error().contains("s.toml is a sweep file, no manifest of a run\nhint: `peftbench sweep`"), "{}", ran.stderr);
    let ran = playground.expect(7, &["score", "--task", "world/sentiment", "--predictions", "bases/tiny/model.safetensors"]);
    assert!(ran.error().contains("expected JSON Lines in UTF-8"), "{}", ran.stderr);
}

#[test]
fn a_sweep_that_cannot_be_read_does_not_hide_the_others() {
    let playground = Playground::new();
    for sweep in ["a", "b"] {
        playground.sweep_file(sweep, "method = \"none\"");
        playground.expect(0, &["sweep", &format!("{sweep}.toml"), "--no-report"]);
    }
    playground.write("results/a/store.json", "garbage");
    let ran = playground.expect(1, &["status"]);
    assert!(
        ran.stdout.starts_with("b: 1 done\n") && ran.error().contains("results/a/store.json: expected value"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}
