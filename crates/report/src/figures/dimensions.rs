//! Which channels and states of each layer's state space a method has selected.

use super::heat::{draw_bar, left_out, shade};
use super::{Drawing, Figure};
use crate::axis::Scale;
use crate::canvas::{Canvas, MARGIN, SMALL, WIDTH, bottom_axis, frame};
use crate::csv_text::CsvText;
use crate::data::{Cell, Data};
use crate::fonts;
use crate::scene::{Anchor, Bounds, Color, GRAY, Scene, Text};
use std::collections::{BTreeMap, BTreeSet};

/// A map channel × state for each layer.
pub(super) struct Dimensions;

/// Pruned channels and states.
const PRUNED: Color = Color::hex(0xd55e00);
const LEFT_AXIS: f64 = 60.0;
const GAP: f64 = 5.0;
/// Maps in one figure at most.
const MOST: usize = 8;

/// Over the seeds of a configuration, how many selected what.
struct Map<'a> {
    cell: &'a Cell,
    seeds: usize,
    /// By layer: channels and states of it, and what was selected.
    layers: BTreeMap<u64, Layer>,
}

#[derive(Default)]
struct Layer {
    channels: u64,
    states: u64,
    /// By channel and state (none for the whole channel): seeds that train it, and that prune it.
    counts: BTreeMap<(u64, Option<u64>), (usize, usize)>,
}

impl Figure for Dimensions {
    fn id(&self) -> &'static str {
        "dimensions"
    }

    fn title(&self) -> &'static str {
        "Channels and states selected"
    }

    fn reading(&self) -> &'static str {
        "A strip is a layer's state space: its channels from left to right, the states of each from bottom to top. Blue trains, the deeper the more \
         seeds agree; orange is pruned."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let maps: Vec<Map<'_>> = maps(data);
        if maps.is_empty() {
            return None;
        }
        let mut canvas = Canvas::new(self.title(), &data.subtitle(maps.iter().map(|map| map.cell)));
        let mut csv = CsvText::new(&[
            "model",
            "task",
            "method",
            "targets",
            "layers",
            "layer",
            "channel",
            "state",
            "seeds_trained",
            "seeds_pruned",
            "seeds",
        ]);
        draw_keys(&mut canvas, maps.iter().any(|map| map.prunes()));
        for map in maps.iter().take(MOST) {
            let place = &map.cell.place;
            let title = format!("{} · {} · {} on {} · {}", place.model, place.task, place.method, place.targets, place.layers);
            canvas.scene.text(Text::new(fonts::fit(&title, 12.0, true, WIDTH - 2.0 * MARGIN), (MARGIN, canvas.y + 8.0), 12.0).bold());
            canvas.y = draw_map(&mut canvas.scene, map, canvas.y + 24.0);
            map.numbers(&mut csv);
        }
        let note = format!(
            "A strip is a layer's state space: its channels from left to right, the states of each from bottom to top. A channel narrower than half a \
             pixel is drawn at that width.{}",
            left_out(maps.len(), MOST)
        );
        Some(Drawing { scene: canvas.finish(&note), csv })
    }
}

/// One map for each configuration with a selection.
fn maps(data: &Data) -> Vec<Map<'_>> {
    let mut maps = Vec::new();
    for cell in data.trained() {
        let runs: BTreeSet<&str> =
            data.runs.iter().filter(|run| run.group_id == cell.row.group_id).map(|run| run.run_id.as_str()).collect();
        let rows: Vec<_> = data.dimensions.iter().filter(|row| runs.contains(row.run_id.as_str())).collect();
        let seeds = rows.iter().map(|row| row.run_id.as_str()).collect::<BTreeSet<_>>().len();
        let mut layers: BTreeMap<u64, Layer> = BTreeMap::new();
        for row in rows {
            let layer = layers.entry(row.layer).or_default();
            (layer.channels, layer.states) = (row.num_channels, row.num_states);
            let counts = layer.counts.entry((row.channel, row.state)).or_default();
            if row.trained { counts.0 += 1 } else { counts.1 += 1 }
        }
        if !layers.is_empty() {
            maps.push(Map { cell, seeds, layers });
        }
    }
    maps
}

/// Explains the colours.
fn draw_keys(canvas: &mut Canvas, prunes: bool) {
    const WORDS: &str = "seeds that train it:";
    canvas.y += 4.0;
    let y = canvas.y;
    canvas.scene.text(Text::new(WORDS, (MARGIN, y), SMALL));
    let bar = MARGIN + fonts::width(WORDS, SMALL, false) + 40.0;
    draw_bar(&mut canvas.scene, (bar, y), ("none", "all"));
    if prunes {
        let left = bar + 190.0;
        canvas.scene.rect(Bounds { left, top: y - 5.0, right: left + 10.0, bottom: y + 5.0 }, PRUNED);
        canvas.scene.text(Text::new("pruned", (left + 16.0, y), SMALL));
    }
    canvas.y += 14.0;
}

/// Draws the strips below each other; where the next thing begins.
fn draw_map(scene: &mut Scene, map: &Map<'_>, top: f64) -> f64 {
    let (left, right) = (MARGIN + LEFT_AXIS, WIDTH - MARGIN - 10.0);
    let mut y = top;
    let mut last = Bounds { left, top, right, bottom: top };
    for (index, layer) in &map.layers {
        let height = (layer.states as f64 * 3.0).clamp(12.0, 48.0);
        let strip = Bounds { left, top: y, right, bottom: y + height };
        scene.rect(strip, Color::hex(0xf3f5f7));
        for (&(channel, state), &(trained, pruned)) in &layer.counts {
            let color = if trained > 0 {
                shade(0.15 + 0.85 * trained as f64 / map.seeds as f64)
            } else {
                PRUNED.faded(pruned as f64 / map.seeds as f64)
            };
            scene.rect(place(strip, layer, channel, state), color);
        }
        frame(scene, strip);
        scene.text(Text::new(format!("layer {index}"), (left - 6.0, y + height / 2.0), SMALL - 1.0).color(GRAY).anchor(Anchor::End));
        y += height + GAP;
        last = strip;
    }
    let channels = map.layers.values().map(|layer| layer.channels).max().unwrap_or(1);
    // The axis is drawn at the last strip; its grid lines would cross the others, so it has no height.
    let axis = Bounds { top: last.bottom, ..last };
    bottom_axis(scene, axis, &Scale::linear((0.0, channels as f64), (left, right)), 8, &|value, _| format!("{value:.0}"), "channel");
    last.bottom + 46.0
}

/// Where a state, or a whole channel, is drawn.
fn place(strip: Bounds, layer: &Layer, channel: u64, state: Option<u64>) -> Bounds {
    let width = strip.width() / layer.channels as f64;
    let height = strip.height() / layer.states as f64;
    let left = strip.left + channel as f64 * width;
    let (top, bottom) = match state {
        Some(state) => (strip.bottom - (state + 1) as f64 * height, strip.bottom - state as f64 * height),
        None => (strip.top, strip.bottom),
    };
    Bounds { left, top, right: left + width.max(0.5), bottom }
}

impl Map<'_> {
    fn prunes(&self) -> bool {
        self.layers.values().flat_map(|layer| layer.counts.values()).any(|(_, pruned)| *pruned > 0)
    }

    fn numbers(&self, csv: &mut CsvText) {
        let place = &self.cell.place;
        for (index, layer) in &self.layers {
            for (&(channel, state), &(trained, pruned)) in &layer.counts {
                let texts = [&place.model, &place.task, &place.method, &place.targets, &place.layers].map(Clone::clone);
                let state = state.map(|state| state.to_string()).unwrap_or_default();
                let numbers =
                    [index.to_string(), channel.to_string(), state, trained.to_string(), pruned.to_string(), self.seeds.to_string()];
                csv.push(texts.into_iter().chain(numbers).collect());
            }
        }
    }
}
