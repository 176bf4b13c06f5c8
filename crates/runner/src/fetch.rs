//! Puts models and data sets that were found elsewhere (in another folder, in the hub's cache) into a folder of one's own.
//!
//! Files appear whole or not at all, and a model's config comes last: without it a folder is no model. What was stopped goes on with the
//! files that are missing.

use crate::environment::ModelFiles;
use crate::error::{Result, RunError};
use crate::hub::{self, HubId, HubSettings, Kind};
use peftbench_datasets::tasks::published::Published;
use peftbench_datasets::{DataSource, TaskEntry};
use peftbench_ops::mapped::MappedFile;
use std::fs;
use std::path::{Path, PathBuf};

/// Puts the files of a model into `folder`, below the model's name, and returns their place. Weights are hard links where the file system
/// allows it, and copies elsewhere.
///
/// # Errors
/// Where a file cannot be read or written.
pub fn put_model(model: &ModelFiles, folder: &Path) -> Result<PathBuf> {
    if model.is_gguf() {
        // Names have dots of their own.
        let target = folder.join(format!("{}.gguf", model.name));
        put(&model.path, &target)?;
        return Ok(target);
    }
    let target = folder.join(&model.name);
    let entries = fs::read_dir(&model.path).map_err(|e| RunError::file("list", &model.path, e))?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|n| is_read(n)).collect();
    names.sort_by_key(|name| (name == "config.json", name.clone()));
    for name in names {
        put(&model.path.join(&name), &target.join(&name))?;
    }
    Ok(target)
}

/// Fetches data set `id` and puts its `.jsonl` files into `folder`, below their own folders; returns how many there are.
///
/// # Errors
/// Where the hub does not give it, or a file cannot be written.
pub fn put_dataset(id: &HubId, folder: &Path, settings: &HubSettings) -> Result<usize> {
    let snapshot = hub::snapshot(id, Kind::Dataset, settings)?;
    let files: Vec<String> = hub::files_below(&snapshot, &snapshot).into_iter().filter(|name| name.ends_with(".jsonl")).collect();
    for name in &files {
        put(&snapshot.join(name), &folder.join(name))?;
    }
    Ok(files.len())
}

/// Whether the data of `task` is in the data folder, from wherever.
pub fn has_data(task: &TaskEntry, data: &Path) -> bool {
    let source = DataSource { folder: Some(data.to_owned()) };
    task.published.is_some_and(|published| published.is_there(task.name, &source))
}

/// The id of a published data set on the hub.
pub fn data_id(published: &Published) -> HubId {
    HubId { repository: published.hub.to_owned(), revision: published.revision.to_owned() }
}

/// Fetches the published data of `task` and writes its rows below the folder `data`; returns how many rows there are.
///
/// # Errors
/// Where the hub does not give it, a file is not as described, or one cannot be written.
#[cfg(feature = "hub")]
pub fn put_data(task: &TaskEntry, published: &Published, data: &Path, settings: &HubSettings) -> Result<usize> {
    crate::published::put(task.name, published, data, settings)
}

/// Says that this build cannot read what the hub has.
///
/// # Errors
/// Always.
#[cfg(not(feature = "hub"))]
pub fn put_data(task: &TaskEntry, published: &Published, data: &Path, _settings: &HubSettings) -> Result<usize> {
    let problem = format!(
        "this build cannot read data sets of the hub; build with `--features hub`, or put the files of `{}` into {}",
        task.name,
        data.join(published.folder(task.name)).display()
    );
    Err(RunError::Hub { id: data_id(published).to_string(), problem })
}

/// Whether a file of a model's folder is one that runs read.
fn is_read(name: &str) -> bool {
    ["config.json", "tokenizer.json", "tokenizer_config.json"].contains(&name) || is_weights(Path::new(name))
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf")
}

/// Makes `target` a file with the bytes of `source`, unless it is that already.
fn put(source: &Path, target: &Path) -> Result<()> {
    let written = |e: std::io::Error| RunError::file("write", target, e);
    // The cache of the hub holds links to its files; a hard link must be to the file itself.
    let source = fs::canonicalize(source).map_err(|e| RunError::file("read", source, e))?;
    if is_same(&source, target) {
        return Ok(());
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|e| RunError::file("create the folder", folder, e))?;
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = target.with_file_name(name);
    let leftover = fs::remove_file(&temporary);
    if let Err(error) = leftover
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(RunError::file("remove", temporary, error));
    }
    // Small files are one's own to edit, large ones are not worth their space twice.
    if !is_weights(&source) || fs::hard_link(&source, &temporary).is_err() {
        fs::copy(&source, &temporary).and_then(|_| fs::File::open(&temporary)?.sync_all()).map_err(written)?;
    }
    fs::rename(&temporary, target).map_err(written)
}

/// Whether both files are there and hold the same bytes.
fn is_same(source: &Path, target: &Path) -> bool {
    let length = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.len());
    let (Some(a), Some(b)) = (length(source), length(target)) else { return false };
    a == b && (a == 0 || matches!((MappedFile::open(source), MappedFile::open(target)), (Ok(a), Ok(b)) if *a == *b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        hub::files_below(folder, folder)
    }

    #[test]
    fn a_model_is_put_below_its_name_and_what_was_cut_off_is_made_whole() {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["config.json", "tokenizer.json", "model.safetensors", "notes.txt"] {
            fs::write(source.path().join(name), format!("new {name}")).unwrap();
        }
        let model = ModelFiles { name: "acme/tiny".to_owned(), path: source.path().to_owned() };
        // What an earlier, killed attempt may leave: a file in part, an old file, no config.
        let place = target.path().join("acme/tiny");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("tokenizer.json.tmp"), "ne").unwrap();
        fs::write(place.join("model.safetensors"), "old model.safetensors").unwrap();
        assert_eq!(put_model(&model, target.path()).unwrap(), place);
        assert_eq!(names(&place), ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(fs::read_to_string(place.join("model.safetensors")).unwrap(), "new model.safetensors");
        let modified = |name: &str| fs::metadata(place.join(name)).unwrap().modified().unwrap();
        let before = modified("tokenizer.json");
        put_model(&model, target.path()).unwrap();
        assert_eq!(modified("tokenizer.json"), before, "what is there is not written again");
        // One's own copy of a small file.
        fs::write(place.join("config.json"), "changed").unwrap();
        assert_eq!(fs::read_to_string(source.path().join("config.json")).unwrap(), "new config.json");
    }

    #[test]
    fn a_gguf_file_keeps_the_dots_of_its_name() {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = source.path().join("small-2.5.Q4.gguf");
        fs::write(&path, "GGUF").unwrap();
        put_model(&ModelFiles { name: "small-2.5.Q4".to_owned(), path }, target.path()).unwrap();
        assert_eq!(names(target.path()), ["small-2.5.Q4.gguf"]);
    }

    #[test]
    fn a_data_set_keeps_its_folders() {
        let (cache, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let snapshot = cache.path().join("datasets--acme--data/snapshots/c0ffee");
        fs::create_dir_all(snapshot.join("glue/sst2")).unwrap();
        fs::write(snapshot.join("glue/sst2/dev.jsonl"), "{}").unwrap();
        fs::write(snapshot.join("README.md"), "").unwrap();
        let settings = HubSettings { cache: cache.path().to_owned(), endpoint: None, token: None, offline: true };
        let id = HubId::parse("acme/data@c0ffee").unwrap();
        assert_eq!(put_dataset(&id, target.path(), &settings).unwrap(), 1);
        assert_eq!(names(target.path()), ["glue/sst2/dev.jsonl"]);
    }
}
