//! Reading Hugging Face's `config.json`.

use crate::error::{ModelError, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

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
        match serde_json::from_str(&text) {
            Ok(Value::Object(values)) => Self::from_values(values, path.display().to_string()),
            Ok(_) => Err(ModelError::Damaged { path, problem: "expected a JSON object".to_owned() }),
            Err(error) => Err(ModelError::Damaged { path, problem: error.to_string() }),
        }
    }

    /// Takes the keys of a config.
    pub fn from_values(values: Map<String, Value>, origin: String) -> Result<Self> {
        match values.get("model_type") {
            Some(Value::String(model_type)) => Ok(Self { model_type: model_type.clone(), values, origin }),
            _ => Err(ModelError::Unsupported { origin, problem: "the config names no `model_type`".to_owned() }),
        }
    }

    /// The typed config of an architecture. Keys it does not know are Hugging Face's and are left alone.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.values.clone())).map_err(|error| self.unsupported(error.to_string()))
    }

    /// An error about this config.
    pub fn unsupported(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Unsupported { origin: self.origin.clone(), problem: problem.into() }
    }
}
