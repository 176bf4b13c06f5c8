//! Metrics: one a file, each a plain function over predictions.
//!
//! Values are fractions from 0 to 1. A standard error is over the items of the split, with the model held fixed; the spread over seeds is
//! a matter of the results, not of a metric.

pub mod accuracy;
pub mod bleu;
pub mod exact_match;
pub mod tokenize_13a;

use peftbench_spec::event::MetricValue;

/// The name and direction of a metric, for listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricEntry {
    /// Name in results.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// Every metric of this crate.
pub const METRICS: &[MetricEntry] = &[
    MetricEntry { name: accuracy::NAME, summary: "fraction of items whose chosen option is the answer", higher_is_better: true },
    MetricEntry {
        name: bleu::NAME,
        summary: "corpus BLEU-4, sacrebleu's 13a tokens and exp smoothing, all references",
        higher_is_better: true,
    },
    MetricEntry {
        name: exact_match::NAME,
        summary: "fraction of items equal to a reference, spaces at the ends apart",
        higher_is_better: true,
    },
];

/// The mean of 0/1 scores with its binomial standard error √(p(1−p)/n). Over no items it is 0 with no standard error.
pub(crate) fn proportion(name: &str, hits: usize, n: usize) -> MetricValue {
    let value = if n == 0 { 0.0 } else { hits as f64 / n as f64 };
    let stderr = (n > 0).then(|| (value * (1.0 - value) / n as f64).sqrt());
    MetricValue { name: name.to_owned(), value, stderr, n_items: n, higher_is_better: true }
}
