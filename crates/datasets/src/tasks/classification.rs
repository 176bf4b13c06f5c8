//! Texts with a label out of a few: the tasks of GLUE, and in [`world`] their twins of the invented world.
//!
//! Format of the SSM-PEFT paper (arXiv 2410.09016, its code's GLUE data set): an instruction with the legend of the labels and `###` as a
//! prefix, the sentence or two sentences with `###` behind each, and the label as a digit. The protocol `ssm-peft` takes the most likely
//! token of the whole vocabulary and leaves items out whose token is no label, as the paper's code does; by default the digits are the
//! options, so that every item counts.

pub mod world;

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::{Form, GLUE_CARD, Published, PublishedSplit, as_they_are};
use super::{LIKELIHOOD, SSM_PEFT, Task, TaskEntry, WHOLE_SPLIT};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, Options, Scoring, Unanswered, fill};
use crate::hold_out::{HoldOut, Validation};
use crate::metrics::{accuracy, f1, matthews};
use crate::source::{DataSource, Row};
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a row looks like and how it is scored, whatever it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Placeholders of the prompt for a row's texts.
    pub(super) texts: &'static [&'static str],
    /// What the labels from 0 mean.
    pub(super) labels: &'static [&'static str],
    /// What is measured, the metric that stands for the task first.
    pub(super) metrics: &'static [&'static str],
}

/// A task of GLUE.
#[derive(Debug)]
struct DataSet {
    name: &'static str,
    shape: Shape,
    /// What the prompts of this task say first (from PromptBench, as the paper's code has it).
    instruction: &'static str,
}

const ACCURACY: &[&str] = &[accuracy::NAME];
const ACCURACY_AND_F1: &[&str] = &[accuracy::NAME, f1::F1.name];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const EQUIVALENCE: &[&str] = &["not_equivalent", "equivalent"];

const DATA_SETS: [DataSet; 7] = [
    DataSet {
        name: RTE.name,
        shape: INFERENCE,
        instruction: "Determine if the given pair of sentences displays entailment or not_entailment. \
            Respond with '0' if entailment or '1' if not_entailment: ",
    },
    DataSet {
        name: MRPC.name,
        shape: PARAPHRASE,
        instruction: "Can the given sentences be considered semantically identical? \
            Respond with '0' if not_equivalent or '1' if equivalent: ",
    },
    DataSet {
        name: COLA.name,
        shape: ACCEPTABILITY,
        instruction: "Review the sentence below and identify whether its grammar is Unacceptable or Acceptable. \
            Respond with '0' if Unacceptable or '1' if Acceptable: ",
    },
    DataSet {
        name: SST2.name,
        shape: SENTIMENT,
        instruction: "Read the provided excerpt and choose between negative and positive to describe its sentiment. \
            Respond with '0' if negative or '1' if positive: ",
    },
    DataSet {
        name: QNLI.name,
        shape: Shape { texts: &["question", "sentence"], labels: ENTAILMENT, metrics: ACCURACY },
        instruction: "Consider the context and question, and indicate if the answer can be logically deduced from the context. \
            Respond with '0' if entailment or '1' if not_entailment: ",
    },
    DataSet {
        name: QQP.name,
        shape: Shape { texts: &["question1", "question2"], labels: EQUIVALENCE, metrics: ACCURACY_AND_F1 },
        instruction: "Can these two statements be considered equal in meaning? \
            Respond with '0' if not_equivalent or '1' if equivalent: ",
    },
    DataSet {
        name: MNLI.name,
        shape: Shape { texts: &["premise", "hypothesis"], labels: &["entailment", "neutral", "contradiction"], metrics: ACCURACY },
        instruction: "Assess the connection between the following sentences and classify it as entailment, neutral, or contradiction. \
            Respond with '0' if entailment, '1' if neutral or '2' if contradiction: ",
    },
];

const PARAPHRASE: Shape = Shape { texts: &["sentence1", "sentence2"], labels: EQUIVALENCE, metrics: ACCURACY_AND_F1 };
const ACCEPTABILITY: Shape =
    Shape { texts: &["sentence"], labels: &["unacceptable", "acceptable"], metrics: &[matthews::MATTHEWS.name, accuracy::NAME] };
const INFERENCE: Shape = Shape { texts: &["sentence1", "sentence2"], labels: ENTAILMENT, metrics: ACCURACY };
const SENTIMENT: Shape = Shape { texts: &["sentence"], labels: &["negative", "positive"], metrics: ACCURACY };

const fn glue(name: &'static str, summary: &'static str, published: &'static Published, known_overlap: usize) -> TaskEntry {
    TaskEntry {
        name,
        summary,
        protocols: &[LIKELIHOOD, SSM_PEFT],
        published: Some(published),
        known_overlap,
        build: |task| {
            let (set, options) = parse_glue(task)?;
            let validation = Validation { most: options.own.valid, by: options.own.hold_out };
            let rows = move |source: &DataSource| load_glue(source, set, validation);
            Ok(Box::new(Classification { name: set.name, shape: set.shape, format: options.format, rows: Box::new(rows) }))
        },
        resolve: |task| parse_glue(task)?.1.resolved(task),
    }
}

const fn on_hub(splits: &'static [PublishedSplit], columns: &'static [&'static str], licence: &'static str) -> Published {
    Published { splits, columns, licence, form: Form::Text(as_they_are), ..GLUE_CARD }
}

/// Recognising textual entailment.
pub const RTE: TaskEntry =
    glue("glue/rte", "whether a sentence follows from another (GLUE RTE); the official dev set is the test", &RTE_HUB, 0);
const RTE_HUB: Published = on_hub(
    &[PublishedSplit { file: "train", from: "rte/train-" }, PublishedSplit { file: "dev", from: "rte/validation-" }],
    &["sentence1", "sentence2", "label"],
    "RTE 1, 2, 3, 5: research use",
);
/// The Microsoft Research paraphrase corpus.
pub const MRPC: TaskEntry =
    glue("glue/mrpc", "whether two sentences say the same (GLUE MRPC); the official dev set is the test", &MRPC_HUB, 1);
const MRPC_HUB: Published = on_hub(
    &[PublishedSplit { file: "train", from: "mrpc/train-" }, PublishedSplit { file: "dev", from: "mrpc/validation-" }],
    &["sentence1", "sentence2", "label"],
    "MSR paraphrase corpus: research use",
);
/// The corpus of linguistic acceptability.
pub const COLA: TaskEntry =
    glue("glue/cola", "whether a sentence is good English (GLUE CoLA); the official dev set is the test", &COLA_HUB, 19);
const COLA_HUB: Published = on_hub(
    &[PublishedSplit { file: "train", from: "cola/train-" }, PublishedSplit { file: "dev", from: "cola/validation-" }],
    &["sentence", "label"],
    "published for research",
);
/// The Stanford sentiment treebank, two classes.
pub const SST2: TaskEntry =
    glue("glue/sst2", "film reviews that praise or blame (GLUE SST-2); the official dev set is the test", &SST2_HUB, 2);
const SST2_HUB: Published = on_hub(
    &[PublishedSplit { file: "train", from: "sst2/train-" }, PublishedSplit { file: "dev", from: "sst2/validation-" }],
    &["sentence", "label"],
    "SST: research use",
);
/// Questions of SQuAD with a sentence that answers them or not.
pub const QNLI: TaskEntry =
    glue("glue/qnli", "whether a sentence answers a question (GLUE QNLI); the official dev set is the test", &QNLI_HUB, 0);
const QNLI_HUB: Published = on_hub(
    &[PublishedSplit { file: "train", from: "qnli/train-" }, PublishedSplit { file: "dev", from: "qnli/validation-" }],
    &["question", "sentence", "label"],
    "CC BY-SA 4.0",
);
/// Quora's question pairs.
pub const QQP: TaskEntry = glue("glue/qqp", "whether two questions ask the same (GLUE QQP); the official dev set is the test", &QQP_HUB, 0);
const QQP_HUB: Published = on_hub(
    &[PublishedSplit { file: "train", from: "qqp/train-" }, PublishedSplit { file: "dev", from: "qqp/validation-" }],
    &["question1", "question2", "label"],
    "Quora: non-commercial use",
);
/// Multi-genre natural language inference; both dev sets are the test.
pub const MNLI: TaskEntry =
    glue("glue/mnli", "entailment, neutral or contradiction (GLUE MNLI); both official dev sets are the test", &MNLI_HUB, 0);
const MNLI_HUB: Published = on_hub(
    &[
        PublishedSplit { file: "train", from: "mnli/train-" },
        PublishedSplit { file: "dev_matched", from: "mnli/validation_matched-" },
        PublishedSplit { file: "dev_mismatched", from: "mnli/validation_mismatched-" },
    ],
    &["premise", "hypothesis", "label"],
    "OANC, CC BY and CC BY-SA 3.0, by genre",
);

/// Between the parts of a prompt, and behind it.
pub(super) const SEPARATOR: &str = "###";

/// Options of the tasks over files that have a format besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlueOptions {
    /// Most rows held out of the training file for validation; never more than a fifth of it, which is what the paper holds out.
    pub valid: usize,
    /// Which rows are held out.
    pub hold_out: HoldOut,
}

fn parse_glue(task: &Component) -> std::result::Result<(&'static DataSet, Options<GlueOptions>), SpecError> {
    static SETS: [DataSet; 7] = DATA_SETS;
    let set = SETS.iter().find(|set| set.name == task.name).ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
    let options = Options::parse(task, &[LIKELIHOOD, SSM_PEFT], |protocol| {
        let format = Format { prefix: format!("{}{SEPARATOR}", set.instruction), ..set.shape.format() };
        match protocol {
            SSM_PEFT => {
                Options { own: GlueOptions { valid: WHOLE_SPLIT, hold_out: HoldOut::TrainTestSplit }, format: most_likely_token(format) }
            }
            _ => Options { own: GlueOptions { valid: 2000, hold_out: HoldOut::Grouped }, format },
        }
    })?;
    options.format.check(&set.shape.placeholders())?;
    Ok((set, options))
}

/// The paper's reading of a label: the most likely of all tokens, items whose token is no label left out.
fn most_likely_token(format: Format) -> Format {
    Format { scoring: Scoring::Generation, max_new_tokens: 1, unanswered: Unanswered::Dropped, ..format }
}

fn load_glue(source: &DataSource, set: &DataSet, validation: Validation) -> Result<Loaded<LabelledTexts>> {
    let files = SplitFiles { folder: set.name, train: "train", valid: None, test: "dev", test_alone: false };
    // Equal texts stay on one side.
    load_files(source, set.name, files, validation, |row| LabelledTexts::read(row, &set.shape), |_, row| row.texts.join("\n"))
}

/// One or two texts and their label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelledTexts {
    pub(crate) id: String,
    pub(crate) texts: Vec<String>,
    pub(crate) label: usize,
}

impl LabelledTexts {
    fn read(row: &Row, shape: &Shape) -> Result<Self> {
        let label = row.integer("label")?;
        let texts = shape.texts.iter().map(|field| Ok(row.text(field)?.to_owned())).collect::<Result<_>>()?;
        match usize::try_from(label) {
            Ok(label) if label < shape.labels.len() => Ok(Self { id: row.id(), texts, label }),
            _ => {
                let expected: Vec<String> = shape.labels.iter().enumerate().map(|(label, name)| format!("{label} ({name})")).collect();
                Err(row.wrong("label", &expected.join(" or "), Some(&Value::from(label))))
            }
        }
    }
}

impl Shape {
    /// The texts with the separator behind each, the label as its digit.
    pub(super) fn format(&self) -> Format {
        let prompt = self.texts.iter().map(|text| format!("{{{text}}}{SEPARATOR}")).collect();
        let metrics = self.metrics.iter().map(|name| metric(name)).collect();
        Format { prompt, answer: "{label}".to_owned(), metrics, ..Format::default() }
    }

    /// What a template may name.
    pub(super) fn placeholders(&self) -> Vec<&'static str> {
        self.texts.iter().copied().chain(["label", "label_name"]).collect()
    }
}

/// A metric over labels. F1 is that of the label 1, as GLUE has it.
fn metric(name: &str) -> Component {
    let mut metric = Component::named(name);
    if name == f1::F1.name {
        metric.options.insert("average".to_owned(), "binary".into());
        metric.options.insert("positive".to_owned(), "1".into());
    }
    metric
}

/// Rows of labelled texts from wherever.
type LoadRows = dyn Fn(&DataSource) -> Result<Loaded<LabelledTexts>> + Send + Sync;

/// A task of this family.
pub(super) struct Classification {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) format: Format,
    pub(super) rows: Box<LoadRows>,
}

impl Classification {
    fn example(&self, row: LabelledTexts, training: bool) -> Example {
        let parts: Vec<(&str, &str)> = self.shape.texts.iter().copied().zip(row.texts.iter().map(String::as_str)).collect();
        let answer = |label: usize| fill(&self.format.answer, &[("label", &label.to_string()), ("label_name", self.shape.labels[label])]);
        Example {
            id: row.id,
            prefix: self.format.prefix.clone(),
            prompt: fill(self.format.prompt_for(training), &parts),
            answer: answer(row.label),
            choices: (0..self.shape.labels.len()).map(answer).collect(),
            ..Example::default()
        }
    }
}

impl Task for Classification {
    fn name(&self) -> &str {
        self.name
    }

    fn format(&self) -> &Format {
        &self.format
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        Ok((self.rows)(source)?.into_splits(|row, training| [self.example(row, training)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;
    use serde_json::json;

    fn load(task: serde_json::Value, train: &str, dev: &str) -> Result<Splits> {
        let task = Component::from_value(&task).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join(&task.name);
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("train.jsonl"), train).unwrap();
        std::fs::write(data.join("dev.jsonl"), dev).unwrap();
        build(&task).unwrap().load(&DataSource { folder: Some(folder.path().to_owned()) })
    }

    #[test]
    fn the_prompt_is_the_papers() {
        let train: String = (0..20).map(|i| format!("{{\"sentence\": \"s{i}\", \"label\": {}}}\n", i % 2)).collect();
        let dev = "{\"sentence\": \"a sometimes tedious film .\", \"label\": 0}\n";
        let splits = load(json!("glue/sst2"), &train, dev).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len()), (16, 4));
        assert_eq!(splits.dataset_id, "glue/sst2 (train.jsonl, dev.jsonl)");
        let example = &splits.test[0];
        assert_eq!(
            format!("{}{}", example.prefix, example.prompt),
            "Read the provided excerpt and choose between negative and positive to describe its sentiment. Respond with '0' if negative or '1' if positive: ###a sometimes tedious film .###"
        );
        assert_eq!((example.answer.as_str(), example.id.as_str()), ("0", "dev.jsonl:1"));
        let own = json!({"type": "glue/sst2", "valid": 2, "prefix": "", "answer": " {label_name}"});
        let splits = load(own, &train, dev).unwrap();
        let example = &splits.test[0];
        assert_eq!(
            (splits.valid.len(), example.prompt.as_str(), example.answer.as_str()),
            (2, "a sometimes tedious film .###", " negative")
        );
    }

    #[test]
    fn pairs_have_the_separator_behind_each_sentence_and_three_labels_three_options() {
        let row = "{\"premise\": \"It rains.\", \"hypothesis\": \"It is wet.\", \"label\": 2}\n";
        let splits = load(json!("glue/mnli"), &row.repeat(5), row).unwrap();
        let example = &splits.test[0];
        assert_eq!(example.prompt, "It rains.###It is wet.###");
        assert!(example.prefix.ends_with("'1' if neutral or '2' if contradiction: ###"));
        assert_eq!((example.answer.as_str(), &example.choices[..]), ("2", &["0", "1", "2"].map(str::to_owned)[..]));
    }

    #[test]
    fn a_label_out_of_range_is_named_with_its_line() {
        let train = "{\"sentence\": \"a\", \"label\": 1}\n{\"sentence\": \"b\", \"label\": 2}\n";
        let error = load(json!("glue/sst2"), train, "{}\n").unwrap_err().to_string();
        assert!(error.contains("train.jsonl:2: field `label`: expected 0 (negative) or 1 (positive), found 2"), "{error}");
    }

    #[test]
    fn the_papers_protocol_leaves_out_what_is_no_label() {
        let task = build(&Component::from_value(&json!({"type": "glue/rte", "protocol": "ssm-peft"})).unwrap()).unwrap();
        let format = task.format();
        assert_eq!((format.scoring, format.max_new_tokens, format.append_eos), (Scoring::Generation, 1, false));
        let example = |answer: &str| Example { answer: answer.to_owned(), choices: vec!["0".into(), "1".into()], ..Example::default() };
        let examples = ["0", "1", "1", "0"].map(example);
        let predictions = ["0", "1", "0", " the"].map(str::to_owned);
        let scores = task.score(&examples, &predictions).unwrap();
        assert_eq!((scores.values[0].value, scores.values[0].n_items), (2.0 / 3.0, 3));
        assert_eq!((scores.values[1].name.as_str(), scores.values[1].value), ("unanswered", 0.25));
        assert_eq!(scores.items, [1.0, 1.0, 0.0, 0.0]);
        let all = build(&Component::named("glue/rte")).unwrap().score(&examples, &predictions).unwrap();
        assert_eq!((all.values[0].value, all.values[0].n_items), (0.5, 4));
    }

    #[test]
    fn the_worlds_labels_are_bare_digits() {
        let task = build(&Component::named("world/sentiment")).unwrap();
        let splits = task.load(&DataSource::default()).unwrap();
        let all_positive = vec!["1".to_owned(); splits.test.len()];
        let scores = task.score(&splits.test, &all_positive).unwrap();
        assert_eq!((scores.values[0].value, scores.values[0].n_items), (0.5, 500));
        assert_eq!(scores.items.iter().sum::<f64>(), 250.0);
        assert!(splits.test.iter().all(|example| example.prompt.ends_with(".###") && example.choices == ["0", "1"]));
    }
}
