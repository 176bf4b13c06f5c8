//! Layer policies from end to end: what they must not change, and what they record.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use common::{Playground, Result};
use peftbench_results::rows::LayerRow;
use peftbench_results::{events::RunEvents, tables};
use peftbench_spec::Manifest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A few dozen steps with dropout, under each of these policies; the folder of each run by its policy.
fn runs(playground: &Playground, policies: &[&str]) -> Vec<PathBuf> {
    let method = r#"method = { type = "lora", r = 2, lora_dropout = 0.3 }"#;
    playground.sweep_file("s", &format!("{method}\n[axes]\npolicy = [{}]", policies.join(", ")));
    playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    let rows = tables::read_runs(&playground.path("results/s")).unwrap();
    let folder = |policy: &&str| {
        let named = |row: &&peftbench_results::RunRow| policy.contains(&format!("\"{}\"", row.policy));
        playground.path("results/s/runs").join(&rows.iter().find(named).unwrap().run_id)
    };
    policies.iter().map(folder).collect()
}

/// Tokens and padding of each step: the order of the data.
fn data_order(run: &Path) -> Vec<(u64, u64)> {
    let events = RunEvents::read(&run.join("events.jsonl")).unwrap();
    events.steps.iter().map(|step| (step.record.tokens, step.record.padding_tokens)).collect()
}

/// IST that selects every layer. Of two layers there are two sets of one to probe.
const EVERY_LAYER: &str =
    r#"{ type = "ist", layers_updated = 1.0, layers_suppressed = 1, probes = 2, update_interval = 3, probe_batch_size = 4 }"#;

#[test]
fn with_all_layers_selected_the_steps_of_ist_equal_plain_ones_bit_for_bit() {
    let playground = Playground::new();
    let [plain, ist] = runs(&playground, &[r#""static""#, EVERY_LAYER]).try_into().unwrap();
    // Every third step two probes have run in between, with draws, dropout and allocations of their own.
    assert_eq!(Result::of(&ist), Result::of(&plain));
    let layers = RunEvents::read(&ist.join("events.jsonl")).unwrap().layers;
    assert!(layers.iter().any(|layer| layer.record.probe_loss.is_some()) && layers.iter().all(|layer| layer.record.selected));
}

#[test]
fn a_policy_changes_neither_the_order_of_the_data_nor_the_dropout() {
    let playground = Playground::new();
    let few = EVERY_LAYER.replace("layers_updated = 1.0", "layers_updated = 1");
    let all = [r#""static""#, &few, r#"{ type = "rst", layers_updated = 1 }"#, r#"{ type = "greedy", probe_batch_size = 4 }"#];
    let folders = runs(&playground, &all);
    let plain = data_order(&folders[0]);
    assert!(plain.len() == 24 && plain.windows(2).any(|pair| pair[0] != pair[1]));
    for folder in &folders[1..] {
        assert_eq!(data_order(folder), plain);
    }
    // `greedy` trains everything; its probes come at the end and leave no trace in the weights.
    assert_eq!(Result::of(&folders[3]), Result::of(&folders[0]));
    let first = |folder: &Path| Result::of(folder).steps[0].1;
    assert!(folders.iter().all(|folder| first(folder) == first(&folders[0])), "the first loss");
}

#[test]
fn records_hold_importance_selection_and_probe_losses() {
    let playground = Playground::new();
    let few = EVERY_LAYER.replace("layers_updated = 1.0", "layers_updated = 1");
    runs(&playground, &[&few, r#"{ type = "greedy", probe_batch_size = 4 }"#]);
    let folder = playground.path("results/s");
    let policies: BTreeMap<String, String> = tables::read_runs(&folder).unwrap().into_iter().map(|run| (run.run_id, run.policy)).collect();
    let rows = tables::read_layers(&folder).unwrap();
    let of = |policy: &str| rows.iter().filter(|row| policies[&row.run_id] == policy).collect::<Vec<&LayerRow>>();
    let ist = of("ist");
    assert_eq!(ist.len(), 2 * 24);
    for step in 1..=24 {
        let here: Vec<_> = ist.iter().filter(|row| row.step == step).collect();
        assert_eq!(here.iter().filter(|row| row.selected).count(), 1);
        let probed = here.iter().filter(|row| row.probe_loss_nats.is_some()).count();
        assert_eq!(probed, if step > 1 && (step - 1) % 3 == 0 { 2 } else { 0 }, "step {step}");
        assert!(here.iter().all(|row| row.importance.is_some()));
    }
    // Once, before the last step: the order of removal and the loss behind each.
    let greedy = of("greedy");
    assert_eq!(greedy.iter().map(|row| (row.step, row.probe_loss_nats.is_some())).collect::<Vec<_>>(), [(24, true); 2]);
    let mut order: Vec<f64> = greedy.iter().filter_map(|row| row.importance).collect();
    order.sort_by(f64::total_cmp);
    assert_eq!(order, [0.5, 1.0]);
    let phases = tables::read_memory(&folder).unwrap();
    assert!(phases.iter().any(|phase| phase.phase == "probe" && phase.seconds > 0.0));
}

#[test]
fn what_a_models_layers_do_not_allow_is_said_at_planning() {
    let playground = Playground::new();
    for (policy, expected) in [
        (r#""ist""#, "there are fewer than 3 different sets of 1 of 2 layers"),
        (r#"{ type = "rst", layers_updated = 3 }"#, "3 layers are more than the 2 that have trained tensors"),
        (r#"{ type = "rst", layers_updated = 0 }"#, "expected at least one layer, found 0"),
        (r#"{ type = "ist", samplr = "topk" }"#, "did you mean `sampler`?"),
    ] {
        playground.sweep_file("s", &format!("method = \"lora\"\npolicy = {policy}"));
        let ran = playground.expect(3, &["plan", "s.toml"]);
        assert!(ran.error().contains(expected) && ran.error().contains("policy"), "{}", ran.stderr);
    }
}

#[test]
fn layers_are_chosen_by_the_importance_that_another_run_has_found() {
    let playground = Playground::new();
    let [greedy, plain] = runs(&playground, &[r#"{ type = "greedy", probe_batch_size = 4 }"#, r#""static""#]).try_into().unwrap();
    let id = |folder: &Path| folder.file_name().unwrap().to_str().unwrap().to_owned();
    let rows = tables::read_layers(&playground.path("results/s")).unwrap();
    let importance = |layer: u64| rows.iter().find(|row| row.run_id == id(&greedy) && row.layer == layer).unwrap().importance.unwrap();
    let (best, worst) = if importance(0) > importance(1) { (0, 1) } else { (1, 0) };

    // On the run's own layers, and on those of an entry of a method that is put together.
    let (top, bottom) = (format!("importance:{}:top:1", &id(&greedy)[..8]), format!("importance:s/{}:bottom:50%", id(&greedy)));
    playground.sweep_file("t", &format!("method = {{ type = \"lora\", r = 2 }}\nlayers = \"{top}\""));
    let entries = format!(
        r#"[{{ type = "lora", r = 2, targets = ["q_proj"], layers = "{top}" }}, {{ type = "ia3", targets = ["v_proj"], layers = "{bottom}" }}]"#
    );
    playground.sweep_file("u", &format!("method = {{ type = \"combined\", methods = {entries} }}"));
    for file in ["t.toml", "u.toml"] {
        playground.expect(0, &["sweep", file, "--no-report"]);
    }
    let run = playground.only_run("results", "t");
    let manifest = Manifest::read(&run.join("manifest.toml")).unwrap();
    assert_eq!(manifest.spec.layers.to_string(), best.to_string());
    let combined = Manifest::read(&playground.only_run("results", "u").join("manifest.toml")).unwrap();
    let layers: Vec<_> = combined.spec.method[0].options["methods"].as_array().unwrap().iter().map(|entry| &entry["layers"]).collect();
    assert_eq!(layers, [&best.to_string(), &worst.to_string()]);
    // It is the run that names these layers, and needs no other to be made again.
    playground.sweep_file("v", &format!("method = {{ type = \"lora\", r = 2 }}\nlayers = \"{best}\""));
    playground.expect(0, &["sweep", "v.toml", "--no-report"]);
    assert_eq!(playground.only_run("results", "v").file_name(), run.file_name());

    // What cannot be chosen by is said when the sweep is planned.
    let refused = |layers: &str, expected: &str| {
        let ran = playground.expect(3, &["plan", "t.toml", "--set", &format!("layers={layers}")]);
        assert!(ran.error().contains(layers) && ran.error().contains(expected), "{}", ran.stderr);
    };
    refused(&top.replace("top:1", "top:3"), "asks for more layers than the 2 to which the run gave an importance");
    refused(&format!("importance:s/{}:top:1", id(&plain)), "gave its layers no importance; take a run with the policy `ist`");
    std::fs::remove_dir_all(playground.path("results/s")).unwrap();
    refused(&top, "no run `");
    playground.expect(0, &["rerun", &format!("t/{}", id(&run)), "--check"]);
}
