//! Tasks: one family a file. A task loads examples, says in its format how they are put and read, and turns predictions into metrics.
//!
//! A new task is a file here and a line in [`TASKS`]. The invented world only supplies rows; prompts, scoring and metrics are those of the
//! real task it stands in for, so that one code path is tested with and without a data folder.

mod alpaca;
mod answers;
pub mod celeba;
pub mod classification;
pub mod commonsense;
pub mod data_to_text;
pub mod images;
pub mod listing;
mod loading;
pub mod math;
pub mod mix;
pub mod published;
pub mod summarization;
pub mod text;
pub mod text_to_sql;
pub mod twin;

use crate::error::Result;
use crate::example::{Example, Splits};
use crate::format::{Format, Scoring};
use crate::metrics::Scores;
use crate::numbers::{self, NUMBER_TASKS};
use crate::source::DataSource;
use crate::world::rows::Counts;
pub(crate) use answers::Answers;
use peftbench_spec::{Component, SpecError, suggest};
use published::Published;
use std::collections::BTreeMap;

/// One task.
pub trait Task: Send + Sync {
    /// Its name in [`TASKS`].
    fn name(&self) -> &str;

    /// How its examples are put to a model and its answers read.
    fn format(&self) -> &Format;

    /// Reads or makes the examples. Equal options and files give equal examples.
    fn load(&self, source: &DataSource) -> Result<Splits>;

    /// Scores the texts that answered: `predictions[i]` is the option chosen, or the text generated, for `examples[i]`, which this very
    /// task has loaded.
    ///
    /// # Errors
    /// Where what the metrics need besides (the databases of text-to-SQL) is not there.
    ///
    /// # Panics
    /// Where there is not one prediction for each example.
    fn score(&self, examples: &[Example], predictions: &[String]) -> Result<Scores> {
        Answers::read(self.format(), examples, predictions)?.score(&self.format().metrics, &BTreeMap::new())
    }
}

/// A line of the table of tasks.
#[derive(Debug, Clone, Copy)]
pub struct TaskEntry {
    /// Name in a spec.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Named choices of its format, the default first; none for tasks of the invented world.
    pub protocols: &'static [&'static str],
    /// Where its data is published.
    pub published: Option<&'static Published>,
    /// Test items that the official training split has too, in other spelling at most.
    pub known_overlap: usize,
    /// Builds it from its options.
    pub build: fn(&Component) -> std::result::Result<Box<dyn Task>, SpecError>,
    /// Fills in every default.
    pub resolve: fn(&Component) -> std::result::Result<Component, SpecError>,
}

/// The protocol in which options are scored by their likelihood.
pub(crate) const LIKELIHOOD: &str = "likelihood";
/// The protocol of the paper on state space models (arXiv 2410.09016) and its code.
pub(crate) const SSM_PEFT: &str = "ssm-peft";
/// The protocol of LLM-Adapters (arXiv 2304.01933) and its code.
pub(crate) const LLM_ADAPTERS: &str = "llm-adapters";
/// The protocol of IST's code (arXiv 2410.11772), a descendant of the former.
pub(crate) const IST: &str = "ist";
/// The protocol in which text is generated token by token, cheaply.
pub(crate) const GREEDY: &str = "greedy";

/// The part of a format that a task of generated text has in common with the others: greedily, or as the SSM-PEFT
/// paper's code generates, with five beams and up to 1024 tokens.
pub(crate) fn generated(protocol: &str, max_new_tokens: usize) -> Format {
    let format = Format { append_eos: true, scoring: Scoring::Generation, ..Format::default() };
    match protocol {
        SSM_PEFT => Format { num_beams: 5, max_new_tokens: 1024, ..format },
        _ => Format { max_new_tokens, ..format },
    }
}

/// For an option that bounds a part of a split: no bound.
pub(crate) const WHOLE_SPLIT: usize = 1_000_000;

/// Every task.
pub const TASKS: &[TaskEntry] = &[
    classification::RTE,
    classification::MRPC,
    classification::COLA,
    classification::SST2,
    classification::QNLI,
    classification::QQP,
    classification::MNLI,
    commonsense::BOOLQ,
    commonsense::PIQA,
    commonsense::SIQA,
    commonsense::HELLASWAG,
    commonsense::WINOGRANDE,
    commonsense::ARC_EASY,
    commonsense::ARC_CHALLENGE,
    commonsense::OPENBOOKQA,
    mix::COMMONSENSE,
    math::GSM8K,
    math::AQUA,
    math::MAWPS,
    math::SVAMP,
    math::ADDSUB,
    math::MULTIARITH,
    math::SINGLEEQ,
    mix::MATH,
    data_to_text::DART,
    data_to_text::E2E,
    summarization::SAMSUM,
    text_to_sql::SPIDER,
    images::CIFAR10,
    images::MNIST,
    images::FASHION_MNIST,
    celeba::CELEBA,
    text::WIKITEXT2,
    text::SHAKESPEARE,
    text::BBCNEWS,
    classification::world::SENTIMENT,
    classification::world::ACCEPTABILITY,
    classification::world::ENTAILMENT,
    classification::world::PARAPHRASE,
    classification::world::PICTURES,
    commonsense::WORLD,
    data_to_text::WORLD,
    summarization::WORLD,
    text_to_sql::WORLD,
    math::WORLD,
    text::WORLD,
];

/// The line of the table that `task` names.
pub fn entry(task: &Component) -> std::result::Result<&'static TaskEntry, SpecError> {
    TASKS.iter().find(|entry| entry.name == task.name).ok_or_else(|| {
        let names: Vec<&str> = TASKS.iter().map(|entry| entry.name).chain(NUMBER_TASKS.iter().map(|entry| entry.name)).collect();
        SpecError::at("", format!("unknown task `{}`; {}", task.name, suggest::hint(&task.name, names)))
    })
}

/// The tasks whose data `task` reads: itself, the parts of a mix, or of a task over numbers the one in words that has the same files.
///
/// # Errors
/// Where a name or an option is wrong.
pub fn data_of(task: &Component) -> std::result::Result<Vec<&'static TaskEntry>, SpecError> {
    let resolved = resolve(task)?;
    if let Some(numbers) = numbers::find(task) {
        return Ok(numbers.data.into_iter().collect());
    }
    match resolved.options.get(mix::TASKS_KEY) {
        Some(serde_json::Value::Array(parts)) => parts.iter().map(|part| entry(&Component::from_value(part)?)).collect(),
        _ => Ok(vec![entry(task)?]),
    }
}

/// Builds the task that `task` names. Errors name the option, or the nearest task.
pub fn build(task: &Component) -> std::result::Result<Box<dyn Task>, SpecError> {
    (entry(task)?.build)(task)
}

/// `task`, in words or over numbers, with every default filled in and its options checked: the form that is hashed into a run's id.
pub fn resolve(task: &Component) -> std::result::Result<Component, SpecError> {
    match numbers::find(task) {
        Some(entry) => (entry.resolve)(task),
        None => (entry(task)?.resolve)(task),
    }
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
        assert_eq!(message(json!("glue/sst-2")), "unknown task `glue/sst-2`; did you mean `glue/sst2`?");
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
            assert!(!has_null(&once.to_value()), "{}: a manifest is TOML, which has no null: {}", entry.name, once.to_value());
        }
    }

    fn has_null(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Array(items) => items.iter().any(has_null),
            serde_json::Value::Object(table) => table.values().any(has_null),
            other => other.is_null(),
        }
    }

    #[test]
    fn tasks_over_numbers_read_the_files_of_a_task_in_words() {
        let names = |task: &str| data_of(&Component::named(task)).unwrap().iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!((names("sequence/celeba"), names("celeba")), (vec!["celeba"], vec!["celeba"]));
        assert_eq!((names("sequence/drawn"), names("commonsense/mix").len()), (vec![], 8));
        for entry in NUMBER_TASKS.iter().filter_map(|entry| entry.data) {
            assert!(entry.published.is_some(), "{}", entry.name);
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
                assert!(!example.answer.is_empty());
                let format = task.format();
                assert_eq!(example.prompt.is_empty(), format.scoring == Scoring::Perplexity, "{} {}", task.name(), example.id);
                match format.scoring {
                    Scoring::Perplexity => assert!(example.choices.is_empty()),
                    Scoring::Generation => assert!(format.stop.is_empty() || !example.answer.contains(&format.stop)),
                    _ => assert!(example.choices.len() >= 2),
                }
                assert!(example.choices.is_empty() || example.choices.contains(&example.answer));
            }
        }
        if task.format().scoring != Scoring::Perplexity {
            check_scores(task, &splits.test);
        }
    }

    /// The right answers have a perfect score.
    fn check_scores(task: &dyn Task, examples: &[Example]) {
        let right = |example: &Example| example.references.first().unwrap_or(&example.answer).clone();
        let answers: Vec<String> = examples.iter().map(right).collect();
        let scores = task.score(examples, &answers).unwrap();
        assert!((scores.values[0].value - 1.0).abs() < 1e-12, "{}: {:?}", task.name(), scores.values);
        assert!(scores.items.iter().all(|score| (score - 1.0).abs() < 1e-12), "{}", task.name());
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
            let is_text = task.format().scoring == Scoring::Perplexity;
            assert!(is_text || (train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test)), "{}", entry.name);
            assert_eq!(splits.hash(), task.load(&DataSource::default()).unwrap().hash());
            hashes.push((entry.name, splits.hash()[..16].to_owned()));
        }
        assert_eq!(hashes, PINNED.map(|(name, hash)| (name, hash.to_owned())));
    }
    /// Change with the world: results before and after such a change do not compare.
    const PINNED: [(&str, &str); 11] = [
        ("world/sentiment", "7c9aecf5becc7ad6"),
        ("world/acceptability", "a59f1039512b5bdc"),
        ("world/entailment", "5dc0cafa46206d35"),
        ("world/paraphrase", "1841dfcc8ade56ca"),
        ("world/pictures", "57a7153bfca15351"),
        ("world/choice", "e17bf5e8511c3e5e"),
        ("world/triples", "915f2cda4dc71fb8"),
        ("world/dialogues", "d9d4979648f62045"),
        ("world/queries", "17b7dda9afd90f8c"),
        ("world/problems", "2fe0ec7c6aefc09c"),
        ("world/text", "a4ff5f46a061b029"),
    ];

    /// Over the real files, where PEFTBENCH_DATA names their folder; elsewhere the families' own tests cover the same rows in small.
    #[test]
    fn real_files_load_whole() {
        let Some(folder) = std::env::var_os("PEFTBENCH_DATA") else { return };
        let source = DataSource { folder: Some(folder.into()) };
        let (mut loaded, mut missing) = (0, Vec::new());
        for entry in TASKS.iter().filter(|entry| entry.published.is_some()) {
            for protocol in entry.protocols {
                let task = build(&component(json!({"type": entry.name, "protocol": protocol}))).unwrap();
                match task.load(&source) {
                    Ok(splits) => {
                        check_splits(task.as_ref(), &splits);
                        let shared = crate::overlap::overlap(&splits).test;
                        assert!(shared <= entry.known_overlap, "{}: {shared}", entry.name);
                        assert!(splits.test.len() >= 200, "{}: {}", entry.name, splits.test.len());
                        loaded += 1;
                    }
                    // No copy has all of them; what is there must load.
                    Err(error @ crate::DataError::MissingFile { .. }) => missing.push(error.to_string()),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(loaded > 30, "{loaded} loaded; {}", missing.join("\n"));
    }
}
