//! Intervals and tests. Every function is checked against scipy or statsmodels (`tests/statistics.rs`).
//!
//! An interval says what it is an interval *of*: the spread over seeds, over test items, or over both. Randomness comes from the
//! project's named streams, so equal inputs give equal bytes.

mod bootstrap;
mod paired;
mod ranks;
mod stratified;

pub use bootstrap::{bootstrap_items, bootstrap_seeds_items};
pub use paired::{PairedDifference, holm, mcnemar_exact, paired_bootstrap};
pub use ranks::spearman;
pub use stratified::{StratifiedMean, Stratum, stratified_mean};

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// What an interval was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// Student's t over the seeds' values.
    SeedsT,
    /// Percentile bootstrap over the test items.
    ItemsBootstrap,
    /// Percentile bootstrap over seeds and items.
    SeedsItemsBootstrap,
    /// Normal interval from the standard error over the items.
    ItemsNormal,
}

impl IntervalKind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::SeedsT => "seeds_t",
            Self::ItemsBootstrap => "items_bootstrap",
            Self::SeedsItemsBootstrap => "seeds_items_bootstrap",
            Self::ItemsNormal => "items_normal",
        }
    }

    /// The name in a sentence: "95 % …".
    pub fn describe(self) -> &'static str {
        match self {
            Self::SeedsT => "t interval over seeds",
            Self::ItemsBootstrap => "bootstrap interval over test items",
            Self::SeedsItemsBootstrap => "bootstrap interval over seeds and test items",
            Self::ItemsNormal => "normal interval over test items",
        }
    }
}

/// A confidence interval at [`CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Arithmetic mean; `None` for no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation, with n − 1 below; `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let center = mean(values).filter(|_| values.len() > 1)?;
    // The rounded mean of equal values can differ from them: their deviation is 0 all the same.
    if values.iter().all(|value| *value == values[0]) {
        return Some(0.0);
    }
    let squares: f64 = values.iter().map(|v| (v - center).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Median, the mean of the two middle values for an even count; `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Quantile of ascending values by linear interpolation, numpy's default; `None` for no values.
pub(crate) fn quantile(sorted: &[f64], fraction: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = fraction * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

/// Student's t interval for the mean of a normal population; `None` for fewer than two values.
pub fn t_interval(values: &[f64]) -> Option<Interval> {
    let center = mean(values)?;
    let deviation = standard_deviation(values)?;
    let freedom = (values.len() - 1) as f64;
    let quantile = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.5 + CONFIDENCE / 2.0);
    let half = quantile * deviation / (values.len() as f64).sqrt();
    Some(Interval { low: center - half, high: center + half })
}

/// Normal interval around `value` from its standard error; `None` where that is not a number above or equal to 0.
pub fn normal_interval(value: f64, stderr: f64) -> Option<Interval> {
    let half = Normal::new(0.0, 1.0).ok()?.inverse_cdf(0.5 + CONFIDENCE / 2.0) * stderr;
    (half.is_finite() && half >= 0.0).then_some(Interval { low: value - half, high: value + half })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn too_few_values_have_no_spread() {
        assert_eq!((mean(&[]), median(&[]), standard_deviation(&[1.0]), t_interval(&[1.0])), (None, None, None, None));
        assert_eq!(standard_deviation(&[49.0 / 120.0; 3]), Some(0.0));
        assert_eq!(median(&[3.0, 1.0, 2.0, 10.0]), Some(2.5));
    }

    proptest! {
        #[test]
        fn intervals_hold_the_mean_and_move_with_the_values(values in prop::collection::vec(-1e3f64..1e3, 2..30), shift in -1e3f64..1e3) {
            let interval = t_interval(&values).unwrap();
            let center = mean(&values).unwrap();
            prop_assert!(interval.low <= center && center <= interval.high);
            let shifted: Vec<f64> = values.iter().map(|v| v + shift).collect();
            prop_assert!((t_interval(&shifted).unwrap().low - interval.low - shift).abs() < 1e-6);
        }
    }
}
