//! The hub's client: downloads what is needed of a repository into the cache. What was begun goes on where it stopped.

use super::{Description, HubId, HubSettings, Kind, failed, needed};
use crate::error::Result;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::io::IsTerminal;
use std::path::{Component, Path, PathBuf};

/// Times that a file is asked for again where the connection broke.
const RETRIES: usize = 3;

/// What the hub says of a repository.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Option<Card>,
}

/// The head of a repository's README.
#[derive(Deserialize)]
struct Card {
    /// One licence or a list.
    license: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

impl Sibling {
    /// The name of the file's content in the cache.
    fn etag(&self) -> Option<&str> {
        self.lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref()).or(self.blob_id.as_deref())
    }
}

/// What is known of a large file before it is there.
#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
}

/// A repository at one commit.
struct Remote {
    cache: Cache,
    api: Api,
    info: Info,
}

impl Remote {
    fn ask(id: &HubId, kind: Kind, settings: &HubSettings) -> Result<Self> {
        let cache = Cache::new(settings.cache.clone());
        let api = build(&cache, settings).map_err(|error| failed(id, error.to_string()))?;
        let mut info = ask(&api.repo(repo(id, kind, &id.revision))).map_err(|error| failed(id, explain(&error)))?;
        info.siblings.retain(|file| is_inside(&file.rfilename));
        Ok(Self { cache, api, info })
    }

    /// The files that are needed, in the order in which they are to be fetched.
    fn needed(&self, id: &HubId, kind: Kind) -> Result<Vec<&Sibling>> {
        let names: Vec<String> = self.info.siblings.iter().map(|file| file.rfilename.clone()).collect();
        let files = needed(kind, &names).map_err(|problem| failed(id, problem))?;
        Ok(files.iter().filter_map(|name| self.info.siblings.iter().find(|file| file.rfilename == *name)).collect())
    }
}

fn repo(id: &HubId, kind: Kind, revision: &str) -> Repo {
    let repo_type = if kind == Kind::Model { RepoType::Model } else { RepoType::Dataset };
    Repo::with_revision(id.repository.clone(), repo_type, revision.to_owned())
}

fn ask(repo: &ApiRepo) -> std::result::Result<Info, ApiError> {
    let mut response = repo.info_request().query("blobs", "true").call().map_err(Box::new)?;
    Ok(response.body_mut().read_json().map_err(Box::new)?)
}

/// What a repository's needed files weigh and under which licence they are; nothing is downloaded.
pub fn describe(id: &HubId, kind: Kind, settings: &HubSettings) -> Result<Description> {
    let remote = Remote::ask(id, kind, settings)?;
    let sizes: Option<Vec<u64>> = remote.needed(id, kind)?.iter().map(|file| file.size).collect();
    let licence = remote.info.card.as_ref().and_then(|card| card.license.as_ref()).map(|licence| match licence {
        serde_json::Value::String(name) => name.clone(),
        list => list.to_string(),
    });
    Ok(Description { bytes: sizes.map(|sizes| sizes.iter().sum()), licence })
}

/// Downloads the needed files of one commit and returns their folder in the cache. A connection that is cut is opened again for the rest;
/// one that is cut again and again is an error, and the next call goes on from there. Every file is compared with the size that the hub
/// gives, and large ones with their checksum; one that differs is taken out of the cache again.
pub fn fetch(id: &HubId, kind: Kind, settings: &HubSettings) -> Result<PathBuf> {
    let remote = Remote::ask(id, kind, settings)?;
    // All files of one commit, even if the branch moves meanwhile.
    let pinned = remote.api.repo(repo(id, kind, &remote.info.sha));
    let cached = remote.cache.repo(repo(id, kind, &id.revision));
    for file in remote.needed(id, kind)? {
        let name = &file.rfilename;
        drop_finished_part(&cached, file);
        let path = pinned.get(name).map_err(|error| failed(id, format!("{name}: {}", explain(&error))))?;
        verify(&path, file).map_err(|problem| failed(id, format!("{name}: {problem}; it was removed from the cache, fetch it again")))?;
    }
    cached.create_ref(&remote.info.sha).map_err(|error| failed(id, format!("the cache could not be written: {error}")))?;
    Ok(cached.pointer_path(&remote.info.sha))
}

/// Removes what was begun of a file where it is as long as the file itself: the hub has no rest of it to give.
fn drop_finished_part(cached: &CacheRepo, file: &Sibling) {
    let Some(part) = file.etag().map(|etag| cached.blob_path(etag).with_extension("part")) else { return };
    if std::fs::metadata(&part).is_ok_and(|part| file.size.is_some_and(|size| part.len() >= size)) {
        let _ = std::fs::remove_file(part);
    }
}

/// Compares a file with what the hub says of it; one that differs is taken out of the cache.
fn verify(path: &Path, expected: &Sibling) -> std::result::Result<(), String> {
    let compared = compare(path, expected);
    if compared.is_err() {
        // The link in the snapshot and the file it names: neither may be taken for the whole one later.
        let blob = std::fs::canonicalize(path).ok();
        for path in blob.iter().map(PathBuf::as_path).chain([path]) {
            let _ = std::fs::remove_file(path);
        }
    }
    compared
}

/// How a file differs in size or checksum. A connection that ends early without an error, or a server that begins again where the rest was
/// asked for, leaves a file of another size.
fn compare(path: &Path, expected: &Sibling) -> std::result::Result<(), String> {
    let found = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if let Some(expected) = expected.size.filter(|&expected| expected != found) {
        return Err(format!("expected {expected} bytes, found {found}"));
    }
    let Some(expected) = expected.lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref()) else { return Ok(()) };
    let bytes = peftbench_ops::mapped::MappedFile::open(path).map_err(|error| error.to_string())?;
    let found: String = Sha256::digest(&*bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected { Ok(()) } else { Err(format!("expected the SHA-256 {expected}, found {found}")) }
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
        text if text.starts_with("Too many retries") => "; run it again: it goes on behind what has come",
        text if text.contains("404") => "; no such repository or revision",
        _ => "",
    };
    format!("{text}{hint}")
}

#[cfg(test)]
mod tests {
    use super::super::{cached, rows, snapshot};
    use super::*;
    use peftbench_datasets::tasks::published::PublishedSplit;
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

    /// What goes wrong with the large files of a mirror.
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// The connection ends halfway through what is asked for if that begins before this byte.
        CutBefore(usize),
        /// Every answer begins with the file's first byte.
        NoRanges,
    }

    impl Mirror {
        fn serve(files: &'static [(&'static str, &'static [u8])]) -> Self {
            Self::with_fault(files, Fault::None)
        }

        fn with_fault(files: &'static [(&'static str, &'static [u8])], fault: Fault) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = asked.clone();
            // The thread ends with the process.
            std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, files, fault, &log)));
            Self { endpoint, asked }
        }

        fn settings(&self, cache: &Path) -> HubSettings {
            HubSettings { cache: cache.to_owned(), endpoint: Some(self.endpoint.clone()), token: Some("secret".to_owned()), offline: false }
        }
    }

    /// Answers one request as the hub does.
    fn answer(mut stream: TcpStream, files: &[(&str, &[u8])], fault: Fault, log: &Mutex<Vec<(String, usize)>>) {
        let lines: Vec<String> =
            BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
        let Some(path) = lines.first().and_then(|line| line.split([' ', '?']).nth(1)) else { return };
        let header = |name: &str| {
            lines.iter().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        // The length said and what is sent of it.
        let mut reply = |status: &str, more: &str, length: usize, body: &[u8]| {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n");
            // A client that has gone away is its own business.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        };
        // Where large files lie asks for no token: the address was given to one who had it.
        let stored = path.strip_prefix("/stored/");
        if stored.is_none() && header("authorization") != Some("Bearer secret") {
            return reply("401 Unauthorized", "", 0, b"");
        }
        let revision = ["models", "datasets"].iter().find_map(|kind| path.strip_prefix(&format!("/api/{kind}/acme/tiny/revision/")));
        if revision.is_some_and(|revision| ["main", "v1", "refs%2Fconvert%2Fparquet"].contains(&revision)) {
            let sibling = |(name, bytes): &(&str, &[u8])| {
                let lfs = name.ends_with(".safetensors").then(|| serde_json::json!({"sha256": self::sha256(b"all the weights there are")}));
                serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": self::sha256(bytes), "lfs": lfs})
            };
            let siblings: Vec<_> = files.iter().map(sibling).collect();
            let info = serde_json::json!({"sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}});
            let info = info.to_string();
            return reply("200 OK", "Content-Type: application/json\r\n", info.len(), info.as_bytes());
        }
        let in_repository = path.strip_prefix("/datasets").unwrap_or(path).strip_prefix(&format!("/acme/tiny/resolve/{COMMIT}/"));
        let name = stored.or(in_repository);
        let Some((name, bytes)) = files.iter().find(|(file, _)| Some(*file) == name) else { return reply("404 Not Found", "", 0, b"") };
        let range = header("range").and_then(|range| range.strip_prefix("bytes=")).and_then(|range| range.split_once('-')).unwrap();
        let first: usize = range.0.parse().unwrap();
        let end = range.1.parse::<usize>().map_or(bytes.len(), |last| last + 1);
        if range.1.is_empty() && (stored.is_some() || !name.ends_with(".safetensors")) {
            log.lock().unwrap().push(((*name).to_owned(), first));
        }
        let etag = sha256(bytes);
        let more = format!("Content-Range: bytes {first}-{}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n", end - 1, bytes.len());
        if stored.is_none() && name.ends_with(".safetensors") {
            let more = format!("{more}Location: /stored/{name}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\n", bytes.len());
            return reply("302 Found", &more, 0, b"");
        }
        if first >= bytes.len() {
            return reply("416 Range Not Satisfiable", "", 0, b"");
        }
        let body = if fault == Fault::NoRanges && range.1.is_empty() { *bytes } else { &bytes[first..end] };
        let sent = match fault {
            Fault::CutBefore(byte) if stored.is_some() && first < byte => body.len() / 2,
            _ => body.len(),
        };
        reply("206 Partial Content", &more, body.len(), &body[..sent]);
    }

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
        fs::write(blobs.join(format!("{}.part", sha256(weights))), &weights[..10]).unwrap();
        assert_eq!(cached(&id, Kind::Model, cache.path()), None);
        let folder = snapshot(&id, Kind::Model, &settings).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights);
        assert!(mirror.asked.lock().unwrap().contains(&("model.safetensors".to_owned(), 10)));
    }

    #[test]
    fn a_connection_cut_in_mid_transfer_is_opened_again_for_the_rest() {
        let cache = tempfile::tempdir().unwrap();
        let id = HubId::parse("acme/tiny").unwrap();
        let asked = |mirror: &Mirror| -> Vec<usize> {
            mirror.asked.lock().unwrap().iter().filter(|(name, _)| name == "model.safetensors").map(|(_, first)| *first).collect()
        };
        let mirror = Mirror::with_fault(FILES, Fault::CutBefore(12));
        let folder = snapshot(&id, Kind::Model, &mirror.settings(cache.path())).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"all the weights there are");
        assert_eq!(asked(&mirror), [0, 12]);

        // One that is cut whenever it is opened is given up; the next call goes on behind what came.
        let cache = tempfile::tempdir().unwrap();
        let mirror = Mirror::with_fault(FILES, Fault::CutBefore(25));
        let error = snapshot(&id, Kind::Model, &mirror.settings(cache.path())).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: ") && error.contains("run it again"), "{error}");
        assert_eq!(cached(&id, Kind::Model, cache.path()), None);
        let come = *asked(&mirror).last().unwrap();
        let mirror = Mirror::serve(FILES);
        let folder = snapshot(&id, Kind::Model, &mirror.settings(cache.path())).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"all the weights there are");
        assert!(asked(&mirror)[0] > come, "{:?} behind {come}", asked(&mirror));
    }

    #[test]
    fn a_part_that_cannot_be_gone_on_with_is_begun_again_or_refused() {
        let cache = tempfile::tempdir().unwrap();
        let id = HubId::parse("acme/tiny").unwrap();
        let blobs = cache.path().join("models--acme--tiny/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let begin = |name: &str, bytes: &[u8]| fs::write(blobs.join(format!("{}.part", sha256(name.as_bytes()))), bytes).unwrap();
        // All of it is there and was only not given its name: the hub answers a request for the rest with 416.
        begin("all the weights there are", b"all the weights there are");
        let folder = snapshot(&id, Kind::Model, &Mirror::serve(FILES).settings(cache.path())).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"all the weights there are");

        // A server that begins again where the rest was asked for: a file without a checksum is held to its size.
        fs::remove_dir_all(cache.path()).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        begin("{\"model_type\": \"llama\"}", b"{\"model");
        let settings = Mirror::with_fault(FILES, Fault::NoRanges).settings(cache.path());
        let error = snapshot(&id, Kind::Model, &settings).unwrap_err().to_string();
        assert!(error.contains("config.json: expected 23 bytes, found 30; it was removed from the cache, fetch it again"), "{error}");
        assert!(snapshot(&id, Kind::Model, &settings).is_ok());
    }

    #[test]
    fn sizes_are_known_before_and_a_wrong_checksum_is_found_out() {
        let cache = tempfile::tempdir().unwrap();
        let id = HubId::parse("acme/tiny").unwrap();
        let mirror = Mirror::serve(FILES);
        let found = describe(&id, Kind::Model, &mirror.settings(cache.path())).unwrap();
        assert_eq!(found, Description { bytes: Some(23 + 25 + 2), licence: Some("mit".to_owned()) });
        assert!(mirror.asked.lock().unwrap().is_empty());
        let damaged =
            Mirror::serve(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"all the weights, nearly")]);
        for _ in 0..2 {
            let error = snapshot(&id, Kind::Model, &damaged.settings(cache.path())).unwrap_err().to_string();
            assert!(error.contains("model.safetensors: expected the SHA-256") && error.contains("fetch it again"), "{error}");
        }
    }

    #[test]
    fn a_published_data_set_comes_from_a_branch_with_slashes_in_its_name() {
        const PARQUET: &[u8] = include_bytes!("../../tests/fixtures/rows.parquet");
        let mirror = Mirror::serve(&[
            ("README.md", b"not needed"),
            ("default/test/0000.parquet", PARQUET),
            ("default/train/0000.parquet", PARQUET),
            ("default/train/0001.parquet", PARQUET),
        ]);
        let splits = &[PublishedSplit { file: "train", from: "default/train/" }, PublishedSplit { file: "test", from: "default/test/" }];
        let cache = tempfile::tempdir().unwrap();
        let id = HubId { repository: "acme/tiny".to_owned(), revision: "refs/convert/parquet".to_owned() };
        let folder = snapshot(&id, Kind::Published(splits), &mirror.settings(cache.path())).unwrap();
        let names = super::super::files_below(&folder, &folder);
        assert_eq!(names, ["default/test/0000.parquet", "default/train/0000.parquet", "default/train/0001.parquet"]);
        assert_eq!(rows::read(&folder.join(&names[2]), &["question"]).unwrap().len(), 2);
        let offline = HubSettings { offline: true, ..mirror.settings(cache.path()) };
        assert_eq!(snapshot(&id, Kind::Published(splits), &offline).unwrap(), folder);
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
