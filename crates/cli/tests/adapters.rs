//! Adapters from run to run: what a run starts from, what is merged, what is imported, and a rank schedule under kill.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use common::{Playground, Ran, Result, count_events, is_done, signal, state, wait_for};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const LORA: &str = "method = { type = \"lora\", r = 2 }";

/// A finished run of a LoRA in the sweep `first`, and its adapter.
fn trained(playground: &Playground) -> (PathBuf, PathBuf) {
    playground.sweep_file("first", LORA);
    playground.expect(0, &["run", "first.toml"]);
    let run = playground.only_run("results", "first");
    let adapter = run.join("adapter");
    (run, adapter)
}

fn losses(run: &std::path::Path) -> Vec<f64> {
    Result::of(run).steps.iter().map(|(_, loss, _)| f64::from_bits(*loss)).collect()
}

#[test]
fn a_run_starts_from_an_adapter_and_is_made_again_from_its_own_copy() {
    let playground = Playground::new();
    let (first, adapter) = trained(&playground);
    playground.sweep_file("second", LORA);
    playground.expect(0, &["run", "second.toml", "--init-adapter", adapter.to_str().unwrap()]);
    let second = playground.only_run("results", "second");
    assert_ne!(first.file_name(), second.file_name(), "what it starts from is part of a run's identity");
    assert_ne!(losses(&first)[0], losses(&second)[0], "the first loss is the trained adapter's");
    let manifest = fs::read_to_string(second.join("manifest.toml")).unwrap();
    assert!(manifest.contains("init_adapter = \"") && !manifest.contains(adapter.to_str().unwrap()), "{manifest}");
    // The same command is the same run.
    playground.expect(0, &["run", "second.toml", "--init-adapter", adapter.to_str().unwrap()]);
    assert_eq!(count_events(&second, "started"), 1);
    // The adapter it came from may go: the run has kept it.
    fs::remove_dir_all(&first).unwrap();
    let ran = playground.expect(0, &["rerun", second.join("manifest.toml").to_str().unwrap(), "--check"]);
    assert!(ran.stdout.contains("the same to the bit"), "{}", ran.stdout);
    // An adapter of other content is another run; one that is nowhere is missing.
    let ran = playground.expect(7, &["run", "second.toml", "--set", "init_adapter=0123"]);
    assert!(ran.error().contains("no adapter of the content 0123 in: ") && ran.error().contains("--init-adapter DIR"), "{}", ran.stderr);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_before_anything_is_run() {
    let playground = Playground::new();
    let (_, adapter) = trained(&playground);
    let broken = playground.path("broken");
    let config = fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    let weights = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let put = |config: &str, weights: &[u8]| {
        fs::create_dir_all(&broken).unwrap();
        fs::write(broken.join("adapter_config.json"), config).unwrap();
        fs::write(broken.join("adapter_model.safetensors"), weights).unwrap();
    };
    let refused = |code: i32, more: &str| {
        playground.sweep_file("second", more);
        let ran = playground.expect(code, &["run", "second.toml", "--init-adapter", "broken"]);
        assert!(playground.runs("results", "second").is_empty(), "something was run");
        ran.error().to_owned()
    };
    assert!(refused(3, LORA).contains("could not read adapter_config.json"));
    put(&config, &weights[..weights.len() / 2]);
    assert!(refused(7, LORA).contains("adapter_model.safetensors is damaged"));
    put(&config.replace("\"tiny\"", "\"other-base\""), &weights);
    let message = refused(3, LORA);
    assert!(message.contains("it was trained on `other-base`, not on `tiny`; if these are one model"), "{message}");
    put(&config, &weights);
    let message = refused(3, "method = { type = \"lora\", r = 3 }");
    assert!(message.contains("lora_A.weight` has shape [2, 32], but [3, 32] is attached"), "{message}");
    let message = refused(3, "method = \"ia3\"");
    assert!(message.contains("there is no tensor `base_model.model.model.layers.0.self_attn.q_proj.ia3_l`"), "{message}");
    let message = refused(3, "method = { type = \"lora\", r = 2 }\nlayers = \"0\"");
    assert!(message.contains("belongs to nothing that is attached; were the targets others?"), "{message}");
}

#[test]
fn a_merged_model_gives_the_predictions_of_its_adapter() {
    let playground = Playground::new();
    let (run, adapter) = trained(&playground);
    let id = run.file_name().unwrap().to_str().unwrap();
    playground.expect(0, &["merge", &id[..8], "--out", "bases/merged"]);
    let config: Value = serde_json::from_str(&fs::read_to_string(playground.path("bases/merged/config.json")).unwrap()).unwrap();
    assert_eq!((&config["model_type"], &config["tie_word_embeddings"]), (&"llama".into(), &true.into()));
    assert!(playground.path("bases/merged/tokenizer.json").is_file());
    playground.sweep_file("zero", "method = \"none\"\n[axes]\nmodel = [\"merged\"]");
    playground.expect(0, &["run", "zero.toml"]);
    let of = |run: &std::path::Path| {
        let events = peftbench_results::events::RunEvents::read(&run.join("events.jsonl")).unwrap();
        let items = events.predictions.iter().flat_map(|entry| &entry.record.items);
        items.map(|item| (item.item_id.clone(), item.prediction.clone())).collect::<Vec<_>>()
    };
    let (merged, adapted) = (of(&playground.only_run("results", "zero")), of(&run));
    assert!(!merged.is_empty() && merged == adapted, "{merged:?}");

    let ran = playground.expect(2, &["merge", adapter.to_str().unwrap(), "--out", "bases/merged"]);
    assert!(ran.error().contains("is there already and not empty"), "{}", ran.stderr);
    playground.make_model("other");
    let ran = playground.expect(3, &["merge", adapter.to_str().unwrap(), "--model", "other", "--out", "m"]);
    assert!(ran.error().contains("it was trained on `tiny`, not on `other`"), "{}", ran.stderr);
    playground.expect(4, &["merge", "first/abc", "--out", "m"]);
    let weights = adapter.join("adapter_model.safetensors");
    fs::write(&weights, &fs::read(&weights).unwrap()[..100]).unwrap();
    playground.expect(7, &["merge", adapter.to_str().unwrap(), "--out", "m"]);
    assert!(!playground.path("m").exists());
    playground.sweep_file("soft", "method = { type = \"prompt\", num_virtual_tokens = 2 }");
    playground.expect(0, &["run", "soft.toml"]);
    let soft = playground.only_run("results", "soft");
    let ran = playground.expect(3, &["merge", soft.to_str().unwrap(), "--out", "m"]);
    assert!(ran.error().contains("cannot be merged"), "{}", ran.stderr);
}

#[test]
fn an_imported_adapter_is_a_base_to_train_on() {
    let playground = Playground::new();
    let (run, adapter) = trained(&playground);
    let text = playground.expect(0, &["import-peft", adapter.to_str().unwrap()]).stdout;
    let train = "task = { type = \"world/sentiment\", train = 48, valid = 16, test = 16 }\n\
                 train = { epochs = 1, batch_size = 4, lr = 1e-3, max_length = 128 }\n";
    // The base's own keys come before its tables.
    let text = text.replacen("[base]\n", &format!("[base]\n{train}"), 1);
    playground.write("on.toml", &format!("name = \"on\"\nseeds = [0]\n{text}"));
    playground.expect(0, &["run", "on.toml", "--init-adapter", adapter.to_str().unwrap()]);
    assert!(is_done(&playground.only_run("results", "on")));
    let shapes = |run: &std::path::Path| {
        let bytes = fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8..8 + header].to_vec()
    };
    assert_eq!(shapes(&run), shapes(&playground.only_run("results", "on")));
    let ran = playground.expect(3, &["import-peft", "bases"]);
    assert!(ran.error().contains("could not read adapter_config.json"), "{}", ran.stderr);
}

/// The schedule's scores, masks and steps are part of a checkpoint: ranks fall alike whatever happens between.
#[test]
fn adalora_ends_with_the_same_ranks_under_kill_and_resume() {
    let playground = Playground::new();
    let method = "method = { type = \"adalora\", init_r = 6, target_r = 2, tinit = 20, tfinal = 60, deltaT = 5 }";
    playground.sweep_file("ranks", &format!("{method}\n[axes]\ntrain.epochs = [40]"));
    playground.expect(0, &["sweep", "ranks.toml", "--results", "calm", "--no-report"]);
    let calm = playground.only_run("calm", "ranks");
    assert_eq!(Result::of(&calm).steps.len(), 480);
    // Without a rank to lose the run is another as soon as ranks fall, and not before.
    playground.expect(0, &["sweep", "ranks.toml", "--results", "whole", "--no-report", "--set", "method.target_r=6"]);
    let (pruned, whole) = (Result::of(&calm).steps, Result::of(&playground.only_run("whole", "ranks")).steps);
    let parted = pruned.iter().zip(&whole).position(|(pruned, whole)| pruned != whole);
    assert!(parted.is_some_and(|step| (20..40).contains(&step)), "{parted:?}");

    let mut run = PathBuf::new();
    for (attempt, kill) in [(1, false), (2, true), (3, false)] {
        let sweep = playground.spawn(&["sweep", "ranks.toml", "--results", "rough", "--no-report"]);
        run = wait_for("the run", || playground.runs("rough", "ranks").pop());
        let before = if attempt == 1 { 0 } else { count_events(&run, "step") };
        wait_for("steps", || {
            let alive = state(&run)?.process.is_some() && count_events(&run, "started") >= attempt;
            (alive && count_events(&run, "step") >= before + 40).then_some(())
        });
        if kill {
            signal(state(&run).unwrap().process.unwrap().pid, "KILL");
        } else {
            signal(sweep.id(), "INT");
        }
        let ran = Ran::of(sweep.wait_with_output().unwrap());
        assert_eq!(ran.code, if kill { 5 } else { 130 }, "{}", ran.stderr);
    }
    playground.expect(0, &["sweep", "ranks.toml", "--results", "rough", "--no-report"]);
    assert!(Result::of(&run) == Result::of(&calm), "the record of the disturbed run differs");
}
