//! Maps of cells whose shade is a value: what figures of layers and of channels share.

use crate::canvas::SMALL;
use crate::scene::{Anchor, Bounds, Color, GRAY, Scene, Text};

/// From nothing to all: white to a deep blue that also prints in grey.
const DEEP: (f64, f64, f64) = (8.0, 48.0, 107.0);

/// The colour of a share from 0 to 1.
pub(super) fn shade(share: f64) -> Color {
    let share = share.clamp(0.0, 1.0);
    let mix = |deep: f64| (255.0 + (deep - 255.0) * share).round() as u8;
    Color { rgb: (mix(DEEP.0), mix(DEEP.1), mix(DEEP.2)), alpha: 1.0 }
}

/// Fills a panel with cells, rows from the bottom up; absent cells stay paper. Neighbours of one shade are drawn as one, so that a file
/// stays small.
pub(super) fn draw_cells(scene: &mut Scene, panel: Bounds, rows: &[Vec<Option<f64>>]) {
    let height = panel.height() / rows.len().max(1) as f64;
    for (row, values) in rows.iter().enumerate() {
        let width = panel.width() / values.len().max(1) as f64;
        let bottom = panel.bottom - row as f64 * height;
        let mut start = 0;
        while start < values.len() {
            let end = (start + 1..values.len()).find(|&i| values[i] != values[start]).unwrap_or(values.len());
            if let Some(share) = values[start].filter(|share| *share > 0.0) {
                let (left, right) = (panel.left + start as f64 * width, panel.left + end as f64 * width);
                scene.rect(Bounds { left, top: bottom - height, right, bottom }, shade(share));
            }
            start = end;
        }
    }
}

/// A key of the shades: a bar with the values of its ends.
pub(super) fn draw_bar(scene: &mut Scene, (left, y): (f64, f64), (low, high): (&str, &str)) {
    const WIDTH: f64 = 120.0;
    const STEPS: usize = 24;
    scene.text(Text::new(low, (left, y), SMALL - 0.5).color(GRAY).anchor(Anchor::End));
    let left = left + 6.0;
    for step in 0..STEPS {
        let at = |i: usize| left + WIDTH * i as f64 / STEPS as f64;
        let bounds = Bounds { left: at(step), top: y - 5.0, right: at(step + 1), bottom: y + 5.0 };
        scene.rect(bounds, shade((step as f64 + 0.5) / STEPS as f64));
    }
    scene.text(Text::new(high, (left + WIDTH + 6.0, y), SMALL - 0.5).color(GRAY));
}

/// Says how many of `all` configurations a figure of at most `most` does not show.
pub(super) fn left_out(all: usize, most: usize) -> String {
    match all.saturating_sub(most) {
        0 => String::new(),
        more => format!(" Of {all} configurations the first {most} are shown, and {more} are left out."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Shape;

    #[test]
    fn shades_darken_and_equal_neighbours_are_one_rectangle() {
        assert_eq!(shade(0.0).rgb, (255, 255, 255));
        assert!(shade(0.3).rgb.0 > shade(0.7).rgb.0);
        let mut scene = Scene::new(100.0, 100.0);
        let panel = Bounds { left: 0.0, top: 0.0, right: 40.0, bottom: 20.0 };
        draw_cells(&mut scene, panel, &[vec![Some(1.0), Some(1.0), None, Some(0.5)], vec![Some(0.0); 4]]);
        let corners: Vec<_> =
            scene.shapes.iter().map(|shape| if let Shape::Area { points, .. } = shape { points[0] } else { panic!() }).collect();
        assert_eq!(corners, [(0.0, 10.0), (30.0, 10.0)]);
    }
}
