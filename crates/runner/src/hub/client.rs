//! The hub's client: downloads what is needed of a repository into the cache. What was begun goes on where it stopped.

use super::{HubId, HubSettings, Kind, failed, needed};
use crate::error::Result;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use std::io::IsTerminal;
use std::path::{Component, Path, PathBuf};

/// Times that a file is asked for again where the connection broke.
const RETRIES: usize = 3;

/// Downloads the needed files of one commit and returns their folder in the cache.
pub fn fetch(id: &HubId, kind: Kind, settings: &HubSettings) -> Result<PathBuf> {
    let cache = Cache::new(settings.cache.clone());
    let api = build(&cache, settings).map_err(|error| failed(id, error.to_string()))?;
    let repo_type = match kind {
        Kind::Model => RepoType::Model,
        Kind::Dataset => RepoType::Dataset,
    };
    let repo = |revision: &str| Repo::with_revision(id.repository.clone(), repo_type, revision.to_owned());
    let info = api.repo(repo(&id.revision)).info().map_err(|error| failed(id, explain(&error)))?;
    let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).filter(|name| is_inside(name)).collect();
    let files = needed(kind, &names).map_err(|problem| failed(id, problem))?;
    // All files of one commit, even if the branch moves meanwhile.
    let pinned = api.repo(repo(&info.sha));
    for file in &files {
        pinned.get(file).map_err(|error| failed(id, format!("{file}: {}", explain(&error))))?;
    }
    let cached = cache.repo(repo(&id.revision));
    cached.create_ref(&info.sha).map_err(|error| failed(id, format!("the cache could not be written: {error}")))?;
    Ok(cached.pointer_path(&info.sha))
}

fn build(cache: &Cache, settings: &HubSettings) -> std::result::Result<Api, ApiError> {
    let mut builder = ApiBuilder::from_cache(cache.clone())
        .with_token(settings.token.clone().or_else(|| cache.token()))
        .with_retries(RETRIES)
        .with_progress(std::io::stderr().is_terminal())
        .with_user_agent("peftbench", env!("CARGO_PKG_VERSION"));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build()
}

/// Whether a file's name stays inside the repository's folder.
fn is_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The error, and what it most likely means.
fn explain(error: &ApiError) -> String {
    let text = error.to_string();
    let hint = match &text {
        text if text.contains("401") || text.contains("403") => "; no such repository, or it is not public: set HF_TOKEN",
        text if text.contains("404") => "; no such repository or revision",
        _ => "",
    };
    format!("{text}{hint}")
}

#[cfg(test)]
mod tests {
    use super::super::{cached, snapshot};
    use super::*;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A mirror of one repository, `acme/tiny`, on this machine.
    struct Mirror {
        endpoint: String,
        /// Path and first byte of every file request, in order.
        asked: Arc<Mutex<Vec<(String, usize)>>>,
    }

    impl Mirror {
        fn serve(files: &'static [(&'static str, &'static [u8])]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = asked.clone();
            // The thread ends with the process.
            std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, files, &log)));
            Self { endpoint, asked }
        }

        fn settings(&self, cache: &Path) -> HubSettings {
            HubSettings { cache: cache.to_owned(), endpoint: Some(self.endpoint.clone()), token: Some("secret".to_owned()), offline: false }
        }
    }

    /// Answers one request as the hub does.
    fn answer(mut stream: TcpStream, files: &[(&str, &[u8])], log: &Mutex<Vec<(String, usize)>>) {
        let lines: Vec<String> =
            BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
        let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return };
        let header = |name: &str| {
            lines.iter().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let mut reply = |status: &str, more: &str, body: &[u8]| {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", body.len());
            // A client that has gone away is its own business.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        };
        if header("authorization") != Some("Bearer secret") {
            return reply("401 Unauthorized", "", b"");
        }
        if ["main", "v1"].iter().any(|revision| path == format!("/api/models/acme/tiny/revision/{revision}")) {
            let siblings: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({"rfilename": name})).collect();
            let info = serde_json::json!({"sha": COMMIT, "siblings": siblings});
            return reply("200 OK", "Content-Type: application/json\r\n", info.to_string().as_bytes());
        }
        let name = path.strip_prefix(&format!("/acme/tiny/resolve/{COMMIT}/"));
        let Some((name, bytes)) = files.iter().find(|(file, _)| Some(*file) == name) else { return reply("404 Not Found", "", b"") };
        let range = header("range").and_then(|range| range.strip_prefix("bytes=")).and_then(|range| range.split_once('-')).unwrap();
        let first: usize = range.0.parse().unwrap();
        let end = range.1.parse::<usize>().map_or(bytes.len(), |last| last + 1);
        if range.1.is_empty() {
            log.lock().unwrap().push(((*name).to_owned(), first));
        }
        let etag = blake3::hash(bytes).to_hex();
        let more = format!("Content-Range: bytes {first}-{}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n", end - 1, bytes.len());
        reply("206 Partial Content", &more, &bytes[first..end]);
    }

    const FILES: &[(&str, &[u8])] = &[
        ("README.md", b"not needed"),
        ("../outside.jsonl", b"never"),
        ("config.json", b"{\"model_type\": \"llama\"}"),
        ("model.safetensors", b"all the weights there are"),
        ("pytorch_model.bin", b"not needed"),
        ("tokenizer.json", b"{}"),
    ];

    #[test]
    fn needed_files_are_downloaded_once_and_found_again_offline() {
        let cache = tempfile::tempdir().unwrap();
        let mirror = Mirror::serve(FILES);
        let (id, settings) = (HubId::parse("acme/tiny").unwrap(), mirror.settings(cache.path()));
        let folder = snapshot(&id, Kind::Model, &settings).unwrap();
        assert_eq!(super::super::files_below(&folder, &folder), ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"all the weights there are");
        let asked = || mirror.asked.lock().unwrap().clone();
        assert_eq!(asked(), [("config.json".to_owned(), 0), ("tokenizer.json".to_owned(), 0), ("model.safetensors".to_owned(), 0)]);
        let offline = HubSettings { offline: true, ..settings.clone() };
        assert_eq!(snapshot(&id, Kind::Model, &offline).unwrap(), folder);
        assert_eq!(snapshot(&HubId::parse(&format!("acme/tiny@{COMMIT}")).unwrap(), Kind::Model, &offline).unwrap(), folder);
        // Another name of the same commit: nothing is downloaded again.
        assert_eq!(snapshot(&HubId::parse("acme/tiny@v1").unwrap(), Kind::Model, &settings).unwrap(), folder);
        assert_eq!(asked().len(), 3);
    }

    #[test]
    fn a_download_that_was_cut_off_goes_on_where_it_stopped() {
        let cache = tempfile::tempdir().unwrap();
        let mirror = Mirror::serve(FILES);
        let (id, settings) = (HubId::parse("acme/tiny").unwrap(), mirror.settings(cache.path()));
        let weights: &[u8] = b"all the weights there are";
        let blobs = cache.path().join("models--acme--tiny/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.part", blake3::hash(weights).to_hex())), &weights[..10]).unwrap();
        assert_eq!(cached(&id, Kind::Model, cache.path()), None);
        let folder = snapshot(&id, Kind::Model, &settings).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights);
        assert!(mirror.asked.lock().unwrap().contains(&("model.safetensors".to_owned(), 10)));
    }

    #[test]
    fn what_the_hub_does_not_have_is_said() {
        let cache = tempfile::tempdir().unwrap();
        let mirror = Mirror::serve(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"")]);
        let settings = mirror.settings(cache.path());
        let error =
            |name: &str, settings: &HubSettings| snapshot(&HubId::parse(name).unwrap(), Kind::Model, settings).unwrap_err().to_string();
        let found = error("acme/tiny", &settings);
        assert!(found.contains("has no model.safetensors; weights of another form must be converted"), "{found}");
        let found = error("acme/tniy", &settings);
        assert!(found.contains("no such repository or revision"), "{found}");
        let found = error("acme/tiny", &HubSettings { token: None, ..settings.clone() });
        assert!(found.contains("set HF_TOKEN"), "{found}");
        let nobody = HubSettings { endpoint: Some("http://127.0.0.1:1".to_owned()), ..settings };
        assert!(error("acme/tiny", &nobody).starts_with("`acme/tiny` does not come from the Hugging Face hub: "));
    }
}
