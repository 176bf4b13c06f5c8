//! GGUF files: every type of numbers gives the model that candle's own reader of the file gives, and bad files are answered with an error.
//!
//! The files are written by candle, with the rows of q and k permuted as llama.cpp's converter does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::config::ModelConfig;
use peftbench_models::gguf::{GgufFile, supported_types};
use peftbench_models::model::build;
use peftbench_models::weights::{Fresh, Init, Weights};
use peftbench_models::{Model, Result, load};
use peftbench_ops::memory::{self, CountingAllocator};
use peftbench_ops::quantized::gguf_file::{self, Content, Value};
use peftbench_ops::quantized::{GgmlDType, QTensor};
use peftbench_ops::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// One test at a time allocates, so that the peak is its own.
static ALONE: Mutex<()> = Mutex::new(());

const HEADS: usize = 4;
const KEY_VALUE_HEADS: usize = 2;

/// A LLaMA whose widths divide into every type's blocks, with fresh weights.
fn config(tied: bool) -> ModelConfig {
    let values = json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "rms_norm_eps": 1e-5, "rope_theta": 5e4,
        "tie_word_embeddings": tied,
    });
    ModelConfig::from_values(values.as_object().unwrap().clone(), "test".to_owned()).unwrap()
}

fn metadata() -> Vec<(&'static str, Value)> {
    let number = |n| Value::U32(n);
    vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.embedding_length", number(256)),
        ("llama.feed_forward_length", number(256)),
        ("llama.block_count", number(2)),
        ("llama.attention.head_count", number(HEADS as u32)),
        ("llama.attention.head_count_kv", number(KEY_VALUE_HEADS as u32)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(5e4)),
    ]
}

/// GGUF's name of a tensor.
fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (theirs, short)| name.replace(theirs, short))
}

/// Row i of the stored tensor is row `order[i]` of the original: `reshape(heads, 2, dim / 2).swapaxes(1, 2)` of llama.cpp.
fn stored_order(name: &str, rows: usize) -> Option<Vec<usize>> {
    let heads = if name.contains("q_proj") { HEADS } else { KEY_VALUE_HEADS };
    let dim = rows / heads;
    let order = |i: usize| i / dim * dim + i % dim / 2 + i % 2 * (dim / 2);
    (name.contains("q_proj") || name.contains("k_proj")).then(|| (0..rows).map(order).collect())
}

fn rows(tensor: &Tensor, order: &[usize]) -> Tensor {
    let order: Vec<u32> = order.iter().map(|&row| row as u32).collect();
    tensor.index_select(&Tensor::new(order, &Device::Cpu).unwrap(), 0).unwrap()
}

/// A fresh model's tensors by Hugging Face's names.
fn fresh(tied: bool) -> Vec<(String, Tensor)> {
    let mut model = build(&config(tied), &Fresh { seed: 3 }).unwrap();
    model.params().iter().map(|param| (param.name().to_owned(), param.value())).collect()
}

/// The bytes of a GGUF file whose matrices have this type.
fn file(tied: bool, dtype: GgmlDType, metadata: &[(&str, Value)]) -> Vec<u8> {
    let quantise = |(name, tensor): &(String, Tensor)| {
        let tensor = stored_order(name, tensor.dims()[0]).map_or(tensor.clone(), |order| rows(tensor, &order));
        let dtype = if tensor.dims().len() == 2 { dtype } else { GgmlDType::F32 };
        (gguf_name(name), QTensor::quantize(&tensor, dtype).unwrap())
    };
    let tensors: Vec<(String, QTensor)> = fresh(tied).iter().map(quantise).collect();
    let mut bytes = Cursor::new(Vec::new());
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    gguf_file::write(&mut bytes, &metadata, &tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect::<Vec<_>>()).unwrap();
    bytes.into_inner()
}

/// The tensors that candle reads from the file, in Hugging Face's form.
struct Theirs(BTreeMap<String, Tensor>);

impl Theirs {
    fn read(bytes: &[u8], tied: bool) -> Self {
        let mut reader = Cursor::new(bytes);
        let content = Content::read(&mut reader).unwrap();
        let mut tensor = |name: &str| {
            let tensor = content.tensor(&mut reader, &gguf_name(name), &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            let Some(order) = stored_order(name, tensor.dims()[0]) else { return tensor };
            let mut back = vec![0; order.len()];
            order.iter().enumerate().for_each(|(stored, &original)| back[original] = stored);
            rows(&tensor, &back)
        };
        Self(fresh(tied).into_iter().map(|(name, _)| (name.clone(), tensor(&name))).collect())
    }
}

impl Weights for Theirs {
    fn tensor(&self, name: &str, dims: &[usize], _init: Init) -> Result<Tensor> {
        assert_eq!(self.0[name].dims(), dims);
        Ok(self.0[name].clone())
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn saved(bytes: &[u8]) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn logits(model: &dyn Model) -> Vec<f32> {
    let ids = Tensor::new(&[[5u32, 17, 3, 60, 9]], &Device::Cpu).unwrap();
    model.all_logits(&ids, None).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_type_gives_the_model_that_candles_reader_gives() {
    let _alone = ALONE.lock();
    use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let types = [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];
    for dtype in types {
        assert!(supported_types().contains(&format!("{dtype:?}")));
        let tied = dtype == Q4K;
        let bytes = file(tied, dtype, &metadata());
        let (_dir, path) = saved(&bytes);
        let ours = load(&path, &Device::Cpu).unwrap();
        let theirs = build(&config(tied), &Theirs::read(&bytes, tied)).unwrap();
        assert_eq!(logits(&*ours), logits(&*theirs), "{dtype:?}");
        if dtype == F32 {
            assert_eq!(logits(&*ours), logits(&*build(&config(tied), &Fresh { seed: 3 }).unwrap()), "what was written is read");
        }
    }
    assert_eq!(supported_types().split(", ").count(), types.len());
}

fn refused(bytes: &[u8], parts: &[&str]) {
    let (_dir, path) = saved(bytes);
    let message = load(&path, &Device::Cpu).err().expect("bad input is refused").to_string();
    let named = parts.iter().chain(&["model.gguf"]).all(|part| message.contains(part));
    assert!(named, "{parts:?} not in: {message}");
}

/// The small file with a changed metadata.
fn with(key: &'static str, value: Option<Value>) -> Vec<u8> {
    let mut metadata = metadata();
    metadata.retain(|(known, _)| *known != key);
    metadata.extend(value.map(|value| (key, value)));
    file(false, GgmlDType::Q8_0, &metadata)
}

#[test]
fn what_is_not_supported_is_named() {
    let _alone = ALONE.lock();
    let good = file(false, GgmlDType::Q8_0, &metadata());
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused(&patched(0, b"GGML"), &["does not begin with `GGUF`"]);
    refused(&patched(4, &9u32.to_le_bytes()), &["GGUF version 9; supported: 1 to 3"]);
    refused(&patched(4, &3u32.to_be_bytes()), &["little endian"]);
    // The type of a tensor stands behind its name, its rank and its dimensions.
    let name = b"blk.0.attn_q.weight";
    let at = good.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    let unknown = ["tensor `blk.0.attn_q.weight` is quantised by ggml's type 16; supported: F32, F16, Q4_0"];
    refused(&patched(at + 4 + 16, &16u32.to_le_bytes()), &unknown);
    let length = good.len();
    refused(
        &patched(at + 24, &u64::MAX.to_le_bytes()),
        &["tensor `blk.0.attn_q.weight` has 69632 bytes at", &format!("the file has {length}")],
    );
    refused(&patched(at + 4, &(1u64 << 40).to_le_bytes()), &["tensor `blk.0.attn_q.weight`"]);
    // Found by fuzzing: candle would make a slice of numbers from nothing.
    refused(&patched(at + 4, &0u64.to_le_bytes()), &["tensor `blk.0.attn_q.weight` of shape [256, 0] has no elements"]);
    refused(&with("general.architecture", Some(Value::String("mamba".to_owned()))), &["GGUF architecture `mamba`; supported: `llama`"]);
    refused(&with("general.alignment", Some(Value::U32(0))), &["`general.alignment` is Integer(0)"]);
    refused(&with("llama.block_count", None), &["the header has no `llama.block_count`"]);
    refused(&with("llama.block_count", Some(Value::U32(3))), &["no tensor `model.layers.2.self_attn.q_proj.weight`"]);
    refused(&with("llama.block_count", Some(Value::U32(1))), &["9 tensors that its config has no place for: `blk.1."]);
    refused(&with("llama.embedding_length", Some(Value::U32(128))), &["[64, 256]", "[64, 128]"]);
    refused(&with("llama.attention.head_count", Some(Value::String("4".to_owned()))), &["expected a number"]);
    refused(&with("llama.rope.scaling.type", Some(Value::String("linear".to_owned()))), &["rope scaling"]);
    for cut in [0, 3, 7, 20, 300, length / 2, length - 40_000] {
        refused(&good[..cut], &["is damaged"]);
    }
}

/// Opens the bytes, reads all there is, and returns the peak of memory on the way.
fn read_all(bytes: &[u8]) -> (Result<()>, u64) {
    let (_dir, path) = saved(bytes);
    let before = memory::reset_peak();
    let read = |path: &Path| {
        let file = GgufFile::open(path, &Device::Cpu)?;
        let _no_panic = file.tokenizer();
        build(&file.config()?, &file)?;
        file.check_used()
    };
    let result = read(&path);
    (result, memory::peak_bytes() - before)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused(version in 0u32..5, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _alone = ALONE.lock();
        let bytes = [b"GGUF", &version.to_le_bytes()[..], &bytes].concat();
        let (result, peak) = read_all(&bytes);
        prop_assert!(result.is_err() && peak < (1 << 20));
    }

    #[test]
    fn counts_that_lie_are_refused(tensors in any::<u64>(), values in any::<u64>(), length in any::<u64>()) {
        let _alone = ALONE.lock();
        let bytes = [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &values.to_le_bytes(), &length.to_le_bytes(), &[0; 64]].concat();
        let (result, peak) = read_all(&bytes);
        prop_assert!(result.is_err() && peak < (1 << 20));
    }
}

#[test]
fn flipped_bits_in_the_header_give_an_answer() {
    let _alone = ALONE.lock();
    let good = file(false, GgmlDType::Q4_0, &metadata());
    // Where the data begins: as far as the names and numbers go.
    let header = Content::read(&mut Cursor::new(&good)).unwrap().tensor_data_offset as usize;
    // Dequantised, the tensors take at most 9 times the file.
    let bound = 16 * good.len() as u64;
    for at in 0..header {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at * 5 % 8);
        assert!(read_all(&bytes).1 < bound, "byte {at}");
    }
}
