//! Sets of triples told in words: `dart`, and `world/triples` in its image.
//!
//! Format of the SSM-PEFT paper's code: an instruction line, the triples as `s : p : o` joined by ` | `, `###`, and the text with an end
//! token. Training has one example for each reference, validation and test one for each set with all its references. BLEU is sacrebleu's;
//! the paper's (Hugging Face `evaluate`) takes the shortest reference's length instead of the closest.

use super::{Scoring, Task, TaskEntry, check_counts, check_difficulty, pairs, too_small};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::metrics::{bleu, exact_match};
use crate::source::{DataSource, Row, file_names};
use crate::world::rows::{self, Counts, SplitRows};
use crate::world::{World, WorldSizes};
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// `dart`: DART v1.1.1 (Nan et al. 2021).
pub const DART: TaskEntry = TaskEntry {
    name: "dart",
    summary: "sets of triples told in words (DART), several references each",
    build: |task| Ok(Box::new(DataToText { name: DART.name, rows: Rows::Dart(DartOptions::parse(task)?) })),
    resolve: |task| task.resolved(&DartOptions::parse(task)?),
};

/// `world/triples`: the same with the invented world's facts and grammar.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/triples",
    summary: "sets of triples of the invented world told in words, in the format of dart",
    build: |task| Ok(Box::new(DataToText { name: WORLD.name, rows: Rows::World(WorldOptions::parse(task)?) })),
    resolve: |task| task.resolved(&WorldOptions::parse(task)?),
};

/// Between the triples and the text.
const SEPARATOR: &str = "###";

/// Options of `dart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DartOptions {
    /// What stands before the triples; the paper's line by default.
    pub instruction: String,
    /// Most tokens generated for one set.
    pub max_new_tokens: usize,
}

impl Default for DartOptions {
    fn default() -> Self {
        Self { instruction: "Generate text for the following RDF triples:\n".to_owned(), max_new_tokens: 128 }
    }
}

impl DartOptions {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        check_new_tokens(options.max_new_tokens)?;
        Ok(options)
    }
}

/// Options of `world/triples`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldOptions {
    /// Training examples, one for each reference.
    pub train: usize,
    /// Validation examples, one for each set.
    pub valid: usize,
    /// Test examples, one for each set.
    pub test: usize,
    /// 0: one triple; 1: up to two; 2: up to three; 3: up to three, with objects that are not the world's facts.
    pub difficulty: u8,
    /// Which world; the base model must have been pre-trained on it.
    pub world_seed: u64,
    /// How much there is in the world; as in pre-training.
    pub world_sizes: WorldSizes,
    /// What stands before the triples; empty by default, because the models for this world are tiny.
    pub instruction: String,
    /// Most tokens generated for one set.
    pub max_new_tokens: usize,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            train: 1500,
            valid: 200,
            test: 300,
            difficulty: 2,
            world_seed: 0,
            world_sizes: WorldSizes::default(),
            instruction: String::new(),
            max_new_tokens: 64,
        }
    }
}

impl WorldOptions {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        options.world_sizes.check()?;
        check_counts(options.counts())?;
        check_new_tokens(options.max_new_tokens)?;
        check_difficulty(options.difficulty, rows::MOST_DIFFICULT_TRIPLES)?;
        Ok(options)
    }

    fn counts(&self) -> Counts {
        Counts { train: self.train, valid: self.valid, test: self.test }
    }
}

fn check_new_tokens(count: usize) -> std::result::Result<(), SpecError> {
    match count {
        0 => Err(SpecError::at("max_new_tokens", "expected at least 1, found 0")),
        _ => Ok(()),
    }
}

/// One set of triples and the texts that tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TripleRow {
    pub(crate) id: String,
    pub(crate) triples: Vec<[String; 3]>,
    pub(crate) targets: Vec<String>,
}

impl TripleRow {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self { id: row.id(), triples: row.triples("tripleset")?, targets: row.texts("targets")? })
    }

    /// One example whose answer is the first reference.
    fn example(self, instruction: &str) -> Example {
        let triples: Vec<String> = self.triples.iter().map(|triple| triple.join(" : ")).collect();
        Example {
            id: self.id,
            prompt: format!("{instruction}{}{SEPARATOR}", triples.join(" | ")),
            answer: self.targets.first().cloned().unwrap_or_default(),
            choices: Vec::new(),
            references: self.targets,
        }
    }

    /// One example for each reference.
    fn explode(self, instruction: &str) -> Vec<Example> {
        let whole = self.example(instruction);
        let one = |(k, answer): (usize, &String)| Example { id: format!("{}#{k}", whole.id), answer: answer.clone(), ..whole.clone() };
        whole.references.iter().enumerate().map(one).collect()
    }
}

enum Rows {
    Dart(DartOptions),
    World(WorldOptions),
}

struct DataToText {
    name: &'static str,
    rows: Rows,
}

impl DataToText {
    fn rows(&self, source: &DataSource) -> Result<(String, SplitRows<TripleRow>)> {
        match &self.rows {
            Rows::Dart(_) => {
                let read = |start| -> Result<(String, Vec<TripleRow>)> {
                    let rows = source.rows(self.name, "dart", start)?;
                    Ok((file_names(&rows), rows.iter().map(TripleRow::read).collect::<Result<Vec<_>>>()?))
                };
                let ((a, train), (b, valid), (c, test)) = (read("train")?, read("dev")?, read("test")?);
                Ok((format!("{} ({a}, {b}, {c})", self.name), SplitRows { train, valid, test }))
            }
            Rows::World(options) => {
                let world = World::with_sizes(options.world_seed, options.world_sizes);
                let rows = rows::triples(&world, options.counts(), options.difficulty).map_err(|short| {
                    too_small(self.name, short, "lower `train`, `valid` or `test`, or raise `difficulty` or `world_sizes.creatures`")
                })?;
                Ok((format!("{} (world {})", self.name, options.world_seed), rows))
            }
        }
    }

    fn instruction(&self) -> &str {
        match &self.rows {
            Rows::Dart(options) => &options.instruction,
            Rows::World(options) => &options.instruction,
        }
    }
}

impl Task for DataToText {
    fn name(&self) -> &str {
        self.name
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        let (dataset_id, rows) = self.rows(source)?;
        let mut train: Vec<Example> = rows.train.into_iter().flat_map(|row| row.explode(self.instruction())).collect();
        if let Rows::World(options) = &self.rows {
            // The world makes at least one row for each example asked for.
            train.truncate(options.train);
        }
        let examples = |rows: Vec<TripleRow>| rows.into_iter().map(|row| row.example(self.instruction())).collect();
        Ok(Splits { dataset_id, train, valid: examples(rows.valid), test: examples(rows.test) })
    }

    fn scoring(&self) -> Scoring {
        let max_new_tokens = match &self.rows {
            Rows::Dart(options) => options.max_new_tokens,
            Rows::World(options) => options.max_new_tokens,
        };
        Scoring::Generate { max_new_tokens, stop: "\n" }
    }

    fn primary_metric(&self) -> &'static str {
        bleu::NAME
    }

    fn score(&self, examples: &[Example], predictions: &[String]) -> Vec<MetricValue> {
        let pairs = || pairs(examples, predictions).map(|(prediction, example)| (prediction, &example.references[..]));
        vec![bleu::corpus_bleu(pairs()), exact_match::exact_match(pairs())]
    }

    fn item_score(&self, example: &Example, prediction: &str) -> f64 {
        bleu::sentence_bleu(prediction, &example.references)
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
        let prompt =
            "Generate text for the following RDF triples:\nHawaii Five-O : NOTES : Episode | [TABLECONTEXT] : [TITLE] : Jeff Daniels###";
        assert_eq!(splits.train.iter().map(|e| e.answer.as_str()).collect::<Vec<_>>(), ["One text.", "Another."]);
        assert_eq!(splits.train[1].id, "train_from_dev.jsonl:1#1");
        assert!(splits.train.iter().chain(&splits.test).all(|example| example.prompt == prompt && example.references.len() == 2));
        assert_eq!(splits.dataset_id, "dart (train_from_dev.jsonl, dev_from_dev.jsonl, test.jsonl)");
    }

    #[test]
    fn bleu_comes_first_and_any_reference_counts() {
        let task = build(&Component::named("dart")).unwrap();
        let splits = load(ROW).unwrap();
        let metrics = task.score(&splits.test, &["Another.".to_owned()]);
        assert_eq!(metrics.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["bleu", "exact_match"]);
        assert_eq!(metrics[1].value, 1.0);
        assert_eq!(task.item_score(&splits.test[0], "nothing of it"), 0.0);
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
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (1500, 200, 300));
    }
}
