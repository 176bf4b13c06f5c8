//! Loops over independent tasks, on as many threads as rayon has.

use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Below this many elements of work, of about half a nanosecond each, a loop stays on the calling thread: handing tasks over costs tens of
/// microseconds where the other threads sleep.
const SERIAL_WORK: usize = 64 * 1024;

/// Calls `task(i)` for every `i` below `tasks`, in parallel where `work` (elements in all) makes it worth while. What a task computes
/// must not depend on the number of threads.
pub(crate) fn for_each(tasks: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    if work < SERIAL_WORK || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

/// Splits `out` into pieces of `piece` elements and calls `task(index, piece)` for each.
pub(crate) fn for_each_piece<T: Send>(out: &mut [T], piece: usize, work: usize, task: impl Fn(usize, &mut [T]) + Sync + Send) {
    let piece = piece.max(1);
    if work < SERIAL_WORK || rayon::current_num_threads() == 1 {
        out.chunks_mut(piece).enumerate().for_each(|(i, chunk)| task(i, chunk));
    } else {
        out.par_chunks_mut(piece).enumerate().for_each(|(i, chunk)| task(i, chunk));
    }
}

/// What `work` makes of each item, in the items' order. Items go side by side, on as many threads as rayon has; the operators of one stay on its
/// thread. For work of many operators that are each too small to be shared out. The items of the largest `cost` begin, so that no thread is left with
/// one of them at the end.
pub fn side_by_side<I: Send, T: Send>(items: Vec<I>, cost: impl Fn(&I) -> usize, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let threads = rayon::current_num_threads().min(items.len());
    if threads < 2 {
        return items.into_iter().map(work).collect();
    }
    let mut items: Vec<_> = items.into_iter().enumerate().collect();
    items.sort_by_key(|(_, item)| Reverse(cost(item)));
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || std::iter::from_fn(next).map(|(i, item)| (i, work(item))).collect::<Vec<_>>();
    let mut done = thread::scope(|scope| {
        // Without a pool of its own, a worker's operators are shared out after all.
        let alone = || ThreadPoolBuilder::new().num_threads(1).build().map_or_else(|_| worker(), |pool| pool.install(worker));
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(alone)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_order_and_their_operators_one_thread() {
        let squares = |items: usize| side_by_side((0..items).collect(), |&i| i % 4, |i| (i * i, rayon::current_num_threads()));
        let on = |threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let made = on(3).install(|| squares(10));
        assert_eq!(made, (0..10).map(|i| (i * i, 1)).collect::<Vec<_>>());
        assert_eq!(on(3).install(|| squares(1)), [(0, 3)]);
        assert_eq!(on(1).install(|| squares(2)), [(0, 1), (1, 1)]);
    }

    #[test]
    #[should_panic(expected = "item 2")]
    fn a_panic_reaches_the_caller() {
        let panicking = |i: i32| assert!(i != 2, "item {i}");
        ThreadPoolBuilder::new().num_threads(2).build().unwrap().install(|| side_by_side((0..4).collect(), |_| 1, panicking));
    }
}
