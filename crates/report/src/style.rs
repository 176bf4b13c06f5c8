//! How a method looks: one colour and one marker, the same in every figure of a report.

use crate::scene::{Color, INK, PAPER, Point, Scene};

/// Eight colours, each with a contrast of 3 to 1 on white as WCAG 2.1 asks of graphics (1.4.11), and any two of them apart with full and
/// with deficient colour vision. Found by a search from Okabe and Ito's ("Color universal design", 2008), of which two are too light.
const COLORS: [Color; 8] = [
    Color::hex(0x2c67ff),
    Color::hex(0xd07d08),
    Color::hex(0x03a862),
    Color::hex(0x54069f),
    Color::hex(0xbd7eb6),
    Color::hex(0x711935),
    Color::hex(0x674b0d),
    Color::hex(0x064272),
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

    /// Draws the marker hollow: a value without an interval.
    pub fn draw_hollow(&self, scene: &mut Scene, at: Point, radius: f64) {
        self.draw(scene, at, radius);
        Self { color: PAPER, ..*self }.draw(scene, at, radius * 0.55);
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

    /// Red, green and blue as light, from 0 to 1.
    fn linear(color: Color) -> [f64; 3] {
        let (red, green, blue) = color.rgb;
        [red, green, blue]
            .map(|value| f64::from(value) / 255.0)
            .map(|v| if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) })
    }

    fn times(matrix: [[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
    }

    /// CIELAB under D65.
    fn lab(light: [f64; 3]) -> [f64; 3] {
        let xyz = times([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], light);
        let share = |value: f64, white: f64| (value / white).max(0.0);
        let root = |share: f64| if share > 0.008856 { share.cbrt() } else { 7.787 * share + 16.0 / 116.0 };
        let [x, y, z] = [share(xyz[0], 0.9505), share(xyz[1], 1.0), share(xyz[2], 1.089)].map(root);
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    /// Colour vision in full, and without one of the three cones: Machado, Oliveira and Fernandes, "A physiologically-based model for
    /// simulation of color vision deficiency", 2009, at severity 1.
    const VISIONS: [[[f64; 3]; 3]; 4] = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ];

    #[test]
    fn colors_stand_out_from_paper_and_from_each_other() {
        for color in COLORS {
            let luminance: f64 = linear(color).iter().zip([0.2126, 0.7152, 0.0722]).map(|(a, b)| a * b).sum();
            assert!(1.05 / (luminance + 0.05) >= 3.0, "{color:?}");
        }
        for vision in VISIONS {
            let seen = COLORS.map(|color| lab(times(vision, linear(color)).map(|v| v.clamp(0.0, 1.0))));
            for (i, a) in seen.iter().enumerate() {
                for b in &seen[..i] {
                    let distance = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
                    assert!(distance > 25.0, "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn forty_methods_look_different() {
        let looks: Vec<Look> = (0..40).map(Look::of).collect();
        for (i, a) in looks.iter().enumerate() {
            assert!(looks[..i].iter().all(|b| a != b), "{i}");
        }
    }
}
