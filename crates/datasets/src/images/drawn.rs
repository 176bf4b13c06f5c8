//! Drawn images: ten figures at a place, in a size and a brightness of their own, under noise. They stand in for handwritten digits
//! where no data folder is at hand. Whole numbers only, so that every platform draws the same.

use super::Images;
use crate::draw::below;
use peftbench_spec::seed::{Stream, stream};

/// The classes, in the order of their labels.
pub const FIGURES: [&str; 10] =
    ["disc", "ring", "square", "frame", "cross", "diagonal cross", "horizontal bars", "vertical bars", "triangle", "chessboard"];

/// Smallest and largest noise-free brightness of a figure.
const BRIGHTNESS: std::ops::Range<usize> = 120..220;

/// `count` grey images of `edge` rows and columns, as many of each class as of any other (but for one), in random order. `noise` is the
/// width of the uniform noise on every pixel, up to 255.
///
/// Each part of a data set has a stream of its own, named by `part`.
pub fn draw(seed: u64, part: &str, count: usize, edge: usize, noise: u8) -> Images {
    let mut stream = stream(seed, &format!("images/{part}"));
    let mut labels: Vec<u8> = (0..count).map(|i| (i % FIGURES.len()) as u8).collect();
    crate::draw::shuffle(&mut stream, &mut labels);
    let mut pixels = Vec::with_capacity(count * edge * edge);
    labels.iter().for_each(|&label| draw_one(&mut stream, label, edge, noise, &mut pixels));
    Images { height: edge, width: edge, channels: 1, pixels, labels }
}

fn draw_one(stream: &mut Stream, label: u8, edge: usize, noise: u8, pixels: &mut Vec<u8>) {
    // Twice the radius, from half the edge to nearly all of it; the centre wherever the figure still fits.
    let size = edge / 2 + below(stream, edge / 2 - edge / 8);
    let mut place = || (size + 2 * below(stream, edge - size)) as i64;
    let (row_center, column_center) = (place(), place());
    let brightness = BRIGHTNESS.start + below(stream, BRIGHTNESS.len());
    for row in 0..edge {
        for column in 0..edge {
            // In halves of a pixel, from the centre to the middle of this one.
            let (down, right) = ((2 * row + 1) as i64 - row_center, (2 * column + 1) as i64 - column_center);
            let figure = if covers(label, down, right, size as i64) { brightness } else { 0 };
            let grain = below(stream, usize::from(noise) + 1);
            pixels.push((figure + grain).min(255) as u8);
        }
    }
}

/// Whether the figure covers the point `down` and `right` of its centre, in halves of a pixel; `size` is then its half width.
fn covers(label: u8, down: i64, right: i64, size: i64) -> bool {
    let (square, far) = (down * down + right * right, down.abs().max(right.abs()));
    let thin = size / 3;
    let inside = far <= size;
    match label {
        0 => square <= size * size,
        1 => square <= size * size && square >= (size - thin) * (size - thin),
        2 => far <= size * 4 / 5,
        3 => inside && far >= size - thin,
        4 => inside && down.abs().min(right.abs()) <= thin / 2 + 1,
        5 => inside && (down.abs() - right.abs()).abs() <= thin / 2 + 1,
        6 => inside && (down + size).rem_euclid(2 * size / 3 + 1) <= size / 3,
        7 => inside && (right + size).rem_euclid(2 * size / 3 + 1) <= size / 3,
        8 => inside && 2 * right.abs() <= down + size,
        _ => inside && ((down + size) / (size / 2 + 1) + (right + size) / (size / 2 + 1)) % 2 == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_balanced_parts_differ_and_draws_repeat() {
        let train = draw(1, "train", 40, 12, 60);
        assert_eq!(train, draw(1, "train", 40, 12, 60));
        assert_ne!(train, draw(1, "test", 40, 12, 60));
        (0..10).for_each(|label| assert_eq!(train.labels.iter().filter(|&&found| found == label).count(), 4));
    }

    /// A nearest neighbour on pixels, which knows nothing of figures, must do far better than chance and worse than perfect: a task
    /// worth learning.
    #[test]
    fn figures_can_be_told_apart() {
        let (train, test) = (draw(1, "train", 1000, 12, 100), draw(1, "test", 200, 12, 100));
        let distance = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2)).sum::<i32>();
        let right = (0..test.len()).filter(|&i| {
            let nearest = (0..train.len()).min_by_key(|&j| distance(test.pixels(i), train.pixels(j))).unwrap();
            train.labels[nearest] == test.labels[i]
        });
        let right = right.count();
        assert!((100..190).contains(&right), "{right} of 200");
    }
}
