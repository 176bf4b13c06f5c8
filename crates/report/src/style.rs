//! How a method looks: one colour and one marker, the same in every figure of a report.

use crate::scene::{Color, INK, PAPER, Point, Scene};

/// Eight colours that stay apart under the common kinds of colour blindness (after Okabe and Ito, "Color universal design", 2008, and
/// Tol, "Colour schemes", 2021), none too light for a line on white.
const COLORS: [Color; 8] = [
    Color::hex(0x0072b2),
    Color::hex(0xd55e00),
    Color::hex(0x009e73),
    Color::hex(0xcc79a7),
    Color::hex(0xe69f00),
    Color::hex(0x332288),
    Color::hex(0x56b4e9),
    Color::hex(0x882255),
];

/// Shape of a point. It tells methods apart where the colour does not: in print, and beyond eight methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// Circle.
    Disc,
    /// Square.
    Square,
    /// Triangle on its base.
    Up,
    /// Square on its corner.
    Diamond,
    /// Triangle on its tip.
    Down,
}

const MARKERS: [Marker; 5] = [Marker::Disc, Marker::Square, Marker::Up, Marker::Diamond, Marker::Down];

/// Colour and marker of a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Colour.
    pub color: Color,
    /// Marker.
    pub marker: Marker,
}

impl Look {
    /// The look of the method at `index` of a report's methods; the first forty differ.
    pub fn of(index: usize) -> Self {
        Self { color: COLORS[index % COLORS.len()], marker: MARKERS[index % MARKERS.len()] }
    }

    /// The same, fainter.
    pub fn faded(self, alpha: f64) -> Self {
        Self { color: self.color.faded(alpha), ..self }
    }

    /// Draws the marker.
    pub fn draw(&self, scene: &mut Scene, (x, y): Point, radius: f64) {
        let r = radius;
        match self.marker {
            Marker::Disc => scene.disc((x, y), r, self.color),
            Marker::Square => {
                let r = r * 0.88;
                scene.area(vec![(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], self.color);
            }
            Marker::Up => scene.area(vec![(x, y - r * 1.2), (x + r * 1.1, y + r * 0.8), (x - r * 1.1, y + r * 0.8)], self.color),
            Marker::Diamond => {
                let r = r * 1.25;
                scene.area(vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)], self.color);
            }
            Marker::Down => scene.area(vec![(x, y + r * 1.2), (x + r * 1.1, y - r * 0.8), (x - r * 1.1, y - r * 0.8)], self.color),
        }
    }
}

impl Look {
    /// Draws the marker as that of a choice, in a ring where it lies at the end of what there was to choose from.
    pub fn draw_chosen(&self, scene: &mut Scene, at: Point, at_edge: bool) {
        if at_edge {
            scene.disc(at, 9.0, INK);
            scene.disc(at, 7.8, PAPER);
        } else {
            scene.disc(at, 7.0, PAPER);
        }
        self.draw(scene, at, 5.0);
    }

    /// Draws a cross in its colour: something failed.
    pub fn draw_cross(&self, scene: &mut Scene, (x, y): Point) {
        for slope in [-1.0, 1.0] {
            scene.line((x - 3.5, y - 3.5 * slope), (x + 3.5, y + 3.5 * slope), self.color, 1.8);
        }
    }
}

/// How a line is drawn: lines of one colour are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stroke {
    /// Pixels drawn and left out; none for a line without gaps.
    dashes: Option<(f64, f64)>,
}

impl Stroke {
    /// The stroke of the line at `index` among those of one colour; the first four differ.
    pub fn of(index: usize) -> Self {
        Self { dashes: [None, Some((7.0, 3.5)), Some((2.0, 3.0)), Some((12.0, 4.0))][index % 4] }
    }

    /// Draws segments through the points.
    pub fn path(&self, scene: &mut Scene, points: &[Point], color: Color, width: f64) {
        match self.dashes {
            None => scene.path(points.to_vec(), color, width),
            Some(dashes) => points.windows(2).for_each(|ends| scene.dashed(ends[0], ends[1], color, width, dashes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_methods_look_different() {
        let looks: Vec<Look> = (0..40).map(Look::of).collect();
        for (i, a) in looks.iter().enumerate() {
            assert!(looks[..i].iter().all(|b| a != b), "{i}");
        }
    }
}
