//! `manifest.toml`: everything needed to run one experiment again, and what it ran with the first time.

use crate::canonical::RunId;
use crate::error::{Result, SpecError};
use crate::run_spec::RunSpec;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the manifest file.
pub const MANIFEST_VERSION: u32 = 1;

/// A run's identity, its spec, the inputs it read and the build that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file.
    pub manifest_version: u32,
    /// Hash of `spec`.
    pub run_id: RunId,
    /// The sweep it belongs to.
    pub sweep: String,
    /// The resolved spec, defaults filled in.
    pub spec: RunSpec,
    /// Hashes of what was read; empty before the first start.
    #[serde(default)]
    pub inputs: Inputs,
    /// The program and machine of the last attempt.
    #[serde(default)]
    pub provenance: Provenance,
}

/// BLAKE3 hashes of what a run read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inputs {
    /// Over the model's files.
    pub model: Option<String>,
    /// Over the tokenizer.
    pub tokenizer: Option<String>,
    /// Over the examples of all splits.
    pub dataset: Option<String>,
}

/// The program and the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Version of peftbench.
    pub version: String,
    /// Commit it was built from, with `-dirty` where the tree had changes.
    pub git: Option<String>,
    /// Compiler.
    pub rustc: String,
    /// BLAKE3 of `Cargo.lock`.
    pub cargo_lock: String,
    /// Operating system and processor architecture.
    pub platform: String,
    /// Processor name, where the system tells.
    pub cpu: Option<String>,
    /// Kind of device the run computed on.
    pub device: String,
    /// Threads the run computed with.
    pub threads: usize,
}

impl Manifest {
    /// A manifest for a resolved `spec`, before its first start.
    pub fn new(sweep: impl Into<String>, spec: RunSpec) -> Result<Self> {
        Ok(Self {
            manifest_version: MANIFEST_VERSION,
            run_id: RunId::of(&spec)?,
            sweep: sweep.into(),
            spec,
            inputs: Inputs::default(),
            provenance: Provenance::default(),
        })
    }

    /// Reads a manifest and checks that its id is the hash of its spec.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| SpecError::Unreadable { path: path.to_owned(), problem: e.to_string() })?;
        let value = crate::sweep_spec::parse_toml(path, &text)?;
        let manifest: Self = crate::locate::deserialize(value).map_err(|error| error.located(path, &text))?;
        if manifest.manifest_version > MANIFEST_VERSION {
            let problem =
                format!("version {} is newer than this program's {MANIFEST_VERSION}; use a newer peftbench", manifest.manifest_version);
            return Err(SpecError::at("manifest_version", problem).located(path, &text));
        }
        let expected = RunId::of(&manifest.spec)?;
        if expected != manifest.run_id {
            let problem = format!(
                "`{}` is not the hash of the spec below it, which is `{expected}`: the file was edited; to run a changed spec, give it to `peftbench run` without `run_id`",
                manifest.run_id
            );
            return Err(SpecError::at("run_id", problem).located(path, &text));
        }
        Ok(manifest)
    }

    /// The text of `manifest.toml`.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| SpecError::at("", format!("the manifest cannot be written as TOML: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manifest_reads_back_and_an_edited_one_is_refused() {
        let spec = RunSpec::from_value(
            json!({"model": "tiny-mamba", "task": "world/sentiment", "method": {"type": "lora", "r": 8}, "targets": ["in_proj.x"]}),
        )
        .unwrap();
        let manifest = Manifest::new("quick", spec).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.toml");
        std::fs::write(&path, manifest.to_toml().unwrap()).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        std::fs::write(&path, manifest.to_toml().unwrap().replace("seed = 0", "seed = 1")).unwrap();
        let message = Manifest::read(&path).unwrap_err().to_string();
        assert!(message.contains("is not the hash of the spec"), "{message}");
    }
}
