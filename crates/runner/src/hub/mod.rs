//! Models and data sets by their id on the Hugging Face hub: from its cache on this machine, which Python's `huggingface_hub` fills
//! too, or, in a build with the feature `hub`, from the hub itself.
//!
//! Layout of the cache: `models--owner--name/refs/REVISION` holds a commit, `models--owner--name/snapshots/COMMIT/` its files.

#[cfg(feature = "hub")]
pub mod client;
#[cfg(feature = "hub")]
pub mod rows;

use crate::error::{Result, RunError};
use peftbench_datasets::tasks::published::PublishedSplit;
use std::path::{Path, PathBuf};

/// `owner/name`, or `owner/name@revision` where the revision is a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`.
    pub repository: String,
    /// `main` if none is given.
    pub revision: String,
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model: config, tokenizer and weights as safetensors.
    Model,
    /// A data set in the layout of the data folder: `.jsonl` files in folders by task.
    Dataset,
    /// A data set as it was published, of which these splits are read: files of Parquet, JSON or JSON Lines.
    Published(&'static [PublishedSplit]),
}

/// What the hub says of a repository before anything is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Bytes of the files that are needed.
    pub bytes: Option<u64>,
    /// The licence that its README names.
    pub licence: Option<String>,
}

/// Where the cache lies and whether and how the hub may be asked; by the environment variables of `huggingface_hub`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub.
    pub cache: PathBuf,
    /// HF_ENDPOINT: the address of a mirror.
    pub endpoint: Option<String>,
    /// HF_TOKEN, for repositories that are not public; without it, that of the login kept beside the cache is sent.
    pub token: Option<String>,
    /// HF_HUB_OFFLINE: only the cache is looked at.
    pub offline: bool,
}

impl HubId {
    /// Reads an id; none where `name` cannot be one.
    pub fn parse(name: &str) -> Option<Self> {
        let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
        let (owner, rest) = repository.split_once('/')?;
        let is_word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let is_id = is_word(owner) && is_word(rest) && revision.split('/').all(is_word);
        is_id.then(|| Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.repository)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl HubSettings {
    /// Reads the settings of this process.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads the settings from variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = || std::env::home_dir().unwrap_or_default();
        let general_cache = || given("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
        let hub_home = || given("HF_HOME").map_or_else(|| general_cache().join("huggingface"), PathBuf::from);
        let is_on = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        Self {
            cache: given("HF_HUB_CACHE").map_or_else(|| hub_home().join("hub"), PathBuf::from),
            endpoint: given("HF_ENDPOINT"),
            token: given("HF_TOKEN"),
            offline: given("HF_HUB_OFFLINE").is_some_and(is_on),
        }
    }
}

/// The folder of a repository's files: that of the cache if all that is needed is in it, else fetched. A revision that moves (a branch)
/// stays where the cache has it.
///
/// # Errors
/// Where it is not in the cache and may not or cannot be fetched, with what to do about it.
pub fn snapshot(id: &HubId, kind: Kind, settings: &HubSettings) -> Result<PathBuf> {
    match cached(id, kind, &settings.cache) {
        Some(folder) => Ok(folder),
        None if settings.offline => Err(failed(id, format!("it is not in {}, and HF_HUB_OFFLINE is set", settings.cache.display()))),
        None => fetch(id, kind, settings),
    }
}

/// Whether the cache has all that is needed of a repository.
pub fn is_cached(id: &HubId, kind: Kind, settings: &HubSettings) -> bool {
    cached(id, kind, &settings.cache).is_some()
}

#[cfg(feature = "hub")]
use client::fetch;

/// What a repository weighs and its licence; nothing is known where the hub may not or cannot be asked.
///
/// # Errors
/// Where the hub says that there is no such repository, or that it lacks what is needed.
#[cfg(feature = "hub")]
pub fn describe(id: &HubId, kind: Kind, settings: &HubSettings) -> Result<Description> {
    if settings.offline { Ok(Description::default()) } else { client::describe(id, kind, settings) }
}

/// Nothing: this build cannot ask the hub.
///
/// # Errors
/// Never.
#[cfg(not(feature = "hub"))]
pub fn describe(_id: &HubId, _kind: Kind, _settings: &HubSettings) -> Result<Description> {
    Ok(Description::default())
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &HubId, _kind: Kind, settings: &HubSettings) -> Result<PathBuf> {
    let cache = settings.cache.display();
    Err(failed(
        id,
        format!("it is not in {cache}, and this build cannot ask the hub; build with `--features hub`, or get its files otherwise"),
    ))
}

fn failed(id: &HubId, problem: String) -> RunError {
    RunError::Hub { id: id.to_string(), problem }
}

/// The snapshot in the cache, if it has every file that is needed.
fn cached(id: &HubId, kind: Kind, cache: &Path) -> Option<PathBuf> {
    let prefix = match kind {
        Kind::Model => "models",
        Kind::Dataset | Kind::Published(_) => "datasets",
    };
    let repository = cache.join(format!("{prefix}--{}", id.repository.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs").join(&id.revision)).unwrap_or_else(|_| id.revision.clone());
    let folder = repository.join("snapshots").join(commit.trim());
    let names = files_below(&folder, &folder);
    needed(kind, &names).is_ok().then_some(folder)
}

/// Names of the files below `folder`, relative to `root`, with `/` between the parts.
pub(crate) fn files_below(folder: &Path, root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names = Vec::new();
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            names.extend(files_below(&path, root));
        } else if let Ok(name) = path.strip_prefix(root)
            && path.is_file()
        {
            names.push(name.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/"));
        }
    }
    names.sort();
    names
}

/// Which of the files `names` of a repository are needed, weights last: a snapshot that has its weights has everything. The error says
/// what the repository lacks.
fn needed(kind: Kind, names: &[String]) -> std::result::Result<Vec<String>, String> {
    if let Kind::Published(splits) = kind {
        return published(splits, names);
    }
    if kind == Kind::Dataset {
        let files: Vec<String> = names.iter().filter(|name| name.ends_with(".jsonl")).cloned().collect();
        return if files.is_empty() {
            Err("it has no .jsonl file; a data set holds FOLDER/train.jsonl and the like".to_owned())
        } else {
            Ok(files)
        };
    }
    let mut files: Vec<String> = ["tokenizer_config.json"].map(str::to_owned).into_iter().filter(|name| names.contains(name)).collect();
    files.extend(["config.json", "tokenizer.json"].map(str::to_owned));
    files.extend(weights(names));
    match files.iter().find(|file| !names.contains(file)) {
        None => Ok(files),
        Some(missing) if missing.ends_with(".safetensors") => {
            Err(format!("it has no {missing}; weights of another form must be converted to safetensors first"))
        }
        Some(missing) => Err(format!("it has no {missing}")),
    }
}

/// The files of every split of a published data set.
fn published(splits: &[PublishedSplit], names: &[String]) -> std::result::Result<Vec<String>, String> {
    let mut files = Vec::new();
    for split in splits {
        let found = files_of(split, names);
        if found.is_empty() {
            return Err(format!("it has no file {}*.parquet, .json or .jsonl", split.from));
        }
        files.extend(found);
    }
    Ok(files)
}

/// The files of one split, in order.
pub(crate) fn files_of(split: &PublishedSplit, names: &[String]) -> Vec<String> {
    let is_read = |name: &&String| [".parquet", ".json", ".jsonl"].iter().any(|ending| name.ends_with(ending));
    let mut files: Vec<String> = names.iter().filter(|name| name.starts_with(split.from)).filter(is_read).cloned().collect();
    files.sort();
    files
}

/// The files of the weights: one, or as many as the name of the first says, `model-00001-of-00003.safetensors`.
fn weights(names: &[String]) -> Vec<String> {
    let count = |name: &String| name.strip_prefix("model-00001-of-")?.strip_suffix(".safetensors")?.parse::<usize>().ok();
    match names.iter().find_map(count) {
        Some(count) if !names.iter().any(|name| name == "model.safetensors") => {
            (1..=count).map(|shard| format!("model-{shard:05}-of-{count:05}.safetensors")).collect()
        }
        _ => vec!["model.safetensors".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn ids_are_told_from_other_names() {
        let id = HubId::parse("state-spaces/mamba-130m-hf").unwrap();
        assert_eq!((id.repository.as_str(), id.revision.as_str()), ("state-spaces/mamba-130m-hf", "main"));
        let pinned = HubId::parse("a/b@refs/pr/1").unwrap();
        assert_eq!((pinned.revision.as_str(), pinned.to_string().as_str()), ("refs/pr/1", "a/b@refs/pr/1"));
        for name in ["tiny-mamba", "/a/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../c", "a/b@v1/", "a b/c", ""] {
            assert_eq!(HubId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn settings_follow_the_variables_of_huggingface_hub() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            HubSettings::from_variables(move |name| pairs.iter().find(|(a, _)| a == name).map(|(_, b)| b.clone()))
        };
        assert_eq!(with(&[("HF_HOME", "/h")]).cache, Path::new("/h/hub"));
        assert_eq!(with(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        assert!(with(&[]).cache.ends_with(".cache/huggingface/hub"));
        let asked = with(&[("HF_TOKEN", "secret"), ("HF_ENDPOINT", "http://mirror")]);
        assert_eq!((asked.token.as_deref(), asked.endpoint.as_deref()), (Some("secret"), Some("http://mirror")));
        assert_eq!(with(&[("HF_TOKEN", "")]).token, None);
        let offline = |value| with(&[("HF_HUB_OFFLINE", value)]).offline;
        assert_eq!(["1", "TRUE", "yes", "0", ""].map(offline), [true, true, true, false, false]);
    }

    #[test]
    fn needed_files_end_with_all_the_weights() {
        let whole =
            names(&["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "tokenizer_config.json"]);
        let expected = names(&["tokenizer_config.json", "config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(needed(Kind::Model, &whole).unwrap(), expected);
        let mut shards = names(&["config.json", "tokenizer.json", "model-00001-of-00002.safetensors"]);
        assert_eq!(
            needed(Kind::Model, &shards).unwrap_err(),
            "it has no model-00002-of-00002.safetensors; weights of another form must be converted to safetensors first"
        );
        shards.push("model-00002-of-00002.safetensors".to_owned());
        assert_eq!(needed(Kind::Model, &shards).unwrap().len(), 4);
        assert_eq!(needed(Kind::Model, &names(&["config.json", "model.safetensors"])).unwrap_err(), "it has no tokenizer.json");
        assert_eq!(needed(Kind::Dataset, &names(&["glue/sst2/dev.jsonl", "x.parquet"])).unwrap(), names(&["glue/sst2/dev.jsonl"]));
        assert!(needed(Kind::Dataset, &names(&["x.parquet"])).is_err());
    }

    #[test]
    fn the_cache_is_read_by_branch_and_by_commit_and_only_if_whole() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--acme--tiny");
        let snapshot = repository.join("snapshots/c0ffee");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "c0ffee").unwrap();
        let find = |name: &str| cached(&HubId::parse(name).unwrap(), Kind::Model, cache.path());
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert_eq!(find("acme/tiny"), None, "without {name}");
            fs::write(snapshot.join(name), "").unwrap();
        }
        assert_eq!(find("acme/tiny"), Some(snapshot.clone()));
        assert_eq!(find("acme/tiny@c0ffee"), Some(snapshot));
        assert_eq!((find("acme/tiny@v1"), find("acme/other")), (None, None));
    }

    #[test]
    fn what_may_not_be_fetched_says_why() {
        let cache = tempfile::tempdir().unwrap();
        let settings = HubSettings { cache: cache.path().to_owned(), endpoint: None, token: None, offline: true };
        let error = snapshot(&HubId::parse("acme/tiny").unwrap(), Kind::Model, &settings).unwrap_err().to_string();
        assert!(error.contains("`acme/tiny`") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
        #[cfg(not(feature = "hub"))]
        {
            let error =
                snapshot(&HubId::parse("acme/tiny").unwrap(), Kind::Model, &HubSettings { offline: false, ..settings }).unwrap_err();
            assert!(error.to_string().contains("build with `--features hub`"), "{error}");
        }
    }
}
