//! Matthews' correlation of classes, as scikit-learn's `matthews_corrcoef`; for more than two classes, Gorodkin's R_K (2004).

use super::classes::{Classes, Counts};
use super::standard_error::bootstrap;
use super::{Item, Metric, MetricEntry, NoOptions, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;

/// `matthews`.
pub const MATTHEWS: MetricEntry = MetricEntry {
    name: "matthews",
    summary: "Matthews' correlation between predicted and right classes",
    higher_is_better: true,
    range: "-1 to 1",
    definition: "The correlation of predicted and right class over the confusion matrix (Gorodkin's R_K for more than two classes); 0 where \
                 only one class is right or only one is predicted. Standard error by bootstrap over items.",
    reference: "scikit-learn `matthews_corrcoef`",
    options: &[],
    build: |metric| metric.parse_options::<NoOptions>().map(|_| Box::new(Matthews) as Box<dyn Metric>),
    resolve: |metric| metric.resolved(&metric.parse_options::<NoOptions>()?),
};

struct Matthews;

fn correlation(counts: &Counts) -> f64 {
    let dot = |a: &[usize], b: &[usize]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
    let n = counts.right.iter().sum::<usize>() as f64;
    let hits = counts.hits.iter().sum::<usize>() as f64;
    let together = hits * n - dot(&counts.right, &counts.predicted);
    let spread = (n * n - dot(&counts.predicted, &counts.predicted)) * (n * n - dot(&counts.right, &counts.right));
    if spread == 0.0 { 0.0 } else { together / spread.sqrt() }
}

impl Metric for Matthews {
    fn name(&self) -> &'static str {
        MATTHEWS.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let classes = Classes::of(items);
        let value = correlation(&classes.counts(0..items.len()));
        let stderr = bootstrap(MATTHEWS.name, items.len(), |chosen| correlation(&classes.counts(chosen.iter().copied())));
        let value = MetricValue { name: MATTHEWS.name.to_owned(), value, stderr, n_items: items.len(), higher_is_better: true };
        Ok(Scores { values: vec![value], items: classes.item_scores() })
    }
}
