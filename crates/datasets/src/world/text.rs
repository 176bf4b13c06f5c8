//! Documents to pre-train on: portraits of a creature, comparisons of two, and stories in which an opinion has its consequence.

use super::facts::Attribute;
use super::grammar::{Style, noun, tell};
use super::{World, opinion};
use crate::draw;
use peftbench_spec::seed::Stream;

/// What a creature does when things are good; one of them follows praise.
const PLEASED: [&str; 8] = ["smiled", "laughed", "was glad", "was happy", "danced all day", "gave thanks", "came again", "sang a song"];
/// What it does when they are bad.
const DISPLEASED: [&str; 8] = ["frowned", "wept", "was sad", "was angry", "went away", "threw it out", "shouted", "slept badly"];

/// The sentences of one document.
pub(super) fn document(world: &World, draws: &mut Stream) -> Vec<String> {
    match draw::weighted(draws, &[5, 2, 6]) {
        0 => portrait(world, draws),
        1 => comparison(world, draws),
        _ => story(world, draws),
    }
}

/// Two to four facts about one creature, in random order, style and wording: a fact told in one wording only could be recited and not
/// used (Allen-Zhu and Li 2023, *Physics of language models 3.1*).
fn portrait(world: &World, draws: &mut Stream) -> Vec<String> {
    let creature = world.draw_creature(draws);
    let mut attributes = Attribute::ALL;
    draw::shuffle(draws, &mut attributes);
    let count = 2 + draw::below(draws, 3);
    let said: Vec<(Attribute, &str)> = attributes[..count].iter().map(|&a| (a, world.value(creature, a))).collect();
    let style = *draw::pick(draws, &Style::ALL);
    tell(&world.lexicon.creatures[creature], &said, style, draw::chance(draws, 1, 2))
}

/// One attribute of two creatures, or a fact told from its value.
fn comparison(world: &World, draws: &mut Stream) -> Vec<String> {
    let attribute = *draw::pick(draws, &Attribute::ALL);
    let (first, second) = (world.draw_creature(draws), world.draw_creature(draws));
    let name = |creature: usize| &world.lexicon.creatures[creature];
    let value = |creature: usize| world.value(creature, attribute);
    let noun = noun(attribute);
    if first == second || draw::chance(draws, 1, 2) {
        return vec![format!("{} is the {noun} of the {}.", value(first), name(first))];
    }
    match value(first) == value(second) {
        true => vec![format!("{} is the {noun} of the {} and of the {}.", value(first), name(first), name(second))],
        false => vec![
            format!("the {} and the {} differ.", name(first), name(second)),
            format!("the {noun} of the {} is {}, and that of the {} is {}.", name(first), value(first), name(second), value(second)),
        ],
    }
}

/// An opinion and what came of it. The hardest builds are told too: a task of any difficulty asks for what was told.
fn story(world: &World, draws: &mut Stream) -> Vec<String> {
    let good = draw::chance(draws, 1, 2);
    let ranks: Vec<usize> = (0..world.sizes.opinion_words).collect();
    let (event, creature) = opinion::sentence(world, draws, good, opinion::MOST_DIFFICULT, &ranks);
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

    #[test]
    fn portraits_tell_the_truth() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..200 {
            let text = portrait(&world, &mut draws).join(" ");
            let creature = world.lexicon.creatures.iter().position(|name| text.contains(name.as_str())).unwrap();
            for attribute in Attribute::ALL {
                for word in &world.lexicon.values[attribute.index()] {
                    let told = text.split([' ', ',', '.']).any(|w| w == word);
                    assert!(!told || word == world.value(creature, attribute), "{text}");
                }
            }
        }
    }
}
