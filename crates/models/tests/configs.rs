//! What the configs and checkpoints of GPT-2, GPT-J, BLOOM and OPT may say.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::config::ModelConfig;
use peftbench_models::slots::SlotMut;
use peftbench_models::weights::{Fresh, Shapes};
use peftbench_models::{Model, load, model};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)
}

/// A small config of an architecture with some keys changed.
fn config(arch: &str, changes: Value) -> ModelConfig {
    let mut values = match arch {
        "opt" => json!({"vocab_size": 20, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "ffn_dim": 16,
            "max_position_embeddings": 6}),
        "bloom" => json!({"vocab_size": 20, "hidden_size": 12, "n_layer": 1, "n_head": 3}),
        _ => json!({"vocab_size": 20, "n_embd": 12, "n_layer": 1, "n_head": 3, "n_positions": 6, "rotary_dim": 2}),
    };
    let table = values.as_object_mut().unwrap();
    table.insert("model_type".to_owned(), arch.into());
    let Value::Object(changes) = changes else { panic!("changes are a table") };
    table.extend(changes);
    ModelConfig::from_values(table.clone(), "config.json".to_owned()).unwrap()
}

fn refusal(arch: &str, changes: Value) -> String {
    model::build(&config(arch, changes), &Shapes).err().expect("refused").to_string()
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for arch in ["gpt2", "gptj", "opt"] {
        let message = refusal(arch, json!({"activation_function": "mish"}));
        assert!(message.contains("activation `mish` is not supported; supported: `gelu`, `gelu_new`"), "{message}");
    }
    assert!(refusal("gpt2", json!({"add_cross_attention": true})).contains("only decoder-only models"));
    assert!(refusal("gpt2", json!({"n_head": 5})).contains("a hidden size of 12 does not divide into 5 heads"));
    assert!(refusal("bloom", json!({"n_head": 0})).contains("0 attention heads"));
    for (dim, found) in [(json!(null), "null"), (json!(3), "3"), (json!(6), "6")] {
        let message = refusal("gptj", json!({ "rotary_dim": dim }));
        assert!(message.contains(&format!("`rotary_dim` is {found}; expected an even number up to the head's 4")), "{message}");
    }
    assert!(refusal("gptj", json!({"tie_word_embeddings": true})).contains("has a bias"));
}

#[test]
fn sequences_beyond_the_learned_positions_are_refused() {
    for (arch, table) in [("gpt2", "transformer.wpe.weight"), ("opt", "model.decoder.embed_positions.weight")] {
        let model = model::build(&config(arch, json!({})), &Fresh { seed: 1 }).unwrap();
        let ids = |length: usize| Tensor::zeros((1, length), DType::U32, &Device::Cpu).unwrap();
        assert!(model.all_logits(&ids(6), None).is_ok());
        let message = model.all_logits(&ids(7), None).unwrap_err().to_string();
        assert!(message.contains(table) && message.contains("sequences have at most 6 tokens here, but one has 7"), "{message}");
    }
}

#[test]
fn other_names_of_keys_are_understood() {
    let common = json!({"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4});
    for arch in ["gpt2", "gptj"] {
        let model = model::build(&config(arch, common.clone()), &Shapes).unwrap();
        assert_eq!((model.hidden_size(), model.num_layers()), (24, 2), "{arch}");
    }
    // As the config of bloom-560m has it.
    let mut model = model::build(&config("bloom", json!({"n_embed": 24, "num_attention_heads": 6})), &Shapes).unwrap();
    assert_eq!(model.hidden_size(), 24);
    assert_eq!(parts(&mut *model)["transformer.h.0.self_attention.query_key_value.q"].iter().count(), 6);
}

/// The rows of every part of a layer.
fn parts(model: &mut dyn Model) -> HashMap<String, RowRanges> {
    let mut found = HashMap::new();
    model.visit_slots(&mut |slot| {
        if let SlotMut::Linear(slot) = slot {
            found.extend(slot.parts.iter().map(|part| (format!("{}.{}", slot.info.path, part.name), part.rows.clone())));
        }
    });
    found
}

#[test]
fn the_parts_of_a_fused_projection_are_its_rows_for_queries_keys_and_values() {
    let found = parts(&mut *model::build(&config("bloom", json!({})), &Shapes).unwrap());
    let rows = |name: &str| found[&format!("transformer.h.0.self_attention.query_key_value.{name}")].clone();
    assert_eq!(rows("q"), [0..4, 12..16, 24..28].into_iter().collect());
    assert_eq!(rows("v"), [8..12, 20..24, 32..36].into_iter().collect());
    let found = parts(&mut *model::build(&config("gpt2", json!({})), &Shapes).unwrap());
    assert_eq!(found["transformer.h.0.attn.c_attn.k"], RowRanges::from(12..24));
}

#[test]
fn a_conv1d_keeps_its_stored_layout_and_shows_out_and_in() {
    let mut model = model::build(&config("gpt2", json!({"n_inner": 20})), &Shapes).unwrap();
    let mut seen = HashMap::new();
    model.visit_slots(&mut |slot| {
        if let SlotMut::Linear(slot) = slot {
            seen.insert(slot.info.path.clone(), (slot.dims(), slot.weight.param.value().dims().to_vec()));
        }
    });
    assert_eq!(seen["transformer.h.0.attn.c_attn"], ((36, 12), vec![12, 36]));
    assert_eq!(seen["transformer.h.0.mlp.c_proj"], ((12, 20), vec![20, 12]));
}

/// Checkpoints on the hub name the tensors of GPT-2, BLOOM and OPT without the first segment.
#[test]
fn a_checkpoint_saved_without_the_head_is_read() {
    let ids = Tensor::new(&[[3u32, 5, 8, 13]], &Device::Cpu).unwrap();
    for name in ["gpt2", "bloom", "opt"] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = peftbench_ops::safetensors::load(fixture(name).join("model.safetensors"), &Device::Cpu).unwrap();
        let renamed: HashMap<String, Tensor> =
            tensors.into_iter().map(|(name, tensor)| (name.split_once('.').unwrap().1.to_owned(), tensor)).collect();
        peftbench_ops::safetensors::save(&renamed, folder.path().join("model.safetensors")).unwrap();
        std::fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).unwrap();
        let logits = |path: &Path| load(path, &Device::Cpu).unwrap().all_logits(&ids, None).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(logits(folder.path()), logits(&fixture(name)), "{name}");
    }
}
