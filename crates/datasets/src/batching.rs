//! Which examples go into a batch together.

use crate::draw;
use peftbench_spec::seed::Stream;

/// Batches whose examples are sorted together: longer pools pad less, shorter ones shuffle better.
const POOL_BATCHES: usize = 16;

/// One epoch of training batches over examples of these token `lengths`: each index exactly once, at most `batch_size` a batch, at most
/// one batch shorter than that.
///
/// All indices are shuffled, cut into pools of 16 batches, sorted by length inside a pool and cut into batches, and the batches are
/// shuffled: batches of similar length, with little padding, in random order. Equal arguments and stream state give equal batches.
/// A `batch_size` of 0 counts as 1.
pub fn train_batches(lengths: &[usize], batch_size: usize, stream: &mut Stream) -> Vec<Vec<usize>> {
    let batch_size = batch_size.max(1);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    draw::shuffle(stream, &mut order);
    let mut batches = Vec::with_capacity(lengths.len().div_ceil(batch_size));
    for pool in order.chunks_mut(batch_size * POOL_BATCHES) {
        // Stable: equal lengths stay shuffled.
        pool.sort_by_key(|&index| lengths[index]);
        batches.extend(pool.chunks(batch_size).map(<[usize]>::to_vec));
    }
    draw::shuffle(stream, &mut batches);
    batches
}

/// Batches for scoring: each index exactly once, sorted by length (then index), so that padding is least.
pub fn eval_batches(lengths: &[usize], batch_size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    order.chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;
    use proptest::prelude::*;

    fn padding(batches: &[Vec<usize>], lengths: &[usize]) -> usize {
        let longest = |batch: &Vec<usize>| batch.iter().map(|&i| lengths[i]).max().unwrap_or(0);
        batches.iter().map(|batch| batch.iter().map(|&i| longest(batch) - lengths[i]).sum::<usize>()).sum()
    }

    #[test]
    fn padding_is_far_below_that_of_plain_shuffling_and_epochs_differ() {
        let lengths: Vec<usize> = (0..640).map(|i| 10 + (i * 37) % 50).collect();
        let mut data = stream(3, "data");
        let first = train_batches(&lengths, 8, &mut data);
        let mut order: Vec<usize> = (0..640).collect();
        draw::shuffle(&mut data, &mut order);
        let plain: Vec<Vec<usize>> = order.chunks(8).map(<[usize]>::to_vec).collect();
        assert!(padding(&first, &lengths) * 4 < padding(&plain, &lengths));
        assert_ne!(first, train_batches(&lengths, 8, &mut data));
        assert_eq!(first, train_batches(&lengths, 8, &mut stream(3, "data")));
        let sizes: Vec<usize> = first.iter().take(8).map(|batch| lengths[batch[0]]).collect();
        assert!(sizes.windows(2).any(|w| w[0] > w[1]), "batches are not in order of length: {sizes:?}");
    }

    proptest! {
        #[test]
        fn every_index_comes_once(lengths in prop::collection::vec(1usize..300, 0..400), batch_size in 0usize..20, seed: u64) {
            for batches in [train_batches(&lengths, batch_size, &mut stream(seed, "data")), eval_batches(&lengths, batch_size)] {
                prop_assert!(batches.iter().all(|batch| !batch.is_empty() && batch.len() <= batch_size.max(1)));
                prop_assert!(batches.iter().filter(|batch| batch.len() < batch_size.max(1)).count() <= 1);
                let mut seen: Vec<usize> = batches.concat();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn scoring_batches_ascend(lengths in prop::collection::vec(1usize..300, 0..100), batch_size in 1usize..20) {
            let order: Vec<usize> = eval_batches(&lengths, batch_size).concat().iter().map(|&i| lengths[i]).collect();
            prop_assert!(order.windows(2).all(|w| w[0] <= w[1]));
        }
    }
}
