//! Several tasks as one: trained on together, scored each by itself, and the mean over tasks, each with equal weight.
//!
//! `commonsense/mix` and `math/mix` are those of LLM-Adapters (arXiv 2304.01933) and IST (arXiv 2410.11772), whose training files
//! (`commonsense_170k`, `math_10k`) are an option: without it the training rows of the parts are joined. Other options of a mix are given to
//! each of its parts.

use super::{IST, LIKELIHOOD, LLM_ADAPTERS, Task, TaskEntry, math};
use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, fill};
use crate::hold_out::Validation;
use crate::metrics::Scores;
use crate::source::{DataSource, Row, file_names};
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde_json::{Map, Value};

/// `commonsense/mix`: the eight commonsense tasks.
pub const COMMONSENSE: TaskEntry = TaskEntry {
    name: "commonsense/mix",
    summary: "the eight commonsense tasks together, and their mean; `train` may name LLM-Adapters' commonsense_170k or _15k",
    protocols: &[LIKELIHOOD, LLM_ADAPTERS, IST],
    published: None,
    known_overlap: 3,
    build: |task| Mix::build(COMMONSENSE.name, "commonsense", COMMONSENSE_TASKS, task),
    resolve: |task| Parts::parse(task, COMMONSENSE_TASKS)?.resolved(task),
};

const COMMONSENSE_TASKS: &[&str] = &[
    "commonsense/boolq",
    "commonsense/piqa",
    "commonsense/siqa",
    "commonsense/hellaswag",
    "commonsense/winogrande",
    "commonsense/arc_easy",
    "commonsense/arc_challenge",
    "commonsense/openbookqa",
];

/// `math/mix`: the four arithmetic tasks that the papers report.
pub const MATH: TaskEntry = TaskEntry {
    name: "math/mix",
    summary: "GSM8K, AQuA, MAWPS and SVAMP together, and their mean; `train` may name LLM-Adapters' math_10k",
    protocols: math::GSM8K.protocols,
    published: None,
    known_overlap: 0,
    build: |task| Mix::build(MATH.name, "math", MATH_TASKS, task),
    resolve: |task| Parts::parse(task, MATH_TASKS)?.resolved(task),
};

const MATH_TASKS: &[&str] = &["math/gsm8k", "math/aqua", "math/mawps", "math/svamp"];

/// Name of a mix's own options.
pub(super) const TASKS_KEY: &str = "tasks";
const TRAIN_KEY: &str = "train";

/// The options of a mix.
struct Parts {
    /// The tasks, each resolved.
    tasks: Vec<Component>,
    /// Name of the file to train on, in the folder of the mix; empty for the parts' own.
    train: String,
}

impl Parts {
    fn parse(task: &Component, all: &[&str]) -> std::result::Result<Self, SpecError> {
        let mut shared = task.options.clone();
        let train = match shared.remove(TRAIN_KEY) {
            None => String::new(),
            Some(Value::String(name)) if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => name,
            Some(other) => return Err(SpecError::at(TRAIN_KEY, format!("expected the name of a file of training rows, found {other}"))),
        };
        let named = match shared.remove(TASKS_KEY) {
            None => all.iter().map(|name| Component::named(*name)).collect(),
            Some(Value::Array(tasks)) if !tasks.is_empty() => tasks
                .iter()
                .map(Component::from_value)
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| error.below(TASKS_KEY))?,
            Some(other) => return Err(SpecError::at(TASKS_KEY, format!("expected a list of tasks, found {other}"))),
        };
        let tasks = named.iter().map(|part| resolve_part(part, &shared, all)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { tasks, train })
    }

    fn resolved(&self, task: &Component) -> std::result::Result<Component, SpecError> {
        let mut options = Map::new();
        options.insert(TASKS_KEY.to_owned(), self.tasks.iter().map(Component::to_value).collect());
        options.insert(TRAIN_KEY.to_owned(), self.train.clone().into());
        Ok(Component { name: task.name.clone(), options })
    }
}

/// A part with the options of the mix under its own, and every default.
fn resolve_part(part: &Component, shared: &Map<String, Value>, all: &[&str]) -> std::result::Result<Component, SpecError> {
    if !all.contains(&part.name.as_str()) {
        return Err(SpecError::at(TASKS_KEY, format!("`{}` is no part of this mix; known: {}", part.name, all.join(", "))));
    }
    let mut options = shared.clone();
    options.extend(part.options.clone());
    super::resolve(&Component { name: part.name.clone(), options })
}

struct Mix {
    name: &'static str,
    folder: &'static str,
    parts: Vec<Box<dyn Task>>,
    train: String,
    /// Rows held out of the file to train on.
    valid: usize,
}

impl Mix {
    fn build(name: &'static str, folder: &'static str, all: &[&str], task: &Component) -> std::result::Result<Box<dyn Task>, SpecError> {
        let Parts { tasks, train } = Parts::parse(task, all)?;
        let parts = tasks.iter().map(super::build).collect::<std::result::Result<Vec<_>, _>>()?;
        let valid = tasks[0].options.get("valid").and_then(Value::as_u64).unwrap_or(0) as usize;
        if !train.is_empty() && !parts[0].format().prompt_for(true).contains("{instruction}") {
            return Err(SpecError::at(
                TRAIN_KEY,
                format!("rows of `{train}` are instructions; take the protocol `{LLM_ADAPTERS}` or `{IST}`"),
            ));
        }
        Ok(Box::new(Self { name, folder, parts, train, valid }))
    }

    /// The name of a part among the others.
    fn short<'a>(&self, part: &'a dyn Task) -> &'a str {
        part.name().rsplit('/').next().unwrap_or_default()
    }

    /// Training and validation rows out of one file of instructions and outputs.
    fn load_train(&self, source: &DataSource) -> Result<(String, Vec<Example>, Vec<Example>)> {
        let rows = source.rows(self.name, self.folder, &self.train)?;
        let names = file_names(&rows);
        let (train, valid) = Validation::grouped(self.valid).split(rows, |index, _| index.to_string());
        let format = self.format();
        let examples = |rows: &[Row], training: bool| -> Result<Vec<Example>> {
            rows.iter().map(|row| instruction_example(row, format, training)).collect()
        };
        Ok((names, examples(&train, true)?, examples(&valid, false)?))
    }

    /// Puts the examples of a part among all.
    fn add(&self, all: &mut Splits, part: &dyn Task, found: Splits) {
        let name = self.short(part);
        let named = |example: Example| Example { id: format!("{name}/{}", example.id), group: name.to_owned(), ..example };
        if self.train.is_empty() {
            all.train.extend(found.train.into_iter().map(named));
            all.valid.extend(found.valid.into_iter().map(named));
        }
        all.test.extend(found.test.into_iter().map(named));
        all.dataset_id = if all.dataset_id.is_empty() { found.dataset_id } else { format!("{}, {}", all.dataset_id, found.dataset_id) };
        if let Some(revision) = found.revision {
            all.revision = Some(all.revision.take().map_or(revision.clone(), |before| format!("{before}, {revision}")));
        }
    }
}

/// An example from a row that says what to do and what to answer.
fn instruction_example(row: &Row, format: &Format, training: bool) -> Result<Example> {
    Ok(Example {
        id: row.id(),
        prefix: format.prefix.clone(),
        prompt: fill(format.prompt_for(training), &[("instruction", row.text("instruction")?)]),
        answer: row.text("output")?.to_owned(),
        references: vec![row.text("answer")?.to_owned()],
        ..Example::default()
    })
}

impl Task for Mix {
    fn name(&self) -> &str {
        self.name
    }

    /// That of the first part; the others differ in how an answer is read only.
    fn format(&self) -> &Format {
        self.parts[0].format()
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        let mut all = Splits::default();
        for part in &self.parts {
            self.add(&mut all, &**part, part.load(source)?);
        }
        if !self.train.is_empty() {
            let (names, train, valid) = self.load_train(source)?;
            all.dataset_id = format!("{} ({names}), {}", self.name, all.dataset_id);
            (all.train, all.valid) = (train, valid);
        }
        Ok(all)
    }

    fn score(&self, examples: &[Example], predictions: &[String]) -> Result<Scores> {
        let mut items = vec![0.0; examples.len()];
        let mut parts: Vec<(String, MetricValue)> = Vec::new();
        // Rows of the mix's own training file belong to no part; they are read as the first part's are.
        for part in &self.parts {
            let name = self.short(&**part);
            let is_first = parts.is_empty();
            let belongs = |group: &str| group == name || (is_first && group.is_empty());
            let indices: Vec<usize> = (0..examples.len()).filter(|&i| belongs(&examples[i].group)).collect();
            if indices.is_empty() {
                continue;
            }
            let (examples, predictions): (Vec<Example>, Vec<String>) =
                indices.iter().map(|&i| (examples[i].clone(), predictions[i].clone())).unzip();
            let found = part.score(&examples, &predictions)?;
            indices.iter().zip(&found.items).for_each(|(&i, score)| items[i] = *score);
            if let Some(value) = found.values.into_iter().next() {
                parts.push((name.to_owned(), value));
            }
        }
        Ok(Scores { values: mean_and_parts(parts), items })
    }
}

/// The unweighted mean under the name `mean`, and each part's own value. The mean's standard error is that of independent parts.
fn mean_and_parts(parts: Vec<(String, MetricValue)>) -> Vec<MetricValue> {
    let n = parts.len().max(1) as f64;
    let stderrs: Option<Vec<f64>> = parts.iter().map(|(_, value)| value.stderr).collect();
    let mean = MetricValue {
        name: "mean".to_owned(),
        value: parts.iter().map(|(_, value)| value.value).sum::<f64>() / n,
        stderr: stderrs.map(|all| all.iter().map(|stderr| stderr * stderr).sum::<f64>().sqrt() / n),
        n_items: parts.iter().map(|(_, value)| value.n_items).sum(),
        higher_is_better: true,
    };
    let own = parts.into_iter().map(|(name, value)| MetricValue { name: format!("{}/{name}", value.name), ..value });
    std::iter::once(mean).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{build, resolve};
    use serde_json::json;

    const TRUE: &str = r#"{"instruction": "Please answer the following question with true or false, question: is it so?\n\nAnswer format: true/false", "output": "the correct answer is true", "answer": "true"}"#;
    const ARC: &str = r#"{"instruction": "Please choose the correct answer to the question: Which?\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2", "output": "the correct answer is answer2", "answer": "answer2"}"#;

    fn folder() -> (tempfile::TempDir, DataSource) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join("commonsense").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (name, row) in [("boolq", TRUE), ("arc_easy", ARC)] {
            write(&format!("{name}/train.jsonl"), format!("{row}\n").repeat(10));
            write(&format!("{name}/test.jsonl"), format!("{row}\n").repeat(if name == "boolq" { 1 } else { 3 }));
        }
        write("commonsense_15k.jsonl", format!("{TRUE}\n{ARC}\n").repeat(10));
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        (folder, source)
    }

    fn task(more: Value) -> Component {
        let mut options = json!({"type": "commonsense/mix", "tasks": ["commonsense/boolq", "commonsense/arc_easy"]});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Component::from_value(&options).unwrap()
    }

    #[test]
    fn parts_are_trained_on_together_and_weigh_the_same() {
        let (_folder, source) = folder();
        let task = build(&task(json!({"protocol": "ist"}))).unwrap();
        let splits = task.load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (16, 4, 4));
        assert_eq!((splits.test[0].id.as_str(), splits.test[3].group.as_str()), ("boolq/test.jsonl:1", "arc_easy"));
        let predictions = ["true", "answer2", "answer1", "answer1"].map(str::to_owned);
        let scores = task.score(&splits.test, &predictions).unwrap();
        let values: Vec<(&str, f64)> = scores.values.iter().map(|value| (value.name.as_str(), value.value)).collect();
        assert_eq!(values, [("mean", (1.0 + 1.0 / 3.0) / 2.0), ("accuracy/boolq", 1.0), ("accuracy/arc_easy", 1.0 / 3.0)]);
        assert_eq!(scores.items, [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn one_file_of_instructions_may_be_trained_on() {
        let (_folder, source) = folder();
        let splits = build(&task(json!({"protocol": "llm-adapters", "train": "commonsense_15k"}))).unwrap().load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (16, 4, 4));
        assert!(splits.train[0].prompt.contains("### Instruction:") && splits.dataset_id.contains("commonsense_15k.jsonl"));
        let error = build(&task(json!({"train": "commonsense_15k"}))).err().unwrap().to_string();
        assert!(error.contains("take the protocol `llm-adapters` or `ist`"), "{error}");
    }

    #[test]
    fn options_of_a_mix_are_those_of_its_parts_and_resolve_once() {
        let once = resolve(&task(json!({"protocol": "ist", "num_beams": 2}))).unwrap();
        assert!(once.options["tasks"].as_array().unwrap().iter().all(|part| part["num_beams"] == 2));
        assert_eq!(resolve(&once).unwrap(), once);
        let error = resolve(&task(json!({"tasks": ["math/gsm8k"]}))).unwrap_err().to_string();
        assert!(error.contains("`math/gsm8k` is no part of this mix"), "{error}");
    }
}
