//! Models on this machine: which there are, and their shapes without their weights.

use peftbench_models::config::ModelConfig;
use peftbench_models::gguf::GgufFile;
use peftbench_models::weights::Shapes;
use peftbench_models::{Network, model};
use peftbench_ops::Device;
use peftbench_runner::{Environment, RunError};
use std::path::{Path, PathBuf};

/// A model with shapes and no content: it costs no memory, whatever its size.
pub fn shapes(path: &Path) -> Result<Box<dyn Network>, RunError> {
    let config = match path.is_file() {
        true => GgufFile::open(path, &Device::Cpu)?.config()?,
        false => ModelConfig::read(path)?,
    };
    Ok(model::build_network(&config, &Shapes)?)
}

/// Scalars of a model, a tied tensor counted once.
pub fn num_params(model: &mut dyn Network) -> u64 {
    model.params().iter().map(|param| param.elem_count() as u64).sum()
}

/// Every model in the model folders, as a spec names it, in the order in which they are searched. One level of folders is an
/// organisation's: `state-spaces/mamba-130m-hf`.
pub fn found(environment: &Environment) -> Vec<(String, PathBuf)> {
    let mut models: Vec<(String, PathBuf)> = Vec::new();
    for folder in &environment.models {
        for path in entries(folder) {
            let inner = if is_model(&path) { Vec::new() } else { entries(&path) };
            for path in std::iter::once(path).chain(inner).filter(|path| is_model(path)) {
                let name = name_of(path.strip_prefix(folder).unwrap_or(&path));
                // The first of a name is the one that is taken.
                if !models.iter().any(|(known, _)| *known == name) {
                    models.push((name, path));
                }
            }
        }
    }
    models
}

/// What is in a folder, sorted; nothing if it is not there.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths
}

fn is_model(path: &Path) -> bool {
    path.join("config.json").is_file() || path.is_file() && path.extension().is_some_and(|extension| extension == "gguf")
}

/// The path below a model folder, without the extension of a GGUF file.
fn name_of(path: &Path) -> String {
    let is_file = path.extension().is_some_and(|extension| extension == "gguf");
    if is_file { path.with_extension("").display().to_string() } else { path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_files_and_organisations_are_found_once_each() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [first.path().join("tiny"), second.path().join("tiny"), second.path().join("org/big")] {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
        }
        std::fs::write(second.path().join("small-2.5.gguf"), "").unwrap();
        std::fs::write(second.path().join("notes.txt"), "").unwrap();
        let models = vec![first.path().to_owned(), second.path().to_owned(), PathBuf::from("no-such-folder")];
        let found = found(&Environment { models, ..Environment::default() });
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tiny", "org/big", "small-2.5"]);
        assert!(found[0].1.starts_with(first.path()));
    }
}
