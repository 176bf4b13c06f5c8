//! Multiple-choice questions: the commonsense tasks of LLM-Adapters and the IST paper (arXiv 2410.11772), and `world/choice` in the image
//! of `commonsense/arc_easy`.
//!
//! Two protocols. `likelihood`: the question alone as prompt and the options' texts as answers, as in the likelihood evaluation of these
//! data sets. `llm-adapters`: the paper's Alpaca prompt around the whole instruction, and the sentences `the correct answer is answer2` as
//! options. The paper generates that sentence with beam search and takes the first label in it; scoring the sentences is the same decision
//! without the search, and no item is lost to a malformed answer. The paper also trains on the prompt's tokens; here the loss is over the
//! answer.

mod parse;

use super::{Scoring, Task, TaskEntry, check_counts, check_difficulty, hold_out_count, pairs, too_small};
use crate::error::{DataError, Result};
use crate::example::{Example, Splits, hold_out};
use crate::metrics::accuracy;
use crate::source::{DataSource, Row, file_names};
use crate::world::rows::{self, Counts, SplitRows};
use crate::world::{World, WorldSizes};
use parse::Layout;
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One data set in LLM-Adapters' format.
#[derive(Debug, Clone, Copy)]
struct DataSet {
    name: &'static str,
    layout: Layout,
}

const ANSWERS: Layout =
    Layout::Options { lead: "Please choose the correct answer to the question: ", label: "Answer", between: " ", before_format: "\n\n" };

const DATA_SETS: [DataSet; 6] = [
    DataSet { name: "commonsense/arc_easy", layout: ANSWERS },
    DataSet { name: "commonsense/arc_challenge", layout: ANSWERS },
    DataSet { name: "commonsense/openbookqa", layout: ANSWERS },
    DataSet { name: "commonsense/boolq", layout: Layout::TrueFalse },
    DataSet {
        name: "commonsense/piqa",
        layout: Layout::Options {
            lead: "Please choose the correct solution to the question: ",
            label: "Solution",
            between: "\n\n",
            before_format: "\n\n",
        },
    },
    DataSet {
        name: "commonsense/winogrande",
        layout: Layout::Options {
            lead: "Please choose the correct answer to fill in the blank to complete the given sentence: ",
            label: "Option",
            between: " ",
            before_format: " ",
        },
    },
];

const fn files(name: &'static str, summary: &'static str) -> TaskEntry {
    TaskEntry { name, summary, build: build_files, resolve: |task| task.resolved(&task.parse_options::<Options>()?) }
}

/// Easy questions of school science, mostly four options.
pub const ARC_EASY: TaskEntry = files("commonsense/arc_easy", "easy school science questions, 3 to 5 options (ARC)");
/// Hard ones.
pub const ARC_CHALLENGE: TaskEntry = files("commonsense/arc_challenge", "hard school science questions, 3 to 5 options (ARC)");
/// Questions answered with true or false.
pub const BOOLQ: TaskEntry = files("commonsense/boolq", "yes/no questions people asked, without their passage (BoolQ)");
/// School science that needs a fact and common knowledge.
pub const OPENBOOKQA: TaskEntry = files("commonsense/openbookqa", "science questions that need a fact and common sense (OpenBookQA)");
/// Which of two ways reaches a goal. Without a training file it can be scored, not trained on.
pub const PIQA: TaskEntry = files("commonsense/piqa", "which of two ways reaches a goal (PIQA)");
/// Whom a pronoun means; the blank stays in the prompt and the options are the names.
pub const WINOGRANDE: TaskEntry = files("commonsense/winogrande", "which of two names fills a blank (WinoGrande)");

/// `world/choice`: the invented world's facts, asked for as `commonsense/arc_easy` asks.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/choice",
    summary: "questions about the invented world's facts, four options, in the format of commonsense/arc_easy",
    build: |task| {
        let rows = Rows::World(WorldOptions::parse(task)?);
        Ok(Box::new(MultipleChoice { name: WORLD.name, protocol: Protocol::Likelihood, rows }))
    },
    resolve: |task| task.resolved(&WorldOptions::parse(task)?),
};

fn build_files(task: &Component) -> std::result::Result<Box<dyn Task>, SpecError> {
    let options: Options = task.parse_options()?;
    let set =
        DATA_SETS.iter().find(|set| set.name == task.name).ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
    Ok(Box::new(MultipleChoice {
        name: set.name,
        protocol: options.protocol,
        rows: Rows::Files { layout: set.layout, valid: options.valid },
    }))
}

/// What the model reads and what is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Question as prompt, options' texts as answers.
    #[default]
    Likelihood,
    /// LLM-Adapters' prompt, `the correct answer is …` as answers.
    LlmAdapters,
}

/// Options of the tasks over LLM-Adapters' files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What the model reads and what is scored.
    pub protocol: Protocol,
    /// Most rows held out of the training file for validation; never more than a fifth of it.
    pub valid: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { protocol: Protocol::default(), valid: 1000 }
    }
}

/// Options of `world/choice`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldOptions {
    /// Training examples.
    pub train: usize,
    /// Validation examples.
    pub valid: usize,
    /// Test examples.
    pub test: usize,
    /// 0: one wording of each question; 1: four; 2: four, of which one occurs in the test only.
    pub difficulty: u8,
    /// Which world; the base model must have been pre-trained on it.
    pub world_seed: u64,
    /// How much there is in the world; as in pre-training.
    pub world_sizes: WorldSizes,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { train: 1500, valid: 200, test: 480, difficulty: 1, world_seed: 0, world_sizes: WorldSizes::default() }
    }
}

impl WorldOptions {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        options.world_sizes.check()?;
        check_counts(options.counts())?;
        check_difficulty(options.difficulty, rows::MOST_DIFFICULT_CHOICE)?;
        Ok(options)
    }

    fn counts(&self) -> Counts {
        Counts { train: self.train, valid: self.valid, test: self.test }
    }
}

/// One question with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChoiceRow {
    pub(crate) id: String,
    pub(crate) question: String,
    pub(crate) options: Vec<String>,
    /// Index of the right one.
    pub(crate) answer: usize,
}

impl ChoiceRow {
    /// `Question: …`, `Answer:`, and the options with a space before them.
    fn likelihood(self) -> Example {
        let choices: Vec<String> = self.options.iter().map(|option| format!(" {option}")).collect();
        Example {
            id: self.id,
            prompt: format!("Question: {}\nAnswer:", self.question),
            answer: choices[self.answer].clone(),
            choices,
            references: Vec::new(),
        }
    }
}

/// LLM-Adapters' sentence for a label.
fn answer_sentence(label: &str) -> String {
    format!("the correct answer is {label}")
}

/// LLM-Adapters' prompt, byte for byte. Its indentation is an accident of the code's source, kept because every result was made with it;
/// so is the difference between training (two spaces after the header, a line of spaces before the response) and test.
fn llm_adapters_prompt(instruction: &str, training: bool) -> String {
    const HEADER: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
    let indent = " ".repeat(16);
    let (spaces, before_response) = if training { ("  ", indent.as_str()) } else { (" ", "") };
    format!("{HEADER}{spaces}\n\n{indent}### Instruction:\n{indent}{instruction}\n{before_response}\n{indent}### Response:\n{indent}")
}

enum Rows {
    Files { layout: Layout, valid: usize },
    World(WorldOptions),
}

struct MultipleChoice {
    name: &'static str,
    protocol: Protocol,
    rows: Rows,
}

impl MultipleChoice {
    /// The training rows; PIQA's are not in every copy of the files, and the test is worth having without them.
    fn train_rows(&self, source: &DataSource) -> Result<Vec<Row>> {
        match source.rows(self.name, self.name, "train") {
            Err(DataError::MissingFile { .. }) if self.name == PIQA.name => Ok(Vec::new()),
            other => other,
        }
    }

    fn load_files(&self, source: &DataSource, layout: Layout, valid: usize) -> Result<Splits> {
        let (train, test) = (self.train_rows(source)?, source.rows(self.name, self.name, "test")?);
        let names: Vec<String> = [&train, &test].into_iter().map(|rows| file_names(rows)).filter(|names| !names.is_empty()).collect();
        let dataset_id = format!("{} ({})", self.name, names.join(", "));
        let count = hold_out_count(train.len(), valid);
        // Twin sentences, which differ in a word, stay on one side.
        let pair = |index: usize, row: &Row| row.get("pair").map_or_else(|| format!("row {index}"), Value::to_string);
        let (train, valid) = hold_out(train, count, pair);
        let examples =
            |rows: &[Row], training: bool| rows.iter().map(|row| self.example(row, layout, training)).collect::<Result<Vec<_>>>();
        Ok(Splits { dataset_id, train: examples(&train, true)?, valid: examples(&valid, false)?, test: examples(&test, false)? })
    }

    fn example(&self, row: &Row, layout: Layout, training: bool) -> Result<Example> {
        let parsed = parse::read(row, layout)?;
        if self.protocol == Protocol::Likelihood {
            return Ok(parsed.likelihood());
        }
        let labels = match layout {
            Layout::TrueFalse => parsed.options,
            Layout::Options { label, .. } => (1..=parsed.options.len()).map(|n| format!("{}{n}", label.to_lowercase())).collect(),
        };
        let choices: Vec<String> = labels.iter().map(|label| answer_sentence(label)).collect();
        let prompt = llm_adapters_prompt(row.text("instruction")?, training);
        Ok(Example { id: parsed.id, prompt, answer: choices[parsed.answer].clone(), choices, references: Vec::new() })
    }

    fn load_world(&self, options: &WorldOptions) -> Result<Splits> {
        let world = World::with_sizes(options.world_seed, options.world_sizes);
        let SplitRows { train, valid, test } = rows::choice(&world, options.counts(), options.difficulty).map_err(|short| {
            too_small(self.name, short, "lower `train`, `valid` or `test`, or raise `world_sizes.creatures` or `world_sizes.values`")
        })?;
        let examples = |rows: Vec<ChoiceRow>| rows.into_iter().map(ChoiceRow::likelihood).collect();
        let dataset_id = format!("{} (world {})", self.name, options.world_seed);
        Ok(Splits { dataset_id, train: examples(train), valid: examples(valid), test: examples(test) })
    }
}

impl Task for MultipleChoice {
    fn name(&self) -> &str {
        self.name
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        match &self.rows {
            Rows::Files { layout, valid } => self.load_files(source, *layout, *valid),
            Rows::World(options) => self.load_world(options),
        }
    }

    fn scoring(&self) -> Scoring {
        Scoring::Choice { normalise: true }
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

    const ROW: &str = r#"{"instruction": "Please choose the correct answer to the question: Which is safe?\n\nAnswer1: goggles Answer2: a mask Answer3: gloves\n\nAnswer format: answer1/answer2/answer3", "input": "", "output": "the correct answer is answer2", "answer": "answer2"}"#;

    fn load(task: serde_json::Value, train: Option<&str>, test: &str) -> Result<Splits> {
        let component = Component::from_value(&task).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join(&component.name);
        std::fs::create_dir_all(&data).unwrap();
        if let Some(train) = train {
            std::fs::write(data.join("train.jsonl"), train).unwrap();
        }
        std::fs::write(data.join("test.jsonl"), test).unwrap();
        build(&component).unwrap().load(&DataSource { folder: Some(folder.path().to_owned()) })
    }

    #[test]
    fn the_likelihood_protocol_asks_for_the_text_of_an_option() {
        let splits = load(json!("commonsense/arc_easy"), Some(ROW), ROW).unwrap();
        let example = &splits.test[0];
        assert_eq!(example.prompt, "Question: Which is safe?\nAnswer:");
        assert_eq!(example.choices, [" goggles", " a mask", " gloves"]);
        assert_eq!(example.answer, " a mask");
        let boolq = r#"{"instruction": "Please answer the following question with true or false, question: is it so?\n\nAnswer format: true/false", "answer": "false"}"#;
        let example = &load(json!("commonsense/boolq"), Some(boolq), boolq).unwrap().test[0];
        assert_eq!((example.prompt.as_str(), example.answer.as_str()), ("Question: is it so?\nAnswer:", " false"));
    }

    #[test]
    fn the_llm_adapters_protocol_is_byte_for_byte_the_papers() {
        // Lengths and digests of the reference code's prompts for the instruction `X` (and output `Y` in training), computed apart.
        assert_eq!((llm_adapters_prompt("X", true).len(), llm_adapters_prompt("X", false).len()), (223, 206));
        let digest = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        assert_eq!(digest(&(llm_adapters_prompt("X", true) + "Y")), "bc17a5de737537a4");
        assert_eq!(digest(&llm_adapters_prompt("X", false)), "2e4bc4b1bc8af02c");
        let splits = load(json!({"type": "commonsense/arc_easy", "protocol": "llm-adapters"}), Some(ROW), ROW).unwrap();
        let example = &splits.test[0];
        assert!(example.prompt.contains("### Instruction:\n                Please choose the correct answer"));
        assert_eq!(example.answer, "the correct answer is answer2");
        assert_eq!(example.choices.len(), 3);
    }

    #[test]
    fn twins_stay_together_and_a_fifth_is_held_out() {
        let row = |pair: usize, n: usize| {
            format!(
                "{{\"instruction\": \"Please choose the correct answer to fill in the blank to complete the given sentence: {pair} {n} _.\\n\\nOption1: a Option2: b Answer format: option1/option2\", \"answer\": \"option{n}\", \"pair\": {pair}}}\n"
            )
        };
        let train: String = (0..50).flat_map(|pair| [row(pair, 1), row(pair, 2)]).collect();
        let splits = load(json!("commonsense/winogrande"), Some(&train), &row(0, 1)).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len()), (80, 20));
        let pairs: std::collections::HashSet<&str> = splits.valid.iter().map(|e| e.prompt.split(' ').nth(1).unwrap()).collect();
        assert_eq!(pairs.len(), 10);
    }

    #[test]
    fn a_missing_training_file_is_an_error_but_for_piqa() {
        let error = load(json!("commonsense/arc_easy"), None, ROW).unwrap_err().to_string();
        assert!(error.contains("train*.jsonl, which does not exist"), "{error}");
        let piqa = r#"{"instruction": "Please choose the correct solution to the question: g\n\nSolution1: a\n\nSolution2: b\n\nAnswer format: solution1/solution2", "answer": "solution1"}"#;
        let splits = load(json!("commonsense/piqa"), None, piqa).unwrap();
        assert_eq!((splits.train.len(), splits.test.len(), splits.dataset_id.as_str()), (0, 1, "commonsense/piqa (test.jsonl)"));
    }

    #[test]
    fn a_row_of_another_layout_or_answer_is_named() {
        let error = load(json!("commonsense/boolq"), Some(ROW), ROW).unwrap_err().to_string();
        assert!(error.contains("train.jsonl:1: field `instruction`: expected `Please answer the following question"), "{error}");
        let error = load(json!("commonsense/arc_easy"), Some(&ROW.replace("\"answer2\"", "\"answer9\"")), ROW).unwrap_err().to_string();
        assert!(error.contains("field `answer`: expected one of answer1, answer2, answer3, found \"answer9\""), "{error}");
    }
}
