//! Reading Hugging Face's `config.json`.

use crate::error::{ModelError, Result};
use peftbench_ops::activation::Activation;
use peftbench_ops::attention::Heads;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// Most dimensions of an attention head; tables of that width are made before any weight is read.
const LARGEST_HEAD: usize = 1 << 16;

/// A model's configuration, as the checkpoint or a pre-training spec gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Hugging Face's `model_type`: `llama`, `mamba`.
    pub model_type: String,
    /// All keys.
    pub values: Map<String, Value>,
    /// What it was read from, for error messages.
    pub origin: String,
}

impl ModelConfig {
    /// Reads `config.json` of a model folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| ModelError::Unreadable { path: path.clone(), problem: e.to_string() })?;
        match serde_json::from_str(&standard_json(&text)) {
            Ok(Value::Object(values)) => Self::from_values(values, path.display().to_string()),
            Ok(_) => Err(ModelError::Damaged { path, problem: "expected a JSON object".to_owned() }),
            Err(error) => Err(ModelError::Damaged { path, problem: error.to_string() }),
        }
    }

    /// Takes the keys of a config.
    pub fn from_values(values: Map<String, Value>, origin: String) -> Result<Self> {
        match values.get("model_type") {
            Some(Value::String(model_type)) => Self { model_type: model_type.clone(), values, origin }.checked(),
            _ => Err(ModelError::Unsupported { origin, problem: "the config names no `model_type`".to_owned() }),
        }
    }

    /// The config itself, if no number in it is beyond every model: a model without weights is built from the config alone, and must not
    /// take its word for the number of layers.
    fn checked(self) -> Result<Self> {
        for (key, value) in &self.values {
            let limit = match key.as_str() {
                "num_hidden_layers" | "n_layer" | "num_layers" | "num_experts" => 4096,
                key if key.contains("theta") => u64::MAX,
                _ => 1 << 31,
            };
            if let Some(number) = value.as_u64().filter(|number| *number > limit) {
                return Err(self.unsupported(format!("`{key}` is {number}; expected at most {limit}")));
            }
        }
        Ok(self)
    }

    /// The typed config of an architecture. Keys it does not know are Hugging Face's and are left alone.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.values.clone())).map_err(|error| self.unsupported(error.to_string()))
    }

    /// Like [`ModelConfig::parse`], where the config may call some keys by another name: pairs of the other name and the one in `T`. The
    /// other name counts where both are there, as in Hugging Face's `attribute_map`.
    pub(crate) fn parse_renamed<T: DeserializeOwned>(&self, names: &[(&str, &str)]) -> Result<T> {
        let mut renamed = self.clone();
        for (other, name) in names {
            if let Some(value) = renamed.values.remove(*other) {
                renamed.values.insert((*name).to_owned(), value);
            }
        }
        renamed.parse()
    }

    /// An activation by Hugging Face's name.
    pub(crate) fn activation(&self, name: &str) -> Result<Activation> {
        match name {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            _ => Err(self.unsupported(format!(
                "activation `{name}` is not supported; supported: `gelu`, `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`, `relu`, `silu`, `swish`"
            ))),
        }
    }

    /// The heads of an attention layer.
    pub(crate) fn heads(&self, hidden: usize, query: usize, key_value: Option<usize>, dim: Option<usize>) -> Result<Heads> {
        let key_value = key_value.unwrap_or(query);
        if query == 0 || key_value == 0 || !query.is_multiple_of(key_value) {
            return Err(self.unsupported(format!("{query} attention heads cannot share {key_value} key-value heads")));
        }
        if dim.is_none() && !hidden.is_multiple_of(query) {
            return Err(self.unsupported(format!("a hidden size of {hidden} does not divide into {query} heads")));
        }
        let dim = dim.unwrap_or(hidden / query);
        if dim > LARGEST_HEAD {
            return Err(self.unsupported(format!("attention heads have {dim} dimensions; expected at most {LARGEST_HEAD}")));
        }
        Ok(Heads { query, key_value, dim })
    }

    /// Mamba's `time_step_rank` (`mamba_dt_rank` in Jamba): a number, or "auto" for ⌈hidden / 16⌉.
    pub(crate) fn time_step_rank(&self, rank: Option<&Value>, hidden: usize) -> Result<usize> {
        match rank {
            None => Ok(hidden.div_ceil(16)),
            Some(Value::String(auto)) if auto == "auto" => Ok(hidden.div_ceil(16)),
            Some(rank) => match rank.as_u64() {
                Some(rank @ 1..) => Ok(rank as usize),
                _ => Err(self.unsupported(format!("the time step's rank is {rank}; expected a positive number or \"auto\""))),
            },
        }
    }

    /// An error about this config.
    pub fn unsupported(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Unsupported { origin: self.origin.clone(), problem: problem.into() }
    }
}

/// A number of a config. transformers writes those that JSON has no form for as `{"__float__": "Infinity"}`.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value.get("__float__").and_then(Value::as_str) {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

/// Python writes infinities as bare words, which JSON does not know; they become what [`number`] reads.
fn standard_json(text: &str) -> String {
    let mut standard = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(next) = rest.chars().next() {
        let word = ["Infinity", "-Infinity", "NaN"].into_iter().find(|word| !quoted && rest.starts_with(word));
        let taken = match word {
            Some(word) => {
                standard.push_str(&format!("{{\"__float__\": \"{word}\"}}"));
                word.len()
            }
            None => {
                quoted ^= next == '"';
                // An escaped character never ends a string.
                let len = if next == '\\' { 1 + rest[1..].chars().next().map_or(0, char::len_utf8) } else { next.len_utf8() };
                standard.push_str(&rest[..len]);
                len
            }
        };
        rest = &rest[taken..];
    }
    standard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_infinities_are_read_and_strings_left_alone() {
        let value: Value =
            serde_json::from_str(&standard_json(r#"{"a": [0.0, Infinity], "b": "Infinity \"-Infinity", "c": -Infinity}"#)).unwrap();
        assert_eq!(number(&value["a"][0]), Some(0.0));
        assert_eq!(number(&value["a"][1]), Some(f64::INFINITY));
        assert_eq!(value["b"], "Infinity \"-Infinity");
        assert_eq!(number(&value["c"]), Some(f64::NEG_INFINITY));
        assert_eq!(number(&value["b"]), None);
    }
}
