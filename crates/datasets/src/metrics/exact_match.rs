//! Exact match: the fraction of generated texts that equal one of their references.

use super::standard_error::proportion_of;
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;
use serde::{Deserialize, Serialize};

/// `exact_match`.
pub const EXACT_MATCH: MetricEntry = MetricEntry {
    name: "exact_match",
    summary: "fraction of items equal to a reference, spaces at the ends apart",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The fraction of items whose prediction equals one of the references, white space at both ends apart. Standard error √(p(1−p)/n).",
    reference: "Python's `str.strip`, `str.lower` and `==`",
    options: &[("ignore_case", "whether both are put in lower case first")],
    build: |metric| Ok(Box::new(ExactMatch { options: metric.parse_options()? })),
    resolve: |metric| metric.resolved(&metric.parse_options::<Options>()?),
};

/// Its name in results.
pub const NAME: &str = EXACT_MATCH.name;

/// Options of `exact_match`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    ignore_case: bool,
}

/// Whether `prediction` equals one of `references`, white space at both ends apart.
pub fn is_match(prediction: &str, references: &[String]) -> bool {
    references.iter().any(|reference| reference.trim() == prediction.trim())
}

/// Exact match over pairs of (prediction, references), with the binomial standard error.
pub fn exact_match<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> MetricValue {
    proportion_of(NAME, pairs.into_iter().map(|(prediction, references)| is_match(prediction, references))).values.remove(0)
}

struct ExactMatch {
    options: Options,
}

impl ExactMatch {
    fn is_match(&self, item: &Item<'_>) -> bool {
        match self.options.ignore_case {
            false => is_match(item.prediction, item.references),
            true => {
                let prediction = item.prediction.trim().to_lowercase();
                item.references.iter().any(|reference| reference.trim().to_lowercase() == prediction)
            }
        }
    }
}

impl Metric for ExactMatch {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        Ok(proportion_of(NAME, items.iter().map(|item| self.is_match(item))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_reference_counts_and_case_does_unless_ignored() {
        let references = ["the cat sat.".to_owned(), "a cat sat.".to_owned()];
        let value = exact_match([(" a cat sat.\n", &references[..]), ("The cat sat.", &references[..]), ("", &[])]);
        assert_eq!((value.value, value.n_items), (1.0 / 3.0, 3));
        let items = [Item::new("The cat sat.", &references), Item::new("", &[])];
        let ignoring = ExactMatch { options: Options { ignore_case: true } };
        assert_eq!(ignoring.score(&items).unwrap().items, [1.0, 0.0]);
    }
}
