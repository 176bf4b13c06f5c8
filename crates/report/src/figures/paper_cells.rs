//! The papers' numbers beside what was measured of the same method and target.

use super::dots::{Block, Column, Points, RowLabel, draw, line_legend, plain};
use super::{Drawing, Figure, Value, metric_range};
use crate::axis::range_of;
use crate::canvas::{Canvas, Key};
use crate::claims::{Paper, selects};
use crate::csv_text::{CsvText, field};
use crate::data::{ALL_LAYERS, Cell, Data};
use crate::scene::GRAY;
use crate::style::{Look, Marker};
use std::collections::{BTreeMap, BTreeSet};

/// Reported and measured scores, a panel each.
pub(super) struct PaperCells;

/// What a paper reports.
const REPORTED: Look = Look { color: GRAY, marker: Marker::Diamond };

/// A row of a paper that was run here.
struct Row<'a> {
    name: &'a str,
    label: &'a str,
    /// The cell of each model and task.
    measured: BTreeMap<(&'a str, &'a str), &'a Cell>,
}

impl Figure for PaperCells {
    fn id(&self) -> &'static str {
        "paper-cells"
    }

    fn title(&self) -> &'static str {
        "The papers' numbers beside those measured here, for the same method and target"
    }

    fn reading(&self) -> &'static str {
        "Gray panels are what a paper reports, on the model and data above them; coloured panels are what was measured here, on another model and other data. Every panel has an axis \
         of its own: only the order of the rows can be compared, never a number with a number."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let papers = &data.claims.as_ref()?.papers;
        let rows: Vec<(&Paper, Vec<Row<'_>>)> =
            papers.iter().map(|paper| (paper, rows(data, paper))).filter(|(_, rows)| !rows.is_empty()).collect();
        let blocks: Vec<Block<'_>> = rows.iter().filter_map(|(paper, rows)| block(paper, rows)).collect();
        if blocks.is_empty() {
            return None;
        }
        let shown: Vec<&Cell> = rows.iter().flat_map(|(_, rows)| rows).flat_map(|row| row.measured.values().copied()).collect();
        let mut canvas = Canvas::new(self.title(), &format!("Measured: {}", data.subtitle(shown.into_iter())));
        let measured = "measured here: mean with its 95 % interval".to_owned();
        let mut legend = vec![(Key::Hollow(REPORTED), "reported by the paper".to_owned()), (Key::Method(Look::of(0)), measured)];
        legend.extend(line_legend(&blocks));
        canvas.legend(&legend);
        draw(&mut canvas, &blocks);
        let note = "Hollow marks have no interval: the papers give none, and their numbers are second-hand where the claims file grades them so. A row is the same method on the same modules; ranks, rates and budgets are each side's own.";
        Some(Drawing { scene: canvas.finish(note), csv: numbers(&rows) })
    }
}

/// The rows of a paper that have a score to show on both sides.
fn rows<'a>(data: &'a Data, paper: &'a Paper) -> Vec<Row<'a>> {
    let run_of: BTreeMap<&str, _> = data.runs.iter().map(|run| (run.group_id.as_str(), run)).collect();
    let reported: BTreeSet<&str> = scores(paper).map(|(_, row, _, _)| row).collect();
    let row = |(name, entry): (&'a String, &'a crate::claims::paper::Entry)| {
        let select = entry.select.as_ref().filter(|_| reported.contains(name.as_str()))?;
        let mut measured: BTreeMap<(&str, &str), &Cell> = BTreeMap::new();
        let is_row = |cell: &&Cell| run_of.get(cell.row.group_id.as_str()).is_some_and(|run| selects(select, &paper.paper.family, run));
        for cell in data.trained().filter(is_row) {
            let slot = measured.entry((&cell.place.model, &cell.place.task)).or_insert(cell);
            let merit = |cell: &Cell| (cell.place.layers == ALL_LAYERS, cell.row.valid_mean.unwrap_or(0.0));
            if merit(cell) > merit(slot) {
                *slot = cell;
            }
        }
        (!measured.is_empty()).then_some(Row { name, label: &entry.label, measured })
    };
    paper.rows.iter().filter_map(row).collect()
}

/// The shown scores of the columns that statements speak of: model, row, column, value.
fn scores(paper: &Paper) -> impl Iterator<Item = (&str, &str, &str, f64)> {
    let spoken_of = |column: &str| paper.statements.iter().any(|statement| statement.columns.iter().any(|named| named == column));
    let is_score = move |column: &str| {
        paper.columns.get(column).and_then(|column| column.measure).is_some_and(|measure| measure.name == "score") && spoken_of(column)
    };
    let cells = paper.shown_cells().filter(move |cell| cell.line.against.is_none() && is_score(cell.column));
    cells.map(|cell| (cell.line.model.as_str(), cell.line.row.as_str(), cell.column, cell.value))
}

/// A paper's panels: those reported, of which two rows at least are known, and those measured.
fn block(paper: &Paper, rows: &[Row<'_>]) -> Option<Block<'static>> {
    let mut known: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (model, row, column, _) in scores(paper) {
        *known.entry((column, model)).or_default() += usize::from(rows.iter().any(|shown| shown.name == row));
    }
    let reported: Vec<(&str, &str)> = known.into_iter().filter(|(_, rows)| *rows > 1).map(|(place, _)| place).collect();
    let measured: BTreeSet<(&str, &str)> = rows.iter().flat_map(|row| row.measured.keys().copied()).collect();
    let labels = rows.iter().map(|row| RowLabel { group: String::new(), look: None, label: row.label.to_owned() }).collect();
    let panels = reported.iter().map(|place| reported_column(paper, rows, *place));
    let columns: Vec<Column<'_>> = panels.chain(measured.into_iter().map(|place| measured_column(rows, place))).collect();
    (!reported.is_empty()).then(|| Block { title: format!("{} · {}", paper.paper.id, paper.paper.reference), rows: labels, columns })
}

fn reported_column(paper: &Paper, rows: &[Row<'_>], (column, model): (&str, &str)) -> Column<'static> {
    let value = |row: &Row<'_>| scores(paper).find(|(m, r, c, _)| (*m, *r, *c) == (model, row.name, column)).map(|(.., value)| value);
    let values: Vec<Option<f64>> = rows.iter().map(value).collect();
    let label = paper.models.get(model).map_or(model, |model| &model.label);
    let (data, metric) = paper.columns.get(column).map_or((column, ""), |column| (&column.data, &column.metric));
    let point = |value: &Option<f64>| {
        value.map_or_else(|| Points::Absent("not known".to_owned()), |value| Points::Some(vec![(REPORTED, Value::bare(value))]))
    };
    Column {
        title: format!("{data}, {label}"),
        axis: format!("reported {metric}, %"),
        range: range_of(values.iter().flatten().copied()),
        reference: None,
        chance: None,
        format: &plain,
        cells: values.iter().map(point).collect(),
    }
}

fn measured_column(rows: &[Row<'_>], place: (&str, &str)) -> Column<'static> {
    let cells: Vec<Option<&&Cell>> = rows.iter().map(|row| row.measured.get(&place)).collect();
    let values: Vec<Value> = cells.iter().flatten().map(|cell| Value::metric(&cell.row)).collect();
    let range = metric_range(cells.iter().flatten().map(|cell| &cell.row), &values);
    let chance = cells.iter().flatten().find_map(|cell| cell.row.test_chance);
    let metrics: BTreeSet<&str> = cells.iter().flatten().map(|cell| cell.row.primary_metric.as_str()).collect();
    let point = |cell: &Option<&&Cell>| match cell {
        Some(cell) => Points::Some(vec![(Look::of(0), Value::metric(&cell.row))]),
        None => Points::Absent("not run".to_owned()),
    };
    Column {
        title: format!("{}, {}", place.1, place.0),
        axis: format!("measured {}", metrics.into_iter().collect::<Vec<_>>().join(" / ")),
        range,
        reference: None,
        chance: chance.filter(|chance| (range.0..=range.1).contains(chance)),
        format: &plain,
        cells: cells.iter().map(point).collect(),
    }
}

fn numbers(papers: &[(&Paper, Vec<Row<'_>>)]) -> CsvText {
    let mut csv =
        CsvText::new(&["paper", "row", "side", "model", "data", "metric", "value", "ci95_low", "ci95_high", "n_seeds", "group_id"]);
    for (paper, rows) in papers {
        for row in rows {
            for (model, _, column, value) in scores(paper).filter(|(_, name, _, _)| *name == row.name) {
                let metric = paper.columns.get(column).map(|column| format!("{}, %", column.metric)).unwrap_or_default();
                let texts = [&paper.paper.id, row.name, "reported", model, column, &metric].map(str::to_owned);
                csv.push(texts.into_iter().chain([value.to_string()]).chain(std::iter::repeat_n(String::new(), 4)).collect());
            }
            for (&(model, task), cell) in &row.measured {
                let texts = [&paper.paper.id, row.name, "measured", model, task, &cell.row.primary_metric].map(str::to_owned);
                let numbers = [Some(cell.row.mean), cell.row.ci95_low, cell.row.ci95_high].map(field);
                csv.push(texts.into_iter().chain(numbers).chain([cell.row.n_seeds.to_string(), cell.row.group_id.clone()]).collect());
            }
        }
    }
    csv
}
