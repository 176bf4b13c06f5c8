//! Loops over independent tasks, on as many threads as rayon has.

use rayon::prelude::*;

/// Below this many elements of work a loop stays on the calling thread: handing a task over costs some microseconds.
const SERIAL_WORK: usize = 16 * 1024;

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
