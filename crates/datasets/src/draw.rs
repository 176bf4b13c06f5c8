//! Draws from a random stream whose results are fixed by this file alone.
//!
//! `rand`'s own range and shuffle algorithms may change between its versions; data sets and splits must not, because their hashes are
//! part of a run's record.

use peftbench_spec::seed::Stream;
use rand::Rng;

/// A whole number below `bound`, without bias (rejection of the top, incomplete stretch of the 64-bit range).
///
/// `bound` must not be 0.
pub(crate) fn below(stream: &mut Stream, bound: usize) -> usize {
    let bound = bound as u64;
    let whole = u64::MAX - u64::MAX % bound;
    loop {
        let draw = stream.next_u64();
        if draw < whole {
            return (draw % bound) as usize;
        }
    }
}

/// True in `numerator` of `denominator` draws.
pub(crate) fn chance(stream: &mut Stream, numerator: usize, denominator: usize) -> bool {
    below(stream, denominator) < numerator
}

/// One of `items`, which must not be empty.
pub(crate) fn pick<'a, T>(stream: &mut Stream, items: &'a [T]) -> &'a T {
    &items[below(stream, items.len())]
}

/// An index with a chance in proportion to its entry of `weights`, whose sum must not be 0.
pub(crate) fn weighted(stream: &mut Stream, weights: &[u32]) -> usize {
    let mut left = below(stream, weights.iter().map(|&w| w as usize).sum());
    for (index, &weight) in weights.iter().enumerate() {
        match left.checked_sub(weight as usize) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    unreachable!("the draw is below the sum of the weights")
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(stream: &mut Stream, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(stream, last + 1));
    }
}

/// `count` distinct indices below `len` (all of them where there are fewer), in ascending order.
pub(crate) fn subset(stream: &mut Stream, len: usize, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..len).collect();
    shuffle(stream, &mut indices);
    indices.truncate(count);
    indices.sort_unstable();
    indices
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;
    use proptest::prelude::*;

    /// Pinned: a change here silently changes every split and every invented row.
    #[test]
    fn draws_are_pinned() {
        let mut s = stream(7, "draw test");
        let draws: Vec<usize> = (0..8).map(|_| below(&mut s, 100)).collect();
        assert_eq!(draws, PINNED);
        assert_eq!(subset(&mut s, 10, 4), PINNED_SUBSET);
    }
    const PINNED: [usize; 8] = [23, 67, 14, 55, 26, 47, 17, 34];
    const PINNED_SUBSET: [usize; 4] = [5, 6, 7, 9];

    #[test]
    fn weights_are_respected() {
        let mut s = stream(1, "draw test");
        let mut counts = [0usize; 3];
        for _ in 0..6000 {
            counts[weighted(&mut s, &[1, 0, 2])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[0] as f64 / 2000.0 - 1.0).abs() < 0.1, "{counts:?}");
    }

    proptest! {
        #[test]
        fn shuffle_permutes_and_subset_is_distinct_and_ascending(seed: u64, len in 0usize..60, count in 0usize..70) {
            let mut s = stream(seed, "draw test");
            let mut items: Vec<usize> = (0..len).collect();
            shuffle(&mut s, &mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..len).collect::<Vec<_>>());
            let chosen = subset(&mut s, len, count);
            prop_assert_eq!(chosen.len(), count.min(len));
            prop_assert!(chosen.windows(2).all(|w| w[0] < w[1]) && chosen.iter().all(|&i| i < len));
        }
    }
}
