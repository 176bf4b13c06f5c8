//! Metrics: one a file and one line in [`METRICS`].
//!
//! A metric turns items (a prediction and what was accepted for it) into values with standard errors and one score an item:
//!
//! ```
//! use peftbench_datasets::metrics::{self, Item};
//! use peftbench_spec::Component;
//!
//! let metric = metrics::build(&Component::named("exact_match"))?;
//! let references = ["4".to_owned(), "four".to_owned()];
//! let scores = metric.score(&[Item::new("four", &references), Item::new("five", &references)])?;
//! assert_eq!((scores.values[0].value, scores.items), (0.5, vec![1.0, 0.0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Values are fractions (see [`MetricEntry::range`]). A standard error is over the items of the split, with the model held fixed; the
//! spread over seeds is a matter of the results, not of a metric.

pub mod accuracy;
pub mod bleu;
mod bleu_tokens;
pub mod chrf;
mod classes;
pub mod exact_match;
pub mod exact_set_match;
pub mod exec_accuracy;
pub mod f1;
mod lcs;
pub mod listing;
pub mod matthews;
pub mod meteor;
pub(crate) mod nltk_words;
pub mod numeric_match;
pub mod perplexity;
mod porter;
pub(crate) mod python;
pub mod rouge;
pub(crate) mod standard_error;
pub mod tokenize_13a;
mod wordnet;

use crate::error::Result;
use crate::sql::Database;
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError, suggest};

/// One item of a split with its prediction.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The text generated, or the name of the option or class chosen.
    pub prediction: &'a str,
    /// Every accepted text; for a class, its name.
    pub references: &'a [String],
    /// How likely the model found the item's tokens, for perplexity.
    pub likelihood: Option<Likelihood>,
    /// What a query is asked of, for the metrics of SQL.
    pub database: Option<&'a Database>,
}

/// How likely a model found a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Minus the sum of the natural logarithms of its tokens' probabilities.
    pub nats: f64,
    /// Tokens.
    pub tokens: usize,
}

impl<'a> Item<'a> {
    /// An item of which no more than this is known.
    pub fn new(prediction: &'a str, references: &'a [String]) -> Self {
        Self { prediction, references, likelihood: None, database: None }
    }

    /// The class that is right: the first reference, or no text at all.
    pub fn label(&self) -> &'a str {
        self.references.first().map_or("", String::as_str)
    }
}

/// What a metric says of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The values, the one that the metric is named for first.
    pub values: Vec<MetricValue>,
    /// The first value of each item alone, in order. Where it has no meaning for one item (F1, Matthews), whether the item is right: 0 or 1.
    pub items: Vec<f64>,
}

/// One metric, with its options set.
pub trait Metric: Send + Sync {
    /// The name of the first value, as it stands in results.
    fn name(&self) -> &'static str;

    /// Scores a split. Without items every value is 0 with no standard error.
    ///
    /// # Errors
    /// Where an item lacks what the metric needs, or a file that it needs cannot be read.
    fn score(&self, items: &[Item<'_>]) -> Result<Scores>;
}

/// A line of the table of metrics.
#[derive(Clone, Copy)]
pub struct MetricEntry {
    /// Name in a spec, and of its first value in results unless an option changes it.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// The least and the greatest value.
    pub range: &'static str,
    /// What exactly is computed.
    pub definition: &'static str,
    /// The implementation that its fixture was made with.
    pub reference: &'static str,
    /// Each option and what it does; the defaults are those of [`resolve`].
    pub options: &'static [(&'static str, &'static str)],
    /// Builds it from its options.
    pub build: fn(&Component) -> std::result::Result<Box<dyn Metric>, SpecError>,
    /// Fills in every default.
    pub resolve: fn(&Component) -> std::result::Result<Component, SpecError>,
}

/// Every metric of this crate.
pub const METRICS: &[MetricEntry] = &[
    accuracy::ACCURACY,
    f1::F1,
    matthews::MATTHEWS,
    exact_match::EXACT_MATCH,
    numeric_match::NUMERIC_MATCH,
    rouge::ROUGE,
    bleu::BLEU,
    bleu::SENTENCE_BLEU,
    meteor::METEOR,
    chrf::CHRF,
    exact_set_match::EXACT_SET_MATCH,
    exec_accuracy::EXEC_ACCURACY,
    perplexity::PERPLEXITY,
];

fn entry(metric: &Component) -> std::result::Result<&'static MetricEntry, SpecError> {
    METRICS.iter().find(|entry| entry.name == metric.name).ok_or_else(|| {
        let names: Vec<&str> = METRICS.iter().map(|entry| entry.name).collect();
        SpecError::at("", format!("unknown metric `{}`; {}", metric.name, suggest::hint(&metric.name, names)))
    })
}

/// Builds the metric that `metric` names. Errors name the option, or the nearest metric.
pub fn build(metric: &Component) -> std::result::Result<Box<dyn Metric>, SpecError> {
    (entry(metric)?.build)(metric)
}

/// `metric` with every default filled in, and its options checked.
pub fn resolve(metric: &Component) -> std::result::Result<Component, SpecError> {
    (entry(metric)?.resolve)(metric)
}

/// The options of a metric that has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NoOptions {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn component(value: serde_json::Value) -> Component {
        Component::from_value(&value).unwrap()
    }

    #[test]
    fn unknown_names_and_options_give_the_nearest() {
        let message = |value| build(&component(value)).err().unwrap().to_string();
        assert_eq!(message(json!("accurracy")), "unknown metric `accurracy`; did you mean `accuracy`?");
        let unknown = message(json!({"type": "f1", "averge": "macro"}));
        assert!(unknown.contains("`averge`") && unknown.contains("did you mean `average`?"), "{unknown}");
    }

    #[test]
    fn every_entry_documents_exactly_its_options_and_names_its_first_value() {
        for entry in METRICS {
            let resolved = resolve(&Component::named(entry.name)).unwrap();
            assert_eq!(resolve(&resolved).unwrap(), resolved, "{}", entry.name);
            let documented: Vec<&str> = entry.options.iter().map(|(name, _)| *name).collect();
            assert!(resolved.options.keys().all(|name| documented.contains(&name.as_str())), "{}: {resolved:?}", entry.name);
            // An option without a value is left out of the resolved form.
            let every = documented.iter().map(|name| ((*name).to_owned(), resolved.options.get(*name).cloned().unwrap_or_default()));
            let every = Component { name: entry.name.to_owned(), options: every.collect() };
            assert_eq!(resolve(&every).unwrap(), resolved, "{}", entry.name);
            let none = build(&resolved).unwrap().score(&[]).unwrap();
            assert_eq!((none.values[0].value, none.values[0].stderr, none.items.len()), (0.0, None, 0), "{}", entry.name);
            assert_eq!(none.values[0].name, build(&resolved).unwrap().name());
            assert!(none.values.iter().all(|value| value.higher_is_better == entry.higher_is_better));
        }
    }

    #[test]
    fn predictions_equal_to_a_reference_are_right_item_by_item() {
        let references: Vec<[String; 1]> = (0..40).map(|i| [format!("{}", i % 7)]).collect();
        let items: Vec<Item> = references.iter().map(|one| Item::new(&one[0], one)).collect();
        // METEOR's penalty takes half off a match of one word; perplexity and SQL need more than texts.
        let others =
            [meteor::METEOR.name, perplexity::PERPLEXITY.name, exact_set_match::EXACT_SET_MATCH.name, exec_accuracy::EXEC_ACCURACY.name];
        for entry in METRICS.iter().filter(|entry| !others.contains(&entry.name)) {
            let metric = build(&Component::named(entry.name)).unwrap();
            let scores = metric.score(&items).unwrap();
            assert!(scores.items.iter().all(|score| (score - 1.0).abs() < 1e-12), "{}: {:?}", entry.name, scores.items);
            assert_eq!(scores.items.len(), items.len());
        }
    }
}
