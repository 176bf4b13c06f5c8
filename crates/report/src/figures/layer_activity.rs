//! Which layers train when, and what importance a policy gives them: layer × step.

use super::heat::{draw_bar, draw_cells, left_out};
use super::{Drawing, Figure};
use crate::axis::{Scale, short_count};
use crate::canvas::{Canvas, MARGIN, SMALL, WIDTH, bottom_axis, frame};
use crate::csv_text::{CsvText, field};
use crate::data::{Cell, Data};
use crate::fonts;
use crate::scene::{Anchor, Bounds, GRAY, Scene, Text};
use peftbench_results::rows::LayerRow;
use std::collections::BTreeMap;

/// A map layer × step for each configuration whose policy chooses layers.
pub(super) struct LayerActivity;

/// Columns of a map at most; steps are gathered into them.
const COLUMNS: usize = 80;
const LEFT_AXIS: f64 = 54.0;
/// Configurations in one figure at most.
const MOST: usize = 8;

/// What a policy said in one run.
struct Activity<'a> {
    cell: &'a Cell,
    seed: u64,
    /// Steps of the run.
    steps: u64,
    /// Steps with a record: (step, by layer).
    records: BTreeMap<u64, Vec<&'a LayerRow>>,
    layers: usize,
}

impl Figure for LayerActivity {
    fn id(&self) -> &'static str {
        "layer-activity"
    }

    fn title(&self) -> &'static str {
        "Layers that train, by step"
    }

    fn reading(&self) -> &'static str {
        "Each map is one run (the lowest seed) under a policy that chooses layers: the bottom row is the first layer. On the left, the share of steps \
         in which a layer trained; on the right, where the policy keeps one, the importance it gives the layer."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let all: Vec<Activity<'_>> = activities(data);
        if all.is_empty() {
            return None;
        }
        let mut canvas = Canvas::new(self.title(), &data.subtitle(all.iter().map(|activity| activity.cell)));
        let mut csv =
            CsvText::new(&["model", "task", "method", "targets", "layers", "seed", "layer", "first_step", "share_trained", "importance"]);
        let width = (WIDTH - 2.0 * MARGIN) / 2.0;
        for activity in all.iter().take(MOST) {
            let place = &activity.cell.place;
            let title = format!("{} · {} · {} on {} · {}", place.model, place.task, place.method, place.targets, place.layers);
            canvas.scene.text(Text::new(fonts::fit(&title, 12.0, true, WIDTH - 2.0 * MARGIN), (MARGIN, canvas.y + 8.0), 12.0).bold());
            let height = (activity.layers as f64 * 12.0).clamp(48.0, 260.0);
            let top = canvas.y + 42.0;
            let (shares, importance) = (activity.shares(), activity.importance());
            let panel = |index: f64| Bounds {
                left: MARGIN + index * width + LEFT_AXIS,
                top,
                right: MARGIN + (index + 1.0) * width - 20.0,
                bottom: top + height,
            };
            draw_map(&mut canvas.scene, panel(0.0), activity, &shares, "share of steps trained", ("0", "1"));
            if let Some((low, high)) = range(&importance) {
                let scaled: Vec<Vec<Option<f64>>> =
                    importance.iter().map(|row| row.iter().map(|value| value.map(|v| scale(v, low, high))).collect()).collect();
                let end = |value: f64| if low.abs().max(high.abs()) < 0.01 { format!("{value:.1e}") } else { format!("{value:.3}") };
                let ends = (end(low), end(high));
                draw_map(&mut canvas.scene, panel(1.0), activity, &scaled, "importance", (&ends.0, &ends.1));
            }
            activity.numbers(&shares, &importance, &mut csv);
            canvas.y = top + height + 50.0;
        }
        let note = "Steps are gathered into at most 80 columns. The importance of a column is that of its last step with a record; shades of importance begin at a \
                    tenth, so that a layer without one stays blank.";
        Some(Drawing { scene: canvas.finish(&format!("{note}{}", left_out(all.len(), MOST))), csv })
    }
}

/// The run of the lowest seed of each cell with a policy, where it recorded anything.
fn activities(data: &Data) -> Vec<Activity<'_>> {
    let mut found = Vec::new();
    for cell in data.trained().filter(|cell| cell.row.policy != "static") {
        let runs = data.runs.iter().filter(|run| run.group_id == cell.row.group_id);
        let Some(run) = runs.min_by_key(|run| run.seed) else { continue };
        let mut records: BTreeMap<u64, Vec<&LayerRow>> = BTreeMap::new();
        data.layers.iter().filter(|row| row.run_id == run.run_id).for_each(|row| records.entry(row.step).or_default().push(row));
        let layers = records.values().flatten().map(|row| row.layer as usize + 1).max().unwrap_or(0);
        let steps = run.steps_done.unwrap_or(0);
        if layers > 0 && steps > 0 {
            found.push(Activity { cell, seed: run.seed, steps, records, layers });
        }
    }
    found
}

impl Activity<'_> {
    fn columns(&self) -> usize {
        (self.steps as usize).min(COLUMNS)
    }

    /// The column of a step, from 1.
    fn column(&self, step: u64) -> usize {
        ((step - 1) as usize * self.columns() / self.steps as usize).min(self.columns() - 1)
    }

    /// By layer and column, the share of steps in which the layer trained. A decision holds until the next one.
    fn shares(&self) -> Vec<Vec<Option<f64>>> {
        let mut counts = vec![vec![0.0; self.columns()]; self.layers];
        let mut totals = vec![0.0; self.columns()];
        let mut active: Vec<bool> = Vec::new();
        for step in 1..=self.steps {
            if let Some(rows) = self.records.get(&step) {
                active = vec![false; self.layers];
                rows.iter().for_each(|row| active[row.layer as usize] = row.selected);
            }
            if active.is_empty() {
                continue;
            }
            let column = self.column(step);
            totals[column] += 1.0;
            active.iter().enumerate().filter(|(_, active)| **active).for_each(|(layer, _)| counts[layer][column] += 1.0);
        }
        let share = |counts: Vec<f64>| counts.iter().zip(&totals).map(|(count, total)| (*total > 0.0).then(|| count / total)).collect();
        counts.into_iter().map(share).collect()
    }

    /// By layer and column, the last importance known.
    fn importance(&self) -> Vec<Vec<Option<f64>>> {
        let mut values = vec![vec![None; self.columns()]; self.layers];
        for (step, rows) in &self.records {
            let column = self.column(*step);
            rows.iter().for_each(|row| values[row.layer as usize][column] = row.importance);
        }
        for row in &mut values {
            let mut last = None;
            for value in row.iter_mut() {
                last = value.or(last);
                *value = last;
            }
        }
        values
    }

    fn numbers(&self, shares: &[Vec<Option<f64>>], importance: &[Vec<Option<f64>>], csv: &mut CsvText) {
        let place = &self.cell.place;
        let first_step = |column: usize| (1..=self.steps).find(|&step| self.column(step) == column);
        let first_steps: Vec<Option<u64>> = (0..self.columns()).map(first_step).collect();
        for layer in 0..self.layers {
            for (column, first) in first_steps.iter().enumerate() {
                let texts = [&place.model, &place.task, &place.method, &place.targets, &place.layers].map(Clone::clone);
                let numbers = [
                    self.seed.to_string(),
                    layer.to_string(),
                    field(*first),
                    field(shares[layer][column]),
                    field(importance[layer][column]),
                ];
                csv.push(texts.into_iter().chain(numbers).collect());
            }
        }
    }
}

/// The ends of all values; none where there is none.
fn range(rows: &[Vec<Option<f64>>]) -> Option<(f64, f64)> {
    let values = || rows.iter().flatten().flatten().copied().filter(|value| value.is_finite());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    (low <= high).then_some((low, high))
}

/// A value's shade between the ends, from a tenth on.
fn scale(value: f64, low: f64, high: f64) -> f64 {
    let share = if high > low { (value - low) / (high - low) } else { 0.5 };
    0.1 + 0.9 * share
}

fn draw_map(scene: &mut Scene, panel: Bounds, activity: &Activity<'_>, rows: &[Vec<Option<f64>>], title: &str, ends: (&str, &str)) {
    scene.text(Text::new(title, (panel.left, panel.top - 12.0), SMALL));
    draw_bar(scene, (panel.right - 180.0, panel.top - 12.0), ends);
    let steps = Scale::linear((0.0, activity.steps as f64), (panel.left, panel.right));
    bottom_axis(scene, panel, &steps, 5, &|value, _| short_count(value), "step");
    draw_cells(scene, panel, rows);
    frame(scene, panel);
    let height = panel.height() / activity.layers as f64;
    let every = (12.0 / height).ceil() as usize;
    for layer in (0..activity.layers).step_by(every.max(1)) {
        let y = panel.bottom - (layer as f64 + 0.5) * height;
        scene.text(Text::new(layer.to_string(), (panel.left - 6.0, y), SMALL - 1.5).color(GRAY).anchor(Anchor::End));
    }
    let middle = (panel.top + panel.bottom) / 2.0;
    scene.text(Text::new("layer", (panel.left - 34.0, middle), SMALL).anchor(Anchor::Middle).upwards());
}
