//! Comparisons of two methods on the same items, and the correction for making many of them.

use super::bootstrap::percentile;
use super::{Interval, mean};
use peftbench_spec::seed::Stream;
use rand::RngExt;
use statrs::function::factorial::ln_binomial;

/// Mean difference of paired scores, `a − b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedDifference {
    /// The mean difference.
    pub difference: f64,
    /// Percentile bootstrap interval over the items.
    pub interval: Interval,
    /// Two-sided p-value: twice the smaller share of resamples on either side of 0 (with one added, so that it is never 0).
    pub p_value: f64,
}

/// Paired bootstrap over items: both scores of an item are drawn together (Koehn 2004, "Statistical significance tests for machine
/// translation evaluation"). `None` for no items, no resamples or unequal lengths.
pub fn paired_bootstrap(a: &[f64], b: &[f64], resamples: usize, stream: &mut Stream) -> Option<PairedDifference> {
    if a.len() != b.len() || resamples == 0 {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let difference = mean(&differences)?;
    let count = differences.len();
    let one = |stream: &mut Stream| (0..count).map(|_| differences[stream.random_range(0..count)]).sum::<f64>() / count as f64;
    let means: Vec<f64> = (0..resamples).map(|_| one(stream)).collect();
    let share = |test: fn(&f64) -> bool| (1 + means.iter().filter(|m| test(m)).count()) as f64 / (resamples + 1) as f64;
    let p_value = (2.0 * share(|&m| m <= 0.0).min(share(|&m| m >= 0.0))).min(1.0);
    Some(PairedDifference { difference, interval: percentile(means)?, p_value })
}

/// Exact two-sided McNemar test (McNemar 1947) from the counts of items that only the first, and only the second, got right: under the
/// null hypothesis each discordant item falls either way with probability one half.
pub fn mcnemar_exact(only_first: u64, only_second: u64) -> f64 {
    let discordant = only_first + only_second;
    let tail = |k: u64| (ln_binomial(discordant, k) - discordant as f64 * std::f64::consts::LN_2).exp();
    let p: f64 = (0..=only_first.min(only_second)).map(tail).sum();
    (2.0 * p).min(1.0)
}

/// Holm's step-down correction (Holm 1979): adjusted p-values, in the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut highest = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        highest = highest.max((p_values.len() - rank) as f64 * p_values[index]).min(1.0);
        adjusted[index] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;
    use proptest::prelude::*;

    #[test]
    fn a_clear_difference_is_seen_and_none_is_not() {
        let better: Vec<f64> = (0..100).map(|i| f64::from(i % 10 != 0)).collect();
        let worse: Vec<f64> = (0..100).map(|i| f64::from(i % 2 != 0)).collect();
        let found = paired_bootstrap(&better, &worse, 2000, &mut stream(0, "t")).unwrap();
        assert!(found.p_value < 0.01 && found.interval.low > 0.0, "{found:?}");
        assert_eq!(paired_bootstrap(&better, &better, 100, &mut stream(0, "t")).unwrap().p_value, 1.0);
        assert_eq!(paired_bootstrap(&better, &worse[1..], 100, &mut stream(0, "t")), None);
    }

    proptest! {
        #[test]
        fn mcnemar_is_symmetric_and_a_probability(a in 0u64..200, b in 0u64..200) {
            let p = mcnemar_exact(a, b);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert_eq!(p, mcnemar_exact(b, a));
        }

        #[test]
        fn holm_never_lowers_a_p_value_and_keeps_the_order(p in prop::collection::vec(0.0f64..=1.0, 1..20)) {
            let adjusted = holm(&p);
            for i in 0..p.len() {
                prop_assert!(adjusted[i] >= p[i] && adjusted[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] >= p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
