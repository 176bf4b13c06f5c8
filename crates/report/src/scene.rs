//! A picture as a list of shapes in logical pixels, before any backend: figures draw into it, `render` turns it into SVG and PNG.
//! One list for both is what keeps the two alike, and layout can be checked without looking at pixels.

use crate::fonts;

/// A colour with opacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Color {
    /// Red, green, blue.
    pub rgb: (u8, u8, u8),
    /// 0 transparent, 1 opaque.
    pub alpha: f64,
}

impl Color {
    /// An opaque colour from `0xRRGGBB`.
    pub const fn hex(code: u32) -> Self {
        Self { rgb: ((code >> 16) as u8, (code >> 8) as u8, code as u8), alpha: 1.0 }
    }

    /// The same colour with another opacity.
    pub const fn faded(self, alpha: f64) -> Self {
        Self { rgb: self.rgb, alpha }
    }
}

/// Text and frames.
pub const INK: Color = Color::hex(0x1f2328);
/// Secondary text, ticks, reference lines.
pub const GRAY: Color = Color::hex(0x59636e);
/// Grid lines.
pub const GRID: Color = Color::hex(0xe3e6ea);
/// Behind everything.
pub const PAPER: Color = Color::hex(0xffffff);

/// A point: x to the right, y downwards.
pub type Point = (f64, f64);

/// Horizontal anchor of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// The text begins at the point.
    Start,
    /// The text is centred on the point.
    Middle,
    /// The text ends at the point.
    End,
}

/// One line of text, vertically centred on its point.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// The words.
    pub text: String,
    /// Where.
    pub at: Point,
    /// Height of the em, pixels.
    pub size: f64,
    /// Bold or regular.
    pub bold: bool,
    /// Colour.
    pub color: Color,
    /// Horizontal anchor.
    pub anchor: Anchor,
    /// Whether it reads upwards.
    pub upwards: bool,
}

impl Text {
    /// Regular text in ink that begins at `at`.
    pub fn new(text: impl Into<String>, at: Point, size: f64) -> Self {
        Self { text: text.into(), at, size, bold: false, color: INK, anchor: Anchor::Start, upwards: false }
    }

    /// The same in another colour.
    pub fn color(self, color: Color) -> Self {
        Self { color, ..self }
    }

    /// The same with another anchor.
    pub fn anchor(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    /// The same in bold.
    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// The same turned to read upwards.
    pub fn upwards(self) -> Self {
        Self { upwards: true, ..self }
    }

    /// The box the text covers: left, top, right, bottom.
    pub fn bounds(&self) -> Bounds {
        let width = fonts::width(&self.text, self.size, self.bold);
        let before = match self.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
        let (x, y) = self.at;
        let half = self.size * 0.55;
        match self.upwards {
            false => Bounds { left: x - before, top: y - half, right: x - before + width, bottom: y + half },
            true => Bounds { left: x - half, top: y + before - width, right: x + half, bottom: y + before },
        }
    }
}

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Smallest x.
    pub left: f64,
    /// Smallest y.
    pub top: f64,
    /// Largest x.
    pub right: f64,
    /// Largest y.
    pub bottom: f64,
}

impl Bounds {
    /// A square of side `2 * half` around a point.
    pub fn around((x, y): Point, half: f64) -> Self {
        Self { left: x - half, top: y - half, right: x + half, bottom: y + half }
    }

    /// Whether the two share an area.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    /// Whether `other` lies inside.
    pub fn contains(&self, other: &Self) -> bool {
        self.left <= other.left && self.top <= other.top && self.right >= other.right && self.bottom >= other.bottom
    }

    /// Width.
    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    /// Height.
    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }
}

/// One thing to draw.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Straight segments through the points.
    Line {
        /// Points, at least two.
        points: Vec<Point>,
        /// Colour.
        color: Color,
        /// Thickness, pixels.
        width: f64,
    },
    /// A filled polygon.
    Area {
        /// Corners.
        points: Vec<Point>,
        /// Colour.
        color: Color,
    },
    /// A filled circle.
    Disc {
        /// Middle.
        center: Point,
        /// Radius.
        radius: f64,
        /// Colour.
        color: Color,
    },
    /// Text.
    Text(Text),
}

/// The shapes of a picture, the later ones on top.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Width, logical pixels.
    pub width: f64,
    /// Height, logical pixels.
    pub height: f64,
    /// What to draw.
    pub shapes: Vec<Shape>,
}

impl Scene {
    /// An empty picture.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, shapes: Vec::new() }
    }

    /// Adds a straight line.
    pub fn line(&mut self, from: Point, to: Point, color: Color, width: f64) {
        self.shapes.push(Shape::Line { points: vec![from, to], color, width });
    }

    /// Adds segments through the points; fewer than two draw nothing.
    pub fn path(&mut self, points: Vec<Point>, color: Color, width: f64) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, color, width });
        }
    }

    /// Adds a dashed line: `on` pixels drawn, `off` pixels left out.
    pub fn dashed(&mut self, from: Point, to: Point, color: Color, width: f64, (on, off): (f64, f64)) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let at = |distance: f64| (from.0 + dx * distance / length, from.1 + dy * distance / length);
        let mut start = 0.0;
        while start < length {
            self.line(at(start), at((start + on).min(length)), color, width);
            start += on + off;
        }
    }

    /// Adds a filled rectangle.
    pub fn rect(&mut self, bounds: Bounds, color: Color) {
        let Bounds { left, top, right, bottom } = bounds;
        self.shapes.push(Shape::Area { points: vec![(left, top), (right, top), (right, bottom), (left, bottom)], color });
    }

    /// Adds a filled polygon.
    pub fn area(&mut self, points: Vec<Point>, color: Color) {
        self.shapes.push(Shape::Area { points, color });
    }

    /// Adds a filled circle.
    pub fn disc(&mut self, center: Point, radius: f64, color: Color) {
        self.shapes.push(Shape::Disc { center, radius, color });
    }

    /// Adds text.
    pub fn text(&mut self, text: Text) {
        if !text.text.is_empty() {
            self.shapes.push(Shape::Text(text));
        }
    }

    /// All texts.
    pub fn texts(&self) -> impl Iterator<Item = &Text> {
        self.shapes.iter().filter_map(|shape| match shape {
            Shape::Text(text) => Some(text),
            _ => None,
        })
    }
}
