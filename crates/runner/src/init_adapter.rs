//! The adapter that a run starts from. A spec names it by the hash of its content, so that it is part of the run's identity and no path is;
//! the run keeps a copy in its own folder, so that it can be resumed and made again from that alone.

use crate::environment::Environment;
use crate::error::{Result, RunError};
use crate::files::write_atomically;
use peftbench_adapters::{AdapterError, AdapterFolder, Attachment};
use peftbench_spec::{RunSpec, SpecError};
use std::path::{Path, PathBuf};

/// The files of an adapter.
const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Where a run keeps the adapter it started from.
pub fn kept_in(run_dir: &Path) -> PathBuf {
    run_dir.join("init_adapter")
}

/// BLAKE3 over both files of the adapter in `folder`.
pub fn hash(folder: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for name in FILES {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).map_err(|e| {
            let problem = format!("could not read {name} ({e}); an adapter folder holds {} and {}", FILES[0], FILES[1]);
            RunError::InitAdapter(AdapterError::Folder { path: folder.to_owned(), problem })
        })?;
        hasher.update(name.as_bytes());
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The adapter of this content among the environment's, or in the folder of a run that has kept it.
pub fn find(wanted: &str, environment: &Environment, run_dir: Option<&Path>) -> Result<PathBuf> {
    let folders: Vec<PathBuf> = run_dir.map(kept_in).into_iter().chain(environment.adapters.iter().cloned()).collect();
    let found = folders.iter().find(|folder| hash(folder).is_ok_and(|found| found == wanted));
    found.cloned().ok_or_else(|| {
        let searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let searched = if searched.is_empty() { "no folder".to_owned() } else { searched.join(", ") };
        RunError::NoInitAdapter { hash: wanted.to_owned(), searched }
    })
}

/// Copies the adapter in `folder` into that of a run.
pub fn keep(folder: &Path, run_dir: &Path) -> Result<()> {
    let target = kept_in(run_dir);
    if folder == target {
        return Ok(());
    }
    for name in FILES {
        let source = folder.join(name);
        let bytes = std::fs::read(&source).map_err(|e| RunError::file("read", &source, e))?;
        write_atomically(&target.join(name), &bytes)?;
    }
    Ok(())
}

/// Sets what the spec's method has attached from the adapter in `folder`.
///
/// # Errors
/// Where it was trained on another base, has other tensors than the method, or is damaged.
pub fn load(folder: &Path, spec: &RunSpec, attachment: &Attachment) -> Result<()> {
    let adapter = AdapterFolder::open(folder).map_err(RunError::InitAdapter)?;
    adapter.check_base(&spec.model.name).map_err(RunError::InitAdapter)?;
    adapter.load_into(attachment).map_err(RunError::InitAdapter)
}

/// Refuses an adapter for a method that begins afresh between its stages.
pub(crate) fn check_stages(stages: usize) -> Result<()> {
    match stages {
        0 | 1 => Ok(()),
        _ => {
            let problem = format!("the method has {stages} stages, each of which begins on a fresh base: it cannot start from an adapter");
            Err(SpecError::at("init_adapter", problem).into())
        }
    }
}
