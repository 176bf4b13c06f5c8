//! Greedy tokens by candle-transformers' own Mamba and LLaMA, for the test of decoding in `crates/models`.
//!
//! Run in the repository's root, after a base has been pre-trained anew:
//! `cargo run --release --manifest-path scripts/candle-transformers-greedy/Cargo.toml`

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mamba};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

const FIXTURE: &str = "crates/models/tests/fixtures/candle_transformers.json";
const MODELS: [&str; 3] = ["crates/models/tests/fixtures/parity/llama", "bases/tiny-llama", "bases/tiny-mamba"];
const NEW_TOKENS: usize = 16;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(FIXTURE)?)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_value(fixture["prompts"].clone())?;
    let mut greedy = Map::new();
    for folder in MODELS.map(Path::new) {
        let config: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json"))?)?;
        let continue_prompt = |prompt: &Vec<u32>| match config["model_type"].as_str() {
            Some("mamba") => by_mamba(folder, &config, prompt),
            _ => by_llama(folder, &config, prompt),
        };
        let found = prompts.iter().map(continue_prompt).collect::<Result<Vec<_>>>()?;
        greedy.insert(folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), json!(found));
    }
    let written = json!({ "versions": { "candle-transformers": "0.11.1" }, "prompts": prompts, "greedy": greedy });
    std::fs::write(FIXTURE, format!("{written}\n"))?;
    Ok(())
}

/// The weights in f32, under candle-transformers' names.
fn weights(folder: &Path) -> Result<VarBuilder<'static>> {
    let stored = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)?;
    let renamed = |name: String| name.replace("backbone.embeddings", "backbone.embedding");
    let tensors: HashMap<String, Tensor> =
        stored.into_iter().map(|(name, tensor)| Ok((renamed(name), tensor.to_dtype(DType::F32)?))).collect::<Result<_>>()?;
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

fn size(config: &Value, key: &str) -> usize {
    config[key].as_u64().unwrap_or_else(|| panic!("config.json has no number `{key}`")) as usize
}

fn by_mamba(folder: &Path, config: &Value, prompt: &[u32]) -> Result<Vec<u32>> {
    let config = mamba::Config {
        d_model: size(config, "hidden_size"),
        n_layer: size(config, "num_hidden_layers"),
        vocab_size: size(config, "vocab_size"),
        pad_vocab_size_multiple: 1,
    };
    let model = mamba::Model::new(&config, weights(folder)?.pp("backbone"))?;
    let mut state = mamba::State::new(1, &config, DType::F32, &Device::Cpu)?;
    greedy(prompt, |token, _| model.forward(&Tensor::new(&[token], &Device::Cpu)?, &mut state))
}

fn by_llama(folder: &Path, config: &Value, prompt: &[u32]) -> Result<Vec<u32>> {
    let config = llama::Config {
        hidden_size: size(config, "hidden_size"),
        intermediate_size: size(config, "intermediate_size"),
        vocab_size: size(config, "vocab_size"),
        num_hidden_layers: size(config, "num_hidden_layers"),
        num_attention_heads: size(config, "num_attention_heads"),
        num_key_value_heads: size(config, "num_key_value_heads"),
        use_flash_attn: false,
        rms_norm_eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
        rope_theta: config["rope_theta"].as_f64().or(config["rope_parameters"]["rope_theta"].as_f64()).unwrap_or(10_000.0) as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: 512,
        tie_word_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false),
    };
    let model = llama::Llama::load(weights(folder)?, &config)?;
    let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu)?;
    greedy(prompt, |token, position| model.forward(&Tensor::new(&[[token]], &Device::Cpu)?, position, &mut cache))
}

/// Feeds token by token; `step` gives the logits behind a token at a position.
fn greedy(prompt: &[u32], mut step: impl FnMut(u32, usize) -> Result<Tensor>) -> Result<Vec<u32>> {
    let (mut found, mut next) = (Vec::new(), 0);
    for position in 0..prompt.len() + NEW_TOKENS - 1 {
        let token = prompt.get(position).copied().unwrap_or(next);
        next = step(token, position)?.flatten_all()?.argmax(D::Minus1)?.to_scalar()?;
        if position + 1 >= prompt.len() {
            found.push(next);
        }
    }
    Ok(found)
}
