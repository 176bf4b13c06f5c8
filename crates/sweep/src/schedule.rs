//! In which order runs start, and how long that will take.
//!
//! With several workers the longest runs start first: this greedy order ends at most a third later than the best there is (Graham, 1969,
//! "Bounds on multiprocessing timing anomalies"), while plan order may end with one long run and idle workers. A run of unknown length
//! may be a long one, so it starts before all others. With one worker the order changes nothing, and the plan's is kept.

/// Indices of runs in the order in which `workers` should start them; `seconds` are their estimates, in the plan's order.
pub fn start_order(seconds: &[Option<f64>], workers: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..seconds.len()).collect();
    if workers > 1 {
        let length = |index: usize| seconds[index].unwrap_or(f64::INFINITY);
        order.sort_by(|&a, &b| length(b).total_cmp(&length(a)));
    }
    order
}

/// Wall time of runs of known length, started in [`start_order`] by `workers`; none if a length is unknown.
pub fn wall_seconds(seconds: &[Option<f64>], workers: usize) -> Option<f64> {
    let mut busy_until = vec![0.0f64; workers.max(1)];
    for index in start_order(seconds, workers) {
        let next = busy_until.iter_mut().min_by(|a, b| a.total_cmp(b))?;
        *next += seconds[index]?;
    }
    busy_until.into_iter().max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_and_unknown_runs_start_first_with_several_workers() {
        let seconds = [Some(1.0), Some(3.0), None, Some(3.0), Some(9.0)];
        assert_eq!(start_order(&seconds, 1), [0, 1, 2, 3, 4]);
        assert_eq!(start_order(&seconds, 2), [2, 4, 1, 3, 0]);
        assert_eq!(wall_seconds(&seconds, 2), None);
        assert_eq!(wall_seconds(&[Some(1.0), Some(1.0), Some(2.0)], 2), Some(2.0));
        assert_eq!(wall_seconds(&[], 2), Some(0.0));
    }

    proptest! {
        #[test]
        fn wall_time_is_near_the_bounds_that_no_order_can_beat(seconds in proptest::collection::vec(0.1f64..100.0, 1..12), workers in 1usize..5) {
            let known: Vec<_> = seconds.iter().copied().map(Some).collect();
            let wall = wall_seconds(&known, workers).unwrap();
            let total: f64 = seconds.iter().sum();
            let longest = seconds.iter().copied().fold(0.0, f64::max);
            let bound = longest.max(total / workers as f64);
            prop_assert!(wall >= bound - 1e-9);
            // Any greedy order ends before the mean load plus one longest run.
            prop_assert!(wall <= total / workers as f64 + longest + 1e-9);
        }
    }
}
