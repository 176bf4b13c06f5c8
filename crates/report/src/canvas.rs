//! The frame that all figures share: title, subtitle, legend, panels, note, from top to bottom.

use crate::axis::Scale;
use crate::fonts;
use crate::scene::{Anchor, Bounds, GRAY, GRID, INK, Scene, Text};
use crate::style::{Look, Marker, Stroke};

/// Width of every figure, logical pixels.
pub const WIDTH: f64 = 1080.0;
/// Empty space at the sides.
pub const MARGIN: f64 = 24.0;
/// Size of text in axes and labels.
pub const SMALL: f64 = 11.0;

/// A figure that grows downwards.
pub struct Canvas {
    /// What is drawn so far.
    pub scene: Scene,
    /// Where the next thing begins.
    pub y: f64,
}

/// A dotted line: drawn, and left out.
pub const DOTS: (f64, f64) = (1.5, 3.0);

/// The look of what belongs to any method.
const NEUTRAL: Look = Look { color: GRAY, marker: Marker::Disc };

/// What a legend explains.
pub enum Key {
    /// A method's marker.
    Method(Look),
    /// A marker without an interval.
    Hollow(Look),
    /// A dashed line.
    Dashed,
    /// A dotted line.
    Dotted,
    /// A thin solid line.
    Line,
    /// A method's line and marker, drawn with a stroke.
    Stroke(Look, Stroke),
    /// A marker with its interval.
    Interval,
    /// The marker of a choice.
    Chosen {
        /// Whether it lies at the end of what there was to choose from.
        at_edge: bool,
    },
    /// A cross for what failed.
    Cross,
}

impl Canvas {
    /// Begins with title and subtitle.
    pub fn new(title: &str, subtitle: &str) -> Self {
        let mut canvas = Self { scene: Scene::new(WIDTH, 0.0), y: 30.0 };
        canvas.scene.text(Text::new(title, (MARGIN, canvas.y), 18.0).bold());
        canvas.y += 22.0;
        canvas.paragraph(subtitle, 12.0);
        canvas.y += 4.0;
        canvas
    }

    /// Adds gray text over the full width.
    pub fn paragraph(&mut self, text: &str, size: f64) {
        for line in fonts::wrap(text, size, WIDTH - 2.0 * MARGIN) {
            self.scene.text(Text::new(line, (MARGIN, self.y), size).color(GRAY));
            self.y += size * 1.45;
        }
    }

    /// Adds a legend, broken into as many lines as it needs.
    pub fn legend(&mut self, entries: &[(Key, String)]) {
        const MARK: f64 = 26.0;
        let mut x = MARGIN;
        self.y += 4.0;
        for (key, label) in entries {
            let label = fonts::fit(label, SMALL, false, WIDTH - 2.0 * MARGIN - MARK);
            let width = MARK + fonts::width(&label, SMALL, false) + 20.0;
            if x + width > WIDTH - MARGIN + 20.0 && x > MARGIN {
                x = MARGIN;
                self.y += 18.0;
            }
            self.draw_key(key, x);
            self.scene.text(Text::new(label, (x + MARK, self.y), SMALL));
            x += width;
        }
        self.y += 20.0;
    }

    fn draw_key(&mut self, key: &Key, x: f64) {
        let (scene, y) = (&mut self.scene, self.y);
        match key {
            Key::Method(look) => look.draw(scene, (x + 12.0, y), 5.0),
            Key::Hollow(look) => look.draw_hollow(scene, (x + 12.0, y), 5.0),
            Key::Dashed => scene.dashed((x, y), (x + 21.0, y), GRAY, 1.5, (5.0, 3.0)),
            Key::Dotted => scene.dashed((x, y), (x + 21.0, y), GRAY, 1.5, DOTS),
            Key::Line => scene.line((x, y), (x + 20.0, y), GRAY, 1.5),
            Key::Stroke(look, stroke) => {
                stroke.path(scene, &[(x, y), (x + 21.0, y)], look.color, 2.0);
                look.draw(scene, (x + 10.5, y), 4.0);
            }
            Key::Chosen { at_edge } => NEUTRAL.draw_chosen(scene, (x + 12.0, y), *at_edge),
            Key::Cross => NEUTRAL.draw_cross(scene, (x + 12.0, y)),
            Key::Interval => {
                scene.line((x + 1.0, y), (x + 21.0, y), INK, 1.5);
                scene.disc((x + 11.0, y), 3.5, INK);
            }
        }
    }

    /// Ends with a note below everything.
    pub fn finish(mut self, note: &str) -> Scene {
        self.y += 6.0;
        self.paragraph(note, SMALL);
        self.scene.height = (self.y + 6.0).ceil();
        self.scene
    }
}

/// Draws the horizontal axis of a panel: vertical grid lines, tick labels below, a title below these.
pub fn bottom_axis(scene: &mut Scene, panel: Bounds, scale: &Scale, count: usize, format: &dyn Fn(f64, f64) -> String, title: &str) {
    let ticks = scale.ticks(count);
    let step = step_of(&ticks);
    let mut free_from = f64::NEG_INFINITY;
    for &tick in &ticks {
        let x = scale.at(tick);
        scene.line((x, panel.top), (x, panel.bottom), GRID, 1.0);
        let label = Text::new(format(tick, step), (x, panel.bottom + 13.0), SMALL - 0.5).color(GRAY).anchor(Anchor::Middle);
        // A label that would touch its neighbour is left out; its grid line stays.
        if label.bounds().left > free_from {
            free_from = label.bounds().right + 4.0;
            scene.text(label);
        }
    }
    let middle = (panel.left + panel.right) / 2.0;
    let title = fonts::fit(title, SMALL, false, panel.width() + 40.0);
    scene.text(Text::new(title, (middle, panel.bottom + 29.0), SMALL).color(INK).anchor(Anchor::Middle));
}

/// Draws the vertical axis of a panel: horizontal grid lines, tick labels to the left, a title left of these.
pub fn left_axis(scene: &mut Scene, panel: Bounds, scale: &Scale, count: usize, format: &dyn Fn(f64, f64) -> String, title: &str) {
    let ticks = scale.ticks(count);
    let step = step_of(&ticks);
    for &tick in &ticks {
        let y = scale.at(tick);
        scene.line((panel.left, y), (panel.right, y), GRID, 1.0);
        scene.text(Text::new(format(tick, step), (panel.left - 6.0, y), SMALL - 0.5).color(GRAY).anchor(Anchor::End));
    }
    let middle = (panel.top + panel.bottom) / 2.0;
    let title = fonts::fit(title, SMALL, false, panel.height() + 20.0);
    scene.text(Text::new(title, (panel.left - 48.0, middle), SMALL).anchor(Anchor::Middle).upwards());
}

/// Draws the left and bottom edges of a panel.
pub fn frame(scene: &mut Scene, panel: Bounds) {
    scene.line((panel.left, panel.bottom), (panel.right, panel.bottom), GRAY, 1.0);
    scene.line((panel.left, panel.top), (panel.left, panel.bottom), GRAY, 1.0);
}

/// Distance between ticks, which decides on the decimals of their labels.
fn step_of(ticks: &[f64]) -> f64 {
    let distance = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    match ticks.first() {
        Some(_) if distance.is_finite() => distance,
        Some(tick) if *tick != 0.0 => tick.abs(),
        _ => 1.0,
    }
}
