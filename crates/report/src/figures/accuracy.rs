//! The primary metric by method and target.

use super::dots::{Block, Column, Points, RowLabel, draw, line_legend, plain};
use super::{Drawing, Figure, Value, interval_note, metric_range, metric_title};
use crate::canvas::{Canvas, Key};
use crate::csv_text::{CsvText, field};
use crate::data::{ALL_LAYERS, Cell, Data};
use std::collections::BTreeSet;

/// Primary metric on the test split, a row a method and target.
pub(super) struct Accuracy;

impl Figure for Accuracy {
    fn id(&self) -> &'static str {
        "accuracy"
    }

    fn title(&self) -> &'static str {
        "Test score by method and target"
    }

    fn reading(&self) -> &'static str {
        "Each row is a method on the matrices named beside it. Two rows whose whiskers overlap widely are not shown to differ; \
         a paired comparison of the items is the sharper test."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let cells = data.main_cells();
        let blocks = blocks(data, &cells);
        if blocks.is_empty() {
            return None;
        }
        let mut canvas = Canvas::new(self.title(), &data.subtitle(cells.iter().copied()));
        let mut legend = vec![(Key::Interval, "mean with its 95 % interval".to_owned())];
        legend.extend(line_legend(&blocks));
        canvas.legend(&legend);
        draw(&mut canvas, &blocks);
        let restricted = cells.iter().any(|cell| cell.place.layers != ALL_LAYERS);
        let own = cells.iter().any(|cell| cell.row.method_json.contains("\"layers\":"));
        let layers = match (restricted, own) {
            (true, _) => "All layers where such a run exists, else the first other subset.",
            (false, true) => "All layers, but for methods that name layers of their own.",
            (false, false) => "All layers.",
        };
        let note = format!("{} {layers}", interval_note(cells.iter().map(|cell| &cell.row)));
        Some(Drawing { scene: canvas.finish(&note), csv: numbers(data, &cells) })
    }
}

/// The rows of a model: its methods, each with its targets, whether or not a run of them has a result.
pub(super) fn row_labels(data: &Data, model: &str) -> Vec<RowLabel> {
    let places: BTreeSet<(String, String)> = data
        .runs
        .iter()
        .filter(|run| !run.is_zero_shot())
        .map(|run| data.place_of_run(run))
        .filter(|place| place.model == model && data.methods().contains(&place.method))
        .map(|place| (place.method, place.targets))
        .collect();
    let row = |(group, label): (String, String)| RowLabel { look: Some(data.look(&group)), group, label };
    places.into_iter().map(row).collect()
}

/// The cell of a row, or why there is none.
pub(super) fn points(
    data: &Data,
    cells: &[&Cell],
    (model, task): (&str, &str),
    row: &RowLabel,
    value: &dyn Fn(&Cell) -> Option<Value>,
) -> Points {
    let here = cells.iter().find(|cell| {
        let place = &cell.place;
        place.model == model && place.task == task && place.method == row.group && place.targets == row.label
    });
    match here.and_then(|cell| value(cell)) {
        Some(value) => Points::Some(vec![(data.look(&row.group), value)]),
        None => Points::Absent(data.absence(model, task, &row.group, &row.label).unwrap_or_else(|| "not in the sweep".to_owned())),
    }
}

fn blocks(data: &Data, cells: &[&Cell]) -> Vec<Block<'static>> {
    let mut blocks = Vec::new();
    for model in data.models() {
        let rows = row_labels(data, model);
        let column = |task: &str| {
            let of_task: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.place.task == task).collect();
            let reference = data.zero_shot(model, task).map(Value::metric);
            let chance = of_task.iter().find_map(|cell| cell.row.test_chance);
            let shown = of_task.iter().map(|cell| Value::metric(&cell.row)).chain(reference).chain(chance.map(Value::bare));
            Column {
                title: task.to_owned(),
                axis: metric_title(of_task.iter().map(|cell| &cell.row)),
                range: metric_range(of_task.iter().map(|cell| &cell.row), &shown.collect::<Vec<_>>()),
                reference,
                chance,
                format: &plain,
                cells: rows.iter().map(|row| points(data, cells, (model, task), row, &|cell| Some(Value::metric(&cell.row)))).collect(),
            }
        };
        let has_cells = |task: &&str| cells.iter().any(|cell| cell.place.model == model && cell.place.task == *task);
        let columns: Vec<Column<'static>> = data.tasks().into_iter().filter(has_cells).map(column).collect();
        if !columns.is_empty() {
            blocks.push(Block { title: model.to_owned(), rows, columns });
        }
    }
    blocks
}

fn numbers(data: &Data, cells: &[&Cell]) -> CsvText {
    let mut csv = CsvText::new(&METRIC_COLUMNS);
    let references = data.cells.iter().filter(|cell| cell.row.is_zero_shot());
    for cell in cells.iter().copied().chain(references) {
        csv.push(metric_fields(cell));
    }
    csv
}

/// Columns of [`metric_fields`].
pub(super) const METRIC_COLUMNS: [&str; 12] =
    ["model", "task", "method", "targets", "layers", "metric", "mean", "ci95_low", "ci95_high", "interval_kind", "n_seeds", "group_id"];

/// Place, metric and interval of a cell.
pub(super) fn metric_fields(cell: &Cell) -> Vec<String> {
    let (place, row) = (&cell.place, &cell.row);
    let mut fields =
        [&place.model, &place.task, &place.method, &place.targets, &place.layers, &row.primary_metric].map(String::clone).to_vec();
    fields.extend([
        row.mean.to_string(),
        field(row.ci95_low),
        field(row.ci95_high),
        field(row.interval_kind.map(|kind| kind.name())),
        row.n_seeds.to_string(),
        row.group_id.clone(),
    ]);
    fields
}
