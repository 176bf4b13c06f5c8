//! Numeric match: the fraction of answers that are the right number. Which number of a text is its answer is the task's matter.

use super::standard_error::proportion_of;
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::Result;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// `numeric_match`.
pub const NUMERIC_MATCH: MetricEntry = MetricEntry {
    name: "numeric_match",
    summary: "fraction of items whose number is that of a reference",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The fraction of items whose prediction and one reference are finite numbers at most `tolerance` apart. A number is the whole \
                 text, white space at both ends and commas apart, in decimal or scientific notation. Standard error √(p(1−p)/n).",
    reference: "LLM-Adapters' `evaluate.py` (`abs(float(label) - predict) <= 0.001`), Python's `float`",
    options: &[("tolerance", "greatest difference that still counts as equal")],
    build: |metric| Ok(Box::new(NumericMatch { options: Options::parse(metric)? })),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// Options of `numeric_match`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    tolerance: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { tolerance: 1e-3 }
    }
}

impl Options {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = metric.parse_options()?;
        match options.tolerance >= 0.0 {
            true => Ok(options),
            false => Err(SpecError::at("tolerance", format!("expected a number from 0, found {}", options.tolerance))),
        }
    }
}

/// The number that `text` is.
pub fn number(text: &str) -> Option<f64> {
    text.replace(',', "").trim().parse().ok().filter(|number: &f64| number.is_finite())
}

struct NumericMatch {
    options: Options,
}

impl NumericMatch {
    fn is_match(&self, item: &Item<'_>) -> bool {
        let Some(found) = number(item.prediction) else { return false };
        item.references.iter().filter_map(|reference| number(reference)).any(|right| (right - found).abs() <= self.options.tolerance)
    }
}

impl Metric for NumericMatch {
    fn name(&self) -> &'static str {
        NUMERIC_MATCH.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        Ok(proportion_of(NUMERIC_MATCH.name, items.iter().map(|item| self.is_match(item))))
    }
}
