//! Data sets from the hub into the data folder, in the layout that tasks read, with a note of where they came from.

mod images;

use crate::error::{Result, RunError};
use crate::fetch::data_id;
use crate::files::write_atomically;
use crate::hub::{self, HubSettings, Kind, files_below, files_of, rows};
use peftbench_datasets::source::ORIGIN_FILE;
use peftbench_datasets::tasks::published::{Convert, Form, Published, PublishedSplit};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A published data set in the hub's cache.
struct Source<'a> {
    published: &'a Published,
    snapshot: PathBuf,
    names: Vec<String>,
}

impl Source<'_> {
    /// The names and paths of the files of a split.
    fn files(&self, split: &PublishedSplit) -> Vec<(String, PathBuf)> {
        let with_path = |name: String| {
            let path = self.snapshot.join(&name);
            (name, path)
        };
        files_of(split, &self.names).into_iter().map(with_path).collect()
    }

    /// What is wrong with a file.
    fn wrong(&self, name: &str, problem: &str) -> RunError {
        RunError::Hub { id: data_id(self.published).to_string(), problem: format!("{name}: {problem}") }
    }
}

/// What was written of a data set.
#[derive(Default)]
struct Written {
    rows: usize,
    /// Rows and BLAKE3 hash of each file.
    files: Map<String, Value>,
}

impl Written {
    fn note(&mut self, file: String, rows: usize, hash: blake3::Hash) {
        self.files.insert(file, json!({"rows": rows, "blake3": hash.to_hex().to_string()}));
    }
}

/// Fetches the data of `task` and writes its rows below the folder `data`; returns how many rows there are. The note of the commit, the
/// licence and each file's rows and hash comes last.
///
/// # Errors
/// Where the hub does not give it, a file is not as described, or one cannot be written.
pub fn put(task: &str, published: &Published, data: &Path, settings: &HubSettings) -> Result<usize> {
    let snapshot = hub::snapshot(&data_id(published), Kind::Published(published.splits), settings)?;
    let commit = snapshot.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names = files_below(&snapshot, &snapshot);
    let (source, folder) = (Source { published, snapshot, names }, data.join(published.folder(task)));
    let written = match published.form {
        Form::Text(convert) => put_text(&source, convert, &folder)?,
        Form::Images(images) => images::put(&source, &images, &folder)?,
    };
    let files = written.files;
    let origin =
        json!({"hub": published.hub, "revision": published.revision, "commit": commit, "licence": published.licence, "files": files});
    write_atomically(&folder.join(ORIGIN_FILE), format!("{origin:#}\n").as_bytes())?;
    Ok(written.rows)
}

fn put_text(source: &Source<'_>, convert: Convert, folder: &Path) -> Result<Written> {
    let mut written = Written::default();
    for split in source.published.splits {
        let (text, rows) = converted(source, split, convert)?;
        write_atomically(&folder.join(split.file_name()), text.as_bytes())?;
        written.note(split.file_name(), rows, blake3::hash(text.as_bytes()));
        written.rows += rows;
    }
    Ok(written)
}

/// The rows of a split as JSON Lines, and how many there are.
fn converted(source: &Source<'_>, split: &PublishedSplit, convert: Convert) -> Result<(String, usize)> {
    let (mut text, mut count) = (String::new(), 0);
    for (name, path) in source.files(split) {
        let rows = rows::read(&path, source.published.columns).map_err(|problem| source.wrong(&name, &problem))?;
        for (index, columns) in rows.into_iter().enumerate() {
            let row = convert(columns).map_err(|problem| source.wrong(&name, &format!("row {}: {problem}", index + 1)))?;
            if let Some(row) = row {
                text.push_str(&Value::Object(row).to_string());
                text.push('\n');
                count += 1;
            }
        }
    }
    Ok((text, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::has_data;
    use peftbench_datasets::{DataSource, tasks};
    use peftbench_spec::Component;
    use std::fs;

    #[test]
    fn rows_of_the_hub_are_what_a_task_loads_and_the_result_knows_the_commit() {
        let (cache, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let snapshot = cache.path().join("datasets--google--boolq/snapshots/c0ffee/data");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(cache.path().join("datasets--google--boolq/refs")).unwrap();
        fs::write(cache.path().join("datasets--google--boolq/refs/main"), "c0ffee").unwrap();
        let row = |i: usize| format!("{{\"question\": \"is it {i}\", \"answer\": {}, \"passage\": \"long\"}}\n", i.is_multiple_of(2));
        fs::write(snapshot.join("train-00000-of-00001.jsonl"), (0..10).map(row).collect::<String>()).unwrap();
        fs::write(snapshot.join("validation-00000-of-00001.jsonl"), (10..14).map(row).collect::<String>()).unwrap();
        let settings = HubSettings { cache: cache.path().to_owned(), endpoint: None, token: None, offline: true };
        let entry = tasks::entry(&Component::named("commonsense/boolq")).unwrap();
        let published = entry.published.unwrap();
        assert!(!has_data(entry, data.path()));
        assert_eq!(put(entry.name, published, data.path(), &settings).unwrap(), 14);
        assert!(has_data(entry, data.path()));
        let source = DataSource { folder: Some(data.path().to_owned()) };
        let splits = tasks::build(&Component::named(entry.name)).unwrap().load(&source).unwrap();
        assert_eq!((splits.train.len() + splits.valid.len(), splits.test.len()), (10, 4));
        assert_eq!(splits.test[0].prompt, "Question: is it 10?\nAnswer:");
        assert_eq!(splits.revision.as_deref(), Some("google/boolq@c0ffee"));
        let missing = cache.path().join("datasets--google--boolq/snapshots/c0ffee/data/train-00000-of-00001.jsonl");
        fs::write(missing, "{\"question\": \"is it\"}\n").unwrap();
        let error = put(entry.name, published, data.path(), &settings).unwrap_err().to_string();
        assert!(error.contains("train-00000-of-00001.jsonl: row 1: column `answer`: expected true or false"), "{error}");
    }
}
