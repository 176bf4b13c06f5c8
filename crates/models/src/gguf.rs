//! GGUF files of LLaMA-type models, dequantised to f32.
//!
//! GGUF has names of its own and, for architecture `llama`, stores the rows of q and k permuted for rotation on interleaved pairs;
//! both are turned back into Hugging Face's form here, so that adapters trained on such a model fit the original checkpoint.

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weights::{Init, Weights, missing};
use peftbench_ops::mapped::MappedFile;
use peftbench_ops::quantized::gguf_file::{Content, Value};
use peftbench_ops::{DType, Device, Tensor};
use serde_json::{Map, json};
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// An open GGUF file.
pub struct GgufFile {
    path: PathBuf,
    bytes: MappedFile,
    content: Content,
    device: Device,
}

/// The tokenizer that a GGUF file carries in its header.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// Kind: `gpt2` is byte-level BPE.
    pub model: String,
    /// Name of the pre-tokenizer, e.g. `smollm`.
    pub pre: String,
    /// Tokens by id.
    pub tokens: Vec<String>,
    /// Merges in order of rank.
    pub merges: Vec<String>,
    /// Type of each token; 3 is a control token.
    pub token_types: Vec<i32>,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let bytes = MappedFile::open(path).map_err(|e| ModelError::Unreadable { path: path.to_owned(), problem: e.to_string() })?;
        let content = Content::read(&mut Cursor::new(&bytes[..])).map_err(|e| damaged(path, e.to_string()))?;
        Ok(Self { path: path.to_owned(), bytes, content, device: device.clone() })
    }

    fn origin(&self) -> String {
        self.path.display().to_string()
    }

    fn value(&self, key: &str) -> Result<&Value> {
        self.content
            .metadata
            .get(key)
            .ok_or_else(|| ModelError::Unsupported { origin: self.origin(), problem: format!("the header has no `{key}`") })
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.value(key)?;
        let number = value.to_u64().map(|n| n as f64).or_else(|_| value.to_f32().map(f64::from));
        number
            .or_else(|_| value.to_u32().map(f64::from))
            .map_err(|_| ModelError::Unsupported { origin: self.origin(), problem: format!("`{key}` is not a number") })
    }

    fn heads(&self) -> Result<(usize, usize)> {
        let query = self.number("llama.attention.head_count")? as usize;
        let key_value = self.number("llama.attention.head_count_kv").map_or(query, |n| n as usize);
        Ok((query, key_value))
    }

    /// The model's configuration in Hugging Face's keys.
    pub fn config(&self) -> Result<ModelConfig> {
        let architecture = self.value("general.architecture")?.to_string().cloned().unwrap_or_default();
        if architecture != "llama" {
            return Err(ModelError::Unsupported {
                origin: self.origin(),
                problem: format!("GGUF architecture `{architecture}`; supported: `llama`"),
            });
        }
        let count = |key: &str| self.number(key).map(|n| n as u64);
        let (query, key_value) = self.heads()?;
        let vocabulary = self.content.tensor_infos.get("token_embd.weight").map(|info| info.shape.dims()[0]);
        let mut values = Map::new();
        let mut set = |key: &str, value: serde_json::Value| values.insert(key.to_owned(), value);
        set("model_type", json!("llama"));
        set("vocab_size", json!(vocabulary));
        set("hidden_size", json!(count("llama.embedding_length")?));
        set("intermediate_size", json!(count("llama.feed_forward_length")?));
        set("num_hidden_layers", json!(count("llama.block_count")?));
        set("num_attention_heads", json!(query));
        set("num_key_value_heads", json!(key_value));
        set("rms_norm_eps", json!(self.number("llama.attention.layer_norm_rms_epsilon")?));
        set("rope_theta", json!(self.number("llama.rope.freq_base").unwrap_or(10_000.0)));
        set("tie_word_embeddings", json!(!self.content.tensor_infos.contains_key("output.weight")));
        ModelConfig::from_values(values, self.origin())
    }

    /// The tokenizer in the header.
    pub fn tokenizer(&self) -> Result<GgufTokenizer> {
        let text = |key: &str| Ok::<_, ModelError>(self.value(key)?.to_string().cloned().unwrap_or_default());
        let list = |key: &str| self.value(key)?.to_vec().cloned().map_err(|e| damaged(&self.path, e.to_string()));
        let strings =
            |key: &str| Ok::<_, ModelError>(list(key)?.iter().map(|v| v.to_string().cloned().unwrap_or_default()).collect::<Vec<_>>());
        let id = |key: &str| self.number(key).ok().map(|n| n as u32);
        Ok(GgufTokenizer {
            model: text("tokenizer.ggml.model")?,
            pre: text("tokenizer.ggml.pre").unwrap_or_default(),
            tokens: strings("tokenizer.ggml.tokens")?,
            merges: strings("tokenizer.ggml.merges")?,
            token_types: list("tokenizer.ggml.token_type")?.iter().map(|v| v.to_i32().unwrap_or_default()).collect(),
            bos: id("tokenizer.ggml.bos_token_id"),
            eos: id("tokenizer.ggml.eos_token_id"),
        })
    }
}

fn damaged(path: &Path, problem: String) -> ModelError {
    ModelError::Damaged { path: path.to_owned(), problem: format!("not a whole GGUF file ({problem})") }
}

/// Hugging Face's name of a tensor in GGUF's names; none where GGUF has no such tensor.
fn gguf_name(name: &str) -> Option<String> {
    let whole = match name {
        "model.embed_tokens.weight" => "token_embd.weight",
        "model.norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let (module, suffix) = rest.rsplit_once('.')?;
            let short = match module {
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                _ => return None,
            };
            return Some(format!("blk.{layer}.{short}.{suffix}"));
        }
    };
    Some(whole.to_owned())
}

/// Rows of interleaved pairs back to two halves a head: [heads, dim / 2, 2, ..] → [heads, 2, dim / 2, ..].
fn unpermute(tensor: &Tensor, heads: usize) -> Result<Tensor> {
    let dims = tensor.dims().to_vec();
    let (rows, rest) = (dims[0], dims[1..].iter().product::<usize>());
    let grouped = tensor.reshape((heads, rows / heads / 2, 2, rest))?.transpose(1, 2)?.contiguous()?;
    Ok(grouped.reshape(dims)?)
}

impl Weights for GgufFile {
    fn tensor(&self, name: &str, dims: &[usize], _init: Init) -> Result<Tensor> {
        let absent = || missing(&self.origin(), name, self.content.tensor_infos.keys().map(String::as_str));
        let stored = gguf_name(name).filter(|stored| self.content.tensor_infos.contains_key(stored)).ok_or_else(absent)?;
        let tensor = self
            .content
            .tensor(&mut Cursor::new(&self.bytes[..]), &stored, &Device::Cpu)
            .map_err(|e| damaged(&self.path, e.to_string()))?;
        let tensor = tensor.dequantize(&Device::Cpu)?.to_dtype(DType::F32)?;
        if tensor.dims() != dims {
            return Err(ModelError::WrongShape {
                origin: self.origin(),
                name: name.to_owned(),
                expected: dims.to_vec(),
                found: tensor.dims().to_vec(),
            });
        }
        let (query, key_value) = self.heads()?;
        let tensor = match () {
            () if stored.contains("attn_q.") => unpermute(&tensor, query)?,
            () if stored.contains("attn_k.") => unpermute(&tensor, key_value)?,
            () => tensor,
        };
        Ok(tensor.to_device(&self.device)?)
    }

    fn contains(&self, name: &str) -> bool {
        gguf_name(name).is_some_and(|stored| self.content.tensor_infos.contains_key(&stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rotation_layout_are_turned_back() -> Result<()> {
        assert_eq!(gguf_name("model.layers.3.self_attn.o_proj.weight").as_deref(), Some("blk.3.attn_output.weight"));
        assert_eq!(gguf_name("lm_head.weight").as_deref(), Some("output.weight"));
        assert_eq!(gguf_name("model.layers.0.mixer.D"), None);
        // llama.cpp's conversion: reshape(heads, 2, dim / 2, ..).swapaxes(1, 2).
        let original = Tensor::arange(0f32, 24.0, &Device::Cpu)?.reshape((12, 2))?;
        let permuted = original.reshape((2, 2, 3, 2))?.transpose(1, 2)?.contiguous()?.reshape((12, 2))?;
        assert_eq!(unpermute(&permuted, 2)?.to_vec2::<f32>()?, original.to_vec2::<f32>()?);
        Ok(())
    }
}
