//! Documents to pre-train on: portraits of a creature, comparisons of two, stories in which an opinion has its consequence, lists of
//! what is good or bad, sums with small numbers, and events told twice.
//!
//! The last two teach no fact. Sums give every digit a meaning of its own: a label that the text never used would have an embedding that
//! nothing was learnt about, and a method that leaves embeddings alone could not learn to say it. Events told twice reward copying a word
//! from what was just read, which telling triples needs.

use super::facts::Attribute;
use super::grammar::{Style, noun, tell};
use super::{World, draw_by_rank, opinion};
use crate::draw;
use peftbench_spec::seed::Stream;

/// What a creature does when things are good; one of them follows praise.
const PLEASED: [&str; 8] = ["smiled", "laughed", "was glad", "was happy", "danced all day", "gave thanks", "came again", "sang a song"];
/// What it does when they are bad.
const DISPLEASED: [&str; 8] = ["frowned", "wept", "was sad", "was angry", "went away", "threw it out", "shouted", "slept badly"];

/// The sentences of one document.
pub(super) fn document(world: &World, draws: &mut Stream) -> Vec<String> {
    match draw::weighted(draws, &[5, 2, 6, 3, 2, 2]) {
        0 => portrait(world, draws),
        1 => comparison(world, draws),
        2 => story(world, draws),
        3 => values(world, draws),
        4 => sum(world, draws),
        _ => event_told_twice(world, draws),
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

/// An opinion and what came of it. Easy and hard builds are told alike: the easy ones teach the words, and a task of any difficulty asks
/// for what was told.
fn story(world: &World, draws: &mut Stream) -> Vec<String> {
    let good = draw::chance(draws, 1, 2);
    let ranks: Vec<usize> = (0..world.sizes.opinion_words).collect();
    let difficulty = draw::below(draws, usize::from(opinion::MOST_DIFFICULT) + 1) as u8;
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
fn values(world: &World, draws: &mut Stream) -> Vec<String> {
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

/// One-digit addition or subtraction of things.
fn sum(world: &World, draws: &mut Stream) -> Vec<String> {
    let name = &world.lexicon.creatures[world.draw_creature(draws)];
    let things = &world.lexicon.values[Attribute::Tool.index()];
    let thing = draw::pick(draws, things);
    let whole = draw::below(draws, 10);
    let part = draw::below(draws, whole + 1);
    match draw::chance(draws, 1, 2) {
        true => vec![format!("the {name} had {part} {thing} and found {} more.", whole - part), format!("now it has {whole} {thing}.")],
        false => vec![format!("the {name} had {whole} {thing} and lost {part}."), format!("now it has {} {thing}.", whole - part)],
    }
}

/// Something that happened, in two wordings that share its words.
fn event_told_twice(world: &World, draws: &mut Stream) -> Vec<String> {
    let [foods, places, colours, tools] = &world.lexicon.values;
    let name = &world.lexicon.creatures[world.draw_creature(draws)];
    let other = &world.lexicon.creatures[world.draw_creature(draws)];
    let things = if draw::chance(draws, 1, 2) { foods } else { tools };
    let thing = draw::pick(draws, things);
    let (from, to, colour) = (draw::pick(draws, places), draw::pick(draws, places), draw::pick(draws, colours));
    let tellings = [
        format!("the {name} brought a {thing} from {from} to {to}."),
        format!("from {from} came a {thing}, brought to {to} by the {name}."),
        format!("now {to} has a {thing} that the {name} found in {from}."),
    ];
    let gifts = [
        format!("the {name} gave a {colour} {thing} to the {other} in {to}."),
        format!("in {to} the {other} was given a {thing}, which is {colour}, by the {name}."),
        format!("the {other} has a {thing} from the {name}. it is {colour} and stays in {to}."),
    ];
    let mut told = if draw::chance(draws, 1, 2) { tellings } else { gifts };
    draw::shuffle(draws, &mut told);
    let [first, second, _] = told;
    [first, second].iter().flat_map(|text| text.split_inclusive('.')).map(|sentence| sentence.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn sums_are_right() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..300 {
            let text = sum(&world, &mut draws).join(" ");
            let digits: Vec<i32> = text.chars().filter_map(|c| c.to_digit(10)).map(|digit| digit as i32).collect();
            let [a, b, result] = digits[..] else { panic!("{text}") };
            assert_eq!(result, if text.contains("found") { a + b } else { a - b }, "{text}");
        }
    }

    #[test]
    fn an_event_told_twice_shares_its_words() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        let own: Vec<&String> = world.lexicon.values.iter().flatten().chain(&world.lexicon.creatures).collect();
        for _ in 0..200 {
            let text = event_told_twice(&world, &mut draws).join(" ");
            let words: Vec<&str> = text.split([' ', ',', '.']).filter(|word| own.iter().any(|w| w == word)).collect();
            let distinct: std::collections::HashSet<&&str> = words.iter().collect();
            assert!(words.len() >= distinct.len() * 2, "{text}");
        }
    }

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
