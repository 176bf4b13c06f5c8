//! F1 of classes, as scikit-learn's `f1_score`: the harmonic mean of precision and recall of one class, or an average over classes.

use super::classes::{Classes, Counts};
use super::standard_error::bootstrap;
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// `f1`.
pub const F1: MetricEntry = MetricEntry {
    name: "f1",
    summary: "F1 of the positive class, or averaged over classes",
    higher_is_better: true,
    range: "0 to 1",
    definition: "2·hits / (predicted + right) of a class, 0 where it is neither. `binary`: of the class `positive`; `macro`: the mean over all \
                 classes that are right or predicted somewhere; `micro`: over all items, which is the accuracy; `weighted`: the mean weighted \
                 by how often each class is right. Standard error by bootstrap over items.",
    reference: "scikit-learn `f1_score`, `zero_division=0`",
    options: &[("average", "`binary`, `macro`, `micro` or `weighted`"), ("positive", "the class that counts, for `binary` alone")],
    build: |metric| Ok(Box::new(F1Score { options: Options::parse(metric)? })),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// Over which classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Average {
    Binary,
    #[default]
    Macro,
    Micro,
    Weighted,
}

/// Options of `f1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    average: Average,
    #[serde(skip_serializing_if = "Option::is_none")]
    positive: Option<String>,
}

impl Options {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = metric.parse_options()?;
        match (options.average, &options.positive) {
            (Average::Binary, None) => {
                Err(SpecError::at("positive", "expected the name of the positive class, because `average` is `binary`"))
            }
            (Average::Binary, Some(_)) | (_, None) => Ok(options),
            (_, Some(_)) => Err(SpecError::at("positive", "only `average = \"binary\"` has a positive class; leave it out")),
        }
    }
}

struct F1Score {
    options: Options,
}

impl F1Score {
    fn value(&self, names: &[&str], counts: &Counts) -> f64 {
        let of_class = |k: usize| harmonic(counts.hits[k], counts.predicted[k], counts.right[k]);
        let total: usize = counts.right.iter().sum();
        match self.options.average {
            Average::Binary => {
                let positive = names.iter().position(|&name| Some(name) == self.options.positive.as_deref());
                positive.map_or(0.0, of_class)
            }
            Average::Micro => harmonic(counts.hits.iter().sum(), total, total),
            Average::Macro => {
                let present: Vec<usize> = (0..names.len()).filter(|&k| counts.predicted[k] + counts.right[k] > 0).collect();
                present.iter().map(|&k| of_class(k)).sum::<f64>() / present.len().max(1) as f64
            }
            Average::Weighted => (0..names.len()).map(|k| of_class(k) * counts.right[k] as f64).sum::<f64>() / total.max(1) as f64,
        }
    }
}

/// 2·hits / (predicted + right), 0 for none of either.
fn harmonic(hits: usize, predicted: usize, right: usize) -> f64 {
    match predicted + right {
        0 => 0.0,
        sum => 2.0 * hits as f64 / sum as f64,
    }
}

impl Metric for F1Score {
    fn name(&self) -> &'static str {
        F1.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let classes = Classes::of(items);
        let value = self.value(&classes.names, &classes.counts(0..items.len()));
        let stderr = bootstrap(F1.name, items.len(), |chosen| self.value(&classes.names, &classes.counts(chosen.iter().copied())));
        let value = MetricValue { name: F1.name.to_owned(), value, stderr, n_items: items.len(), higher_is_better: true };
        Ok(Scores { values: vec![value], items: classes.item_scores() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_positive_class_is_asked_for_and_only_where_it_counts() {
        let message = |value| Options::parse(&Component::from_value(&value).unwrap()).err().unwrap().to_string();
        assert!(message(json!({"type": "f1", "average": "binary"})).contains("positive class"));
        assert!(message(json!({"type": "f1", "positive": "yes"})).contains("leave it out"));
    }
}
