//! Sentences that praise or blame: `glue/sst2`, and `world/sentiment` in its image.
//!
//! Format of the SSM-PEFT paper (arXiv 2410.09016, its code's GLUE data set): an instruction with the legend of the labels, `###`, the
//! sentence, `###`, and the label as a digit. The code scores the whole vocabulary and drops predictions that are no label; here the two
//! digits are the options, so that every item counts.

use super::{Scoring, Task, TaskEntry, check_counts, check_difficulty, hold_out_count, pairs, too_small};
use crate::error::Result;
use crate::example::{Example, Splits, hold_out};
use crate::metrics::accuracy;
use crate::source::{DataSource, Row, file_names};
use crate::world::rows::{self, Counts, SplitRows};
use crate::world::{World, WorldSizes, opinion};
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `glue/sst2`: the Stanford Sentiment Treebank, two classes, of GLUE.
pub const SST2: TaskEntry = TaskEntry {
    name: "glue/sst2",
    summary: "film reviews that praise or blame (GLUE SST-2); the official dev set is the test",
    build: |task| Ok(Box::new(Sentiment { name: SST2.name, rows: Rows::Sst2(task.parse_options()?) })),
    resolve: |task| task.resolved(&task.parse_options::<Sst2Options>()?),
};

/// `world/sentiment`: the same with sentences of the invented world.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/sentiment",
    summary: "sentences of the invented world that praise or blame, in the format of glue/sst2",
    build: |task| Ok(Box::new(Sentiment { name: WORLD.name, rows: Rows::World(WorldOptions::parse(task)?) })),
    resolve: |task| task.resolved(&WorldOptions::parse(task)?),
};

/// Between the parts of a prompt.
const SEPARATOR: &str = "###";
/// The paper's instruction for SST-2 (from PromptBench).
const SST2_INSTRUCTION: &str = "Read the provided excerpt and choose between negative and positive to describe its sentiment. \
     Respond with '0' if negative or '1' if positive: ";

/// Options of `glue/sst2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sst2Options {
    /// Most rows held out of the training file for validation; never more than a fifth of it (the paper holds out a fifth, 13,470).
    pub valid: usize,
    /// What stands before the sentence, with the legend of the labels; empty for none.
    pub instruction: String,
    /// What stands between the prompt and the digit; empty in the paper. A space where the tokenizer knows digits best behind one.
    pub label_prefix: String,
}

impl Default for Sst2Options {
    fn default() -> Self {
        Self { valid: 2000, instruction: SST2_INSTRUCTION.to_owned(), label_prefix: String::new() }
    }
}

/// Options of `world/sentiment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldOptions {
    /// Training examples.
    pub train: usize,
    /// Validation examples.
    pub valid: usize,
    /// Test examples.
    pub test: usize,
    /// 0: one opinion word; 1: also intensified or negated; 2: also two words that agree or disagree; 3: also two of which one is denied.
    pub difficulty: u8,
    /// Share (0 to 1) of validation and test sentences whose opinion words training never shows: what can be answered only from
    /// pre-training.
    pub new_words: f64,
    /// Which world; the base model must have been pre-trained on it.
    pub world_seed: u64,
    /// How much there is in the world; as in pre-training.
    pub world_sizes: WorldSizes,
    /// What stands before the sentence; empty by default, because the models for this world are tiny.
    pub instruction: String,
    /// What stands between the prompt and the digit; empty in the paper. A space by default, as the world's
    /// text has before every digit: a label that pre-training never saw could not be learnt without training the embeddings.
    pub label_prefix: String,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            train: 1500,
            valid: 300,
            test: 500,
            difficulty: 2,
            new_words: 0.5,
            world_seed: 0,
            world_sizes: WorldSizes::default(),
            instruction: String::new(),
            label_prefix: " ".to_owned(),
        }
    }
}

impl WorldOptions {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        options.world_sizes.check()?;
        check_counts(options.counts())?;
        check_difficulty(options.difficulty, opinion::MOST_DIFFICULT)?;
        match (0.0..=1.0).contains(&options.new_words) {
            true => Ok(options),
            false => Err(SpecError::at("new_words", format!("expected a share from 0 to 1, found {}", options.new_words))),
        }
    }

    fn counts(&self) -> Counts {
        Counts { train: self.train, valid: self.valid, test: self.test }
    }
}

/// One sentence and its label, 1 where it praises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelledSentence {
    pub(crate) id: String,
    pub(crate) sentence: String,
    pub(crate) label: u64,
}

impl LabelledSentence {
    fn read(row: &Row) -> Result<Self> {
        let label = row.integer("label")?;
        match label {
            0 | 1 => Ok(Self { id: row.id(), sentence: row.text("sentence")?.to_owned(), label }),
            _ => Err(row.wrong("label", "0 (negative) or 1 (positive)", Some(&Value::from(label)))),
        }
    }

    fn example(self, instruction: &str, prefix: &str) -> Example {
        let instruction = if instruction.is_empty() { String::new() } else { format!("{instruction}{SEPARATOR}") };
        Example {
            id: self.id,
            prompt: format!("{instruction}{}{SEPARATOR}", self.sentence),
            answer: format!("{prefix}{}", self.label),
            choices: vec![format!("{prefix}0"), format!("{prefix}1")],
            references: Vec::new(),
        }
    }
}

enum Rows {
    Sst2(Sst2Options),
    World(WorldOptions),
}

struct Sentiment {
    name: &'static str,
    rows: Rows,
}

impl Sentiment {
    fn rows(&self, source: &DataSource) -> Result<(String, SplitRows<LabelledSentence>)> {
        match &self.rows {
            Rows::Sst2(options) => {
                let (train, test) = (source.rows(self.name, "glue/sst2", "train")?, source.rows(self.name, "glue/sst2", "dev")?);
                let id = format!("{} ({}, {})", self.name, file_names(&train), file_names(&test));
                let read = |rows: &[Row]| rows.iter().map(LabelledSentence::read).collect::<Result<Vec<_>>>();
                let train = read(&train)?;
                let count = hold_out_count(train.len(), options.valid);
                // Equal sentences stay on one side.
                let (train, valid) = hold_out(train, count, |_, row| row.sentence.clone());
                Ok((id, SplitRows { train, valid, test: read(&test)? }))
            }
            Rows::World(options) => {
                let world = World::with_sizes(options.world_seed, options.world_sizes);
                let rows = rows::sentiment(&world, options.counts(), options.difficulty, options.new_words).map_err(|short| {
                    too_small(self.name, short, "lower `train`, `valid` or `test`, or raise `difficulty` or `world_sizes.opinion_words`")
                })?;
                Ok((format!("{} (world {})", self.name, options.world_seed), rows))
            }
        }
    }
}

impl Task for Sentiment {
    fn name(&self) -> &str {
        self.name
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        let (dataset_id, rows) = self.rows(source)?;
        let (instruction, prefix) = match &self.rows {
            Rows::Sst2(options) => (&options.instruction, &options.label_prefix),
            Rows::World(options) => (&options.instruction, &options.label_prefix),
        };
        let examples = |rows: Vec<LabelledSentence>| rows.into_iter().map(|row| row.example(instruction, prefix)).collect();
        Ok(Splits { dataset_id, train: examples(rows.train), valid: examples(rows.valid), test: examples(rows.test) })
    }

    fn scoring(&self) -> Scoring {
        Scoring::Choice { normalise: false }
    }

    fn primary_metric(&self) -> &'static str {
        accuracy::NAME
    }

    fn score(&self, examples: &[Example], predictions: &[String]) -> Vec<MetricValue> {
        vec![accuracy::accuracy(pairs(examples, predictions).map(|(prediction, example)| (prediction, example.answer.as_str())))]
    }

    fn item_score(&self, example: &Example, prediction: &str) -> f64 {
        f64::from(u8::from(accuracy::is_correct(prediction, &example.answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;
    use serde_json::json;

    fn folder(train: &str, dev: &str) -> (tempfile::TempDir, DataSource) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("glue/sst2")).unwrap();
        std::fs::write(folder.path().join("glue/sst2/train.jsonl"), train).unwrap();
        std::fs::write(folder.path().join("glue/sst2/dev.jsonl"), dev).unwrap();
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        (folder, source)
    }

    #[test]
    fn the_prompt_is_the_papers() {
        let train: String = (0..20).map(|i| format!("{{\"sentence\": \"s{i}\", \"label\": {}}}\n", i % 2)).collect();
        let (_folder, source) = folder(&train, "{\"sentence\": \"a sometimes tedious film .\", \"label\": 0}\n");
        let splits = build(&Component::named("glue/sst2")).unwrap().load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len()), (16, 4));
        assert_eq!(splits.dataset_id, "glue/sst2 (train.jsonl, dev.jsonl)");
        assert_eq!(
            splits.test[0].prompt,
            "Read the provided excerpt and choose between negative and positive to describe its sentiment. Respond with '0' if negative or '1' if positive: ###a sometimes tedious film .###"
        );
        assert_eq!((splits.test[0].answer.as_str(), splits.test[0].id.as_str()), ("0", "dev.jsonl:1"));
        let short = build(&Component::from_value(&json!({"type": "glue/sst2", "valid": 2, "instruction": ""})).unwrap()).unwrap();
        let splits = short.load(&source).unwrap();
        assert_eq!((splits.valid.len(), splits.test[0].prompt.as_str()), (2, "a sometimes tedious film .###"));
    }

    #[test]
    fn a_label_out_of_range_is_named_with_its_line() {
        let (_folder, source) = folder("{\"sentence\": \"a\", \"label\": 1}\n{\"sentence\": \"b\", \"label\": 2}\n", "{}\n");
        let error = build(&Component::named("glue/sst2")).unwrap().load(&source).unwrap_err().to_string();
        assert!(error.contains("train.jsonl:2: field `label`: expected 0 (negative) or 1 (positive), found 2"), "{error}");
    }

    #[test]
    fn a_prediction_counts_where_it_is_the_label() {
        let task = build(&Component::named("world/sentiment")).unwrap();
        let splits = task.load(&DataSource::default()).unwrap();
        let all_positive = vec![" 1".to_owned(); splits.test.len()];
        let metrics = task.score(&splits.test, &all_positive);
        assert_eq!((metrics[0].value, metrics[0].n_items), (0.5, 500));
        let mean = splits.test.iter().map(|example| task.item_score(example, " 1")).sum::<f64>() / 500.0;
        assert_eq!(mean, 0.5);
        assert!(splits.test.iter().all(|example| example.prompt.ends_with(".###") && example.choices == [" 0", " 1"]));
    }
}
