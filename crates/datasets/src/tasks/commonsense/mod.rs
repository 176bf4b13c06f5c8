//! Multiple-choice questions: the commonsense tasks of LLM-Adapters and the IST paper (arXiv 2410.11772), and `world/choice` in the image
//! of `commonsense/arc_easy`.
//!
//! By default the question alone is the prompt and the options' texts are scored, as in the likelihood evaluation of these data sets. The
//! protocols `llm-adapters` and `ist` put the whole instruction into the Alpaca prompt, train on all its tokens, generate `the correct
//! answer is answer2` with beam search and take the first label in it.

mod hub;
mod parse;

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::Published;
use super::twin::{Twin, WorldOptions};
use super::{IST, LIKELIHOOD, LLM_ADAPTERS, Task, TaskEntry, alpaca};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, Options, Scoring, fill};
use crate::hold_out::Validation;
use crate::source::{DataSource, Row};
use crate::world::rows::{self, SplitRows};
use parse::Layout;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One data set in LLM-Adapters' format.
#[derive(Debug, Clone, Copy)]
struct DataSet {
    name: &'static str,
    layout: Layout,
    /// Labels there may be, as a pattern.
    labels: &'static str,
    /// Whether the test is worth having where there is no training file: not every copy of the data has one.
    test_alone: bool,
}

const ANSWERS: Layout =
    Layout::Options { lead: "Please choose the correct answer to the question: ", label: "Answer", between: " ", before_format: "\n\n" };
const ANSWER_LABELS: &str = "answer1|answer2|answer3|answer4|answer5";

const fn answers(name: &'static str, test_alone: bool) -> DataSet {
    DataSet { name, layout: ANSWERS, labels: ANSWER_LABELS, test_alone }
}

const DATA_SETS: [DataSet; 8] = [
    DataSet { name: "commonsense/boolq", layout: Layout::TrueFalse, labels: "true|false", test_alone: false },
    DataSet {
        name: "commonsense/piqa",
        layout: Layout::Options {
            lead: "Please choose the correct solution to the question: ",
            label: "Solution",
            between: "\n\n",
            before_format: "\n\n",
        },
        labels: "solution1|solution2",
        test_alone: true,
    },
    answers("commonsense/siqa", true),
    DataSet {
        name: "commonsense/hellaswag",
        layout: Layout::Options {
            lead: "Please choose the correct ending to complete the given sentence: ",
            label: "Ending",
            between: " ",
            before_format: "\n\n",
        },
        labels: "ending1|ending2|ending3|ending4",
        test_alone: true,
    },
    DataSet {
        name: "commonsense/winogrande",
        layout: Layout::Options {
            lead: "Please choose the correct answer to fill in the blank to complete the given sentence: ",
            label: "Option",
            between: " ",
            before_format: " ",
        },
        labels: "option1|option2",
        test_alone: false,
    },
    answers("commonsense/arc_easy", false),
    answers("commonsense/arc_challenge", false),
    answers("commonsense/openbookqa", false),
];

const PROTOCOLS: &[&str] = &[LIKELIHOOD, LLM_ADAPTERS, IST];

/// What the templates may name: the whole instruction, the question in it, an option's label and its text.
const PLACEHOLDERS: &[&str] = &["instruction", "question", "label", "option"];

const fn files(name: &'static str, summary: &'static str, published: &'static Published, known_overlap: usize) -> TaskEntry {
    TaskEntry { name, summary, protocols: PROTOCOLS, published: Some(published), known_overlap, build: build_files, resolve }
}

/// Questions answered with true or false.
pub const BOOLQ: TaskEntry = files("commonsense/boolq", "yes/no questions people asked, without their passage (BoolQ)", &hub::BOOLQ, 1);
/// Which of two ways reaches a goal.
pub const PIQA: TaskEntry = files("commonsense/piqa", "which of two ways reaches a goal (PIQA)", &hub::PIQA, 0);
/// What people do and feel.
pub const SIQA: TaskEntry = files("commonsense/siqa", "what people do next and how they feel (Social IQa)", &hub::SIQA, 0);
/// How a scene goes on.
pub const HELLASWAG: TaskEntry = files("commonsense/hellaswag", "which of four endings continues a scene (HellaSwag)", &hub::HELLASWAG, 0);
/// Whom a pronoun means; the blank stays in the prompt and the options are the names.
pub const WINOGRANDE: TaskEntry = files("commonsense/winogrande", "which of two names fills a blank (WinoGrande)", &hub::WINOGRANDE, 0);
/// Easy questions of school science, mostly four options.
pub const ARC_EASY: TaskEntry = files("commonsense/arc_easy", "easy school science questions, 3 to 5 options (ARC)", &hub::ARC_EASY, 2);
/// Hard ones.
pub const ARC_CHALLENGE: TaskEntry =
    files("commonsense/arc_challenge", "hard school science questions, 3 to 5 options (ARC)", &hub::ARC_CHALLENGE, 0);
/// School science that needs a fact and common knowledge.
pub const OPENBOOKQA: TaskEntry =
    files("commonsense/openbookqa", "science questions that need a fact and common sense (OpenBookQA)", &hub::OPENBOOKQA, 0);

/// `world/choice`: the invented world's facts, asked for as `commonsense/arc_easy` asks.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/choice",
    summary: "questions about the invented world's facts, four options, in the format of commonsense/arc_easy",
    protocols: PROTOCOLS,
    published: None,
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse_world(task)?;
        Ok(Box::new(MultipleChoice { name: WORLD.name, format, layout: ANSWERS, rows: Rows::World(own) }))
    },
    resolve: |task| parse_world(task)?.resolved(task),
};

fn parse_files(task: &Component) -> std::result::Result<(DataSet, Options<FileOptions>), SpecError> {
    let set = DATA_SETS.into_iter().find(|set| set.name == task.name);
    let set = set.ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
    let options = Options::parse(task, PROTOCOLS, |protocol| {
        let valid = if protocol == LIKELIHOOD { 1000 } else { 120 };
        Options { own: FileOptions { valid }, format: format(protocol, set.labels) }
    })?;
    options.format.check(PLACEHOLDERS)?;
    Ok((set, options))
}

fn build_files(task: &Component) -> std::result::Result<Box<dyn Task>, SpecError> {
    let (set, Options { own, format }) = parse_files(task)?;
    Ok(Box::new(MultipleChoice { name: set.name, format, layout: set.layout, rows: Rows::Files { set, valid: own.valid } }))
}

fn resolve(task: &Component) -> std::result::Result<Component, SpecError> {
    parse_files(task)?.1.resolved(task)
}

fn format(protocol: &str, labels: &str) -> Format {
    match protocol {
        LIKELIHOOD => Format {
            prompt: "Question: {question}\nAnswer:".to_owned(),
            answer: " {option}".to_owned(),
            scoring: Scoring::MeanLikelihood,
            ..Format::default()
        },
        paper => {
            Format { answer: "the correct answer is {label}".to_owned(), answer_pattern: labels.to_owned(), ..alpaca::format(paper, 32) }
        }
    }
}

/// Options of the tasks over LLM-Adapters' files that have a format besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOptions {
    /// Most rows held out of the training file for validation; never more than a fifth of it.
    pub valid: usize,
}

static CHOICE: Twin<ChoiceRow> = Twin {
    name: WORLD.name,
    sizes: [1000, 200, 480],
    difficulty: 1,
    most_difficult: rows::choice::MOST_DIFFICULT_CHOICE,
    rows: rows::choice::choice,
};

fn parse_world(task: &Component) -> std::result::Result<Options<WorldOptions>, SpecError> {
    CHOICE.parse(task, PROTOCOLS, |protocol| format(protocol, ANSWER_LABELS), PLACEHOLDERS)
}

fn load_world(options: &WorldOptions) -> Result<Loaded<Question>> {
    let Loaded { dataset_id, revision, rows } = CHOICE.load(options)?;
    let asked = |rows: Vec<ChoiceRow>| rows.into_iter().map(|row| Question { instruction: ANSWERS.instruction(&row), row }).collect();
    Ok(Loaded { dataset_id, revision, rows: SplitRows { train: asked(rows.train), valid: asked(rows.valid), test: asked(rows.test) } })
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

/// A question, and the instruction in LLM-Adapters' layout that asks it.
struct Question {
    instruction: String,
    row: ChoiceRow,
}

enum Rows {
    Files { set: DataSet, valid: usize },
    World(WorldOptions),
}

struct MultipleChoice {
    name: &'static str,
    format: Format,
    layout: Layout,
    rows: Rows,
}

impl MultipleChoice {
    fn example(&self, question: Question, training: bool) -> Example {
        let Question { instruction, row } = question;
        let option = |(index, text): (usize, &String)| fill(&self.format.answer, &[("label", &self.layout.label(index)), ("option", text)]);
        let choices: Vec<String> = row.options.iter().enumerate().map(option).collect();
        Example {
            id: row.id,
            prefix: self.format.prefix.clone(),
            prompt: fill(self.format.prompt_for(training), &[("instruction", &instruction), ("question", &row.question)]),
            answer: choices[row.answer].clone(),
            choices,
            ..Example::default()
        }
    }
}

fn load_rows(source: &DataSource, set: &DataSet, valid: usize) -> Result<Loaded<Question>> {
    let files = SplitFiles { folder: set.name, train: "train", valid: None, test: "test", test_alone: set.test_alone };
    let read = |row: &Row| -> Result<(String, Question)> {
        // Twin sentences, which differ in a word, stay on one side.
        let pair = row.get("pair").map_or_else(|| row.id(), Value::to_string);
        Ok((pair, Question { instruction: row.text("instruction")?.to_owned(), row: parse::read(row, set.layout)? }))
    };
    let Loaded { dataset_id, revision, rows } =
        load_files(source, set.name, files, Validation::grouped(valid), read, |_, (pair, _)| pair.clone())?;
    let asked = |rows: Vec<(String, Question)>| rows.into_iter().map(|(_, question)| question).collect();
    Ok(Loaded { dataset_id, revision, rows: SplitRows { train: asked(rows.train), valid: asked(rows.valid), test: asked(rows.test) } })
}

impl Task for MultipleChoice {
    fn name(&self) -> &str {
        self.name
    }

    fn format(&self) -> &Format {
        &self.format
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        let loaded = match &self.rows {
            Rows::Files { set, valid } => load_rows(source, set, *valid)?,
            Rows::World(options) => load_world(options)?,
        };
        Ok(loaded.into_splits(|question, training| [self.example(question, training)]))
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
    fn the_papers_protocol_generates_a_sentence_and_reads_the_first_label() {
        let task = json!({"type": "commonsense/arc_easy", "protocol": "ist"});
        let splits = load(task.clone(), Some(ROW), ROW).unwrap();
        let example = &splits.test[0];
        assert!(example.prompt.contains("### Instruction:\n                Please choose the correct answer"));
        assert_eq!((example.answer.as_str(), example.choices.len()), ("the correct answer is answer2", 3));
        let task = build(&Component::from_value(&task).unwrap()).unwrap();
        assert_eq!((task.format().scoring, task.format().num_beams, task.format().max_new_tokens), (Scoring::Generation, 4, 32));
        let predict = |text: &str| task.score(&splits.test, &[text.to_owned()]).unwrap();
        for (text, right) in
            [("answer2", 1.0), ("it is answer2, not answer1", 1.0), ("answer1 or answer2", 0.0), ("Answer2", 0.0), ("", 0.0)]
        {
            assert_eq!(predict(text).values[0].value, right, "{text}");
        }
        // No option of this question, though a label.
        assert_eq!(predict("answer5").values[1].name, "unanswered");
    }

    #[test]
    fn the_world_asks_in_the_same_layout() {
        let task = build(&Component::from_value(&json!({"type": "world/choice", "protocol": "llm-adapters"})).unwrap()).unwrap();
        let example = task.load(&DataSource::default()).unwrap().test[0].clone();
        assert!(example.prompt.contains("\n                Please choose the correct answer to the question: "), "{}", example.prompt);
        assert!(example.prompt.contains("?\n\nAnswer1: ") && example.prompt.contains("Answer format: answer1/answer2/answer3/answer4"));
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
