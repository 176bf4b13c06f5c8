//! The results table: a row a configuration, over its seeds.

use super::{Heading, TextTable};
use crate::axis::mebibytes;
use crate::data::{Data, Place};
use peftbench_results::AggregateRow;
use peftbench_results::statistics::IntervalKind;
use std::collections::BTreeSet;

/// File name without extension, and name for `--only`.
pub const ID: &str = "results";

/// Mean and half-width of the interval: `0.842 ± 0.021`; the mean alone says that it has none.
pub fn score(row: &AggregateRow) -> String {
    match row.interval() {
        Some(interval) => format!("{:.3} ± {:.3}", row.mean, (interval.high - interval.low) / 2.0),
        None => format!("{:.3} (no interval)", row.mean),
    }
}

/// Whether configurations of one place differ in their training settings, so that a table must name the learning rate and the epochs.
pub fn settings_vary(data: &Data) -> bool {
    data.cells.iter().any(|cell| cell.chosen_from > 1)
}

/// The training settings of a configuration.
pub fn settings(row: &AggregateRow) -> String {
    format!("lr {:e}, {} epochs, batch {}", row.lr, row.epochs, row.batch_size * row.gradient_accumulation)
}

/// Every configuration with its place, sorted by place and then by training settings.
pub fn sorted_rows(data: &Data) -> Vec<(Place, &AggregateRow)> {
    let mut rows: Vec<(Place, &AggregateRow)> = data.aggregates.iter().map(|row| (data.place_of_aggregate(row), row)).collect();
    // The zero-shot reference comes first on its model and task.
    rows.sort_by(|(a, x), (b, y)| {
        let key = |place: &Place, row: &AggregateRow| (place.model.clone(), place.task.clone(), !row.is_zero_shot(), place.clone());
        key(a, x).cmp(&key(b, y)).then(x.lr.total_cmp(&y.lr)).then_with(|| x.group_id.cmp(&y.group_id))
    });
    rows
}

/// The table.
pub fn table(data: &Data) -> TextTable {
    let vary = settings_vary(data);
    let heading = |title: &str, numeric| Heading { title: title.to_owned(), numeric };
    let mut columns: Vec<Heading> = ["model", "task", "method", "targets", "layers"].map(|title| heading(title, false)).to_vec();
    if vary {
        columns.push(heading("training", false));
    }
    columns.push(heading("metric", false));
    let numbers = ["test score", "trainable params", "peak memory (MiB)", "tokens/s", "train time (s)", "seeds"];
    columns.extend(numbers.map(|title| heading(title, true)));
    let forgets = data.aggregates.iter().any(|row| row.forgetting_loss_rise_mean.is_some());
    if forgets {
        columns.push(heading("forgetting (rise of loss)", true));
    }
    let rows = sorted_rows(data).into_iter().map(|(place, row)| fields(place, row, vary, forgets)).collect();
    let kinds: BTreeSet<&str> = data.aggregates.iter().filter_map(|row| row.interval_kind).map(IntervalKind::describe).collect();
    TextTable {
        caption: format!("Results of the sweep {}: mean on the test split and half the width of its 95 % interval.", data.sweep),
        columns,
        rows,
        note: format!(
            "Intervals: {}. Peak memory is live heap bytes while training, tokens/s counts padding; both, and the train time, are medians over seeds.",
            kinds.into_iter().collect::<Vec<_>>().join(", or ")
        ),
    }
}

fn fields(place: Place, row: &AggregateRow, vary: bool, forgets: bool) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let trained = !row.is_zero_shot();
    let mut fields = vec![place.model, place.task, place.method, place.targets, place.layers];
    if vary {
        fields.push(settings(row));
    }
    fields.extend([
        row.primary_metric.clone(),
        score(row),
        or_dash(row.num_trainable_params.map(|count| count.to_string())),
        or_dash(row.train_peak_bytes_median.filter(|_| trained).map(|bytes| format!("{:.1}", mebibytes(bytes)))),
        or_dash(row.train_tokens_per_second_median.map(|speed| format!("{speed:.0}"))),
        or_dash(row.train_seconds_median.map(|seconds| format!("{seconds:.1}"))),
        row.n_seeds.to_string(),
    ]);
    if forgets {
        fields.push(or_dash(row.forgetting_loss_rise_mean.map(|rise| format!("{rise:+.3}"))));
    }
    fields
}
