//! Word problems with a number (or, for AQuA, a letter) as their answer: the arithmetic tasks of LLM-Adapters (arXiv 2304.01933) and the
//! IST paper.
//!
//! The model writes a solution and its answer is read out of it: the last number, or the first capital from A to E (which counts the `A`
//! of a sentence; the code does so). Protocols `llm-adapters` and `ist` search with four beams; `greedy` decodes token by token behind
//! a short prompt.

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::{Columns, Form, Published, PublishedSplit, as_they_are, row, text, texts};
use super::twin::{Twin, WorldOptions};
use super::{GREEDY, IST, LLM_ADAPTERS, Task, TaskEntry, alpaca, generated};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, Match, Options, fill};
use crate::hold_out::Validation;
use crate::metrics::{accuracy, numeric_match};
use crate::source::{DataSource, Row};
use crate::world::rows;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A data set of word problems.
#[derive(Debug, Clone, Copy)]
struct DataSet {
    name: &'static str,
    answers: Kind,
    /// Whether there is a validation file.
    has_valid: bool,
    /// Whether the test is worth having where there is no training file.
    test_alone: bool,
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Letter,
}

const fn test_only(name: &'static str, answers: Kind) -> DataSet {
    DataSet { name, answers, has_valid: false, test_alone: true }
}

const DATA_SETS: [DataSet; 7] = [
    DataSet { name: GSM8K.name, answers: Kind::Number, has_valid: false, test_alone: false },
    test_only(AQUA.name, Kind::Letter),
    DataSet { name: MAWPS.name, answers: Kind::Number, has_valid: true, test_alone: false },
    test_only(SVAMP.name, Kind::Number),
    test_only(ADDSUB.name, Kind::Number),
    test_only(MULTIARITH.name, Kind::Number),
    test_only(SINGLEEQ.name, Kind::Number),
];

const PROTOCOLS: &[&str] = &[LLM_ADAPTERS, IST, GREEDY];
const PLACEHOLDERS: &[&str] = &["instruction", "solution", "answer"];

const fn math(name: &'static str, summary: &'static str, published: Option<&'static Published>) -> TaskEntry {
    TaskEntry {
        name,
        summary,
        protocols: PROTOCOLS,
        published,
        known_overlap: 0,
        build: |task| {
            let (set, Options { own, format }) = parse(task)?;
            Ok(Box::new(WordProblems { name: set.name, format, load: Box::new(move |source| load_set(source, set, own.valid)) }))
        },
        resolve: |task| parse(task)?.1.resolved(task),
    }
}

/// `world/problems`: word problems of the invented world.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/problems",
    summary: "word problems of the invented world, in the format of math/gsm8k",
    protocols: WORLD_PROTOCOLS,
    published: None,
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse_world(task)?;
        Ok(Box::new(WordProblems { name: WORLD.name, format, load: Box::new(move |_| PROBLEMS.load(&own)) }))
    },
    resolve: |task| parse_world(task)?.resolved(task),
};

/// The tiny models of that world have never read an instruction.
const WORLD_PROTOCOLS: &[&str] = &[GREEDY, LLM_ADAPTERS, IST];

static PROBLEMS: Twin<ProblemRow> =
    Twin { name: WORLD.name, sizes: [1000, 100, 200], difficulty: 1, most_difficult: rows::MOST_DIFFICULT, rows: rows::problems::problems };

fn parse_world(task: &Component) -> std::result::Result<Options<WorldOptions>, SpecError> {
    let format = |protocol| Format { max_new_tokens: if protocol == GREEDY { 64 } else { 256 }, ..format(protocol, Kind::Number) };
    PROBLEMS.parse(task, WORLD_PROTOCOLS, format, PLACEHOLDERS)
}

/// Grade-school problems of several steps.
pub const GSM8K: TaskEntry = math("math/gsm8k", "grade-school word problems of several steps (GSM8K)", Some(&GSM8K_HUB));
const GSM8K_HUB: Published = Published {
    hub: "openai/gsm8k",
    revision: "740312add88f781978c0658806c59bc2815b9866",
    licence: "MIT",
    splits: &[PublishedSplit { file: "train", from: "main/train-" }, PublishedSplit { file: "test", from: "main/test-" }],
    columns: &["question", "answer"],
    form: Form::Text(as_they_are),
};
/// Algebra with five options.
pub const AQUA: TaskEntry = math("math/aqua", "algebra word problems with five options (AQuA)", Some(&AQUA_HUB));
const AQUA_HUB: Published = Published {
    hub: "deepmind/aqua_rat",
    revision: "main",
    licence: "Apache-2.0",
    splits: &[PublishedSplit { file: "train", from: "raw/train-" }, PublishedSplit { file: "test", from: "raw/test-" }],
    columns: &["question", "options", "rationale", "correct"],
    form: Form::Text(aqua_row),
};
/// One- and two-step problems from several sources.
pub const MAWPS: TaskEntry = math("math/mawps", "one- and two-step word problems from several sources (MAWPS)", None);
/// Elementary problems with misleading numbers.
pub const SVAMP: TaskEntry = math("math/svamp", "elementary word problems with numbers that mislead (SVAMP)", Some(&SVAMP_HUB));
const SVAMP_HUB: Published = Published {
    hub: "ChilleD/SVAMP",
    revision: "main",
    licence: "MIT",
    splits: &[PublishedSplit { file: "train", from: "data/train-" }, PublishedSplit { file: "test", from: "data/test-" }],
    columns: &["Body", "Question", "Equation", "Answer"],
    form: Form::Text(|columns| {
        let body = text(&columns, "Body")?;
        let question = format!("{} {}", body.trim_end(), text(&columns, "Question")?);
        Ok(Some(row([
            ("question", question.into()),
            ("equation", text(&columns, "Equation")?.into()),
            ("answer", text(&columns, "Answer")?.into()),
        ])))
    }),
};
/// Addition and subtraction.
pub const ADDSUB: TaskEntry =
    math("math/addsub", "word problems of adding and subtracting (AddSub); MAWPS has its items in training", None);
/// Two steps.
pub const MULTIARITH: TaskEntry = math("math/multiarith", "two-step word problems (MultiArith); MAWPS has its items in training", None);
/// One equation.
pub const SINGLEEQ: TaskEntry = math("math/singleeq", "word problems of one equation (SingleEq); MAWPS has its items in training", None);

fn aqua_row(columns: Columns) -> std::result::Result<Option<Columns>, String> {
    let options = texts(&columns, "options")?;
    let options: Vec<String> = options.iter().map(|option| format!("({}", option.replacen(')', ") ", 1))).collect();
    let (rationale, correct) = (text(&columns, "rationale")?, text(&columns, "correct")?);
    Ok(Some(row([
        ("instruction", format!("{} Answer Choices: {}", text(&columns, "question")?, options.join(" ")).into()),
        ("input", "".into()),
        ("output", format!("{rationale}\nThe answer is ({correct}).").into()),
        ("answer", correct.into()),
    ])))
}

/// Options of word problems that have a format besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MathOptions {
    /// Most rows held out of the training file for validation, where there is no validation file; never more than a fifth of it.
    pub valid: usize,
}

fn parse(task: &Component) -> std::result::Result<(DataSet, Options<MathOptions>), SpecError> {
    let set = DATA_SETS.into_iter().find(|set| set.name == task.name);
    let set = set.ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
    let options =
        Options::parse(task, PROTOCOLS, |protocol| Options { own: MathOptions { valid: 120 }, format: format(protocol, set.answers) })?;
    options.format.check(PLACEHOLDERS)?;
    Ok((set, options))
}

fn format(protocol: &str, answers: Kind) -> Format {
    let asked = match protocol {
        GREEDY => Format {
            prompt: "Question: {instruction}\nAnswer:".to_owned(),
            answer: " {solution}".to_owned(),
            stop: "\nQuestion:".to_owned(),
            ..generated(GREEDY, 256)
        },
        paper => Format { answer: "{solution}".to_owned(), ..alpaca::format(paper, 256) },
    };
    match answers {
        Kind::Letter => Format { answer_pattern: "A|B|C|D|E".to_owned(), metrics: vec![Component::named(accuracy::NAME)], ..asked },
        Kind::Number => Format {
            answer_pattern: r"-?\d+\.?\d*".to_owned(),
            answer_match: Match::Last,
            answer_ignore: ",".to_owned(),
            metrics: vec![Component::named(numeric_match::NUMERIC_MATCH.name)],
            ..asked
        },
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProblemRow {
    pub(crate) id: String,
    pub(crate) instruction: String,
    pub(crate) solution: String,
    pub(crate) answer: String,
}

impl ProblemRow {
    /// Reads a row of LLM-Adapters (`instruction`, `output`, `answer`), of GSM8K (`question`, `answer` with `####` before the number), or
    /// of a problem with its equation (`question`, `equation`, `answer`).
    fn read(row: &Row) -> Result<Self> {
        let closing = |answer: &str| format!("The answer is {answer}.");
        if row.get("instruction").is_some() {
            let answer = row.text("answer")?.to_owned();
            let output = row.text("output")?.trim();
            let solution = if output.is_empty() { closing(&answer) } else { output.to_owned() };
            return Ok(Self { id: row.id(), instruction: row.text("instruction")?.trim().to_owned(), solution, answer });
        }
        let instruction = row.text("question")?.trim().to_owned();
        let Some(equation) = row.get("equation") else {
            let text = row.text("answer")?;
            let (steps, answer) =
                text.rsplit_once("####").ok_or_else(|| row.wrong("answer", "steps, `####` and a number", row.get("answer")))?;
            let answer = answer.trim().to_owned();
            return Ok(Self {
                id: row.id(),
                instruction,
                solution: format!("{}\n{}", without_notes(steps).trim(), closing(&answer)),
                answer,
            });
        };
        let answer = match row.get("answer") {
            Some(Value::String(answer)) => answer.trim().to_owned(),
            Some(Value::Number(answer)) => shortest(answer),
            other => return Err(row.wrong("answer", "a number", other)),
        };
        let equation = equation.as_str().unwrap_or_default().trim_start_matches("X=").trim();
        Ok(Self { id: row.id(), instruction, solution: format!("{equation} = {answer}. {}", closing(&answer)), answer })
    }
}

/// A number without `.0`.
fn shortest(number: &serde_json::Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// A solution without GSM8K's notes for a calculator, `<<48/2=24>>`.
fn without_notes(steps: &str) -> String {
    let mut text = String::with_capacity(steps.len());
    let mut rest = steps;
    while let Some((before, after)) = rest.split_once("<<") {
        text.push_str(before);
        rest = after.split_once(">>").map_or("", |(_, after)| after);
    }
    text + rest
}

/// Word problems from wherever.
type LoadRows = dyn Fn(&DataSource) -> Result<Loaded<ProblemRow>> + Send + Sync;

struct WordProblems {
    name: &'static str,
    format: Format,
    load: Box<LoadRows>,
}

impl WordProblems {
    fn example(&self, row: ProblemRow, training: bool) -> Example {
        Example {
            id: row.id,
            prefix: self.format.prefix.clone(),
            prompt: fill(self.format.prompt_for(training), &[("instruction", &row.instruction)]),
            answer: fill(&self.format.answer, &[("solution", &row.solution), ("answer", &row.answer)]),
            references: vec![row.answer],
            ..Example::default()
        }
    }
}

impl Task for WordProblems {
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

fn load_set(source: &DataSource, set: DataSet, valid: usize) -> Result<Loaded<ProblemRow>> {
    let DataSet { name, has_valid, test_alone, .. } = set;
    let files = SplitFiles { folder: name, train: "train", valid: has_valid.then_some("dev"), test: "test", test_alone };
    load_files(source, name, files, Validation::grouped(valid), ProblemRow::read, |_, row| row.instruction.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;
    use serde_json::json;

    fn load(task: Value, train: &str, test: &str) -> Result<Splits> {
        let component = Component::from_value(&task).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join(&component.name);
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("train.jsonl"), train).unwrap();
        std::fs::write(data.join("dev.jsonl"), train).unwrap();
        std::fs::write(data.join("test.jsonl"), test).unwrap();
        build(&component).unwrap().load(&DataSource { folder: Some(folder.path().to_owned()) })
    }

    const GSM: &str = r#"{"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72 in all.\n#### 72"}"#;
    const MAWPS_TRAIN: &str = r#"{"question": "How many tables ?", "equation": "X=((22.0-14.0)/4.0)", "answer": 2.0}"#;
    const LLM: &str = r#"{"instruction": " How long ? ", "input": "", "output": "", "answer": "1.8333333333333335"}"#;

    #[test]
    fn three_forms_of_rows_are_read() {
        let greedy = |name: &str| json!({"type": name, "protocol": "greedy"});
        let example = load(greedy("math/gsm8k"), GSM, GSM).unwrap().test.remove(0);
        assert_eq!(example.prompt, "Question: How many?\nAnswer:");
        assert_eq!(example.answer, " 48/2 = 24 clips.\n48+24 = 72 in all.\nThe answer is 72.");
        let mut splits = load(greedy("math/mawps"), MAWPS_TRAIN, LLM).unwrap();
        assert_eq!(splits.train.remove(0).answer, " ((22.0-14.0)/4.0) = 2. The answer is 2.");
        let example = splits.test.remove(0);
        assert_eq!(
            (example.prompt.as_str(), &example.references[..]),
            ("Question: How long ?\nAnswer:", &["1.8333333333333335".to_owned()][..])
        );
    }

    #[test]
    fn the_last_number_counts_and_for_aqua_the_first_capital() {
        let value = |name: &str, right: &str, text: &str| {
            let task = build(&Component::named(name)).unwrap();
            let example = Example { references: vec![right.to_owned()], ..Example::default() };
            task.score(&[example], &[text.to_owned()]).unwrap().values[0].value
        };
        for (text, right) in
            [("5 + 3 = 1,008. The answer is 1,008.", 1.0), ("1008 of 9", 0.0), ("-1008", 0.0), ("none", 0.0), ("1008.0", 1.0)]
        {
            assert_eq!(value("math/gsm8k", "1008.0", text), right, "{text}");
        }
        for (text, right) in [("the answer is (B).", 1.0), ("An easy one: (B)", 0.0), ("b", 0.0)] {
            assert_eq!(value("math/aqua", "B", text), right, "{text}");
        }
    }

    #[test]
    fn rows_of_the_hub_become_word_problems() {
        let Value::Object(columns) = json!({"question": "2+2?", "options": ["A)3", "B)4"], "rationale": "Add.", "correct": "B"}) else {
            unreachable!()
        };
        let row = aqua_row(columns).unwrap().unwrap();
        assert_eq!((row["instruction"].as_str(), row["answer"].as_str()), (Some("2+2? Answer Choices: (A) 3 (B) 4"), Some("B")));
    }

    #[test]
    fn a_row_without_its_number_is_named() {
        let error = load(json!("math/gsm8k"), &GSM.replace("####", "=="), GSM).unwrap_err().to_string();
        assert!(error.contains("train.jsonl:1: field `answer`: expected steps, `####` and a number"), "{error}");
    }
}
