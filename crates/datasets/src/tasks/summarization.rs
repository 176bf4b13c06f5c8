//! Dialogues told in a sentence or two: `samsum`, and `world/dialogues` in its image.
//!
//! Format of the SSM-PEFT paper's code: the dialogue, `###`, and the summary with an end token; no instruction.

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::{Form, Published, PublishedSplit, as_they_are};
use super::twin::{Twin, WorldOptions};
use super::{GREEDY, SSM_PEFT, Task, TaskEntry, WHOLE_SPLIT, generated};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, Options, fill};
use crate::hold_out::Validation;
use crate::metrics::rouge;
use crate::source::{DataSource, Row};
use crate::world::{rows, talk};
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// `samsum`: SAMSum (Gliwa et al. 2019).
pub const SAMSUM: TaskEntry = TaskEntry {
    name: "samsum",
    summary: "messenger dialogues told in a sentence or two (SAMSum)",
    protocols: PROTOCOLS,
    published: Some(&Published {
        hub: "knkarthick/samsum",
        revision: "refs/convert/parquet",
        licence: "CC BY-NC-ND 4.0: do not publish",
        splits: &[
            PublishedSplit { file: "train", from: "default/train/" },
            PublishedSplit { file: "dev", from: "default/validation/" },
            PublishedSplit { file: "test", from: "default/test/" },
        ],
        columns: &["id", "dialogue", "summary"],
        form: Form::Text(as_they_are),
    }),
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse(task)?;
        Ok(Box::new(Summarization { name: SAMSUM.name, format, load: Box::new(move |source| load_dialogues(source, own.valid)) }))
    },
    resolve: |task| parse(task)?.resolved(task),
};

/// `world/dialogues`: the same with conversations of the invented world.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/dialogues",
    summary: "conversations of the invented world told in a sentence, in the format of samsum",
    protocols: &[],
    published: None,
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse_world(task)?;
        Ok(Box::new(Summarization { name: WORLD.name, format, load: Box::new(move |_| DIALOGUES.load(&own)) }))
    },
    resolve: |task| parse_world(task)?.resolved(task),
};

static DIALOGUES: Twin<DialogueRow> = Twin {
    name: WORLD.name,
    sizes: [1000, 100, 200],
    difficulty: 1,
    most_difficult: talk::MOST_DIFFICULT,
    rows: rows::dialogues::dialogues,
};

fn parse_world(task: &Component) -> std::result::Result<Options<WorldOptions>, SpecError> {
    DIALOGUES.parse(task, &[], |_| Format { max_new_tokens: 40, ..format(GREEDY) }, PLACEHOLDERS)
}

const PROTOCOLS: &[&str] = &[GREEDY, SSM_PEFT];
const PLACEHOLDERS: &[&str] = &["dialogue", "summary"];

/// Options of `samsum` that have a format besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamsumOptions {
    /// Most rows held out of the training file for validation, where the folder has no file `dev`; never more than a fifth of it.
    pub valid: usize,
}

fn parse(task: &Component) -> std::result::Result<Options<SamsumOptions>, SpecError> {
    let options =
        Options::parse(task, PROTOCOLS, |protocol| Options { own: SamsumOptions { valid: WHOLE_SPLIT }, format: format(protocol) })?;
    options.format.check(PLACEHOLDERS)?;
    Ok(options)
}

fn format(protocol: &str) -> Format {
    Format {
        prompt: "{dialogue}###".to_owned(),
        answer: "{summary}".to_owned(),
        metrics: vec![Component::named(rouge::ROUGE.name)],
        ..generated(protocol, 128)
    }
}

/// Dialogues from wherever.
type LoadRows = dyn Fn(&DataSource) -> Result<Loaded<DialogueRow>> + Send + Sync;

struct Summarization {
    name: &'static str,
    format: Format,
    load: Box<LoadRows>,
}

pub(crate) struct DialogueRow {
    pub(crate) id: String,
    pub(crate) dialogue: String,
    pub(crate) summary: String,
}

impl Summarization {
    fn example(&self, row: DialogueRow, training: bool) -> Example {
        Example {
            id: row.id,
            prefix: self.format.prefix.clone(),
            prompt: fill(self.format.prompt_for(training), &[("dialogue", &row.dialogue)]),
            answer: fill(&self.format.answer, &[("summary", &row.summary)]),
            references: vec![row.summary],
            ..Example::default()
        }
    }
}

impl Task for Summarization {
    fn name(&self) -> &str {
        self.name
    }

    fn format(&self) -> &Format {
        &self.format
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        Ok((self.load)(source)?.into_splits(|row, training| [self.example(row, training)]))
    }
}

fn load_dialogues(source: &DataSource, valid: usize) -> Result<Loaded<DialogueRow>> {
    let has_dev = source.files(SAMSUM.name, "samsum", "dev").is_ok();
    let files = SplitFiles { folder: "samsum", train: "train", valid: has_dev.then_some("dev"), test: "test", test_alone: false };
    let read =
        |row: &Row| Ok(DialogueRow { id: row.id(), dialogue: row.text("dialogue")?.to_owned(), summary: row.text("summary")?.to_owned() });
    // Equal dialogues stay on one side.
    load_files(source, SAMSUM.name, files, Validation::grouped(valid), read, |_, row| row.dialogue.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;

    fn load(files: &[&str]) -> Result<Splits> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("samsum")).unwrap();
        for file in files {
            let row = |i| format!("{{\"id\": \"{i}\", \"dialogue\": \"A: {file} {i}\\r\\nB: bye\", \"summary\": \"They talk.\"}}\n");
            std::fs::write(folder.path().join(format!("samsum/{file}.jsonl")), (0..10).map(row).collect::<String>()).unwrap();
        }
        build(&Component::named("samsum")).unwrap().load(&DataSource { folder: Some(folder.path().to_owned()) })
    }

    #[test]
    fn dialogues_stand_before_the_separator_and_validation_is_held_out_where_there_is_none() {
        let splits = load(&["train_from_test", "test_from_test"]).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (8, 2, 10));
        let example = &splits.test[1];
        assert_eq!(example.prompt, "A: test_from_test 1\r\nB: bye###");
        assert_eq!((example.answer.as_str(), example.prefix.as_str()), ("They talk.", ""));
        let official = load(&["train", "dev", "test"]).unwrap();
        assert_eq!((official.train.len(), official.valid.len(), official.test.len()), (10, 10, 10));
    }
}
