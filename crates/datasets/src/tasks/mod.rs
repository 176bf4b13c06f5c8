//! Tasks: one family a file. A task loads examples, says how they are scored, and turns predictions into metrics.
//!
//! A new task is a file here and a line in [`TASKS`]. The invented world only supplies rows; prompts, scoring and metrics are those of the
//! real task it stands in for, so that one code path is tested with and without a data folder.

pub mod commonsense;
pub mod data_to_text;
pub mod sentiment;

use crate::error::{DataError, Result};
use crate::example::{Example, Splits};
use crate::source::DataSource;
use crate::world::rows::{Counts, TooFew};
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError, suggest};

/// How a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// The option with the highest log-likelihood right after the prompt.
    Choice {
        /// Whether the log-likelihood is divided by the option's length in tokens.
        normalise: bool,
    },
    /// Text is generated until the end token, `stop`, or the limit; what comes before the stop is the prediction.
    Generate {
        /// Most tokens generated.
        max_new_tokens: usize,
        /// Text that ends an answer.
        stop: &'static str,
    },
}

/// One task.
pub trait Task: Send + Sync {
    /// Its name in [`TASKS`].
    fn name(&self) -> &str;

    /// Reads or makes the examples. Equal options and files give equal examples.
    fn load(&self, source: &DataSource) -> Result<Splits>;

    /// How predictions are to be made.
    fn scoring(&self) -> Scoring;

    /// Name of the metric that stands for the task: the first one of [`Task::score`].
    fn primary_metric(&self) -> &'static str;

    /// All metrics, the primary one first. `predictions[i]` is the text of the option chosen, or the text generated, for `examples[i]`.
    ///
    /// # Panics
    /// Where there is not one prediction for each example.
    fn score(&self, examples: &[Example], predictions: &[String]) -> Vec<MetricValue>;

    /// The primary metric of one item, 0 to 1.
    fn item_score(&self, example: &Example, prediction: &str) -> f64;
}

/// A line of the table of tasks.
#[derive(Clone, Copy)]
pub struct TaskEntry {
    /// Name in a spec.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Builds it from its options.
    pub build: fn(&Component) -> std::result::Result<Box<dyn Task>, SpecError>,
    /// Fills in every default.
    pub resolve: fn(&Component) -> std::result::Result<Component, SpecError>,
}

/// Every task.
pub const TASKS: &[TaskEntry] = &[
    sentiment::SST2,
    commonsense::ARC_EASY,
    commonsense::ARC_CHALLENGE,
    commonsense::BOOLQ,
    commonsense::OPENBOOKQA,
    commonsense::PIQA,
    commonsense::WINOGRANDE,
    data_to_text::DART,
    sentiment::WORLD,
    commonsense::WORLD,
    data_to_text::WORLD,
];

fn entry(task: &Component) -> std::result::Result<&'static TaskEntry, SpecError> {
    TASKS.iter().find(|entry| entry.name == task.name).ok_or_else(|| {
        let names: Vec<&str> = TASKS.iter().map(|entry| entry.name).collect();
        SpecError::at("", format!("unknown task `{}`; {}", task.name, suggest::hint(&task.name, names)))
    })
}

/// Builds the task that `task` names. Errors name the option, or the nearest task.
pub fn build(task: &Component) -> std::result::Result<Box<dyn Task>, SpecError> {
    (entry(task)?.build)(task)
}

/// `task` with every default filled in, and its options checked: the form that is hashed into a run's id.
pub fn resolve(task: &Component) -> std::result::Result<Component, SpecError> {
    (entry(task)?.resolve)(task)
}

/// Rows held out of a training file: a fifth of it, at most `most`.
pub(crate) fn hold_out_count(rows: usize, most: usize) -> usize {
    (rows / 5).min(most)
}

/// Checks an option `difficulty`.
pub(crate) fn check_difficulty(difficulty: u8, most: u8) -> std::result::Result<(), SpecError> {
    match difficulty <= most {
        true => Ok(()),
        false => Err(SpecError::at("difficulty", format!("expected 0 to {most}, found {difficulty}"))),
    }
}

/// Checks the split sizes of a task of the invented world: a task without test items measures nothing.
pub(crate) fn check_counts(counts: Counts) -> std::result::Result<(), SpecError> {
    for (name, count) in [("train", counts.train), ("valid", counts.valid), ("test", counts.test)] {
        if !(1..=1_000_000).contains(&count) {
            return Err(SpecError::at(name, format!("expected 1 to 1000000 examples, found {count}")));
        }
    }
    Ok(())
}

/// Says which option to change where the invented world ran out of different rows.
pub(crate) fn too_small(task: &str, short: TooFew, way_out: &'static str) -> DataError {
    DataError::WorldTooSmall { task: task.to_owned(), split: short.split, wanted: short.wanted, found: short.found, way_out }
}

/// Pairs each prediction with its example.
pub(crate) fn pairs<'a>(examples: &'a [Example], predictions: &'a [String]) -> impl Iterator<Item = (&'a str, &'a Example)> {
    assert_eq!(examples.len(), predictions.len(), "one prediction for each example");
    predictions.iter().map(String::as_str).zip(examples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    fn component(value: serde_json::Value) -> Component {
        Component::from_value(&value).unwrap()
    }

    #[test]
    fn unknown_names_and_options_give_the_nearest() {
        let message = |value| build(&component(value)).err().unwrap().to_string();
        assert_eq!(message(json!("glue/sst-2")), "``: unknown task `glue/sst-2`; did you mean `glue/sst2`?");
        let unknown = message(json!({"type": "world/choice", "dificulty": 1}));
        assert!(unknown.contains("`dificulty`") && unknown.contains("did you mean `difficulty`?"), "{unknown}");
        assert_eq!(message(json!({"type": "world/triples", "difficulty": 9})), "`difficulty`: expected 0 to 3, found 9");
        assert_eq!(message(json!({"type": "world/sentiment", "test": 0})), "`test`: expected 1 to 1000000 examples, found 0");
        let size = message(json!({"type": "world/choice", "world_sizes": {"values": 2}}));
        assert_eq!(size, "`world_sizes.values`: expected 4 to 2000, found 2");
    }

    #[test]
    fn resolving_fills_every_default_once() {
        for entry in TASKS {
            let once = resolve(&Component::named(entry.name)).unwrap();
            assert!(!once.options.is_empty(), "{}", entry.name);
            assert_eq!(resolve(&once).unwrap(), once);
            assert_eq!(build(&once).unwrap().name(), entry.name);
        }
    }

    #[test]
    fn tasks_over_files_say_so_where_there_is_no_folder() {
        for entry in TASKS {
            let loaded = build(&Component::named(entry.name)).unwrap().load(&DataSource::default());
            assert_eq!(loaded.is_ok(), entry.name.starts_with("world/"), "{}", entry.name);
        }
    }

    /// What every task must keep: different prompts, answers among the choices, a perfect score for the answers themselves.
    pub(crate) fn check_splits(task: &dyn Task, splits: &Splits) {
        let mut ids = HashSet::new();
        for (split, examples) in [("train", &splits.train), ("valid", &splits.valid), ("test", &splits.test)] {
            for example in examples {
                assert!(ids.insert((split, example.id.clone())), "{split} {}", example.id);
                assert!(!example.prompt.is_empty() && !example.answer.is_empty());
                match task.scoring() {
                    Scoring::Choice { .. } => assert!(example.choices.len() >= 2 && example.choices.contains(&example.answer)),
                    Scoring::Generate { stop, .. } => {
                        assert!(example.choices.is_empty() && example.references.contains(&example.answer));
                        assert!(!example.answer.contains(stop));
                    }
                }
            }
            let answers: Vec<String> = examples.iter().map(|example| example.answer.clone()).collect();
            let metrics = task.score(examples, &answers);
            assert_eq!(metrics[0].name, task.primary_metric());
            assert!(examples.is_empty() || (metrics[0].value - 1.0).abs() < 1e-12, "{metrics:?}");
            assert!(examples.iter().all(|example| (task.item_score(example, &example.answer) - 1.0).abs() < 1e-12));
        }
    }

    #[test]
    fn tasks_of_the_world_share_no_text_between_splits_and_repeat_exactly() {
        let mut hashes = Vec::new();
        for entry in TASKS.iter().filter(|entry| entry.name.starts_with("world/")) {
            let task = build(&Component::named(entry.name)).unwrap();
            let splits = task.load(&DataSource::default()).unwrap();
            check_splits(task.as_ref(), &splits);
            let prompts = |examples: &[Example]| examples.iter().map(|example| example.prompt.clone()).collect::<HashSet<_>>();
            let (train, valid, test) = (prompts(&splits.train), prompts(&splits.valid), prompts(&splits.test));
            assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test), "{}", entry.name);
            assert_eq!(splits.hash(), task.load(&DataSource::default()).unwrap().hash());
            hashes.push((entry.name, splits.hash()[..16].to_owned()));
        }
        assert_eq!(hashes, PINNED.map(|(name, hash)| (name, hash.to_owned())));
    }
    /// Change with the world: results before and after such a change do not compare.
    const PINNED: [(&str, &str); 3] =
        [("world/sentiment", "8c231878560e57e7"), ("world/choice", "153d48900aa9b152"), ("world/triples", "c51f0793537e0f63")];

    /// Over the real files, where PEFTBENCH_DATA names their folder; elsewhere the families' own tests cover the same rows in small.
    #[test]
    fn real_files_load_whole() {
        let Some(folder) = std::env::var_os("PEFTBENCH_DATA") else { return };
        let source = DataSource { folder: Some(folder.into()) };
        for entry in TASKS {
            let task = build(&Component::named(entry.name)).unwrap();
            let splits = task.load(&source).unwrap();
            check_splits(task.as_ref(), &splits);
            assert!(splits.test.len() >= 300, "{}: {}", entry.name, splits.test.len());
        }
    }
}
