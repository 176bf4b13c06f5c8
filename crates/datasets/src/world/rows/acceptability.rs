//! Sentences as the world's text has them, and the same with a mistake.

use super::super::events::Event;
use super::super::facts::Attribute;
use super::super::grammar::{Form, verb_phrase};
use super::super::scene::{Scene, Values};
use super::super::{World, grammar, opinion, text};
use super::{Counts, Result, SplitRows, draw_splits};
use crate::draw;
use crate::tasks::classification::LabelledTexts;
use peftbench_spec::seed::Stream;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// All words in any order.
    Scrambled,
    /// Two neighbours have changed places.
    Swapped,
    /// A word stands twice.
    Doubled,
    /// A small word is missing.
    Missing,
    /// A preposition that the verb does not take.
    Preposition,
    /// A verb in the wrong number.
    Agreement,
    /// A word of the wrong kind: a place is eaten.
    Kind,
}

/// The mistakes of a level, with weights.
fn mistakes(difficulty: u8) -> &'static [(Mistake, u32)] {
    use Mistake::*;
    match difficulty {
        0 => &[(Scrambled, 1)],
        1 => &[(Scrambled, 9), (Swapped, 1), (Doubled, 1), (Missing, 1)],
        2 => &[(Swapped, 2), (Missing, 2), (Preposition, 2), (Agreement, 1)],
        _ => &[(Swapped, 1), (Missing, 2), (Preposition, 2), (Agreement, 3), (Kind, 2)],
    }
}

/// Sentences as they should be (label 1) and with a mistake (label 0), half and half. Difficulty 0: the words are scrambled; 1: three
/// quarters of the mistakes are that, in the others two neighbours are swapped, a word stands twice or is missing; 2: none is, but there are wrong
/// prepositions and verbs in the wrong number; 3: more of those, and words of the wrong kind.
pub(crate) fn acceptability(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<LabelledTexts>> {
    draw_splits(world, "acceptability", counts, |draws, id, index| {
        let label = index % 2;
        let sentence = match label {
            1 => good_sentence(world, draws),
            _ => bad_sentence(world, draws, difficulty),
        };
        (sentence.clone(), LabelledTexts { id, texts: vec![sentence], label })
    })
}

fn good_sentence(world: &World, draws: &mut Stream) -> String {
    match draw::below(draws, 4) {
        0 => {
            let (count, style) = (1 + draw::below(draws, 3), *draw::pick(draws, &[grammar::Style::Joined, grammar::Style::Relative]));
            Scene::draw(world, draws, count, Values::Drawn, 0).tell(style, draw::chance(draws, 1, 2))
        }
        1 => several(world, draws),
        2 => Event::draw(world, draws).tell(draw::below(draws, Event::TELLINGS)),
        _ => {
            let ranks: Vec<usize> = (0..world.sizes.opinion_words).collect();
            let good = draw::chance(draws, 1, 2);
            format!("{}.", opinion::sentence(world, draws, good, 1, &ranks).0)
        }
    }
}

/// What two or three creatures have in common; true or not does not matter here.
fn several(world: &World, draws: &mut Stream) -> String {
    let attribute = *draw::pick(draws, &Attribute::ALL);
    let mut names: Vec<&str> = Vec::new();
    for _ in 0..2 + draw::below(draws, 2) {
        names.push(world.draw_other_creature(draws, &names));
    }
    let phrase = verb_phrase((attribute, world.draw_value(draws, attribute)), Form::Plural, draw::chance(draws, 1, 2));
    text::in_common(&names, &phrase, draws)
}

fn bad_sentence(world: &World, draws: &mut Stream, difficulty: u8) -> String {
    let table = mistakes(difficulty);
    let weights: Vec<u32> = table.iter().map(|&(_, weight)| weight).collect();
    // Not every sentence has room for every mistake.
    loop {
        let mistake = table[draw::weighted(draws, &weights)].0;
        let good = good_sentence(world, draws);
        if let Some(bad) = with_mistake(world, draws, &good, mistake) {
            return bad;
        }
    }
}

/// Words without which no sentence of the world stands.
const NEEDED: [&str; 10] = ["the", "a", "of", "in", "to", "by", "from", "was", "is", "with"];
const PREPOSITIONS: [&str; 6] = ["in", "on", "with", "from", "to", "by"];
const NUMBERS: [(&str, &str); 8] = [
    ("eats", "eat"),
    ("feeds", "feed"),
    ("lives", "live"),
    ("stays", "stay"),
    ("is", "are"),
    ("has", "have"),
    ("carries", "carry"),
    ("works", "work"),
];

/// The place of one of the words that fit, a comma behind them aside.
fn place(draws: &mut Stream, words: &[&str], fits: impl Fn(&str) -> bool) -> Option<usize> {
    let places: Vec<usize> = (0..words.len()).filter(|&at| fits(words[at].trim_end_matches(','))).collect();
    (!places.is_empty()).then(|| *draw::pick(draws, &places))
}

/// `good` with one mistake, where it has room for it.
fn with_mistake(world: &World, draws: &mut Stream, good: &str, mistake: Mistake) -> Option<String> {
    let mut words: Vec<&str> = good.trim_end_matches('.').split(' ').collect();
    match mistake {
        Mistake::Scrambled => draw::shuffle(draws, &mut words),
        Mistake::Swapped => {
            let at = draw::below(draws, words.len() - 1);
            words.swap(at, at + 1);
        }
        Mistake::Doubled => {
            let at = draw::below(draws, words.len());
            words.insert(at, words[at].trim_end_matches(','));
        }
        Mistake::Missing => drop(words.remove(place(draws, &words, |word| NEEDED.contains(&word))?)),
        Mistake::Preposition => {
            let at = place(draws, &words, |word| PREPOSITIONS.contains(&word))?;
            let others: Vec<&str> = PREPOSITIONS.into_iter().filter(|other| *other != words[at]).collect();
            words[at] = others[draw::below(draws, others.len())];
        }
        Mistake::Agreement => {
            let at = place(draws, &words, |word| NUMBERS.iter().any(|pair| pair.0 == word || pair.1 == word))?;
            let &(one, many) = NUMBERS.iter().find(|pair| pair.0 == words[at] || pair.1 == words[at])?;
            words[at] = if words[at] == one { many } else { one };
        }
        Mistake::Kind => {
            let attribute = |word: &str| Attribute::ALL.into_iter().find(|a| world.lexicon.values[a.index()].iter().any(|v| v == word));
            let at = place(draws, &words, |word| attribute(word).is_some())?;
            // Foods and tools stand for each other in events.
            let wrong = match attribute(words[at].trim_end_matches(','))? {
                Attribute::Food | Attribute::Tool => [Attribute::Home, Attribute::Colour],
                Attribute::Home => [Attribute::Food, Attribute::Colour],
                Attribute::Colour => [Attribute::Home, Attribute::Tool],
            };
            let wrong = *draw::pick(draws, &wrong);
            words[at] = world.draw_value(draws, wrong);
        }
    }
    let bad = format!("{}.", words.join(" "));
    (bad != good).then_some(bad)
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn half_of_the_sentences_have_a_mistake() {
        let world = World::new(0);
        for difficulty in 0..=super::super::MOST_DIFFICULT {
            let rows = acceptability(&world, COUNTS, difficulty).unwrap();
            assert_eq!(rows.test.iter().map(|row| row.label).sum::<usize>() * 2, rows.test.len());
        }
    }

    #[test]
    fn every_mistake_shows() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        let good = "the miro eats tavu and lives in lopan.";
        let mut with = |mistake| with_mistake(&world, &mut draws, good, mistake).unwrap();
        assert_eq!(with(Mistake::Swapped).split(' ').count(), 8);
        assert_eq!(with(Mistake::Doubled).split(' ').count(), 9);
        assert_eq!(with(Mistake::Missing).split(' ').count(), 7);
        assert!(!with(Mistake::Preposition).contains(" in "));
        assert!(
            ["the miro eat tavu and lives in lopan.", "the miro eats tavu and live in lopan."].contains(&with(Mistake::Agreement).as_str())
        );
        assert_eq!(with_mistake(&world, &mut draws, "it sang.", Mistake::Agreement), None);
        for _ in 0..200 {
            let good = good_sentence(&world, &mut draws);
            for mistake in [Mistake::Swapped, Mistake::Missing, Mistake::Agreement, Mistake::Kind] {
                assert_ne!(with_mistake(&world, &mut draws, &good, mistake).as_ref(), Some(&good));
            }
        }
    }
}
