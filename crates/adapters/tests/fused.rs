//! Adapters on fused projections and on weights stored as [in, out].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{Attachment, choose, methods};
use peftbench_models::{Model, load};
use peftbench_ops::{Device, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use serde_json::json;
use std::path::Path;

fn base(name: &str) -> Box<dyn Model> {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name), &Device::Cpu).unwrap()
}

/// LoRA on these targets in layer 0; B is set to ones, so that it does something.
fn lora(model: &mut dyn Model, targets: &[&str]) -> Attachment {
    let method = methods::build(&Component::from_value(&json!({"type": "lora", "r": 2})).unwrap()).unwrap();
    let targets = TargetExpr::new(targets.iter().copied());
    let chosen = choose(model, "lora", &*method, &targets, &"0".parse::<LayerSelection>().unwrap(), 0).unwrap();
    let (carried, init) = (Carried::new(), &mut seed::stream(0, "init"));
    let attachment =
        method.attach(model, &mut AttachContext { chosen: &chosen, stage: 0, carried: &carried, init, loading: false }).unwrap();
    for p in attachment.params.iter().filter(|p| p.param.name().contains("lora_B")) {
        p.param.set(p.param.value().ones_like().unwrap()).unwrap();
    }
    attachment
}

/// The output rows of the base's weight `name` that a merge changes; `by_columns` where it is stored as [in, out].
fn changed_rows(base_name: &str, targets: &[&str], name: &str, by_columns: bool) -> Vec<usize> {
    let weight = |model: &mut dyn Model| -> Tensor {
        let merged = model.merged().unwrap();
        let (_, value) = merged.tensors.into_iter().find(|(found, _)| found == name).unwrap();
        if by_columns { value.t().unwrap() } else { value }
    };
    let mut adapted = base(base_name);
    lora(&mut *adapted, targets);
    let difference = (weight(&mut *adapted) - weight(&mut *base(base_name))).unwrap().abs().unwrap();
    let sums = difference.sum(1).unwrap().to_vec1::<f32>().unwrap();
    sums.iter().enumerate().filter(|(_, sum)| **sum > 1e-3).map(|(row, _)| row).collect()
}

#[test]
fn a_part_of_a_fused_projection_is_adapted_alone() {
    // 4 heads of 8 dimensions. GPT-2: queries, keys, values; BLOOM: query, key and value of each head.
    let found = changed_rows("gpt2", &["c_attn.k"], "transformer.h.0.attn.c_attn.weight", true);
    assert_eq!(found, (32..64).collect::<Vec<_>>());
    let found = changed_rows("bloom", &["query_key_value.v"], "transformer.h.0.self_attention.query_key_value.weight", false);
    assert_eq!(found, (0..4).flat_map(|head| head * 24 + 16..head * 24 + 24).collect::<Vec<_>>());
}

#[test]
fn the_config_says_how_the_base_stores_its_weights() {
    for (name, targets, expected) in [("gpt2", "c_attn", true), ("gpt2", "c_fc", true), ("bloom", "query_key_value", false)] {
        let attachment = lora(&mut *base(name), &[targets]);
        assert_eq!(attachment.peft_config["fan_in_fan_out"], expected, "{name} {targets}");
    }
}

#[test]
fn default_targets_are_pefts() {
    let expected = [("gpt2", "attn.c_attn"), ("gptj", "attn.q_proj"), ("bloom", "query_key_value"), ("opt", "self_attn.q_proj")];
    for (name, first) in expected {
        let attachment = lora(&mut *base(name), &[]);
        assert!(attachment.params[0].param.name().contains(first), "{name}: {}", attachment.params[0].param.name());
        let layers = if name == "gpt2" || name == "bloom" { 1 } else { 2 };
        assert_eq!(attachment.params.len(), 2 * layers, "{name}");
    }
}
