//! Where models and data lie on this machine. Nothing here is part of a run's identity; what was found is recorded by hash.

use crate::error::{Result, RunError};
use crate::hub::{self, HubId, HubSettings, Kind};
use peftbench_datasets::{DataSource, GgufVocabulary, TextTokenizer};
use peftbench_models::checkpoint::Checkpoint;
use peftbench_models::config::ModelConfig;
use peftbench_models::gguf::GgufFile;
use peftbench_models::s4d::{S4D, S4d};
use peftbench_models::{Model, load};
use peftbench_ops::Device;
use peftbench_ops::device::{DeviceChoice, host};
use peftbench_ops::mapped::MappedFile;
use std::path::{Path, PathBuf};

/// The places a run reads from, and what it computes with.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Folders searched for models, in order.
    pub models: Vec<PathBuf>,
    /// Folder of real data sets; without one only tasks of the invented world work.
    pub data: Option<PathBuf>,
    /// Folders of adapters that runs may start from.
    pub adapters: Vec<PathBuf>,
    /// Threads, for the record; 0 if unknown.
    pub threads: usize,
    /// What to compute on.
    pub device: DeviceChoice,
}

/// A model that was found: a Hugging Face folder or a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// As in the spec.
    pub name: String,
    /// The folder or the file.
    pub path: PathBuf,
}

impl Environment {
    /// The device to compute on.
    ///
    /// # Errors
    /// Where there is none such.
    pub fn device(&self) -> Result<Device> {
        Ok(self.device.open()?)
    }

    /// The data source of tasks.
    pub fn data_source(&self) -> DataSource {
        DataSource { folder: self.data.clone() }
    }

    /// Finds model `name` in the model folders, else by its id on the Hugging Face hub (`state-spaces/mamba-130m-hf`, or
    /// `OWNER/NAME@REVISION`): in the hub's cache, or fetched where this build can.
    ///
    /// # Errors
    /// Where it is nowhere, with the places and the ways to get it.
    pub fn find_model(&self, name: &str) -> Result<ModelFiles> {
        if let Some(files) = self.local_model(name) {
            return Ok(files);
        }
        let searched: Vec<String> = self.models.iter().map(|folder| folder.display().to_string()).collect();
        let searched = if searched.is_empty() { "no folder".to_owned() } else { searched.join(", ") };
        let missing = |hub: String| RunError::NoModel { name: name.to_owned(), searched, hub };
        let Some(id) = HubId::parse(name) else { return Err(missing(String::new())) };
        match hub::snapshot(&id, Kind::Model, &HubSettings::from_env()) {
            Ok(path) => Ok(ModelFiles { name: name.to_owned(), path }),
            Err(error) => Err(missing(format!("; {error}"))),
        }
    }

    /// Finds model `name` without the hub: a path, or a folder or `.gguf` file of that name in one of the model folders. The id of a hub's
    /// model is found as nested folders or by its last part.
    pub fn local_model(&self, name: &str) -> Option<ModelFiles> {
        let short = name.rsplit('/').next().unwrap_or(name);
        let mut candidates = vec![PathBuf::from(name)];
        for folder in &self.models {
            candidates.extend([
                folder.join(name),
                folder.join(short),
                folder.join(format!("{name}.gguf")),
                folder.join(format!("{short}.gguf")),
            ]);
        }
        let is_model =
            |path: &PathBuf| path.join("config.json").is_file() || (path.is_file() && path.extension().is_some_and(|e| e == "gguf"));
        candidates.into_iter().find(is_model).map(|path| ModelFiles { name: name.to_owned(), path })
    }
}

impl ModelFiles {
    /// Whether it is a GGUF file.
    pub(crate) fn is_gguf(&self) -> bool {
        self.path.extension().is_some_and(|e| e == "gguf")
    }

    /// Loads the model.
    pub fn model(&self, device: &Device) -> Result<Box<dyn Model>> {
        Ok(load(&self.path, device)?)
    }

    /// Loads the tokenizer: `tokenizer.json` of the folder, or the GGUF header's.
    pub fn tokenizer(&self) -> Result<TextTokenizer> {
        if !self.is_gguf() {
            return Ok(TextTokenizer::from_file(&self.path.join("tokenizer.json"))?);
        }
        let header = GgufFile::open(&self.path, &host())?.tokenizer()?;
        let vocabulary = GgufVocabulary {
            model: header.model,
            pre: header.pre,
            tokens: header.tokens,
            merges: header.merges,
            token_types: header.token_types,
            bos: header.bos,
            eos: header.eos,
        };
        Ok(TextTokenizer::from_gguf(vocabulary)?)
    }

    /// The tokenizer, checked against the model's vocabulary. Padded embeddings may have more rows than there are tokens.
    pub fn tokenizer_for(&self, model: &dyn Model) -> Result<TextTokenizer> {
        let tokenizer = self.tokenizer()?;
        match tokenizer.vocab_size() <= model.vocab_size() {
            true => Ok(tokenizer),
            false => Err(RunError::VocabularyMismatch {
                model: self.name.clone(),
                tokenizer: tokenizer.vocab_size(),
                vocabulary: model.vocab_size(),
            }),
        }
    }

    /// Checks that what runs read of it is there and whole: config, headers and lengths of the weights, tokenizer. No weight is read.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or cut short.
    pub fn check(&self) -> Result<()> {
        if self.is_gguf() {
            return self.tokenizer().map(drop);
        }
        let config = ModelConfig::read(&self.path)?;
        // A network over numbers may be random, and reads no text.
        if config.model_type == S4D {
            return Ok(S4d::load(&self.path, &host()).map(drop)?);
        }
        Checkpoint::open(&self.path, &host())?;
        self.tokenizer().map(drop)
    }

    /// BLAKE3 over the names and contents of the files that make the model: its config and weights.
    pub fn hash(&self) -> Result<String> {
        let mut files = vec![self.path.clone()];
        if !self.is_gguf() {
            let entries = std::fs::read_dir(&self.path).map_err(|e| RunError::file("list", &self.path, e))?;
            let extension = |path: &Path| path.extension().and_then(|e| e.to_str()).map(str::to_owned);
            files = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
            files.retain(|path| {
                extension(path).is_some_and(|e| e == "safetensors") || path.file_name().is_some_and(|name| name == "config.json")
            });
            files.sort();
        }
        let mut hasher = blake3::Hasher::new();
        for path in files {
            let bytes = MappedFile::open(&path).map_err(|e| RunError::file("read", &path, e))?;
            hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            hasher.update(blake3::hash(&bytes).as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
