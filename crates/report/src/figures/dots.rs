//! Small multiples of dot plots: a block a model, a column a task, a row a configuration with its label at the left. Long labels have
//! room there, and any number of rows only makes the figure taller.

use super::Value;
use crate::axis::{Scale, decimals};
use crate::canvas::{Canvas, DOTS, Key, MARGIN, SMALL, WIDTH, bottom_axis, frame};
use crate::fonts;
use crate::scene::{Bounds, Color, GRAY, GRID, Scene, Text};
use crate::style::Look;

/// One model's rows.
pub(super) struct Block<'a> {
    pub(super) title: String,
    pub(super) rows: Vec<RowLabel>,
    pub(super) columns: Vec<Column<'a>>,
}

/// What stands left of a row. A group's label is drawn at its first row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowLabel {
    pub(super) group: String,
    pub(super) look: Option<Look>,
    pub(super) label: String,
}

/// One task's panel.
pub(super) struct Column<'a> {
    pub(super) title: String,
    pub(super) axis: String,
    pub(super) range: (f64, f64),
    /// Zero-shot: a dashed line in a light band.
    pub(super) reference: Option<Value>,
    /// What answers score that look at no prompt: a dotted line.
    pub(super) chance: Option<f64>,
    pub(super) format: &'a dyn Fn(f64, f64) -> String,
    /// By row: the points, or a word on their absence.
    pub(super) cells: Vec<Points>,
}

/// What a panel shows in one row.
pub(super) enum Points {
    Some(Vec<(Look, Value)>),
    Absent(String),
}

/// What a legend says of the lines in these blocks: zero-shot and chance, where there are such.
pub(super) fn line_legend(blocks: &[Block<'_>]) -> Vec<(Key, String)> {
    let any = |has: fn(&Column<'_>) -> bool| blocks.iter().flat_map(|block| &block.columns).any(has);
    let zero_shot = any(|column| column.reference.is_some()).then(|| (Key::Dashed, "zero-shot, with its interval as a band".to_owned()));
    let chance = any(|column| column.chance.is_some()).then(|| (Key::Dotted, "chance: answers that look at no prompt".to_owned()));
    zero_shot.into_iter().chain(chance).collect()
}

/// Height of a row with one point.
const ROW: f64 = 18.0;
/// Further height for every further point of a row.
const DODGE: f64 = 8.0;
/// The narrowest panel.
const NARROWEST: f64 = 210.0;
const GAP: f64 = 36.0;

/// Plain numbers for a metric's axis.
pub(super) fn plain(value: f64, step: f64) -> String {
    decimals(value, step)
}

/// Draws the blocks one below the other.
pub(super) fn draw(canvas: &mut Canvas, blocks: &[Block<'_>]) {
    let grouped = blocks.iter().flat_map(|b| &b.rows).filter(|row| !row.group.is_empty());
    let groups = grouped.map(|row| fonts::width(&row.group, SMALL, true) + 20.0).fold(0.0, f64::max).min(400.0);
    // As wide as they need to be, while there is room for two panels.
    let widest = (WIDTH - 2.0 * MARGIN - groups - 2.0 * (NARROWEST + GAP)).max(300.0);
    let labels = blocks.iter().flat_map(|b| &b.rows).map(|row| fonts::width(&row.label, SMALL, false)).fold(0.0, f64::max).min(widest);
    let left = MARGIN + groups + labels + if groups > 0.0 { 24.0 } else { 12.0 };
    let room = WIDTH - MARGIN - left;
    let most = ((room + GAP) / (NARROWEST + GAP)).floor().max(1.0) as usize;
    for block in blocks {
        if !block.title.is_empty() {
            canvas.y += 10.0;
            canvas.scene.text(Text::new(block.title.as_str(), (MARGIN, canvas.y), 13.0).bold());
            canvas.y += 9.0;
        }
        // As many in each line as can be; a last line that is not full keeps the width of the others.
        let lines = block.columns.len().div_ceil(most).max(1);
        let across = block.columns.len().div_ceil(lines).max(1);
        let width = (room - GAP * (across - 1) as f64) / across as f64;
        for columns in block.columns.chunks(across) {
            draw_chunk(canvas, block, columns, (left, width), (groups, labels));
        }
    }
}

fn draw_chunk(canvas: &mut Canvas, block: &Block<'_>, columns: &[Column<'_>], (left, width): (f64, f64), label_widths: (f64, f64)) {
    let heights: Vec<f64> = (0..block.rows.len()).map(|row| row_height(columns, row)).collect();
    let top = canvas.y + 20.0;
    let mut edges = vec![top];
    for height in &heights {
        edges.push(edges[edges.len() - 1] + height);
    }
    let bottom = edges[edges.len() - 1];
    let right = left + columns.len() as f64 * (width + GAP) - GAP;
    draw_labels(&mut canvas.scene, block, &edges, label_widths, right);
    for (index, column) in columns.iter().enumerate() {
        let x = left + index as f64 * (width + GAP);
        let panel = Bounds { left: x, top, right: x + width, bottom };
        let title = fonts::fit(&column.title, 12.0, true, width);
        canvas.scene.text(Text::new(title, (x, top - 10.0), 12.0).bold());
        draw_panel(&mut canvas.scene, panel, column, &edges, block);
    }
    canvas.y = bottom + 44.0;
}

fn row_height(columns: &[Column<'_>], row: usize) -> f64 {
    let points = |column: &Column<'_>| match &column.cells[row] {
        Points::Some(points) => points.len(),
        Points::Absent(_) => 1,
    };
    ROW + DODGE * columns.iter().map(points).max().unwrap_or(1).saturating_sub(1) as f64
}

/// Draws what stands left of the rows, and lines between groups as far as the panels go.
fn draw_labels(scene: &mut Scene, block: &Block<'_>, edges: &[f64], (groups, labels): (f64, f64), right: f64) {
    for (index, row) in block.rows.iter().enumerate() {
        let middle = (edges[index] + edges[index + 1]) / 2.0;
        let begins = index == 0 || block.rows[index - 1].group != row.group;
        if begins && !row.group.is_empty() {
            if index > 0 {
                scene.line((MARGIN, edges[index]), (right, edges[index]), GRID, 1.0);
            }
            if let Some(look) = row.look {
                look.draw(scene, (MARGIN + 6.0, middle), 4.5);
            }
            let text = fonts::fit(&row.group, SMALL, true, groups - 18.0);
            scene.text(Text::new(text, (MARGIN + 17.0, middle), SMALL).bold());
        }
        let x = MARGIN + groups + if groups > 0.0 { 12.0 } else { 0.0 };
        scene.text(Text::new(fonts::fit(&row.label, SMALL, false, labels), (x, middle), SMALL));
    }
}

fn draw_panel(scene: &mut Scene, panel: Bounds, column: &Column<'_>, edges: &[f64], block: &Block<'_>) {
    let scale = Scale::linear(column.range, (panel.left, panel.right));
    if let Some((low, high)) = column.reference.and_then(|reference| reference.ends) {
        let band = Bounds { left: scale.at(low), right: scale.at(high), ..panel };
        scene.rect(band, Color::hex(0xeef0f2));
    }
    bottom_axis(scene, panel, &scale, 7, column.format, &column.axis);
    for (index, row) in block.rows.iter().enumerate().skip(1) {
        if row.group != block.rows[index - 1].group || row.group.is_empty() {
            scene.line((panel.left, edges[index]), (panel.right, edges[index]), GRID, 1.0);
        }
    }
    frame(scene, panel);
    if let Some(chance) = column.chance {
        let x = scale.at(chance);
        scene.dashed((x, panel.top), (x, panel.bottom), GRAY, 1.5, DOTS);
    }
    if let Some(reference) = column.reference {
        let x = scale.at(reference.center);
        scene.dashed((x, panel.top), (x, panel.bottom), GRAY, 1.5, (5.0, 3.0));
    }
    for (index, cell) in column.cells.iter().enumerate() {
        let (top, bottom) = (edges[index], edges[index + 1]);
        match cell {
            Points::Absent(reason) => {
                let text = Text::new(
                    fonts::fit(reason, SMALL - 1.0, false, panel.width() - 12.0),
                    (panel.left + 6.0, (top + bottom) / 2.0),
                    SMALL - 1.0,
                );
                scene.text(text.color(GRAY));
            }
            Points::Some(points) => {
                let distance = (bottom - top) / (points.len() + 1) as f64;
                for (place, (look, value)) in points.iter().enumerate() {
                    draw_point(scene, &scale, top + distance * (place + 1) as f64, look, value);
                }
            }
        }
    }
}

/// A marker with a horizontal whisker; one without an interval is hollow.
fn draw_point(scene: &mut Scene, scale: &Scale, y: f64, look: &Look, value: &Value) {
    let x = scale.at(value.center);
    match value.ends {
        Some((low, high)) => {
            let (low, high) = (scale.at(low), scale.at(high));
            scene.line((low, y), (high, y), look.color, 1.5);
            for end in [low, high] {
                scene.line((end, y - 3.0), (end, y + 3.0), look.color, 1.5);
            }
            look.draw(scene, (x, y), 4.5);
        }
        None => look.draw_hollow(scene, (x, y), 4.5),
    }
}
