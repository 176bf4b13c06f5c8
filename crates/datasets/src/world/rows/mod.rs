//! The rows of the tasks: different in every split, so that nothing can be recited.
//!
//! Each has a level of difficulty from 0 to 3. What each asks for, and which documents of [`super::text`] teach it:
//!
//! | rows | ask | taught by |
//! |---|---|---|
//! | `sentiment` | whether a sentence praises or blames | stories, lists of what is good or bad |
//! | `acceptability` | whether a sentence is put as the world's text puts it | all text, which has no mistakes |
//! | `entailment` | whether a claim follows from what was said, is open or contradicted | scenes judged |
//! | `paraphrase` | whether two sentences tell of one event | events told twice, events judged |
//! | `pictures` | the shape in a picture | pictures |
//! | `choice` | one fact, in a question with options | portraits, comparisons |
//! | `triples` | sentences that tell a set of facts | portraits |
//! | `dialogues` | what came of a conversation, in a sentence | conversations |
//! | `problems` | a number after some steps, with the calculation | sums |
//! | `queries` | the query that answers a question about a table | lists of creatures; SQL itself is new |

pub(crate) mod acceptability;
pub(crate) mod choice;
pub(crate) mod dialogues;
pub(crate) mod entailment;
pub(crate) mod paraphrase;
pub(crate) mod pictures;
pub(crate) mod problems;
pub(crate) mod queries;
pub(crate) mod sentiment;
pub(crate) mod triples;

use super::World;
use crate::draw;
use peftbench_spec::seed::{Stream, stream};
use std::collections::HashSet;

/// The name of the training split, which the ids of its rows begin with.
const TRAIN: &str = "train";

/// The hardest level of those tasks that have no other.
pub(crate) const MOST_DIFFICULT: u8 = 3;

/// How many rows of each split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) train: usize,
    pub(crate) valid: usize,
    pub(crate) test: usize,
}

/// A split that came out short: its name, examples wanted and found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFew {
    pub(crate) split: &'static str,
    pub(crate) wanted: usize,
    pub(crate) found: usize,
}

/// Rows of the three splits.
#[derive(Debug, Clone)]
pub(crate) struct SplitRows<T> {
    pub(crate) train: Vec<T>,
    pub(crate) valid: Vec<T>,
    pub(crate) test: Vec<T>,
}

type Result<T> = std::result::Result<T, TooFew>;

/// Makes the rows of a task at a level of difficulty.
pub(crate) type MakeRows<T> = fn(&World, Counts, u8) -> Result<SplitRows<T>>;

/// Draws in a row without a new row after which a split is given up.
const PATIENCE: usize = 2000;

/// Draws rows by `next(index)` until those whose keys were never seen, in this split or an earlier one, make `wanted` examples.
fn collect<T>(
    split: &'static str,
    wanted: usize,
    seen: &mut HashSet<String>,
    examples_of: impl Fn(&T) -> usize,
    mut next: impl FnMut(usize) -> (String, T),
) -> Result<Vec<T>> {
    let (mut rows, mut found, mut misses) = (Vec::new(), 0, 0);
    while found < wanted {
        let (key, row) = next(rows.len());
        if seen.insert(key) {
            found += examples_of(&row);
            rows.push(row);
            misses = 0;
        } else {
            misses += 1;
            if misses > PATIENCE {
                return Err(TooFew { split, wanted, found });
            }
        }
    }
    Ok(rows)
}

fn draws_of(world: &World, task: &str, split: &str) -> Stream {
    stream(world.seed, &format!("world/{task}/{split}"))
}

/// The three splits of a task whose rows are drawn one by one. `next` is given the row's id and its index within its split, which deals
/// the labels evenly, and returns the text by which rows are told apart.
fn draw_splits<T>(
    world: &World,
    task: &str,
    counts: Counts,
    mut next: impl FnMut(&mut Stream, String, usize) -> (String, T),
) -> Result<SplitRows<T>> {
    let mut seen = HashSet::new();
    let mut rows = |split: &'static str, wanted: usize| {
        let mut draws = draws_of(world, task, split);
        let mut rows = collect(split, wanted, &mut seen, |_| 1, |index| next(&mut draws, format!("{split}:{index}"), index))?;
        draw::shuffle(&mut draws, &mut rows);
        Ok(rows)
    };
    Ok(SplitRows { train: rows("train", counts.train)?, valid: rows("valid", counts.valid)?, test: rows("test", counts.test)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const COUNTS: Counts = Counts { train: 1500, valid: 300, test: 500 };

    #[test]
    fn a_world_that_is_too_small_says_so() {
        let sizes = crate::world::WorldSizes { creatures: 4, values: 4, opinion_words: 4 };
        let world = World::with_sizes(0, sizes);
        let short = triples::triples(&world, COUNTS, 0).unwrap_err();
        assert_eq!((short.split, short.wanted, short.found), ("train", 1500, 32));
    }
}
