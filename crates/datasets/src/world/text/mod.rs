//! Documents to pre-train on, of thirteen kinds.
//!
//! | kind | what it teaches |
//! |---|---|
//! | portraits, comparisons | the facts; one attribute in several wordings |
//! | what is in common | verbs in the plural |
//! | stories, lists of what is good or bad | which words praise and which blame, negation |
//! | events told twice, events judged | two texts that say the same, and two that do not |
//! | scenes judged | what follows from a text, contradicts it, or is left open |
//! | conversations | what came of what was said |
//! | sums, the order of numbers | digits, signs, addition and subtraction |
//! | lists of creatures | look-up by name and column, counts, the highest and lowest |
//! | pictures | shapes as rows of greys |

mod facts;
mod happenings;
mod numbers;
mod opinions;

pub(crate) use facts::in_common;

use super::World;
use crate::draw;
use peftbench_spec::seed::Stream;

/// Draws the sentences of a document.
type Draw = fn(&World, &mut Stream) -> Vec<String>;

/// The kinds of documents: how often each is drawn, and what draws it.
const KINDS: [(u32, Draw); 13] = [
    (6, facts::portrait),
    (2, facts::comparison),
    (2, facts::common),
    (6, opinions::story),
    (3, opinions::values),
    (2, happenings::event_told_twice),
    (4, happenings::event_judged),
    (5, happenings::scene_judged),
    (3, happenings::talk),
    (5, numbers::sum),
    (1, numbers::order),
    (3, numbers::list),
    (2, numbers::picture),
];

/// The sentences of one document.
pub(super) fn document(world: &World, draws: &mut Stream) -> Vec<String> {
    let (_, draw) = KINDS[draw::weighted(draws, &KINDS.map(|(weight, _)| weight))];
    draw(world, draws)
}
