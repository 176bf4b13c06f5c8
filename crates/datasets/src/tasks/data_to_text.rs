//! Facts told in words: `dart` (sets of triples), `e2e_nlg` (meaning representations of restaurants), and `world/triples` in the image of
//! `dart`.
//!
//! Format of the SSM-PEFT paper's code for DART: an instruction line as a prefix, the triples as `s : p : o` joined by ` | `, `###`, and the
//! text with an end token. E2E has no part in that paper; it is put in the same way. Training has one example for each reference,
//! validation and test one for each set with all its references.

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::{Columns, Form, Published, PublishedSplit, expected, row, text};
use super::twin::{Twin, WorldOptions};
use super::{GREEDY, SSM_PEFT, Task, TaskEntry, generated};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, Options, fill};
use crate::hold_out::Validation;
use crate::metrics::{bleu, exact_match, meteor};
use crate::source::{DataSource, Row};
use crate::world::rows::{self, SplitRows};
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;

/// `dart`: DART v1.1.1 (Nan et al. 2021).
pub const DART: TaskEntry = TaskEntry {
    name: "dart",
    summary: "sets of triples told in words (DART), several references each",
    protocols: PROTOCOLS,
    published: Some(&Published {
        hub: "Yale-LILY/dart",
        revision: "refs/convert/parquet",
        licence: "MIT",
        splits: &[
            PublishedSplit { file: "train", from: "default/train/" },
            PublishedSplit { file: "dev", from: "default/validation/" },
            PublishedSplit { file: "test", from: "default/test/" },
        ],
        columns: &["tripleset", "annotations"],
        form: Form::Text(dart_row),
    }),
    known_overlap: 4,
    build: |task| {
        let load = |source: &DataSource| {
            load_files(source, DART.name, DART_FILES, Validation::grouped(0), FactRow::read_triples, |_, row| row.id.clone())
        };
        Ok(Box::new(DataToText { name: DART.name, format: parse_files(task)?.format, load: Box::new(load) }))
    },
    resolve: |task| parse_files(task)?.resolved(task),
};
const DART_FILES: SplitFiles = SplitFiles { folder: "dart", train: "train", valid: Some("dev"), test: "test", test_alone: false };

/// `e2e_nlg`: the end-to-end generation challenge (Novikova et al. 2017).
pub const E2E: TaskEntry = TaskEntry {
    name: "e2e_nlg",
    summary: "restaurants' properties told in words (E2E NLG challenge), several references each",
    protocols: PROTOCOLS,
    published: Some(&Published {
        hub: "tuetschek/e2e_nlg",
        revision: "refs/convert/parquet",
        licence: "CC BY-SA 4.0",
        splits: &[
            PublishedSplit { file: "train", from: "default/train/" },
            PublishedSplit { file: "dev", from: "default/validation/" },
            PublishedSplit { file: "test", from: "default/test/" },
        ],
        columns: &["meaning_representation", "human_reference"],
        form: Form::Text(|columns| {
            let refs = json!([text(&columns, "human_reference")?]);
            Ok(Some(row([("mr", text(&columns, "meaning_representation")?.into()), ("refs", refs)])))
        }),
    }),
    known_overlap: 0,
    build: |task| {
        let load = |source: &DataSource| {
            let loaded =
                load_files(source, E2E.name, E2E_FILES, Validation::grouped(0), FactRow::read_representation, |_, row| row.id.clone())?;
            Ok(Loaded { rows: gathered(loaded.rows), ..loaded })
        };
        Ok(Box::new(DataToText { name: E2E.name, format: parse_files(task)?.format, load: Box::new(load) }))
    },
    resolve: |task| parse_files(task)?.resolved(task),
};
const E2E_FILES: SplitFiles = SplitFiles { folder: "e2e_nlg", train: "train", valid: Some("dev"), test: "test", test_alone: false };

/// `world/triples`: the same with the invented world's facts and grammar.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/triples",
    summary: "sets of triples of the invented world told in words, in the format of dart",
    protocols: &[],
    published: None,
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse_world(task)?;
        Ok(Box::new(DataToText { name: WORLD.name, format, load: Box::new(move |_: &DataSource| load_world(&own)) }))
    },
    resolve: |task| parse_world(task)?.resolved(task),
};

const PROTOCOLS: &[&str] = &[GREEDY, SSM_PEFT];
const PLACEHOLDERS: &[&str] = &["facts", "text"];

/// Options of the tasks over files: none but the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOptions {}

fn parse_files(task: &Component) -> std::result::Result<Options<FileOptions>, SpecError> {
    let instruction = match task.name == E2E.name {
        true => "Generate text for the following restaurant:\n",
        false => "Generate text for the following RDF triples:\n",
    };
    let options = Options::parse(task, PROTOCOLS, |protocol| Options {
        own: FileOptions {},
        format: Format { prefix: instruction.to_owned(), ..format(protocol) },
    })?;
    options.format.check(PLACEHOLDERS)?;
    Ok(options)
}

fn format(protocol: &str) -> Format {
    let metrics = [bleu::NAME, meteor::METEOR.name, exact_match::NAME].map(Component::named).to_vec();
    let stop = if protocol == GREEDY { "\n".to_owned() } else { String::new() };
    Format { prompt: "{facts}###".to_owned(), answer: "{text}".to_owned(), stop, metrics, ..generated(protocol, 128) }
}

/// The hub has a row a triple set, with its annotations as a list or as a table of lists.
fn dart_row(columns: Columns) -> std::result::Result<Option<Columns>, String> {
    let triples = columns.get("tripleset").cloned().ok_or_else(|| expected("triples", "tripleset", None))?;
    let annotations = columns.get("annotations");
    let texts: Option<Vec<String>> = match annotations {
        Some(Value::Object(table)) => table.get("text").and_then(|texts| serde_json::from_value(texts.clone()).ok()),
        Some(Value::Array(list)) => list.iter().map(|item| item.get("text")?.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let mut texts = texts.ok_or_else(|| expected("texts with their sources", "annotations", annotations))?;
    // Some references are empty.
    texts.retain(|text| !text.trim().is_empty());
    Ok((!texts.is_empty()).then(|| row([("tripleset", triples), ("targets", json!(texts))])))
}

static TRIPLES: Twin<TripleRow> =
    Twin { name: WORLD.name, sizes: [1000, 100, 200], difficulty: 3, most_difficult: rows::MOST_DIFFICULT, rows: rows::triples::triples };

fn parse_world(task: &Component) -> std::result::Result<Options<WorldOptions>, SpecError> {
    // No instruction, because the models for this world are tiny.
    TRIPLES.parse(task, &[], |_| Format { max_new_tokens: 64, ..format(GREEDY) }, PLACEHOLDERS)
}

fn load_world(options: &WorldOptions) -> Result<Loaded<FactRow>> {
    let Loaded { dataset_id, revision, mut rows } = TRIPLES.load(options)?;
    // The world makes at least one row for each training example asked for; each reference is one.
    let mut room = options.train;
    for row in &mut rows.train {
        row.targets.truncate(room);
        room -= row.targets.len();
    }
    let facts = |rows: Vec<TripleRow>| rows.into_iter().map(TripleRow::facts).collect();
    Ok(Loaded { dataset_id, revision, rows: SplitRows { train: facts(rows.train), valid: facts(rows.valid), test: facts(rows.test) } })
}

/// Triples and the texts that tell them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TripleRow {
    pub(crate) id: String,
    pub(crate) triples: Vec<[String; 3]>,
    pub(crate) targets: Vec<String>,
}

impl TripleRow {
    /// The triples as `s : p : o` joined by ` | `.
    fn facts(self) -> FactRow {
        let facts = self.triples.iter().map(|triple| triple.join(" : ")).collect::<Vec<_>>().join(" | ");
        FactRow { id: self.id, facts, targets: self.targets }
    }
}

/// Facts as the prompt has them, and the texts that tell them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FactRow {
    id: String,
    facts: String,
    targets: Vec<String>,
}

impl FactRow {
    fn read_triples(row: &Row) -> Result<Self> {
        Ok(TripleRow { id: row.id(), triples: row.triples("tripleset")?, targets: row.texts("targets")? }.facts())
    }

    fn read_representation(row: &Row) -> Result<Self> {
        Ok(Self { id: row.id(), facts: row.text("mr")?.to_owned(), targets: row.texts("refs")? })
    }
}

/// Rows of the same facts as one with all their texts, in each split: the hub has a row for each reference.
fn gathered(rows: SplitRows<FactRow>) -> SplitRows<FactRow> {
    let gather = |rows: Vec<FactRow>| {
        let mut place: HashMap<String, usize> = HashMap::new();
        let mut all: Vec<FactRow> = Vec::new();
        for row in rows {
            match place.get(&row.facts) {
                Some(&at) => all[at].targets.extend(row.targets),
                None => {
                    place.insert(row.facts.clone(), all.len());
                    all.push(row);
                }
            }
        }
        all
    };
    SplitRows { train: gather(rows.train), valid: gather(rows.valid), test: gather(rows.test) }
}

/// Rows of facts from wherever.
type LoadRows = dyn Fn(&DataSource) -> Result<Loaded<FactRow>> + Send + Sync;

struct DataToText {
    name: &'static str,
    format: Format,
    load: Box<LoadRows>,
}

impl DataToText {
    /// One example with all references, whose answer is the first; in training, one for each.
    fn examples(&self, row: FactRow, training: bool) -> Vec<Example> {
        let answer = |target: &str| fill(&self.format.answer, &[("text", target)]);
        let whole = Example {
            answer: row.targets.first().map(|target| answer(target)).unwrap_or_default(),
            id: row.id,
            prefix: self.format.prefix.clone(),
            prompt: fill(self.format.prompt_for(training), &[("facts", &row.facts)]),
            references: row.targets,
            ..Example::default()
        };
        if !training {
            return vec![whole];
        }
        let one = |(k, target): (usize, &String)| Example { id: format!("{}#{k}", whole.id), answer: answer(target), ..whole.clone() };
        whole.references.iter().enumerate().map(one).collect()
    }
}

impl Task for DataToText {
    fn name(&self) -> &str {
        self.name
    }

    fn format(&self) -> &Format {
        &self.format
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        Ok((self.load)(source)?.into_splits(|row, training| self.examples(row, training)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;

    fn load(rows: &str) -> Result<Splits> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("dart")).unwrap();
        for name in ["train_from_dev", "dev_from_dev", "test"] {
            std::fs::write(folder.path().join(format!("dart/{name}.jsonl")), rows).unwrap();
        }
        build(&Component::named("dart")).unwrap().load(&DataSource { folder: Some(folder.path().to_owned()) })
    }

    const ROW: &str = r#"{"tripleset": [["Hawaii Five-O", "NOTES", "Episode"], ["[TABLECONTEXT]", "[TITLE]", "Jeff Daniels"]], "targets": ["One text.", "Another."], "sources": ["x"]}"#;

    #[test]
    fn training_explodes_the_references_and_scoring_keeps_them() {
        let splits = load(ROW).unwrap();
        let prefix = "Generate text for the following RDF triples:\n";
        let prompt = "Hawaii Five-O : NOTES : Episode | [TABLECONTEXT] : [TITLE] : Jeff Daniels###";
        assert_eq!(splits.train.iter().map(|e| e.answer.as_str()).collect::<Vec<_>>(), ["One text.", "Another."]);
        assert_eq!(splits.train[1].id, "train_from_dev.jsonl:1#1");
        let all = splits.train.iter().chain(&splits.test);
        assert!(all.clone().all(|example| example.prefix == prefix && example.prompt == prompt && example.references.len() == 2));
        assert_eq!(splits.dataset_id, "dart (train_from_dev.jsonl, dev_from_dev.jsonl, test.jsonl)");
    }

    #[test]
    fn bleu_comes_first_and_any_reference_counts() {
        let task = build(&Component::named("dart")).unwrap();
        let splits = load(ROW).unwrap();
        let scores = task.score(&splits.test, &["Another.".to_owned()]).unwrap();
        assert_eq!(scores.values[0].name, "bleu");
        assert_eq!(scores.values.iter().find(|value| value.name == "exact_match").unwrap().value, 1.0);
        assert_eq!(task.score(&splits.test, &["nothing of it".to_owned()]).unwrap().items, [0.0]);
    }

    #[test]
    fn the_papers_protocol_searches_with_five_beams() {
        let task = build(&Component::from_value(&json!({"type": "dart", "protocol": "ssm-peft"})).unwrap()).unwrap();
        let format = task.format();
        assert_eq!((format.num_beams, format.max_new_tokens, format.stop.as_str(), format.append_eos), (5, 1024, "", true));
    }

    #[test]
    fn references_of_one_restaurant_are_gathered() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("e2e_nlg")).unwrap();
        let row = |name: &str, text: &str| format!("{{\"mr\": \"name[{name}]\", \"refs\": [\"{text}\"]}}\n");
        for split in ["train", "dev", "test"] {
            std::fs::write(folder.path().join(format!("e2e_nlg/{split}.jsonl")), row("A", "a") + &row("B", "b") + &row("A", "c")).unwrap();
        }
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        let splits = build(&Component::named("e2e_nlg")).unwrap().load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.test.len()), (3, 2));
        assert_eq!((splits.test[0].prompt.as_str(), &splits.test[0].references[..]), ("name[A]###", &["a".to_owned(), "c".to_owned()][..]));
    }

    #[test]
    fn a_row_of_the_hub_has_its_texts_in_either_form() {
        let convert = |annotations: Value| {
            let row = dart_row(row([("tripleset", json!([["a", "b", "c"]])), ("annotations", annotations)])).unwrap();
            row.map(|row| row["targets"].clone())
        };
        assert_eq!(convert(json!({"text": ["x", " "], "source": ["s", "s"]})), Some(json!(["x"])));
        assert_eq!(convert(json!([{"text": "x", "source": "s"}])), Some(json!(["x"])));
        assert_eq!(convert(json!({"text": [""]})), None);
    }

    #[test]
    fn a_damaged_row_is_named() {
        let error = load(&ROW.replace("targets", "target")).unwrap_err().to_string();
        assert!(
            error.contains("train_from_dev.jsonl:1: field `targets`: expected a list of at least one string, found no such field"),
            "{error}"
        );
        assert!(error.contains("`tripleset`, `target`, `sources`"), "{error}");
    }

    #[test]
    fn the_world_makes_exactly_the_examples_asked_for() {
        let task = build(&Component::named("world/triples")).unwrap();
        let splits = task.load(&DataSource::default()).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (1000, 100, 200));
    }
}
