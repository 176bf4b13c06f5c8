//! Stories in which an opinion has its consequence, and lists of what is good or bad.

use super::super::{draw_by_rank, opinion};
use super::World;
use crate::draw;
use peftbench_spec::seed::Stream;

/// What a creature does when things are good; one of them follows praise.
const PLEASED: [&str; 8] = ["smiled", "laughed", "was glad", "was happy", "danced all day", "gave thanks", "came again", "sang a song"];
/// What it does when they are bad.
const DISPLEASED: [&str; 8] = ["frowned", "wept", "was sad", "was angry", "went away", "threw it out", "shouted", "slept badly"];

/// An opinion and what came of it. Easy and hard builds are told alike: the easy ones teach the words, and a task of any difficulty asks
/// for what was told.
pub(super) fn story(world: &World, draws: &mut Stream) -> Vec<String> {
    let good = draw::chance(draws, 1, 2);
    let ranks: Vec<usize> = (0..world.sizes.opinion_words).collect();
    let difficulty = draw::below(draws, usize::from(opinion::MOST_DIFFICULT_TOLD) + 1) as u8;
    let (event, creature) = opinion::sentence(world, draws, good, difficulty, &ranks);
    let name = &world.lexicon.creatures[creature];
    let reactions = if good { &PLEASED } else { &DISPLEASED };
    let (first, second) = (*draw::pick(draws, reactions), *draw::pick(draws, reactions));
    let other = &world.lexicon.creatures[world.draw_creature(draws)];
    match draw::below(draws, 4) {
        0 => vec![format!("{event}, so the {name} {first}.")],
        1 => vec![format!("{event}."), format!("the {name} {first}.")],
        2 => vec![format!("{event}."), format!("the {name} {first}, and the {other} {second}.")],
        _ => vec![format!("{event}."), format!("it {first} and {second}.")],
    }
}

/// Several words that all praise or all blame: words of one kind stand together, as they do in real text.
pub(super) fn values(world: &World, draws: &mut Stream) -> Vec<String> {
    let good = draw::chance(draws, 1, 2);
    let words = if good { &world.lexicon.praise } else { &world.lexicon.blame };
    let mut draw_word = || words[draw_by_rank(draws, words.len())].as_str();
    let (a, b, c) = (draw_word(), draw_word(), draw_word());
    let kind = if good { "good" } else { "bad" };
    vec![match draw::below(draws, 3) {
        0 => format!("it is {kind} to be {a}, {b} and {c}."),
        1 => format!("to be {a} is as {kind} as to be {b} or {c}."),
        _ => format!("what is {a} and {b} is often {c}, and that is {kind}."),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn consequences_do_not_contradict_each_other() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..500 {
            let text = story(&world, &mut draws).join(" ");
            let (pleased, displeased) = (PLEASED.iter().any(|r| text.contains(r)), DISPLEASED.iter().any(|r| text.contains(r)));
            assert!(pleased != displeased, "{text}");
        }
    }
}
