//! Small grey pictures of a few shapes.

use crate::draw;
use peftbench_spec::seed::Stream;

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A line from left to right.
    Across,
    /// A line from top to bottom.
    Down,
    /// A line from the top left to the bottom right.
    Falling,
    /// A line from the bottom left to the top right.
    Rising,
    /// A line across and one down.
    Cross,
    /// The border of a square.
    Frame,
    /// A full square.
    Block,
    /// A falling and a rising line.
    Saltire,
}

impl Shape {
    /// All of them; the first are the easiest to tell apart.
    pub(crate) const ALL: [Self; 8] =
        [Self::Across, Self::Down, Self::Falling, Self::Rising, Self::Block, Self::Cross, Self::Frame, Self::Saltire];

    /// Their names, in the same order.
    pub(crate) const NAMES: [&str; 8] = ["across", "down", "falling", "rising", "block", "cross", "frame", "saltire"];

    /// What the world's text calls it.
    pub(crate) fn phrase(self) -> &'static str {
        match self {
            Self::Across => "a line that runs across",
            Self::Down => "a line that runs down",
            Self::Falling => "a line that falls to the right",
            Self::Rising => "a line that falls to the left",
            Self::Cross => "a cross",
            Self::Frame => "a frame",
            Self::Block => "a block",
            Self::Saltire => "a cross that leans",
        }
    }

    /// Whether the shape covers `(row, column)` of a square of `size`, whose lines across and down cross at `centre`.
    fn covers(self, size: usize, centre: (usize, usize), (row, column): (usize, usize)) -> bool {
        let (across, down) = (row == centre.0, column == centre.1);
        let (falling, rising) = (row == column, row + column + 1 == size);
        match self {
            Self::Across => across,
            Self::Down => down,
            Self::Falling => falling,
            Self::Rising => rising,
            Self::Cross => across || down,
            Self::Frame => row == 0 || column == 0 || row + 1 == size || column + 1 == size,
            Self::Block => true,
            Self::Saltire => falling || rising,
        }
    }
}

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Canvas {
    /// Rows, and as many columns.
    pub(crate) side: usize,
    /// Greys from 0 to one less than this.
    pub(crate) levels: usize,
    /// Percent of the pixels that are drawn anew, whatever is shown.
    pub(crate) noise: usize,
}

/// A picture: rows of greys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) rows: Vec<Vec<usize>>,
}

impl Picture {
    /// Draws `shape` somewhere on the canvas, in bright greys on dark ones.
    pub(crate) fn draw(draws: &mut Stream, shape: Shape, canvas: Canvas) -> Self {
        let Canvas { side, levels, noise } = canvas;
        // The shape fills all of the canvas but for a row and a column at most.
        let size = if shape == Shape::Block { side - 2 } else { side - draw::below(draws, 2) };
        let (top, left) = (draw::below(draws, side - size + 1), draw::below(draws, side - size + 1));
        let inner = (size - 2).max(1);
        let centre = (1 + draw::below(draws, inner), 1 + draw::below(draws, inner));
        let shade = levels.div_ceil(4);
        let pixel = |row: usize, column: usize| {
            let inside = (top..top + size).contains(&row) && (left..left + size).contains(&column);
            let lit = inside && shape.covers(size, centre, (row - top, column - left));
            let grey = draw::below(draws, shade);
            match draw::chance(draws, noise, 100) {
                true => draw::below(draws, levels),
                false if lit => levels - 1 - grey,
                false => grey,
            }
        };
        let mut pixel = pixel;
        let rows = (0..side).map(|row| (0..side).map(|column| pixel(row, column)).collect()).collect();
        Self { rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn shapes_differ_and_stay_on_their_canvas() {
        let mut draws = stream(0, "t");
        let canvas = Canvas { side: 6, levels: 10, noise: 0 };
        let mut lit = Vec::new();
        for shape in Shape::ALL {
            let picture = Picture::draw(&mut draws, shape, canvas);
            assert!(picture.rows.len() == 6 && picture.rows.iter().all(|row| row.len() == 6 && row.iter().all(|&grey| grey < 10)));
            lit.push(picture.rows.iter().flatten().filter(|&&grey| grey >= 7).count());
        }
        assert!(lit[..4].iter().all(|n| (5..=6).contains(n)), "{lit:?}");
        assert!(lit[4] == 16 && lit[5] >= 9 && lit[6] >= 16 && lit[7] >= 9, "{lit:?}");
        let across = Picture::draw(&mut draws, Shape::Across, canvas);
        assert_eq!(across.rows.iter().filter(|row| row.iter().filter(|&&grey| grey >= 7).count() >= 5).count(), 1);
    }
}
