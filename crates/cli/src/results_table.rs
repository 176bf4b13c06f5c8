//! The results of a sweep as a compact table for the terminal.

use crate::text_table::{self, Column, number, text};
use peftbench_results::{AggregateRow, tables};
use peftbench_sweep::units::{Bytes, Count};
use std::path::Path;

/// More rows than this are better read in the report.
const MOST_ROWS: usize = 60;

/// A field that has a column where it is not the same in all rows.
type Field = (&'static str, fn(&AggregateRow) -> String);

const FIELDS: [Field; 5] = [
    ("policy", |row| row.policy.clone()),
    ("lr", |row| format!("{:?}", row.lr)),
    ("epochs", |row| row.epochs.to_string()),
    ("batch", |row| (row.batch_size * row.gradient_accumulation).to_string()),
    ("train samples", |row| row.train_samples.map_or_else(|| "all".to_owned(), |samples| samples.to_string())),
];

/// One line a configuration: its primary metric with the 95 % interval over seeds, and what it cost. Empty where nothing is finished.
pub fn render(sweep_dir: &Path) -> anyhow::Result<String> {
    Ok(table(&tables::read_aggregates(sweep_dir)?))
}

fn table(rows: &[AggregateRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    // Zero-shot rows have the defaults in fields that mean nothing to them.
    let trained: Vec<&AggregateRow> = rows.iter().filter(|row| !row.is_zero_shot()).collect();
    let varied: Vec<&Field> = FIELDS.iter().filter(|(_, cell)| trained.iter().any(|row| cell(row) != cell(trained[0]))).collect();
    let settings = ["model", "task", "method", "targets", "layers"].into_iter().map(text);
    let varied_columns = varied.iter().map(|(heading, _)| number(heading));
    let measures = ["mean", "95 %", "seeds", "trainable", "peak", "tok/s"].into_iter().map(number);
    let columns: Vec<Column> = settings.chain(varied_columns).chain([text("metric")]).chain(measures).collect();
    let cells: Vec<Vec<String>> = rows.iter().take(MOST_ROWS).map(|row| cells(row, &varied)).collect();
    let mut table = text_table::render(&columns, &cells);
    if rows.len() > MOST_ROWS {
        table += &format!("… and {} more in the tables and the report\n", rows.len() - MOST_ROWS);
    }
    table
}

fn cells(row: &AggregateRow, varied: &[&Field]) -> Vec<String> {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut cells = vec![row.model.clone(), row.task.clone(), row.method.clone(), row.targets.clone(), row.layers.clone()];
    cells.extend(varied.iter().map(|(_, cell)| if row.is_zero_shot() { "-".to_owned() } else { cell(row) }));
    cells.extend([
        row.primary_metric.clone(),
        format!("{:.4}", row.mean),
        known(row.interval().map(|interval| format!("{:.3}..{:.3}", interval.low, interval.high))),
        row.n_seeds.to_string(),
        known(row.num_trainable_params.map(|count| Count(count).to_string())),
        known(row.train_peak_bytes_median.filter(|&bytes| bytes > 0).or(row.eval_peak_bytes_median).map(|bytes| Bytes(bytes).to_string())),
        known(row.train_tokens_per_second_median.map(|rate| Count(rate as u64).to_string())),
    ]);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_a_column_where_it_varies_among_runs_that_train() {
        let row = |method: &str, lr: f64, trainable: u64| AggregateRow {
            method: method.into(),
            lr,
            epochs: 2,
            primary_metric: "accuracy".into(),
            mean: 0.5,
            num_trainable_params: Some(trainable),
            ..AggregateRow::default()
        };
        let same = table(&[row("lora", 0.1, 9), row("full", 0.1, 99), row("none", 0.3, 0)]);
        assert!(same.starts_with("model  task  method  targets  layers  metric      mean"), "{same}");
        let varied = table(&[row("lora", 0.1, 9), row("lora", 0.2, 9), row("none", 0.3, 0)]);
        let lines: Vec<Vec<&str>> = varied.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][5..7], ["lr", "metric"]);
        assert_eq!(lines[1][..3], ["lora", "0.1", "accuracy"]);
        assert_eq!(lines[3][..3], ["none", "-", "accuracy"]);
        let many = table(&vec![row("lora", 0.1, 9); MOST_ROWS + 2]);
        assert!(many.ends_with("… and 2 more in the tables and the report\n"), "{many}");
        assert_eq!(table(&[]), "");
    }
}
