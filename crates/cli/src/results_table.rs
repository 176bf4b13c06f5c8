//! The results of a sweep as a compact table for the terminal.

use crate::text_table::{self, number, text};
use peftbench_results::{AggregateRow, tables};
use peftbench_sweep::units::{Bytes, Count};
use std::path::Path;

/// More rows than this are better read in the report.
const MOST_ROWS: usize = 60;

/// One line a configuration: its primary metric with the 95 % interval over seeds, and what it cost. Empty where nothing is finished.
pub fn render(sweep_dir: &Path) -> anyhow::Result<String> {
    let rows = tables::read_aggregates(sweep_dir)?;
    if rows.is_empty() {
        return Ok(String::new());
    }
    let columns = [
        text("model"),
        text("task"),
        text("method"),
        text("targets"),
        text("layers"),
        text("metric"),
        number("mean"),
        number("95 %"),
        number("seeds"),
        number("trainable"),
        number("peak"),
        number("tok/s"),
    ];
    let mut table = text_table::render(&columns, &rows.iter().take(MOST_ROWS).map(cells).collect::<Vec<_>>());
    if rows.len() > MOST_ROWS {
        table += &format!("… and {} more in the tables and the report\n", rows.len() - MOST_ROWS);
    }
    Ok(table)
}

fn cells(row: &AggregateRow) -> Vec<String> {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    vec![
        row.model.clone(),
        row.task.clone(),
        row.method.clone(),
        row.targets.clone(),
        row.layers.clone(),
        row.primary_metric.clone(),
        format!("{:.4}", row.mean),
        known(row.interval().map(|interval| format!("{:.3}..{:.3}", interval.low, interval.high))),
        row.n_seeds.to_string(),
        known(row.num_trainable_params.map(|count| Count(count).to_string())),
        known(row.train_peak_bytes_median.filter(|&bytes| bytes > 0).or(row.eval_peak_bytes_median).map(|bytes| Bytes(bytes).to_string())),
        known(row.train_tokens_per_second_median.map(|rate| Count(rate as u64).to_string())),
    ]
}
