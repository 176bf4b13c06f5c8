//! Small multiples of scatter plots: the primary metric against a cost, with the Pareto front.

use super::{Value, interval_note, metric_range, metric_title};
use crate::axis::Scale;
use crate::canvas::{Canvas, Key, MARGIN, SMALL, WIDTH, bottom_axis, frame, left_axis};
use crate::csv_text::{CsvText, field};
use crate::data::{ALL_LAYERS, Cell, DEFAULT_TARGETS, Data, Place};
use crate::fonts;
use crate::scene::{Anchor, Bounds, Color, GRAY, Point, Scene, Text};
use peftbench_results::AggregateRow;
use std::collections::BTreeSet;

/// The cost on the horizontal axis.
pub(super) struct Cost<'a> {
    /// Its value in the axis's unit; `None` leaves the cell out.
    pub(super) value: &'a dyn Fn(&Cell) -> Option<Value>,
    /// Title with unit.
    pub(super) axis: &'static str,
    /// Column name in the CSV.
    pub(super) column: &'static str,
    /// Whether the axis is logarithmic.
    pub(super) logarithmic: bool,
    /// Tick labels.
    pub(super) format: &'a dyn Fn(f64, f64) -> String,
    /// What the whiskers along this axis are; empty where it has none.
    pub(super) spread: &'static str,
}

/// A cell with its place in the plane.
struct Dot<'a> {
    cell: &'a Cell,
    cost: Value,
    metric: Value,
    on_front: bool,
}

const PANEL_HEIGHT: f64 = 300.0;
const LEFT_AXIS: f64 = 66.0;

/// Draws the figure and its numbers; `None` where no cell has the cost.
pub(super) fn draw(data: &Data, title: &str, cost: &Cost<'_>) -> Option<(Scene, CsvText)> {
    let shown: Vec<&Cell> = data.trained().filter(|cell| (cost.value)(cell).is_some()).collect();
    if shown.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new(title, &data.subtitle(shown.iter().copied()));
    let panels: Vec<(&str, &str)> = panels(data, &shown);
    let zero_shot = panels.iter().any(|(model, task)| data.zero_shot(model, task).is_some());
    canvas.legend(&legend(data, &shown, zero_shot));
    let mut csv = CsvText::new(&[&super::accuracy::METRIC_COLUMNS[..], &[cost.column, "on_pareto_front"]].concat());
    let across = panels.len().min(if panels.len() == 4 { 2 } else { 3 });
    let width = (WIDTH - 2.0 * MARGIN) / across as f64;
    for line in panels.chunks(across) {
        for (index, &(model, task)) in line.iter().enumerate() {
            let dots = dots(&shown, cost, (model, task));
            let left = MARGIN + index as f64 * width;
            let panel =
                Bounds { left: left + LEFT_AXIS, top: canvas.y + 26.0, right: left + width - 14.0, bottom: canvas.y + 26.0 + PANEL_HEIGHT };
            draw_panel(&mut canvas.scene, panel, data, (model, task), &dots, cost);
            dots.iter().for_each(|dot| csv.push(fields(dot)));
        }
        canvas.y += 26.0 + PANEL_HEIGHT + 46.0;
    }
    let note = format!(
        "{} {}Points on the Pareto front (no other is both cheaper and better) are drawn in full and named by targets and layers where there is room; the others are faint.",
        interval_note(shown.iter().map(|cell| &cell.row)),
        cost.spread
    );
    Some((canvas.finish(&note), csv))
}

fn panels<'a>(data: &'a Data, cells: &[&Cell]) -> Vec<(&'a str, &'a str)> {
    let mut panels = Vec::new();
    for model in data.models() {
        for task in data.tasks() {
            if cells.iter().any(|cell| cell.place.model == model && cell.place.task == task) {
                panels.push((model, task));
            }
        }
    }
    panels
}

fn legend(data: &Data, cells: &[&Cell], zero_shot: bool) -> Vec<(Key, String)> {
    let present: BTreeSet<&str> = cells.iter().map(|cell| cell.place.method.as_str()).collect();
    let mut entries: Vec<(Key, String)> = present.into_iter().map(|method| (Key::Method(data.look(method)), method.to_owned())).collect();
    entries.push((Key::Line, "Pareto front".to_owned()));
    if zero_shot {
        entries.push((Key::Dashed, "zero-shot".to_owned()));
    }
    entries
}

/// The cells of a panel, those on the front marked.
fn dots<'a>(cells: &[&'a Cell], cost: &Cost<'_>, (model, task): (&str, &str)) -> Vec<Dot<'a>> {
    let here = cells.iter().filter(|cell| cell.place.model == model && cell.place.task == task);
    let mut dots: Vec<Dot<'a>> =
        here.filter_map(|cell| Some(Dot { cell, cost: (cost.value)(cell)?, metric: Value::metric(&cell.row), on_front: false })).collect();
    let merit = |dot: &Dot<'_>| if dot.cell.row.primary_higher_is_better { dot.metric.center } else { -dot.metric.center };
    let points: Vec<(f64, f64)> = dots.iter().map(|dot| (dot.cost.center, merit(dot))).collect();
    for (dot, on_front) in dots.iter_mut().zip(pareto(&points)) {
        dot.on_front = on_front;
    }
    dots
}

/// For points of (cost, merit): whether no other point has at most the cost and at least the merit, and one of the two better.
fn pareto(points: &[(f64, f64)]) -> Vec<bool> {
    let beats = |a: &(f64, f64), b: &(f64, f64)| a.0 <= b.0 && a.1 >= b.1 && (a.0 < b.0 || a.1 > b.1);
    points.iter().map(|point| !points.iter().any(|other| beats(other, point))).collect()
}

fn draw_panel(scene: &mut Scene, panel: Bounds, data: &Data, (model, task): (&str, &str), dots: &[Dot<'_>], cost: &Cost<'_>) {
    let reference = data.zero_shot(model, task).map(Value::metric);
    let metrics: Vec<Value> = dots.iter().map(|dot| dot.metric).chain(reference).collect();
    let x = cost_scale(dots, cost, (panel.left, panel.right));
    let (y, steps) = metric_scale(dots.iter().map(|dot| &dot.cell.row), &metrics, (panel.bottom, panel.top));
    if let Some((low, high)) = reference.and_then(|reference| reference.ends) {
        scene.rect(Bounds { top: y.at(high), bottom: y.at(low), ..panel }, Color::hex(0xeef0f2));
    }
    bottom_axis(scene, panel, &x, 5, cost.format, cost.axis);
    let title = format!("{}{steps}", metric_title(dots.iter().map(|dot| &dot.cell.row)));
    left_axis(scene, panel, &y, 6, &crate::axis::decimals, &title);
    frame(scene, panel);
    let title = fonts::fit(&format!("{model} · {task}"), 12.0, true, panel.width() + LEFT_AXIS);
    scene.text(Text::new(title, (panel.left, panel.top - 12.0), 12.0).bold());
    let mut lines = draw_front(scene, dots, (&x, &y));
    if let Some(reference) = reference {
        let level = y.at(reference.center);
        scene.dashed((panel.left, level), (panel.right, level), GRAY, 1.5, (5.0, 3.0));
        lines.push(Bounds { top: level - 1.0, bottom: level + 1.0, ..panel });
    }
    for dot in dots.iter().filter(|dot| !dot.on_front).chain(dots.iter().filter(|dot| dot.on_front)) {
        draw_dot(scene, data, dot, (&x, &y));
    }
    draw_names(scene, panel, dots, (&x, &y), &lines);
}

/// The scale of the metric. An error without an upper bound, of which some is many times another, has a logarithmic one; its title says so.
fn metric_scale<'a>(rows: impl Iterator<Item = &'a AggregateRow>, values: &[Value], pixels: (f64, f64)) -> (Scale, &'static str) {
    const MANY: f64 = 8.0;
    let low = values.iter().flat_map(Value::extent).fold(f64::INFINITY, f64::min);
    let high = values.iter().flat_map(Value::extent).fold(0.0, f64::max);
    match low > 0.0 && high > 1.0 && high / low > MANY {
        true => (Scale::logarithmic((low / 1.2, high * 1.2), pixels), ", logarithmic"),
        false => (Scale::linear(metric_range(rows, values), pixels), ""),
    }
}

fn cost_scale(dots: &[Dot<'_>], cost: &Cost<'_>, pixels: (f64, f64)) -> Scale {
    let extents = dots.iter().flat_map(|dot| dot.cost.extent());
    match cost.logarithmic {
        true => {
            let positive = extents.filter(|value| *value > 0.0);
            let low = positive.clone().fold(f64::INFINITY, f64::min);
            let high = positive.fold(low, f64::max);
            Scale::logarithmic((low / 1.6, (high * 1.6).max(low * 4.0)), pixels)
        }
        false => Scale::linear(crate::axis::range_of(extents), pixels),
    }
}

/// The front as steps: the best score to be had up to a cost. Gives what the lines cover.
fn draw_front(scene: &mut Scene, dots: &[Dot<'_>], (x, y): (&Scale, &Scale)) -> Vec<Bounds> {
    let mut front: Vec<&Dot<'_>> = dots.iter().filter(|dot| dot.on_front).collect();
    front.sort_by(|a, b| a.cost.center.total_cmp(&b.cost.center));
    let mut path = Vec::new();
    for pair in front.windows(2) {
        path.push((x.at(pair[0].cost.center), y.at(pair[0].metric.center)));
        path.push((x.at(pair[1].cost.center), y.at(pair[0].metric.center)));
    }
    if let Some(last) = front.last() {
        path.push((x.at(last.cost.center), y.at(last.metric.center)));
    }
    let covered = |ends: &[Point]| Bounds {
        left: ends[0].0.min(ends[1].0) - 1.0,
        top: ends[0].1.min(ends[1].1) - 1.0,
        right: ends[0].0.max(ends[1].0) + 1.0,
        bottom: ends[0].1.max(ends[1].1) + 1.0,
    };
    let lines = path.windows(2).map(covered).collect();
    scene.path(path, GRAY, 1.5);
    lines
}

fn draw_dot(scene: &mut Scene, data: &Data, dot: &Dot<'_>, (x, y): (&Scale, &Scale)) {
    let look = data.look(&dot.cell.place.method);
    let look = if dot.on_front { look } else { look.faded(0.45) };
    let (at_x, at_y) = (x.at(dot.cost.center), y.at(dot.metric.center));
    let width = if dot.on_front { 1.5 } else { 1.0 };
    if let Some((low, high)) = dot.metric.ends {
        scene.line((at_x, y.at(low)), (at_x, y.at(high)), look.color, width);
    }
    if let Some((low, high)) = dot.cost.ends {
        scene.line((x.at(low), at_y), (x.at(high), at_y), look.color, width);
    }
    let radius = if dot.on_front { 5.5 } else { 4.0 };
    match dot.metric.ends {
        Some(_) => look.draw(scene, (at_x, at_y), radius),
        None => look.draw_hollow(scene, (at_x, at_y), radius),
    }
}

/// What tells a point from the others of its colour: targets and layers; the method itself where it is on all that it could be on.
fn name(place: &Place) -> String {
    let whole = (place.targets == DEFAULT_TARGETS, place.layers == ALL_LAYERS);
    match whole {
        (true, true) => place.method.clone(),
        (true, false) => format!("{} · {}", place.method, place.layers),
        (false, true) => place.targets.clone(),
        (false, false) => format!("{} · {}", place.targets, place.layers),
    }
}

/// Names the points of the front where a name finds a free place; the CSV has them all.
fn draw_names(scene: &mut Scene, panel: Bounds, dots: &[Dot<'_>], (x, y): (&Scale, &Scale), lines: &[Bounds]) {
    let at = |dot: &Dot<'_>| (x.at(dot.cost.center), y.at(dot.metric.center));
    let whisker = |dot: &Dot<'_>| {
        let ((px, _), [low, _, high]) = (at(dot), dot.metric.extent());
        Bounds { left: px - 2.0, top: y.at(low.max(high)), right: px + 2.0, bottom: y.at(low.min(high)) }
    };
    if dots.windows(2).all(|pair| name(&pair[0].cell.place) == name(&pair[1].cell.place)) {
        // The name would tell none from another.
        return;
    }
    let mut taken: Vec<Bounds> = dots.iter().flat_map(|dot| [Bounds::around(at(dot), 6.0), whisker(dot)]).collect();
    taken.extend(lines.iter().copied());
    for dot in dots.iter().filter(|dot| dot.on_front) {
        let name = fonts::fit(&name(&dot.cell.place), SMALL - 1.5, false, 190.0);
        let (px, py) = at(dot);
        let [lowest, _, highest] = dot.metric.extent();
        let places = [
            ((px + 9.0, py - 9.0), Anchor::Start),
            ((px + 9.0, py + 10.0), Anchor::Start),
            ((px - 9.0, py - 9.0), Anchor::End),
            ((px - 9.0, py + 10.0), Anchor::End),
            ((px + 9.0, py - 20.0), Anchor::Start),
            ((px + 9.0, py + 22.0), Anchor::Start),
            ((px - 9.0, py - 20.0), Anchor::End),
            ((px, y.at(highest) - 9.0), Anchor::Middle),
            ((px, y.at(lowest) + 10.0), Anchor::Middle),
        ];
        let text = |(at, anchor)| Text::new(name.as_str(), at, SMALL - 1.5).anchor(anchor);
        let free = |text: &Text| {
            let bounds = text.bounds();
            panel.contains(&bounds) && !taken.iter().any(|other| other.overlaps(&bounds))
        };
        if let Some(text) = places.into_iter().map(text).find(free) {
            let bounds = text.bounds();
            scene.text(text);
            taken.push(bounds);
        }
    }
}

fn fields(dot: &Dot<'_>) -> Vec<String> {
    let mut fields = super::accuracy::metric_fields(dot.cell);
    fields.extend([field(Some(dot.cost.center)), dot.on_front.to_string()]);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_spans_decades_has_a_logarithmic_axis_and_a_share_never() {
        let bare = |values: &[f64]| values.iter().map(|&center| Value { center, ends: None }).collect::<Vec<_>>();
        let steps = |values: &[f64]| metric_scale(std::iter::empty(), &bare(values), (100.0, 0.0)).1;
        assert_eq!([steps(&[0.7, 30.0]), steps(&[0.7, 1.5]), steps(&[0.01, 0.9])], [", logarithmic", "", ""]);
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let points = [(1.0, 0.5), (2.0, 0.7), (2.0, 0.6), (3.0, 0.65), (4.0, 0.9), (1.0, 0.5)];
        assert_eq!(pareto(&points), [true, true, false, false, true, true]);
    }
}
