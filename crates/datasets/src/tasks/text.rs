//! Plain text, to be predicted token by token: perplexity. Also what a model may forget: the loss on a fixed text before and after
//! fine-tuning on something else.
//!
//! A text is cut into windows of about so many characters, at a space; each window is read by itself. Windows of a single file are dealt
//! to the splits as stretches of it, so that the test is text from another place.

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::{Form, Published, PublishedSplit, as_they_are};
use super::{Task, TaskEntry};
use crate::error::{DataError, Result};
use crate::example::{Example, Splits};
use crate::format::{Format, Loss, Options, Scoring, Truncation};
use crate::hold_out::Validation;
use crate::metrics::perplexity;
use crate::source::{DataSource, Row};
use crate::world::rows::SplitRows;
use crate::world::{World, WorldSizes};
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// `text/wikitext2`: WikiText-2, raw (Merity et al. 2016).
pub const WIKITEXT2: TaskEntry = TaskEntry {
    published: Some(&Published {
        hub: "Salesforce/wikitext",
        revision: "b08601e04326c79dfdd32d625aee71d232d685c3",
        licence: "CC BY-SA 3.0",
        splits: &[
            PublishedSplit { file: "train", from: "wikitext-2-raw-v1/train-" },
            PublishedSplit { file: "dev", from: "wikitext-2-raw-v1/validation-" },
            PublishedSplit { file: "test", from: "wikitext-2-raw-v1/test-" },
        ],
        columns: &["text"],
        form: Form::Text(as_they_are),
    }),
    ..text("text/wikitext2", "perplexity of Wikipedia's good articles (WikiText-2, raw)")
};

/// `text/shakespeare`: the complete works as one file.
pub const SHAKESPEARE: TaskEntry = text("text/shakespeare", "perplexity of Shakespeare's works, one file cut in three");

/// `text/bbcnews`: articles of the BBC.
pub const BBCNEWS: TaskEntry = text("text/bbcnews", "perplexity of articles of the BBC; the file dev is the test");

/// `world/text`: text of the invented world, of the kind that the shipped base models were pre-trained on.
pub const WORLD: TaskEntry = TaskEntry {
    build: |task| {
        let Options { own, format } = WorldOptions::parse(task)?;
        Ok(Box::new(PlainText { name: WORLD.name, format, load: Box::new(move |_| Ok(own.load())) }))
    },
    resolve: |task| WorldOptions::parse(task)?.resolved(task),
    ..text("world/text", "perplexity of text of the invented world, of which pre-training has other sentences")
};

const fn text(name: &'static str, summary: &'static str) -> TaskEntry {
    TaskEntry {
        name,
        summary,
        protocols: &[],
        published: None,
        known_overlap: usize::MAX,
        build: |task| {
            let Options { own, format } = parse_files(task)?;
            let place = PLACES.iter().find(|place| place.name == task.name);
            let place = place.ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
            Ok(Box::new(PlainText { name: place.name, format, load: Box::new(move |source| place.load(source, own.window)) }))
        },
        resolve: |task| parse_files(task)?.resolved(task),
    }
}

/// Where a text lies.
struct Place {
    name: &'static str,
    files: Files,
}

enum Files {
    /// One text, cut in three.
    Whole { path: &'static str },
    /// Rows with a field `text`.
    Rows(SplitFiles),
}

static PLACES: [Place; 3] = [
    Place { name: WIKITEXT2.name, files: rows("text/wikitext2", Some("dev"), "test") },
    Place { name: SHAKESPEARE.name, files: Files::Whole { path: "text/shakespeare/t8.shakespeare.txt" } },
    Place { name: BBCNEWS.name, files: rows("text/bbcnews", None, "dev") },
];

const fn rows(folder: &'static str, valid: Option<&'static str>, test: &'static str) -> Files {
    Files::Rows(SplitFiles { folder, train: "train", valid, test, test_alone: false })
}

/// Options of texts in files that have a format besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextOptions {
    /// Characters of a window, about.
    pub window: usize,
}

fn format() -> Format {
    Format {
        answer: "{text}".to_owned(),
        loss: Loss::All,
        truncation: Truncation::End,
        scoring: Scoring::Perplexity,
        metrics: vec![Component::named(perplexity::PERPLEXITY.name)],
        ..Format::default()
    }
}

fn check(format: &Format) -> std::result::Result<(), SpecError> {
    format.check(&["text"])?;
    match format.scoring {
        Scoring::Perplexity => Ok(()),
        _ => Err(SpecError::at("scoring", "plain text answers nothing; expected \"perplexity\"")),
    }
}

fn check_window(window: usize) -> std::result::Result<(), SpecError> {
    match window >= 16 {
        true => Ok(()),
        false => Err(SpecError::at("window", format!("expected at least 16 characters, found {window}"))),
    }
}

fn parse_files(task: &Component) -> std::result::Result<Options<TextOptions>, SpecError> {
    let options = Options::parse(task, &[], |_| Options { own: TextOptions { window: 1000 }, format: format() })?;
    check(&options.format)?;
    check_window(options.own.window)?;
    Ok(options)
}

/// Options of `world/text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldOptions {
    /// Training documents.
    pub train: usize,
    /// Validation documents.
    pub valid: usize,
    /// Test documents.
    pub test: usize,
    /// Which world; as in pre-training.
    pub world_seed: u64,
    /// How much there is in the world; as in pre-training.
    pub world_sizes: WorldSizes,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { train: 1000, valid: 100, test: 200, world_seed: 0, world_sizes: WorldSizes::default() }
    }
}

/// Streams of the world's corpus that are no pre-training's: those draw from stream 0.
const WORLD_STREAMS: [u64; 3] = [0x7e57_0001, 0x7e57_0002, 0x7e57_0003];

impl WorldOptions {
    fn parse(task: &Component) -> std::result::Result<Options<Self>, SpecError> {
        let options = Options::parse(task, &[], |_| Options { own: Self::default(), format: format() })?;
        check(&options.format)?;
        let own = &options.own;
        own.world_sizes.check()?;
        super::check_counts(crate::world::rows::Counts { train: own.train, valid: own.valid, test: own.test })?;
        Ok(options)
    }

    fn load(&self) -> Loaded<Window> {
        let world = World::with_sizes(self.world_seed, self.world_sizes);
        let [train, valid, test] = [("train", self.train), ("valid", self.valid), ("test", self.test)];
        let windows = |stream: u64, (split, count): (&str, usize)| -> Vec<Window> {
            let texts = world.corpus(stream, usize::MAX).take(count).enumerate();
            texts.map(|(index, text)| Window { id: format!("{split}:{index}"), text: text.trim_end().to_owned() }).collect()
        };
        let rows = SplitRows {
            train: windows(WORLD_STREAMS[0], train),
            valid: windows(WORLD_STREAMS[1], valid),
            test: windows(WORLD_STREAMS[2], test),
        };
        Loaded::of_world(WORLD.name, self.world_seed, rows)
    }
}

/// A stretch of text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    id: String,
    text: String,
}

impl Place {
    fn load(&self, source: &DataSource, size: usize) -> Result<Loaded<Window>> {
        match self.files {
            Files::Whole { path } => self.load_whole(source, path, size),
            Files::Rows(files) => {
                let read = |row: &Row| Ok(Window { id: row.id(), text: row.text("text")?.to_owned() });
                let loaded = load_files(source, self.name, files, Validation::grouped(200), read, |_, row| row.text.clone())?;
                let cut = |rows: Vec<Window>| rows.iter().flat_map(|row| windows(&row.id, &row.text, size)).collect();
                let SplitRows { train, valid, test } = loaded.rows;
                let rows = SplitRows { train: cut(train), valid: cut(valid), test: cut(test) };
                Ok(Loaded { dataset_id: loaded.dataset_id, revision: loaded.revision, rows })
            }
        }
    }

    /// The first eight tenths to train on, then a tenth each.
    fn load_whole(&self, source: &DataSource, path: &str, size: usize) -> Result<Loaded<Window>> {
        let folder = source.folder.as_ref().ok_or_else(|| DataError::NoFolder { task: self.name.to_owned() })?;
        let path = folder.join(path);
        if !path.is_file() {
            return Err(DataError::missing(self.name, path));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| DataError::Io {
            action: "read",
            path: path.clone(),
            problem: error.to_string(),
        })?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut train = windows(&name, &text, size);
        if train.len() < 10 {
            return Err(DataError::Empty { path });
        }
        let mut valid = train.split_off(train.len() * 8 / 10);
        let test = valid.split_off(valid.len() / 2);
        let dataset_id = format!("{} ({name})", self.name);
        Ok(Loaded { dataset_id, revision: None, rows: SplitRows { train, valid, test } })
    }
}

/// Cuts `text` behind the first white space from `size` characters on, again and again. What is white space alone is left out.
fn windows(id: &str, text: &str, size: usize) -> Vec<Window> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.char_indices().skip(size).find(|(_, c)| c.is_whitespace()).map_or(rest.len(), |(at, c)| at + c.len_utf8());
        let (window, after) = rest.split_at(end);
        if !window.trim().is_empty() {
            found.push(Window { id: format!("{id}@{}", found.len()), text: window.to_owned() });
        }
        rest = after;
    }
    found
}

/// Windows from wherever.
type LoadRows = dyn Fn(&DataSource) -> Result<Loaded<Window>> + Send + Sync;

struct PlainText {
    name: &'static str,
    format: Format,
    load: Box<LoadRows>,
}

impl Task for PlainText {
    fn name(&self) -> &str {
        self.name
    }

    fn format(&self) -> &Format {
        &self.format
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        let example = |row: Window, _| [Example { id: row.id, prefix: self.format.prefix.clone(), answer: row.text, ..Example::default() }];
        Ok((self.load)(source)?.into_splits(example))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;
    use std::collections::HashSet;

    #[test]
    fn windows_lose_no_character_and_end_behind_a_space() {
        let text = "one two  three\nfour ".repeat(20) + "  ";
        let cut = windows("t", &text, 16);
        assert!(cut.len() > 10 && cut.iter().all(|window| window.text.chars().count() >= 16 || window == cut.last().unwrap()));
        assert!(cut.iter().all(|window| window.text.ends_with(char::is_whitespace)));
        assert_eq!(cut.iter().map(|window| window.text.as_str()).collect::<String>().trim_end(), text.trim_end());
        assert_eq!(windows("t", "wort ohne ende", 3).iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), ["wort ", "ohne ", "ende"]);
    }

    #[test]
    fn one_file_is_cut_in_three_stretches() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("text/shakespeare")).unwrap();
        let text: String = (0..2000).map(|i| format!("word{i} ")).collect();
        std::fs::write(folder.path().join("text/shakespeare/t8.shakespeare.txt"), text).unwrap();
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        let splits = build(&Component::named("text/shakespeare")).unwrap().load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (13, 2, 2));
        assert!(splits.train[0].answer.starts_with("word0 ") && splits.test.last().unwrap().answer.ends_with("word1999 "));
        assert!(splits.test[0].prompt.is_empty());
    }

    #[test]
    fn the_worlds_test_is_other_text_than_its_training() {
        let splits = build(&Component::named("world/text")).unwrap().load(&DataSource::default()).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (1000, 100, 200));
        let train: HashSet<&str> = splits.train.iter().map(|example| example.answer.as_str()).collect();
        let shared = splits.test.iter().filter(|example| train.contains(example.answer.as_str())).count();
        assert!(shared * 10 < splits.test.len(), "{shared}");
    }
}
