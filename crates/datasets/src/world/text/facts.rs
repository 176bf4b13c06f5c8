//! What is true in the world: portraits of a creature, comparisons of two, and what several have in common.

use super::super::facts::Attribute;
use super::super::grammar::{Form, Style, list, noun, tell, verb_phrase};
use super::World;
use crate::draw;
use peftbench_spec::seed::Stream;

/// Two to four facts about one creature, in random order, style and wording: a fact told in one wording only could be recited and not
/// used (Allen-Zhu and Li 2023, *Physics of language models 3.1*).
pub(super) fn portrait(world: &World, draws: &mut Stream) -> Vec<String> {
    let creature = world.draw_creature(draws);
    let mut attributes = Attribute::ALL;
    draw::shuffle(draws, &mut attributes);
    let count = 2 + draw::below(draws, 3);
    let said: Vec<(Attribute, &str)> = attributes[..count].iter().map(|&a| (a, world.value(creature, a))).collect();
    let style = *draw::pick(draws, &Style::ALL);
    tell(&world.lexicon.creatures[creature], &said, style, Form::Present, draw::chance(draws, 1, 2))
}

/// One attribute of two creatures, or a fact told from its value.
pub(super) fn comparison(world: &World, draws: &mut Stream) -> Vec<String> {
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

/// What two or three creatures have in common, with the verb in the plural: the world's text is where the agreement of verbs is learnt.
pub(super) fn common(world: &World, draws: &mut Stream) -> Vec<String> {
    let attribute = *draw::pick(draws, &Attribute::ALL);
    let value = world.value(world.draw_creature(draws), attribute);
    let mut alike: Vec<usize> = (0..world.sizes.creatures).filter(|&creature| world.value(creature, attribute) == value).collect();
    draw::shuffle(draws, &mut alike);
    alike.truncate(2 + draw::below(draws, 2));
    let names: Vec<&str> = alike.iter().map(|&creature| world.lexicon.creatures[creature].as_str()).collect();
    let phrase = verb_phrase((attribute, value), Form::Plural, draw::chance(draws, 1, 2));
    vec![in_common(&names, &phrase, draws)]
}

/// A sentence that says `phrase`, in the plural, of two or three creatures.
pub(crate) fn in_common(names: &[&str], phrase: &str, draws: &mut Stream) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("the {name}")).collect();
    match draw::below(draws, 3) {
        0 if names.len() == 2 => format!("both {} {phrase}.", list(&names)),
        1 if names.len() == 3 => format!("all of {} {phrase}.", list(&names)),
        _ => format!("{} {phrase}.", list(&names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

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

    #[test]
    fn what_is_in_common_is_true_of_each() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..200 {
            let text = common(&world, &mut draws).join(" ");
            let words: Vec<&str> = text.split([' ', ',', '.']).collect();
            let told = Attribute::ALL
                .into_iter()
                .find_map(|a| world.lexicon.values[a.index()].iter().find(|v| words.contains(&v.as_str())).map(|value| (a, value)));
            let (attribute, value) = told.unwrap();
            let named = (0..world.sizes.creatures).filter(|&c| words.contains(&world.lexicon.creatures[c].as_str()));
            assert!(named.clone().count() >= 1 && named.into_iter().all(|c| world.value(c, attribute) == value), "{text}");
        }
    }
}
