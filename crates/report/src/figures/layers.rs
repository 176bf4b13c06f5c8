//! The primary metric by layer subset and layer policy.

use super::accuracy::{METRIC_COLUMNS, metric_fields};
use super::dots::{Block, Column, Points, RowLabel, draw, line_legend, plain};
use super::{Drawing, Figure, Value, interval_note, metric_range, metric_title, targets_note};
use crate::canvas::{Canvas, Key};
use crate::csv_text::CsvText;
use crate::data::{ALL_LAYERS, Cell, Data};
use std::collections::{BTreeMap, BTreeSet};

/// Primary metric on the test split, a row a layer subset or policy.
pub(super) struct Layers;

impl Figure for Layers {
    fn id(&self) -> &'static str {
        "layers"
    }

    fn title(&self) -> &'static str {
        "Test score by layers trained"
    }

    fn reading(&self) -> &'static str {
        "Each row is a set of layers that train, or a policy that chooses them step by step; the first row trains all of them. Each method \
         is shown on the one target that it was tried on in most ways."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let cells = comparable_cells(data);
        if cells.is_empty() {
            return None;
        }
        let mut canvas = Canvas::new(self.title(), &data.subtitle(cells.iter().copied()));
        let blocks = blocks(data, &cells);
        canvas.legend(&legend(data, &cells, &blocks));
        draw(&mut canvas, &blocks);
        let note = format!(
            "{} Each method is shown on one target: the one with most layer subsets, of several the best on validation. {}",
            interval_note(cells.iter().map(|cell| &cell.row)),
            targets_note(cells.iter().copied())
        );
        let mut csv = CsvText::new(&METRIC_COLUMNS);
        cells.iter().for_each(|cell| csv.push(metric_fields(cell)));
        Some(Drawing { scene: canvas.finish(&note), csv })
    }
}

/// For every model, task and method the cells of one target, where it has at least two layer subsets or policies.
fn comparable_cells(data: &Data) -> Vec<&Cell> {
    let mut by_method: BTreeMap<(&str, &str), BTreeMap<&str, Vec<&Cell>>> = BTreeMap::new();
    for cell in data.trained() {
        let place = &cell.place;
        by_method.entry((&place.model, &place.method)).or_default().entry(&place.targets).or_default().push(cell);
    }
    let mut chosen = Vec::new();
    for targets in by_method.into_values() {
        let best = targets.into_values().max_by(|a, b| a.len().cmp(&b.len()).then_with(|| super::by_merit(&on_all(a), &on_all(b))));
        let cells = best.unwrap_or_default();
        let subsets: BTreeSet<&str> = cells.iter().map(|cell| cell.place.layers.as_str()).collect();
        if subsets.len() > 1 {
            chosen.extend(cells);
        }
    }
    chosen
}

/// Those on all layers.
fn on_all<'a>(cells: &[&'a Cell]) -> Vec<&'a Cell> {
    cells.iter().copied().filter(|cell| cell.place.layers == ALL_LAYERS).collect()
}

fn legend(data: &Data, cells: &[&Cell], blocks: &[Block<'_>]) -> Vec<(Key, String)> {
    let methods: BTreeSet<&str> = cells.iter().map(|cell| cell.place.method.as_str()).collect();
    let mut entries: Vec<(Key, String)> = methods.into_iter().map(|method| (Key::Method(data.look(method)), method.to_owned())).collect();
    entries.extend(line_legend(blocks));
    entries
}

fn blocks(data: &Data, cells: &[&Cell]) -> Vec<Block<'static>> {
    let mut blocks = Vec::new();
    for model in data.models() {
        let here: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.place.model == model).collect();
        let layers: BTreeSet<(bool, &str)> =
            here.iter().map(|cell| (cell.place.layers != ALL_LAYERS, cell.place.layers.as_str())).collect();
        let rows: Vec<RowLabel> =
            layers.iter().map(|(_, label)| RowLabel { group: String::new(), look: None, label: (*label).to_owned() }).collect();
        let column = |task: &str| {
            let of_task: Vec<&Cell> = here.iter().copied().filter(|cell| cell.place.task == task).collect();
            let reference = data.zero_shot(model, task).map(Value::metric);
            let chance = of_task.iter().find_map(|cell| cell.row.test_chance);
            let shown = of_task.iter().map(|cell| Value::metric(&cell.row)).chain(reference).chain(chance.map(Value::bare));
            let points = |row: &RowLabel| {
                let in_row = of_task.iter().filter(|cell| cell.place.layers == row.label);
                let points: Vec<_> = in_row.map(|cell| (data.look(&cell.place.method), Value::metric(&cell.row))).collect();
                if points.is_empty() { Points::Absent("no result".to_owned()) } else { Points::Some(points) }
            };
            Column {
                title: task.to_owned(),
                axis: metric_title(of_task.iter().map(|cell| &cell.row)),
                range: metric_range(of_task.iter().map(|cell| &cell.row), &shown.collect::<Vec<_>>()),
                reference,
                chance,
                format: &plain,
                cells: rows.iter().map(points).collect(),
            }
        };
        let has_cells = |task: &&str| here.iter().any(|cell| cell.place.task == *task);
        let columns: Vec<Column<'static>> = data.tasks().into_iter().filter(has_cells).map(column).collect();
        if !columns.is_empty() {
            blocks.push(Block { title: model.to_owned(), rows, columns });
        }
    }
    blocks
}
