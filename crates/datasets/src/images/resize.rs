//! Images of another size, as Pillow's `resize` with its filter BILINEAR makes them (which is what torchvision's `Resize` does to a
//! picture): a triangle as wide as the images shrink, first along the rows, then down the columns, in fixed-point numbers.

use super::Images;

/// Fraction bits of a weight, Pillow's PRECISION_BITS for values of 8 bits.
const FRACTION_BITS: u32 = 22;

impl Images {
    /// Images of `height` rows and `width` columns, at least one each.
    pub fn resized(&self, height: usize, width: usize) -> Self {
        let mut pixels = Vec::with_capacity(self.len() * height * width * self.channels);
        let (across, down) = (weights(self.width, width), weights(self.height, height));
        for index in 0..self.len() {
            let rows: Vec<u8> =
                self.pixels(index).chunks(self.width * self.channels).flat_map(|row| combine(row, self.channels, &across)).collect();
            pixels.extend(combine(&rows, width * self.channels, &down));
        }
        Self { height, width, channels: self.channels, pixels, labels: self.labels.clone() }
    }
}

/// What one place of the result is made of: places of the original from `first` on, by weight.
struct Weights {
    first: usize,
    weights: Vec<i32>,
}

/// The weights of each of `to` places over `from` places.
fn weights(from: usize, to: usize) -> Vec<Weights> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let at = |place: usize| {
        let center = (place as f64 + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(from);
        let triangle = |x: usize| (1.0 - ((x as f64 - center + 0.5) / reach).abs()).max(0.0);
        let sum: f64 = (first..end).map(triangle).sum();
        let fixed = |weight: f64| (weight / sum * f64::from(1 << FRACTION_BITS) + 0.5) as i32;
        Weights { first, weights: (first..end).map(|x| fixed(triangle(x))).collect() }
    };
    (0..to).map(at).collect()
}

/// Combines groups of `stride` values that lie behind each other.
fn combine(values: &[u8], stride: usize, places: &[Weights]) -> Vec<u8> {
    let value = |place: &Weights, offset: usize| {
        let from = values.iter().skip(place.first * stride + offset).step_by(stride);
        let sum: i32 = from.zip(&place.weights).map(|(&value, weight)| i32::from(value) * weight).sum();
        ((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS).clamp(0, 255) as u8
    };
    places.iter().flat_map(|place| (0..stride).map(move |offset| value(place, offset))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Pillow 13.0.0 (`fixtures/make_images.py`): an image of noise, 37 by 23, in smaller and in larger sizes.
    const NOISE: &[u8] = include_bytes!("../../fixtures/images/noise.rgb");
    const CASES: [(usize, usize, &[u8]); 4] = [
        (8, 8, include_bytes!("../../fixtures/images/noise_8x8.rgb")),
        (23, 5, include_bytes!("../../fixtures/images/noise_23x5.rgb")),
        (9, 37, include_bytes!("../../fixtures/images/noise_9x37.rgb")),
        (31, 50, include_bytes!("../../fixtures/images/noise_31x50.rgb")),
    ];

    #[test]
    fn sizes_are_pillows_bit_for_bit() {
        let noise = Images { height: 23, width: 37, channels: 3, pixels: [NOISE, NOISE].concat(), labels: vec![0, 1] };
        for (height, width, expected) in CASES {
            let small = noise.resized(height, width);
            assert_eq!((small.height, small.width, small.labels.as_slice()), (height, width, &[0, 1][..]));
            assert!(small.pixels(1) == expected && small.pixels(0) == expected, "{height} by {width}");
        }
        assert_eq!(noise.resized(23, 37), noise);
    }
}
