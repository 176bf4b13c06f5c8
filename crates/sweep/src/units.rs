//! Counts, bytes and times as people read them: `1.3 M`, `212 MiB`, `3 min 20 s`.

use std::fmt;

/// A count, in thousands, millions and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// A number of bytes, in powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A span of time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(scaled(self.0, 1000.0, &["", "k", "M", "G", "T", "P", "E"]).trim_end())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&duration(self.0))
    }
}

/// `value` in the largest unit that leaves at least 1, with one decimal below 100.
fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    let mut amount = value as f64;
    let mut unit = 0;
    let decimals = |amount: f64, unit: usize| usize::from(unit > 0 && amount < 99.95);
    let rounded = |amount: f64, unit: usize| if decimals(amount, unit) == 1 { (amount * 10.0).round() / 10.0 } else { amount.round() };
    // Rounding may carry into the next unit: 999 999 is 1.0 M, not 1000 k.
    while rounded(amount, unit) >= base && unit + 1 < units.len() {
        amount /= base;
        unit += 1;
    }
    format!("{amount:.*} {}", decimals(amount, unit), units[unit])
}

/// The two largest units of a span of time.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    let minutes = (seconds / 60.0).round() as u64;
    let hours = (seconds / 3600.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => pair(whole / 60, "min", whole % 60, "s"),
        _ if minutes < 24 * 60 => pair(minutes / 60, "h", minutes % 60, "min"),
        _ => pair(hours / 24, "d", hours % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_bytes_take_the_fitting_unit() {
        for (count, text) in
            [(0, "0"), (999, "999"), (1000, "1.0 k"), (1_300_000, "1.3 M"), (99_960, "100 k"), (999_999, "1.0 M"), (134_515_008, "135 M")]
        {
            assert_eq!(Count(count).to_string(), text);
        }
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (212 << 20, "212 MiB"), ((1 << 20) - 1, "1.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Count(1300)), "   1.3 k|");
    }

    #[test]
    fn times_show_their_two_largest_units() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.35, "350 ms"),
            (0.9999, "1.0 s"),
            (9.96, "10 s"),
            (59.7, "1 min"),
            (200.0, "3 min 20 s"),
            (3599.6, "1 h"),
            (7500.0, "2 h 5 min"),
            (86_399.0, "1 d"),
            (100_000.0, "1 d 4 h"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }
}
