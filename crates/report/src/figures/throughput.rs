//! Training speed by method and target.

use super::accuracy::{points, row_labels};
use super::dots::{Block, Column, draw};
use super::{Drawing, Figure, Value};
use crate::axis::{range_of, short_count};
use crate::canvas::{Canvas, Key};
use crate::csv_text::{CsvText, field};
use crate::data::{Cell, Data};

/// Training tokens a second, a row a method and target.
pub(super) struct Throughput;

impl Figure for Throughput {
    fn id(&self) -> &'static str {
        "throughput"
    }

    fn title(&self) -> &'static str {
        "Training throughput by method and target"
    }

    fn reading(&self) -> &'static str {
        "Tokens the training step gets through in a second, padding included, without evaluation and without the first steps. Comparable \
         only within one machine and number of threads."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let cells: Vec<&Cell> = data.main_cells().into_iter().filter(|cell| speed(cell).is_some()).collect();
        if cells.is_empty() {
            return None;
        }
        let mut canvas = Canvas::new(self.title(), &data.subtitle(cells.iter().copied()));
        canvas.legend(&[(Key::Interval, "median over seeds, from the slowest to the fastest seed".to_owned())]);
        draw(&mut canvas, &blocks(data, &cells));
        let single = if cells.iter().any(|cell| cell.row.n_seeds == 1) { " Hollow points are single runs." } else { "" };
        let note =
            format!("Points are medians over seeds, whiskers reach from the slowest to the fastest seed.{single} The axis begins at 0.");
        Some(Drawing { scene: canvas.finish(&note), csv: numbers(&cells) })
    }
}

fn speed(cell: &Cell) -> Option<Value> {
    let row = &cell.row;
    let ends = row.train_tokens_per_second_min.zip(row.train_tokens_per_second_max);
    Some(Value { center: row.train_tokens_per_second_median?, ends: ends.filter(|_| row.n_seeds > 1) })
}

fn blocks(data: &Data, cells: &[&Cell]) -> Vec<Block<'static>> {
    let mut blocks = Vec::new();
    for model in data.models() {
        let rows = row_labels(data, model);
        let of_model: Vec<Value> = cells.iter().filter(|cell| cell.place.model == model).filter_map(|cell| speed(cell)).collect();
        let (_, high) = range_of(of_model.iter().flat_map(Value::extent).chain([0.0]));
        let column = |task: &str| Column {
            title: task.to_owned(),
            axis: "training tokens / s".to_owned(),
            range: (0.0, high),
            reference: None,
            chance: None,
            format: &|value, _| short_count(value),
            cells: rows.iter().map(|row| points(data, cells, (model, task), row, &speed)).collect(),
        };
        let has_cells = |task: &&str| cells.iter().any(|cell| cell.place.model == model && cell.place.task == *task);
        let columns: Vec<Column<'static>> = data.tasks().into_iter().filter(has_cells).map(column).collect();
        if !columns.is_empty() {
            blocks.push(Block { title: model.to_owned(), rows, columns });
        }
    }
    blocks
}

fn numbers(cells: &[&Cell]) -> CsvText {
    let mut csv = CsvText::new(&[
        "model",
        "task",
        "method",
        "targets",
        "layers",
        "train_tokens_per_second_median",
        "train_tokens_per_second_min",
        "train_tokens_per_second_max",
        "n_seeds",
        "device",
        "threads",
        "group_id",
    ]);
    for cell in cells {
        let (place, row) = (&cell.place, &cell.row);
        let mut fields = [&place.model, &place.task, &place.method, &place.targets, &place.layers].map(String::clone).to_vec();
        fields.extend([
            field(row.train_tokens_per_second_median),
            field(row.train_tokens_per_second_min),
            field(row.train_tokens_per_second_max),
            row.n_seeds.to_string(),
            field(row.device.clone()),
            field(row.threads),
            row.group_id.clone(),
        ]);
        csv.push(fields);
    }
    csv
}
