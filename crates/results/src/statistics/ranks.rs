//! Rank correlation.

/// The rank of each value, from 1; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let end = (start + 1..order.len()).find(|&i| values[order[i]] != values[order[start]]).unwrap_or(order.len());
        let shared = (start + 1 + end) as f64 / 2.0;
        order[start..end].iter().for_each(|&i| ranks[i] = shared);
        start = end;
    }
    ranks
}

/// Spearman's rank correlation of paired values; `None` for fewer than two, or where all of one side are equal.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() + 1) as f64 / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) is 0.8207826816681233 (the example of its documentation).
    #[test]
    fn agrees_with_scipy_with_ties() {
        let found = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap();
        assert!((found - 0.820_782_681_668_123_3).abs() < 1e-15, "{found}");
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0], &[1.0]), None);
    }

    proptest! {
        #[test]
        fn depends_on_order_alone_and_turns_with_it(values in prop::collection::vec(-5.0f64..5.0, 3..20)) {
            let other: Vec<f64> = values.iter().rev().copied().collect();
            let (plain, warped) = (spearman(&values, &other), spearman(&values.iter().map(|v| v.exp()).collect::<Vec<_>>(), &other));
            prop_assert_eq!(plain, warped);
            if let Some(plain) = plain {
                let turned = spearman(&values.iter().map(|v| -v).collect::<Vec<_>>(), &other).unwrap();
                prop_assert!((plain + turned).abs() < 1e-12 && plain.abs() <= 1.0 + 1e-12);
            }
        }
    }
}
