//! What `profile` says a training step costs.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Playground;
use serde_json::Value;
use std::path::Path;

const SPEC: &str = r#"
name = "costs"

[base]
task = "world/choice"

[axes]
model = ["tiny-llama", "tiny-mamba"]
method = ["none", "full", { type = "lora", r = 8 }]
"#;

fn profiles(playground: &Playground) -> Vec<Value> {
    std::fs::write(playground.path("costs.toml"), SPEC).unwrap();
    let bases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bases");
    let arguments =
        ["profile", "costs.toml", "--models", bases.to_str().unwrap(), "--batch", "4", "--length", "128", "--steps", "1", "--json"];
    serde_json::from_str(&playground.expect(0, &arguments).stdout).unwrap()
}

/// The kinds are counted by what the tensors say of themselves; the allocator saw the same bytes come.
#[test]
fn memory_by_kind_is_what_the_allocator_saw() {
    let profiles = profiles(&Playground::new());
    assert_eq!(profiles.len(), 4, "zero-shot has no training step");
    for profile in &profiles {
        let of = |side: &str, kind: &str| profile[side][kind].as_f64().unwrap();
        let name = format!("{} {}", profile["model"], profile["method"]);
        let near = |kinds: &[&str]| {
            let sum = |side: &str| kinds.iter().map(|kind| of(side, kind)).sum::<f64>();
            let (said, seen) = (sum("bytes"), sum("allocated"));
            assert!((said - seen).abs() <= 0.03 * seen, "{name}: {kinds:?} are {said} bytes, the allocator saw {seen}");
        };
        near(&["weights"]);
        near(&["activations"]);
        near(&["weights", "adapter", "gradients", "optimizer", "activations"]);
        let saved: f64 = profile["saved"].as_array().unwrap().iter().map(|saved| saved["bytes"].as_f64().unwrap()).sum();
        assert_eq!(saved, of("bytes", "activations"), "{name}: the tape's own list is complete");
        assert!(of("bytes", "peak") >= of("bytes", "activations") + of("bytes", "weights"));
        let parts = profile["parts"].as_array().unwrap();
        assert_eq!(parts.iter().map(|part| part["part"].as_str().unwrap()).collect::<Vec<_>>(), ["forward", "backward", "optimizer"]);
        for part in parts {
            let sum: f64 = part["kinds"].as_object().unwrap().values().map(|bytes| bytes.as_f64().unwrap()).sum();
            let peak = part["peak"].as_f64().unwrap();
            assert!((sum - peak).abs() <= 0.03 * peak, "{name}, {}: {sum} bytes by kind, the allocator's peak is {peak}", part["part"]);
        }
    }
    let peak = |i: usize| profiles[i]["bytes"]["peak"].as_f64().unwrap();
    assert!(peak(1) < peak(0) && peak(3) < peak(2), "LoRA takes less than full fine-tuning");
}

#[test]
fn a_sweep_that_trains_nothing_has_nothing_to_profile() {
    let playground = Playground::new();
    std::fs::write(playground.path("none.toml"), "name = \"none\"\n[base]\nmodel = \"tiny\"\ntask = \"world/choice\"\nmethod = \"none\"\n")
        .unwrap();
    let ran = playground.expect(4, &["profile", "none.toml"]);
    assert!(ran.stderr.contains("no step to profile"), "{}", ran.stderr);
}

#[test]
fn a_damaged_model_is_named_with_its_exit_code() {
    let playground = Playground::new();
    let bases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bases/tiny-llama");
    let copy = playground.path("damaged");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(bases.join(file), copy.join(file)).unwrap();
    }
    let weights = std::fs::read(bases.join("model.safetensors")).unwrap();
    std::fs::write(copy.join("model.safetensors"), &weights[..100_000]).unwrap();
    let spec = "name = \"d\"\n[base]\nmodel = \"damaged\"\ntask = \"world/choice\"\nmethod = \"lora\"\n";
    std::fs::write(playground.path("damaged.toml"), spec).unwrap();
    let ran = playground.expect(7, &["profile", "damaged.toml", "--models", "."]);
    assert!(ran.stderr.contains("damaged/model.safetensors is damaged"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("error").count(), 1, "{}", ran.stderr);
}
