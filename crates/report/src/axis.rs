//! Scales and ticks.

/// Maps values to pixels, linearly or by their logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// A linear scale of `low..high` onto the pixels `from..to`.
    pub fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        Self { low, high, from, to, logarithmic: false }
    }

    /// A logarithmic scale; `low` must be above 0.
    pub fn logarithmic((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        Self { low, high, from, to, logarithmic: true }
    }

    /// The pixel of a value; values outside the range come to lie on its ends.
    pub fn at(&self, value: f64) -> f64 {
        let (value, low, high) = match self.logarithmic {
            true => (value.max(f64::MIN_POSITIVE).log10(), self.low.log10(), self.high.log10()),
            false => (value, self.low, self.high),
        };
        let share = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        self.from + share * (self.to - self.from)
    }

    /// Ticks, about `count` of them.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        match self.logarithmic {
            true => log_ticks(self.low, self.high),
            false => linear_ticks(self.low, self.high, count),
        }
    }
}

/// Multiples of 1, 2 or 5 times a power of ten within the range.
fn linear_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = nice_step((high - low) / count.max(1) as f64);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// The smallest of 1, 2 or 5 times a power of ten that is at least `rough`.
pub fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.max(f64::MIN_POSITIVE).log10().floor());
    let multiple = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0);
    multiple * power
}

/// Powers of ten; with few of them, 2 and 5 times these as well.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let multiples: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let within = |tick: &f64| *tick >= low * (1.0 - 1e-9) && *tick <= high * (1.0 + 1e-9);
    powers.flat_map(|power| multiples.iter().map(move |m| m * 10f64.powi(power))).filter(within).collect()
}

/// A range around `values` with some air, ends rounded to ticks; within 0 and 1 where all values are.
pub fn range_of(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|v| v.is_finite()) {
        low = low.min(value);
        high = high.max(value);
    }
    if low > high {
        return (0.0, 1.0);
    }
    if high - low < 1e-9 {
        let around = (high.abs() * 0.05).max(1e-3);
        return (low - around, high + around);
    }
    let step = nice_step((high - low) / 12.0);
    let below = (low / step - 0.4).floor() * step;
    // Air must not suggest that what is never negative could be.
    (if low >= 0.0 { below.max(0.0) } else { below }, (high / step + 0.4).ceil() * step)
}

/// A number with as many decimals as ticks of distance `step` need.
pub fn decimals(value: f64, step: f64) -> String {
    let places = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.places$}");
    if text.trim_start_matches('-').trim_matches(['0', '.']).is_empty() { text.trim_start_matches('-').to_owned() } else { text }
}

/// A count in three digits: `950`, `73.7k`, `1.2M`.
pub fn short_count(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        v if v >= 999_500_000.0 => (value / 1e9, "G"),
        v if v >= 999_500.0 => (value / 1e6, "M"),
        v if v >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match scaled.abs() {
        v if v >= 99.95 || v.fract() < 1e-9 => format!("{scaled:.0}"),
        v if v >= 9.995 => format!("{scaled:.1}"),
        _ => format!("{scaled:.2}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// A number above 0 with as many decimals as its size needs: `50`, `0.2`, `0.05`.
pub fn significant(value: f64) -> String {
    let places = (-value.max(f64::MIN_POSITIVE).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.places$}")
}

/// Puts thin spaces between thousands.
pub fn thousands(number: &str) -> String {
    let (whole, rest) = number.split_once('.').map_or((number, String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let digits: Vec<char> = whole.chars().collect();
    let mut grouped = String::new();
    for (index, digit) in digits.iter().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits[index - 1].is_ascii_digit() {
            grouped.push('\u{202f}');
        }
        grouped.push(*digit);
    }
    grouped + &rest
}

/// Bytes in MiB.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(linear_ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(linear_ticks(0.31, 0.42, 4).len(), 2);
        assert_eq!(log_ticks(900.0, 30_000.0), [1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0]);
        assert_eq!(log_ticks(1.0, 1e5).len(), 6);
    }

    #[test]
    fn numbers_are_short_and_say_enough() {
        assert_eq!(
            ["950", "73.7k", "1.2M", "2.6M", "1k", "0"],
            [950.0, 73_728.0, 1.2e6, 2_600_000.0, 1000.0, 0.0].map(short_count).map(|s| s).each_ref().map(String::as_str)
        );
        assert_eq!(
            (decimals(0.6000000000000001, 0.2), decimals(-0.0, 0.2), decimals(20.0, 10.0)),
            ("0.6".into(), "0.0".into(), "20".into())
        );
        assert_eq!([50.0, 1.0, 0.2, 0.05].map(significant), ["50", "1", "0.2", "0.05"]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            ["1\u{202f}234\u{202f}567", "999", "12\u{202f}345.6", "-123"],
            ["1234567", "999", "12345.6", "-123"].map(thousands).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn ranges_have_air_and_never_no_width() {
        let (low, high) = range_of([0.4, 0.6].into_iter());
        assert!(low < 0.4 && high > 0.6);
        let (low, high) = range_of([0.5].into_iter());
        assert!(low < 0.5 && high > 0.5);
        assert_eq!(range_of([f64::NAN].into_iter()), (0.0, 1.0));
    }

    #[test]
    fn scales_map_ends_to_ends() {
        let scale = Scale::logarithmic((1.0, 100.0), (0.0, 200.0));
        assert_eq!((scale.at(1.0), scale.at(10.0), scale.at(1e9)), (0.0, 100.0, 200.0));
    }
}
