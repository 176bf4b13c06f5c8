//! Learning curves: training loss and validation score by step.

use super::{Drawing, Figure};
use crate::axis::{Scale, decimals, range_of, short_count};
use crate::canvas::{Canvas, Key, MARGIN, WIDTH, bottom_axis, frame, left_axis};
use crate::csv_text::CsvText;
use crate::data::{Cell, Data};
use crate::fonts;
use crate::scene::{Bounds, Scene, Text};
use crate::style::Stroke;
use peftbench_results::RunRow;
use peftbench_results::rows::Status;
use peftbench_results::statistics::{mean, t_interval};
use std::collections::{BTreeMap, BTreeSet};

/// Training loss by step.
pub(super) struct TrainingLoss;

/// Primary metric on the validation split by step.
pub(super) struct Validation;

impl Figure for TrainingLoss {
    fn id(&self) -> &'static str {
        "training-loss"
    }

    fn title(&self) -> &'static str {
        "Training loss by step"
    }

    fn reading(&self) -> &'static str {
        "Mean loss over the label tokens (of a task over numbers, over its labels) of each step's batch, smoothed. Each method is shown on the target that is best for it on validation."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let series = |run: &RunRow| {
            let steps: Vec<(u64, f64)> =
                data.steps.iter().filter(|row| row.run_id == run.run_id).filter_map(|row| Some((row.step, row.loss?))).collect();
            smooth(&steps)
        };
        let axis = |curves: &[&Curve<'_>]| {
            let squared = curves.iter().all(|curve| curve.cell.row.primary_metric == "mse");
            format!("training loss ({})", if squared { "squared error" } else { "nats / token" })
        };
        draw(data, self.title(), &series, &axis, "Losses are smoothed by a moving mean over a tenth of the steps.", "training_loss")
    }
}

impl Figure for Validation {
    fn id(&self) -> &'static str {
        "validation-curve"
    }

    fn title(&self) -> &'static str {
        "Validation score by step"
    }

    fn reading(&self) -> &'static str {
        "The primary metric on the validation split, as it chose the epoch whose test score is reported. Each method is shown on the \
         target that is best for it on validation."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let series = |run: &RunRow| {
            let rows = data.evals.iter().filter(|row| row.run_id == run.run_id && row.split == "valid" && row.primary);
            rows.filter_map(|row| Some((row.step, row.value?))).collect()
        };
        let axis = |curves: &[&Curve<'_>]| {
            let metrics: BTreeSet<&str> = curves.iter().map(|curve| curve.cell.row.primary_metric.as_str()).collect();
            format!("validation {}", metrics.into_iter().collect::<Vec<_>>().join(" / "))
        };
        draw(data, self.title(), &series, &axis, "Evaluated at the end of each epoch.", "validation_score")
    }
}

/// A method's runs in one panel.
struct Curve<'a> {
    cell: &'a Cell,
    /// By seed, ascending: (step, value), ascending.
    seeds: Vec<(u64, Vec<(u64, f64)>)>,
    /// The mean over the seeds, at the steps all of them have.
    mean: Vec<(u64, f64)>,
    /// 95 % t interval of the mean at its last step.
    last: Option<(f64, f64)>,
}

const PANEL_HEIGHT: f64 = 250.0;
const LEFT_AXIS: f64 = 66.0;

fn draw(
    data: &Data,
    title: &str,
    series: &dyn Fn(&RunRow) -> Vec<(u64, f64)>,
    axis: &dyn Fn(&[&Curve<'_>]) -> String,
    note: &str,
    column: &str,
) -> Option<Drawing> {
    let curves: Vec<Curve<'_>> = best_targets(data).into_iter().filter_map(|cell| curve(data, cell, series)).collect();
    let panels: BTreeSet<(&str, &str)> =
        curves.iter().map(|curve| (curve.cell.place.model.as_str(), curve.cell.place.task.as_str())).collect();
    let panels: Vec<(&str, &str)> = panels.into_iter().collect();
    if panels.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new(title, &data.subtitle(curves.iter().map(|curve| curve.cell)));
    canvas.legend(&legend(data, &curves));
    let across = panels.len().min(if panels.len() == 4 { 2 } else { 3 });
    let width = (WIDTH - 2.0 * MARGIN) / across as f64;
    for line in panels.chunks(across) {
        for (index, &(model, task)) in line.iter().enumerate() {
            let here: Vec<&Curve<'_>> = curves.iter().filter(|c| c.cell.place.model == model && c.cell.place.task == task).collect();
            let left = MARGIN + index as f64 * width;
            let panel =
                Bounds { left: left + LEFT_AXIS, top: canvas.y + 26.0, right: left + width - 16.0, bottom: canvas.y + 26.0 + PANEL_HEIGHT };
            draw_panel(&mut canvas.scene, panel, data, &here, &axis(&here));
        }
        canvas.y += 26.0 + PANEL_HEIGHT + 46.0;
    }
    let seeds = match curves.iter().any(|curve| curve.seeds.len() > 1) {
        true => "Thin lines are seeds, thick ones their mean, with its 95 % t interval at the last step, cut at the frame.",
        false => "One seed each.",
    };
    let note = format!("{seeds} {note} {}", super::targets_note(curves.iter().map(|curve| curve.cell)));
    Some(Drawing { scene: canvas.finish(&note), csv: numbers(&curves, column) })
}

/// For every model and method the main cells of one target: the best on validation, summed over the tasks.
fn best_targets(data: &Data) -> Vec<&Cell> {
    let mut targets: BTreeMap<(&str, &str), BTreeMap<&str, Vec<&Cell>>> = BTreeMap::new();
    for cell in data.main_cells() {
        let place = &cell.place;
        targets.entry((&place.model, &place.method)).or_default().entry(&place.targets).or_default().push(cell);
    }
    let mut cells: Vec<&Cell> = Vec::new();
    for candidates in targets.into_values() {
        cells.extend(candidates.into_values().max_by(|a, b| super::by_merit(a, b)).unwrap_or_default());
    }
    cells.sort_by_key(|cell| &cell.place);
    cells
}

fn curve<'a>(data: &Data, cell: &'a Cell, series: &dyn Fn(&RunRow) -> Vec<(u64, f64)>) -> Option<Curve<'a>> {
    let runs = data.runs.iter().filter(|run| run.group_id == cell.row.group_id && run.status == Status::Done);
    let mut seeds: Vec<(u64, Vec<(u64, f64)>)> = runs.map(|run| (run.seed, series(run))).filter(|(_, points)| points.len() > 1).collect();
    seeds.sort_by_key(|(seed, _)| *seed);
    let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (step, value) in seeds.iter().flat_map(|(_, points)| points) {
        by_step.entry(*step).or_default().push(*value);
    }
    by_step.retain(|_, values| values.len() == seeds.len());
    let last = by_step.values().next_back().and_then(|values| t_interval(values)).map(|interval| (interval.low, interval.high));
    let mean: Vec<(u64, f64)> = by_step.into_iter().filter_map(|(step, values)| Some((step, mean(&values)?))).collect();
    (!mean.is_empty()).then_some(Curve { cell, seeds, mean, last })
}

/// A centred moving mean over a tenth of the points; at the ends over the half of it that there is.
fn smooth(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let half = points.len().div_ceil(20);
    let window = |index: usize| {
        let values = &points[index.saturating_sub(half)..(index + half + 1).min(points.len())];
        values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64
    };
    points.iter().enumerate().map(|(index, (step, _))| (*step, window(index))).collect()
}

fn legend(data: &Data, curves: &[Curve<'_>]) -> Vec<(Key, String)> {
    let methods: BTreeSet<&str> = curves.iter().map(|curve| curve.cell.place.method.as_str()).collect();
    methods.into_iter().map(|method| (Key::Stroke(data.look(method), Stroke::of(0)), method.to_owned())).collect()
}

fn draw_panel(scene: &mut Scene, panel: Bounds, data: &Data, curves: &[&Curve<'_>], axis: &str) {
    let steps = curves.iter().flat_map(|curve| &curve.mean).map(|(step, _)| *step as f64);
    let values = curves.iter().flat_map(|curve| curve.seeds.iter().flat_map(|(_, points)| points)).map(|(_, value)| *value);
    let x = Scale::linear((0.0, steps.fold(1.0, f64::max)), (panel.left, panel.right - 6.0 - 2.5 * curves.len() as f64));
    let y = Scale::linear(range_of(values), (panel.bottom, panel.top));
    bottom_axis(scene, panel, &x, 6, &|value, _| short_count(value), "optimizer step");
    left_axis(scene, panel, &y, 7, &decimals, axis);
    frame(scene, panel);
    if let Some(curve) = curves.first() {
        let title = format!("{} · {}", curve.cell.place.model, curve.cell.place.task);
        scene.text(Text::new(fonts::fit(&title, 12.0, true, panel.width() + LEFT_AXIS), (panel.left, panel.top - 12.0), 12.0).bold());
    }
    let place = |points: &[(u64, f64)]| points.iter().map(|(step, value)| (x.at(*step as f64), y.at(*value))).collect::<Vec<_>>();
    for curve in curves {
        let color = data.look(&curve.cell.place.method).color.faded(0.28);
        curve.seeds.iter().for_each(|(_, points)| scene.path(place(points), color, 1.0));
    }
    for (index, curve) in curves.iter().enumerate() {
        let look = data.look(&curve.cell.place.method);
        let (color, points) = (look.color, place(&curve.mean));
        marked(points.len(), (index, curves.len())).for_each(|point| look.draw(scene, points[point], 3.5));
        scene.path(points, color, 2.0);
        if let (Some((step, _)), Some((low, high))) = (curve.mean.last(), curve.last) {
            // Side by side, so that intervals of methods that end alike stay apart.
            let at = x.at(*step as f64) + 2.0 + 2.5 * index as f64;
            scene.line((at, y.at(low)), (at, y.at(high)), color, 1.5);
        }
    }
}

/// Which of `count` points of a curve bear its marker: a few, at other places than those of the other curves.
fn marked(count: usize, (curve, curves): (usize, usize)) -> impl Iterator<Item = usize> {
    const MARKS: usize = 5;
    (0..MARKS).map(move |mark| (count * (mark * curves + curve) + count / 2) / (MARKS * curves)).filter(move |point| *point < count)
}

fn numbers(curves: &[Curve<'_>], column: &str) -> CsvText {
    let mut csv = CsvText::new(&["model", "task", "method", "targets", "layers", "seed", "step", column, "group_id"]);
    for curve in curves {
        let place = &curve.cell.place;
        for (seed, points) in &curve.seeds {
            for (step, value) in points {
                let mut fields = [&place.model, &place.task, &place.method, &place.targets, &place.layers].map(String::clone).to_vec();
                fields.extend([seed.to_string(), step.to_string(), value.to_string(), curve.cell.row.group_id.clone()]);
                csv.push(fields);
            }
        }
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_curves_lie_apart() {
        let points = |curve| marked(100, (curve, 3)).collect::<Vec<_>>();
        assert_eq!([points(0), points(1)], [[3, 23, 43, 63, 83], [10, 30, 50, 70, 90]]);
        assert!(marked(2, (2, 3)).all(|point| point < 2));
    }

    #[test]
    fn smoothing_keeps_lines_and_dampens_noise() {
        let line: Vec<(u64, f64)> = (0..100).map(|i| (i, i as f64)).collect();
        assert!(smooth(&line)[5..95].iter().zip(&line[5..95]).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
        let noise: Vec<(u64, f64)> = (0..100).map(|i| (i, (i % 2) as f64)).collect();
        assert!(smooth(&noise)[50].1 > 0.3 && smooth(&noise)[50].1 < 0.7);
    }
}
