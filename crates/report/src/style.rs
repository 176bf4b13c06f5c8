//! How a method looks: one colour and one marker, the same in every figure of a report.

use crate::scene::{Color, Point, Scene};

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
