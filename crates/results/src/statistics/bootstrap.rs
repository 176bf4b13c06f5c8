//! Percentile bootstrap over items, and over seeds and items.

use super::{CONFIDENCE, Interval, quantile};
use peftbench_spec::seed::Stream;
use rand::RngExt;

/// Percentile bootstrap interval for the mean of `scores`, items drawn with replacement `resamples` times (Efron 1979);
/// `None` for no items or no resamples.
pub fn bootstrap_items(scores: &[f64], resamples: usize, stream: &mut Stream) -> Option<Interval> {
    if scores.is_empty() {
        return None;
    }
    let count = scores.len();
    let one = |stream: &mut Stream| (0..count).map(|_| scores[stream.random_range(0..count)]).sum::<f64>() / count as f64;
    percentile((0..resamples).map(|_| one(stream)).collect())
}

/// Percentile bootstrap interval for the mean of a crossed design: `scores[seed][item]`, the same items for every seed. Each resample
/// draws seeds and, independently, items (Owen 2007, "The pigeonhole bootstrap"). `None` for no seeds or items, or rows of unequal length.
pub fn bootstrap_seeds_items(scores: &[Vec<f64>], resamples: usize, stream: &mut Stream) -> Option<Interval> {
    let items = scores.first()?.len();
    if items == 0 || scores.iter().any(|row| row.len() != items) {
        return None;
    }
    let mut seed_weights = vec![0.0; scores.len()];
    let mut one = |stream: &mut Stream| {
        seed_weights.fill(0.0);
        for _ in 0..scores.len() {
            seed_weights[stream.random_range(0..scores.len())] += 1.0;
        }
        let mut sum = 0.0;
        for _ in 0..items {
            let item = stream.random_range(0..items);
            sum += scores.iter().zip(&seed_weights).map(|(row, weight)| weight * row[item]).sum::<f64>();
        }
        sum / (items * scores.len()) as f64
    };
    percentile((0..resamples).map(|_| one(stream)).collect())
}

/// The middle [`CONFIDENCE`] of the resampled values.
pub(super) fn percentile(mut values: Vec<f64>) -> Option<Interval> {
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Interval { low: quantile(&values, tail)?, high: quantile(&values, 1.0 - tail)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn equal_streams_give_equal_intervals_and_constant_scores_no_width() {
        let scores: Vec<f64> = (0..50).map(|i| f64::from(i % 3 == 0)).collect();
        let once = bootstrap_items(&scores, 500, &mut stream(1, "a"));
        assert_eq!(once, bootstrap_items(&scores, 500, &mut stream(1, "a")));
        assert_ne!(once, bootstrap_items(&scores, 500, &mut stream(2, "a")));
        assert_eq!(bootstrap_items(&[0.5; 9], 100, &mut stream(1, "a")), Some(Interval { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn one_seed_crossed_is_the_bootstrap_over_its_items() {
        let scores: Vec<f64> = (0..200).map(|i| f64::from(i % 4 == 0)).collect();
        let crossed = bootstrap_seeds_items(std::slice::from_ref(&scores), 20_000, &mut stream(1, "a")).unwrap();
        let items = bootstrap_items(&scores, 20_000, &mut stream(1, "b")).unwrap();
        assert!((crossed.low - items.low).abs() < 0.006 && (crossed.high - items.high).abs() < 0.006);
        assert_eq!(bootstrap_seeds_items(&[vec![1.0], vec![1.0, 0.0]], 10, &mut stream(1, "a")), None);
    }
}
