//! GGUF files of LLaMA-type models (architecture `llama`), dequantised to f32. Which types of numbers are read: [`supported_types`].
//!
//! GGUF has names of its own and, for architecture `llama`, stores the rows of q and k permuted for rotation on interleaved pairs;
//! both are turned back into Hugging Face's form here, so that adapters trained on such a model fit the original checkpoint.

mod header;

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weights::{Init, Weights, missing};
use header::{Header, Problem, Value};
use peftbench_ops::device::host;
use peftbench_ops::mapped::MappedFile;
use peftbench_ops::quantized::ggml_file::qtensor_from_ggml;
use peftbench_ops::{DType, Device, Tensor};
use serde_json::{Map, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An open GGUF file.
pub struct GgufFile {
    path: PathBuf,
    bytes: MappedFile,
    header: Header,
    /// Tensors that were asked for, by GGUF's names.
    used: RefCell<BTreeSet<String>>,
    device: Device,
}

/// Names of the types of numbers that are read, quantised ones among them.
pub fn supported_types() -> String {
    header::type_names()
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
    ///
    /// # Errors
    /// Where it is no whole GGUF file, or of a version or quantisation that is not read.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let bytes = MappedFile::open(path).map_err(|e| ModelError::Unreadable { path: path.to_owned(), problem: e.to_string() })?;
        let header = header::read(&bytes).map_err(|problem| match problem {
            Problem::Damaged(problem) => damaged(path, problem),
            Problem::Unsupported(problem) => ModelError::Unsupported { origin: path.display().to_string(), problem },
        })?;
        Ok(Self { path: path.to_owned(), bytes, header, used: RefCell::default(), device: device.clone() })
    }

    fn origin(&self) -> String {
        self.path.display().to_string()
    }

    fn unsupported(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Unsupported { origin: self.origin(), problem: problem.into() }
    }

    fn value(&self, key: &str) -> Result<&Value> {
        self.header.metadata.get(key).ok_or_else(|| self.unsupported(format!("the header has no `{key}`")))
    }

    /// The number `key`; none where there is none.
    fn optional(&self, key: &str) -> Result<Option<f64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(Value::Float(number)) => Ok(Some(*number)),
            Some(other) => Err(self.unsupported(format!("`{key}` is {other:?}; expected a number"))),
        }
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.optional(key)?.ok_or_else(|| self.unsupported(format!("the header has no `{key}`")))
    }

    fn text(&self, key: &str) -> Result<&str> {
        match self.value(key)? {
            Value::Text(text) => Ok(text),
            other => Err(self.unsupported(format!("`{key}` is {other:?}; expected a text"))),
        }
    }

    fn list(&self, key: &str) -> Result<&[Value]> {
        match self.value(key)? {
            Value::Array(values) => Ok(values),
            _ => Err(self.unsupported(format!("`{key}` is no list"))),
        }
    }

    fn heads(&self) -> Result<(usize, usize)> {
        let query = self.number("llama.attention.head_count")? as usize;
        let key_value = self.optional("llama.attention.head_count_kv")?.map_or(query, |n| n as usize);
        Ok((query, key_value))
    }

    /// The model's configuration in Hugging Face's keys.
    pub fn config(&self) -> Result<ModelConfig> {
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(self.unsupported(format!("GGUF architecture `{architecture}`; supported: `llama`")));
        }
        let count = |key: &str| self.number(key).map(|n| n as u64);
        let (query, key_value) = self.heads()?;
        let vocabulary = self.header.tensors.get("token_embd.weight").and_then(|entry| entry.dims.first());
        let hidden = count("llama.embedding_length")?;
        let head_dim = self.optional("llama.attention.key_length")?.map_or(hidden / (query as u64).max(1), |dim| dim as u64);
        let scaling = self.header.metadata.get("llama.rope.scaling.type");
        if let Some(scaling) = scaling.filter(|scaling| **scaling != Value::Text("none".to_owned())) {
            return Err(
                self.unsupported(format!("rope scaling {scaling:?} in a GGUF file; supported: none (load the Hugging Face folder)"))
            );
        }
        if self.optional("llama.rope.dimension_count")?.is_some_and(|rotated| rotated != head_dim as f64) {
            return Err(self.unsupported(format!("`llama.rope.dimension_count` differs from the head's {head_dim} dimensions")));
        }
        let mut values = Map::new();
        let mut set = |key: &str, value: serde_json::Value| values.insert(key.to_owned(), value);
        set("model_type", json!("llama"));
        set("vocab_size", json!(vocabulary));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(count("llama.feed_forward_length")?));
        set("num_hidden_layers", json!(count("llama.block_count")?));
        set("num_attention_heads", json!(query));
        set("num_key_value_heads", json!(key_value));
        set("head_dim", json!(head_dim));
        set("rms_norm_eps", json!(self.number("llama.attention.layer_norm_rms_epsilon")?));
        set("rope_theta", json!(self.optional("llama.rope.freq_base")?.unwrap_or(10_000.0)));
        set("tie_word_embeddings", json!(!self.header.tensors.contains_key("output.weight")));
        ModelConfig::from_values(values, self.origin())
    }

    /// The tokenizer in the header.
    pub fn tokenizer(&self) -> Result<GgufTokenizer> {
        let strings = |key: &str| -> Result<Vec<String>> {
            let text = |value: &Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
            Ok(self.list(key)?.iter().map(text).collect())
        };
        let id = |key: &str| Ok::<_, ModelError>(self.optional(key)?.map(|n| n as u32));
        let kind = |value: &Value| if let Value::Integer(kind) = value { i32::try_from(*kind).unwrap_or_default() } else { 0 };
        Ok(GgufTokenizer {
            model: self.text("tokenizer.ggml.model")?.to_owned(),
            pre: self.text("tokenizer.ggml.pre").unwrap_or_default().to_owned(),
            tokens: strings("tokenizer.ggml.tokens")?,
            merges: strings("tokenizer.ggml.merges")?,
            token_types: self.list("tokenizer.ggml.token_type")?.iter().map(kind).collect(),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
        })
    }

    /// Checks that every tensor was asked for: one that was not belongs to a variant of the architecture that is not computed, such as
    /// scaled rotary frequencies.
    ///
    /// # Errors
    /// Names what is left over.
    pub fn check_used(&self) -> Result<()> {
        let used = self.used.borrow();
        let names: Vec<String> = self.header.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(ModelError::ExtraTensors { origin: self.origin(), names }),
        }
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
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        let problem = format!("{rows} rows of queries or keys do not divide into pairs of {heads} heads");
        return Err(ModelError::Unsupported { origin: "GGUF".to_owned(), problem });
    }
    let grouped = tensor.reshape((heads, rows / heads / 2, 2, rest))?.transpose(1, 2)?.contiguous()?;
    Ok(grouped.reshape(dims)?)
}

impl Weights for GgufFile {
    fn tensor(&self, name: &str, dims: &[usize], _init: Init) -> Result<Tensor> {
        let absent = || missing(&self.origin(), name, self.header.tensors.keys().map(String::as_str));
        let stored = gguf_name(name).ok_or_else(absent)?;
        let entry = self.header.tensors.get(&stored).ok_or_else(absent)?;
        self.used.borrow_mut().insert(stored.clone());
        if entry.dims != dims {
            let (expected, found) = (dims.to_vec(), entry.dims.clone());
            return Err(ModelError::WrongShape { origin: self.origin(), name: name.to_owned(), expected, found });
        }
        // A copy of its own is aligned as its blocks need it.
        let bytes = self.bytes[entry.start..entry.start + entry.length].to_vec();
        let tensor = qtensor_from_ggml(entry.dtype, &bytes, entry.dims.clone(), &host())?;
        let tensor = tensor.dequantize(&host())?.to_dtype(DType::F32)?;
        let (query, key_value) = self.heads()?;
        let tensor = match () {
            () if stored.contains("attn_q.") => unpermute(&tensor, query)?,
            () if stored.contains("attn_k.") => unpermute(&tensor, key_value)?,
            () => tensor,
        };
        Ok(tensor.to_device(&self.device)?)
    }

    fn contains(&self, name: &str) -> bool {
        gguf_name(name).is_some_and(|stored| self.header.tensors.contains_key(&stored))
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
        let original = Tensor::arange(0f32, 24.0, &host())?.reshape((12, 2))?;
        let permuted = original.reshape((2, 2, 3, 2))?.transpose(1, 2)?.contiguous()?.reshape((12, 2))?;
        assert_eq!(unpermute(&permuted, 2)?.to_vec2::<f32>()?, original.to_vec2::<f32>()?);
        Ok(())
    }
}
