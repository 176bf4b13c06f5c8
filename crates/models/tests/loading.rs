//! Checkpoint folders: what is read, and what bad input is answered with: an error that names the file, the tensor, what was expected
//! and what was found. (`hostile_files.rs` has the property tests.)

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::checkpoint::{Checkpoint, Storage, to_safetensors};
use peftbench_models::{Model, ModelError, load};
use peftbench_ops::{Device, Param, Tensor};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)
}

/// A folder with the config and the weights of the LLaMA fixture, in one file.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    // The fixtures are read-only.
    write(&folder, "config.json", &fs::read(fixture(name).join("config.json")).unwrap());
    folder
}

fn write(folder: &TempDir, file: &str, bytes: &[u8]) {
    let path = folder.path().join(file);
    let _ = fs::remove_file(&path);
    fs::write(path, bytes).unwrap();
}

fn weights(name: &str) -> Vec<Param> {
    let checkpoint = Checkpoint::open(&fixture(name), &Device::Cpu).unwrap();
    checkpoint.names().map(|name| Param::frozen(name, checkpoint.read(name).unwrap())).collect()
}

/// The fixture with its list of tensors changed.
fn changed(name: &str, change: impl FnOnce(&mut Vec<Param>)) -> TempDir {
    let (folder, mut params) = (copy(name), weights(name));
    change(&mut params);
    write(&folder, "model.safetensors", &to_safetensors(&params, Storage::F32).unwrap());
    folder
}

/// The fixture with a field of its config changed.
fn configured(name: &str, field: &str, value: Value) -> TempDir {
    let folder = copy(name);
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    config.insert(field.to_owned(), value);
    write(&folder, "config.json", &serde_json::to_vec(&config).unwrap());
    folder
}

fn refused(folder: &TempDir) -> String {
    load(folder.path(), &Device::Cpu).err().expect("bad input is refused").to_string()
}

/// Checks that the refusal says all of `parts`.
fn says(folder: &TempDir, parts: &[&str]) {
    let message = refused(folder);
    parts.iter().for_each(|part| assert!(message.contains(part), "`{part}` is not in: {message}"));
}

fn logits(model: &dyn Model) -> Vec<f32> {
    let ids = Tensor::new(&[[5u32, 17, 3, 60, 9]], &Device::Cpu).unwrap();
    model.all_logits(&ids, None).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A safetensors file of this header, and `data` bytes of data.
fn file_of(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

/// The tensors in `count` shards with an index.
fn sharded(name: &str, count: usize) -> TempDir {
    let (folder, params) = (copy(name), weights(name));
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let mut map = Map::new();
    for (i, part) in params.chunks(params.len().div_ceil(count)).enumerate() {
        let shard = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        write(&folder, &shard, &to_safetensors(part, Storage::F32).unwrap());
        part.iter().for_each(|param| drop(map.insert(param.name().to_owned(), json!(shard))));
    }
    write(&folder, "model.safetensors.index.json", json!({"metadata": {}, "weight_map": map}).to_string().as_bytes());
    folder
}

#[test]
fn shards_give_the_model_that_one_file_gives() {
    let whole = logits(&*load(&fixture("llama"), &Device::Cpu).unwrap());
    let folder = sharded("llama", 3);
    // What the index does not name is not read.
    write(&folder, "adapter_model.safetensors", b"something else");
    assert_eq!(logits(&*load(folder.path(), &Device::Cpu).unwrap()), whole);
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    assert_eq!(logits(&*load(folder.path(), &Device::Cpu).unwrap()), whole, "shards without an index");
}

#[test]
fn half_precision_is_read_as_the_numbers_it_holds() {
    let values: Vec<f32> = vec![1.0, -2.5, 0.333_251_95, 65504.0, 6.1e-5, -0.0];
    let dir = tempfile::tempdir().unwrap();
    for dtype in ["F32", "F16", "BF16"] {
        let bytes: Vec<u8> = match dtype {
            "F32" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            "F16" => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,{}]}}}}"#, bytes.len());
        let mut file = file_of(&header, 0);
        file.extend(&bytes);
        let path = dir.path().join(dtype);
        fs::write(&path, file).unwrap();
        let found = Checkpoint::open_files(std::slice::from_ref(&path), "test".into(), &Device::Cpu).unwrap().read("a").unwrap();
        let found = found.to_vec2::<f32>().unwrap().concat();
        // candle's own reader agrees.
        let theirs = peftbench_ops::safetensors::load(&path, &Device::Cpu).unwrap()["a"].to_dtype(peftbench_ops::DType::F32).unwrap();
        assert_eq!(found, theirs.to_vec2::<f32>().unwrap().concat());
        assert_eq!(found[..2], values[..2]);
    }
}

#[test]
fn tensors_that_are_missing_or_left_over_are_named() {
    let without = changed("llama", |params| params.retain(|param| !param.name().ends_with("layers.1.mlp.up_proj.weight")));
    says(&without, &["no tensor `model.layers.1.mlp.up_proj.weight`", without.path().to_str().unwrap(), "nearest: `model.layers.0.mlp"]);
    let extra = |name: &str| {
        let tensor = Tensor::zeros(3, peftbench_ops::DType::F32, &Device::Cpu).unwrap();
        changed("llama", |params| params.push(Param::frozen(name, tensor)))
    };
    says(&extra("score.weight"), &["a tensor that its config has no place for: `score.weight`"]);
    for harmless in ["model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.bias", "embeddings.position_ids"] {
        assert!(load(extra(harmless).path(), &Device::Cpu).is_ok(), "{harmless} is computed");
    }
    // A config of fewer layers than the checkpoint has.
    says(
        &configured("llama", "num_hidden_layers", json!(1)),
        &["9 tensors that its config has no place for: `model.layers.1.", "and 4 more"],
    );
}

#[test]
fn a_stored_head_must_be_the_embedding_where_the_config_ties_them() {
    let name = "llama_bias_tied";
    let with_head = |scale: f64| {
        changed(name, |params| {
            let embedding = params.iter().find(|param| param.name() == "model.embed_tokens.weight").unwrap().value();
            params.push(Param::frozen("lm_head.weight", (embedding * scale).unwrap()));
        })
    };
    let tied = load(with_head(1.0).path(), &Device::Cpu).unwrap();
    assert_eq!(logits(&*tied), logits(&*load(&fixture(name), &Device::Cpu).unwrap()));
    says(&with_head(2.0), &["`tie_word_embeddings` is true", "`lm_head.weight` differs from `model.embed_tokens.weight`"]);
    says(&configured(name, "tie_word_embeddings", json!(false)), &["no tensor `lm_head.weight`"]);
}

#[test]
fn a_config_that_contradicts_the_weights_is_refused() {
    let shape = ["tensor `model.embed_tokens.weight`", "model.safetensors", "[64, 32]", "[65, 32]"];
    says(&configured("llama", "vocab_size", json!(65)), &shape);
    says(&configured("llama", "attention_bias", json!(true)), &["no tensor `model.layers.0.self_attn.q_proj.bias`"]);
    says(&configured("llama_bias_tied", "attention_bias", json!(false)), &["no place for", "self_attn.k_proj.bias"]);
    says(&configured("llama", "model_type", json!("lama")), &["unknown model_type `lama`", "llama"]);
    says(&configured("llama", "hidden_size", json!("32")), &["config.json", "invalid type: string \"32\""]);
    says(&configured("llama", "num_key_value_heads", json!(3)), &["4 attention heads cannot share 3"]);
    says(&configured("llama", "num_hidden_layers", json!(1u64 << 40)), &["`num_hidden_layers` is 1099511627776; expected at most 4096"]);
    let folder = copy("llama");
    write(&folder, "config.json", b"[]");
    says(&folder, &["config.json is damaged: expected a JSON object"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    says(&folder, &["could not read", "config.json"]);
}

#[test]
fn an_index_that_contradicts_the_shards_is_refused() {
    let shards = || sharded("llama", 2);
    let second = "model-00002-of-00002.safetensors";
    let gone = shards();
    fs::remove_file(gone.path().join(second)).unwrap();
    says(&gone, &["model.safetensors.index.json is damaged", &format!("the shard `{second}`, which is not there")]);
    let index = |change: fn(&mut Map<String, Value>)| {
        let folder = shards();
        let mut index: Value = serde_json::from_slice(&fs::read(folder.path().join("model.safetensors.index.json")).unwrap()).unwrap();
        change(index["weight_map"].as_object_mut().unwrap());
        write(&folder, "model.safetensors.index.json", index.to_string().as_bytes());
        folder
    };
    says(
        &index(|map| drop(map.insert("new.weight".into(), json!("model-00001-of-00002.safetensors")))),
        &["`new.weight`", "it is in no shard"],
    );
    let moved = index(|map| drop(map.insert("lm_head.weight".into(), json!("model-00002-of-00002.safetensors"))));
    says(&moved, &["tensor `lm_head.weight` is in `model-00002", "but it is in `model-00001"]);
    says(&index(|map| drop(map.insert("lm_head.weight".into(), json!("../model.safetensors")))), &["expected a file of its own folder"]);
    let broken = shards();
    write(&broken, "model.safetensors.index.json", b"{\"weight_map\": 3}");
    says(&broken, &["not an index of shards"]);
    let twice = shards();
    fs::copy(twice.path().join(second), twice.path().join("model-00001-of-00002.safetensors")).unwrap();
    says(&twice, &["it has tensor", "and so has"]);
}

#[test]
fn damaged_files_are_named_with_what_does_not_fit() {
    let with = |bytes: &[u8]| {
        let folder = copy("llama");
        write(&folder, "model.safetensors", bytes);
        folder
    };
    let entry =
        |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
    says(&with(b"abc"), &["model.safetensors is damaged", "it has 3 bytes; expected at least the 8"]);
    says(&with(&[255; 64]), &["its header claims 18446744073709551615 bytes; the file has 64"]);
    says(&with(&file_of("{", 0)), &["no JSON object"]);
    says(&with(&file_of(&entry("F32", "[2]", "[0,8]"), 4)), &["tensor `a` lies at bytes 0 to 8 of the data, which has 4"]);
    says(&with(&file_of(&entry("F32", "[2]", "[8,0]"), 8)), &["tensor `a` lies at bytes 8 to 0"]);
    says(&with(&file_of(&entry("F32", "[3]", "[0,8]"), 8)), &["tensor `a` of shape [3] and type F32 needs 12 bytes, but has 8"]);
    let endless = format!("[{0},{0}]", u64::MAX);
    says(&with(&file_of(&entry("F32", &endless, "[0,8]"), 8)), &["needs more bytes than can be counted"]);
    says(&with(&file_of(&entry("F31", "[2]", "[0,8]"), 8)), &["tensor `a` has the unknown type F31"]);
    says(&with(&file_of(&entry("F32", "[-2]", "[0,8]"), 8)), &["tensor `a` is described wrongly"]);
    says(&with(&file_of(&entry("F32", "[1]", "[4,8]"), 8)), &["tensor `a` begins at byte", "expected"]);
    says(&with(&file_of(&entry("F32", "[1]", "[0,4]"), 8)), &["its tensors end at byte"]);
    let integers = r#"{"model.embed_tokens.weight":{"dtype":"I64","shape":[64,32],"data_offsets":[0,16384]}}"#;
    says(&with(&file_of(integers, 16384)), &["tensor `model.embed_tokens.weight`", "numbers of type I64; expected F32, F16 or BF16"]);
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let bytes = fs::read(fixture("llama").join("model.safetensors")).unwrap();
    let folder = copy("llama");
    for cut in (0..bytes.len()).step_by(997).chain([7, 8, 9, bytes.len() - 1]) {
        write(&folder, "model.safetensors", &bytes[..cut]);
        let error = load(folder.path(), &Device::Cpu).err().unwrap();
        assert!(matches!(error, ModelError::Damaged { .. }), "{cut}: {error}");
    }
}
