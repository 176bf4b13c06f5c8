//! Figures, one a file. A new one is a file with a unit struct that is a [`Figure`], and a line in [`FIGURES`].

mod accuracy;
mod claims;
mod curves;
mod dimensions;
mod dots;
mod heat;
mod importance;
mod layer_activity;
mod layers;
mod learning_rates;
mod memory;
mod paper_cells;
mod parameters;
mod scatter;
mod selection_rank;
mod share;
mod throughput;

use crate::csv_text::CsvText;
use crate::data::{Cell, Data};
use crate::scene::Scene;
use peftbench_results::AggregateRow;
use peftbench_results::statistics::IntervalKind;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// A picture made from a sweep's results.
pub trait Figure {
    /// File name without extension, and name for `--only`.
    fn id(&self) -> &'static str;
    /// Title.
    fn title(&self) -> &'static str;
    /// How to read it, a sentence or two for the page.
    fn reading(&self) -> &'static str;
    /// The picture and its numbers; `None` where the results have nothing to show in it.
    fn draw(&self, data: &Data) -> Option<Drawing>;
}

/// A figure drawn.
pub struct Drawing {
    /// The picture.
    pub scene: Scene,
    /// The numbers it was drawn from.
    pub csv: CsvText,
}

/// Every figure, in the order of the page.
pub const FIGURES: [fn() -> Box<dyn Figure>; 15] = [
    || Box::new(claims::Claims),
    || Box::new(paper_cells::PaperCells),
    || Box::new(accuracy::Accuracy),
    || Box::new(memory::Memory),
    || Box::new(parameters::Parameters),
    || Box::new(share::Share),
    || Box::new(throughput::Throughput),
    || Box::new(layers::Layers),
    || Box::new(layer_activity::LayerActivity),
    || Box::new(importance::Importance),
    || Box::new(dimensions::Dimensions),
    || Box::new(selection_rank::SelectionRank),
    || Box::new(learning_rates::LearningRates),
    || Box::new(curves::TrainingLoss),
    || Box::new(curves::Validation),
];

/// A value with its interval or range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Value {
    pub(crate) center: f64,
    pub(crate) ends: Option<(f64, f64)>,
}

impl Value {
    /// The primary metric with its 95 % interval.
    pub(crate) fn metric(row: &AggregateRow) -> Self {
        Self { center: row.mean, ends: row.interval().map(|interval| (interval.low, interval.high)) }
    }

    /// A value without an interval.
    pub(crate) fn bare(center: f64) -> Self {
        Self { center, ends: None }
    }

    /// The value and its ends.
    pub(crate) fn extent(&self) -> [f64; 3] {
        let (low, high) = self.ends.unwrap_or((self.center, self.center));
        [low, self.center, high]
    }
}

/// Metrics that go from -1 to 1.
const CORRELATIONS: [&str; 1] = ["matthews"];

/// Between which values a metric lies: a correlation between -1 and 1, a share (one of which all values are shares) between 0 and 1.
fn metric_ends(metric: &str, all_shares: bool) -> Option<(f64, f64)> {
    match CORRELATIONS.contains(&metric) {
        true => Some((-1.0, 1.0)),
        false => all_shares.then_some((0.0, 1.0)),
    }
}

/// The primary metrics of these configurations, with their directions and the values that each lies between.
fn metrics<'a>(rows: impl Iterator<Item = &'a AggregateRow>) -> BTreeMap<(&'a str, bool), Option<(f64, f64)>> {
    let mut all_shares: BTreeMap<(&str, bool), bool> = BTreeMap::new();
    for row in rows {
        let all = all_shares.entry((row.primary_metric.as_str(), row.primary_higher_is_better)).or_insert(true);
        *all &= (0.0..=1.0).contains(&row.mean);
    }
    all_shares.into_iter().map(|(metric, all)| (metric, metric_ends(metric.0, all))).collect()
}

/// The title of an axis with the primary metric of these configurations.
pub(crate) fn metric_title<'a>(rows: impl Iterator<Item = &'a AggregateRow>) -> String {
    let title = |((metric, higher), ends): ((&str, bool), Option<(f64, f64)>)| {
        let ends = ends.map(|(low, high)| format!("{low} to {high}, ")).unwrap_or_default();
        format!("test {metric} ({ends}{} is better)", if higher { "higher" } else { "lower" })
    };
    metrics(rows).into_iter().map(title).collect::<Vec<_>>().join(" / ")
}

/// The range of an axis with the primary metric of these configurations: air around the values, but not beyond where the metric can go. A
/// wide t interval of two or three seeds may; it is cut at the edge. Values that are all alike stand in a twentieth of what there is.
pub(crate) fn metric_range<'a>(rows: impl Iterator<Item = &'a AggregateRow>, values: &[Value]) -> (f64, f64) {
    let (low, high) = crate::axis::range_of(values.iter().flat_map(Value::extent));
    let ends = metrics(rows).into_values().collect::<Option<Vec<_>>>().unwrap_or_default();
    let Some((least, most)) = ends.into_iter().reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        return (low, high);
    };
    let (low, high) = (low.max(least), high.min(most));
    let narrowest = (most - least) / 20.0;
    if high - low >= narrowest {
        return (low, high);
    }
    let low = ((low + high - narrowest) / 2.0).clamp(least, most - narrowest);
    (low, low + narrowest)
}

/// The sentence that says what the intervals in a figure are.
pub(crate) fn interval_note<'a>(rows: impl Iterator<Item = &'a AggregateRow> + Clone) -> String {
    let kinds: BTreeSet<&str> = rows.clone().filter_map(|row| row.interval_kind).map(IntervalKind::describe).collect();
    let listed = kinds.into_iter().collect::<Vec<_>>().join(", or ");
    let mut note = match listed.is_empty() {
        true => "Points are single values without an interval.".to_owned(),
        false => format!("Points are means over seeds, whiskers the 95 % {listed}."),
    };
    let bare = rows.filter(|row| row.interval_kind.is_none()).count();
    if bare > 0 && !listed.is_empty() {
        note.push_str(&format!(" {bare} of them, drawn hollow, have no interval (one seed, no predictions kept)."));
    }
    note
}

/// Orders sets of cells by their validation scores, summed; more is better whatever the metric's direction.
pub(crate) fn by_merit(a: &[&Cell], b: &[&Cell]) -> Ordering {
    let signed = |cell: &Cell| cell.row.valid_mean.map(|value| if cell.row.primary_higher_is_better { value } else { -value });
    let sum = |cells: &[&Cell]| cells.iter().filter_map(|cell| signed(cell)).sum::<f64>();
    sum(a).total_cmp(&sum(b))
}

/// Which target each method is shown on, model by model, methods with equal targets together.
pub(crate) fn targets_note<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let mut models: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for cell in cells {
        let place = &cell.place;
        models.entry(&place.model).or_default().entry(&place.targets).or_default().insert(&place.method);
    }
    let on = |(targets, methods): (&str, BTreeSet<&str>)| format!("{} on {targets}", methods.into_iter().collect::<Vec<_>>().join(", "));
    let sentence = |(model, targets): (&str, BTreeMap<&str, BTreeSet<&str>>)| {
        format!("{model}: {}.", targets.into_iter().map(on).collect::<Vec<_>>().join("; "))
    };
    models.into_iter().map(sentence).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_called_a_share_where_all_its_values_are_one() {
        let row = |mean| AggregateRow { primary_metric: "mse".to_owned(), mean, ..AggregateRow::default() };
        let title = |means: [f64; 2]| metric_title(means.map(row).iter());
        assert_eq!(title([0.9, 1.4]), "test mse (lower is better)");
        assert_eq!(title([0.9, 0.4]), "test mse (0 to 1, lower is better)");
        let correlation = AggregateRow { primary_metric: "matthews".to_owned(), mean: 0.4, ..AggregateRow::default() };
        assert_eq!(metric_title([correlation].iter()), "test matthews (-1 to 1, lower is better)");
    }

    #[test]
    fn an_axis_ends_where_its_metric_does_and_is_never_a_sliver() {
        let range = |metric: &str, values: &[f64]| {
            let rows: Vec<_> =
                values.iter().map(|&mean| AggregateRow { primary_metric: metric.to_owned(), mean, ..AggregateRow::default() }).collect();
            metric_range(rows.iter(), &values.iter().map(|&value| Value::bare(value)).collect::<Vec<_>>())
        };
        assert_eq!(range("accuracy", &[0.0, 0.0]), (0.0, 0.05));
        assert_eq!(range("accuracy", &[1.0]), (0.95, 1.0));
        assert_eq!(range("accuracy", &[0.02, 0.99]), (0.0, 1.0));
        assert!(range("matthews", &[-0.3, 0.4]).0 < -0.3, "a correlation may be below 0");
        assert!(range("perplexity", &[3.0, 40.0]).1 > 40.0);
    }

    #[test]
    fn ids_are_unique_file_names() {
        let ids: BTreeSet<&str> = FIGURES.iter().map(|make| make().id()).collect();
        assert_eq!(ids.len(), FIGURES.len());
        assert!(ids.iter().all(|id| id.chars().all(|c| c.is_ascii_lowercase() || c == '-')));
    }
}
