//! Accuracy: the fraction of items whose chosen option or class is the right one.

use super::standard_error::proportion_of;
use super::{Item, Metric, MetricEntry, NoOptions, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;

/// `accuracy`.
pub const ACCURACY: MetricEntry = MetricEntry {
    name: "accuracy",
    summary: "fraction of items whose chosen option is the answer",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The fraction of items whose prediction is, character for character, the reference. Standard error √(p(1−p)/n).",
    reference: "scikit-learn `accuracy_score`",
    options: &[],
    build: |metric| metric.parse_options::<NoOptions>().map(|_| Box::new(Accuracy) as Box<dyn Metric>),
    resolve: |metric| metric.resolved(&metric.parse_options::<NoOptions>()?),
};

/// Its name in results.
pub const NAME: &str = ACCURACY.name;

/// Whether one prediction is right: the same text as the answer.
pub fn is_correct(prediction: &str, answer: &str) -> bool {
    prediction == answer
}

/// Accuracy over pairs of (prediction, answer), with the binomial standard error.
pub fn accuracy<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> MetricValue {
    proportion_of(NAME, pairs.into_iter().map(|(prediction, answer)| is_correct(prediction, answer))).values.remove(0)
}

struct Accuracy;

impl Metric for Accuracy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        Ok(proportion_of(NAME, items.iter().map(|item| item.references.iter().any(|reference| is_correct(item.prediction, reference)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_equal_texts_and_gives_the_binomial_error() {
        let value = accuracy([("a", "a"), ("a", "b"), (" a", "a"), ("b", "b")]);
        assert_eq!((value.value, value.n_items), (0.5, 4));
        assert_eq!(value.stderr, Some(0.25));
        let none = accuracy([]);
        assert_eq!((none.value, none.stderr, none.n_items), (0.0, None, 0));
    }
}
