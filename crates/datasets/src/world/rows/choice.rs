//! Questions about the facts, with options.

use super::super::facts::Attribute;
use super::super::{World, grammar};
use super::{Counts, Result, SplitRows, collect, draws_of};
use crate::draw;
use crate::tasks::commonsense::ChoiceRow;
use peftbench_spec::seed::{Stream, stream};
use std::collections::HashSet;

/// The hardest level of `choice`.
pub(crate) const MOST_DIFFICULT_CHOICE: u8 = 2;

/// Questions in 8 of level 0 whose options tell the answer by their kind.
const EASY: usize = 5;
/// Questions in 8 of level 0 that take two facts.
const SHARED: usize = 1;

/// Questions for one attribute of one creature, with four options of the right kind. The (creature, attribute) pairs are dealt to the
/// splits: 60 % to training, 10 % to validation, 30 % to the test. Difficulty 1 asks in four wordings; 2 keeps one of the four for the
/// test; 0 asks in one, in [`EASY`] of 8 questions the wrong options are of other kinds, and in [`SHARED`] of 8 who shares the attribute is asked,
/// which takes two facts.
pub(crate) fn choice(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<ChoiceRow>> {
    let mut pairs: Vec<(usize, Attribute)> =
        (0..world.sizes.creatures).flat_map(|creature| Attribute::ALL.map(|attribute| (creature, attribute))).collect();
    draw::shuffle(&mut stream(world.seed, "world/choice/pairs"), &mut pairs);
    let (train_end, valid_end) = (pairs.len() * 6 / 10, pairs.len() * 7 / 10);
    let (common, test_only): (&[usize], &[usize]) = match difficulty {
        0 => (&[0], &[0]),
        1 => (&[0, 1, 2, 3], &[0, 1, 2, 3]),
        _ => (&[0, 1, 2], &[3]),
    };
    let mut seen = HashSet::new();
    let mut rows = |split: &'static str, wanted: usize, pairs: &[(usize, Attribute)], wordings: &[usize]| {
        let mut draws = draws_of(world, "choice", split);
        // Every question comes once before any comes twice, each time with other options.
        let mut asked: Vec<(usize, Attribute, usize)> =
            pairs.iter().flat_map(|&(creature, attribute)| wordings.iter().map(move |&wording| (creature, attribute, wording))).collect();
        draw::shuffle(&mut draws, &mut asked);
        let mut turn = 0;
        collect(
            split,
            wanted,
            &mut seen,
            |_| 1,
            |index| {
                let (creature, attribute, wording) = asked[turn % asked.len()];
                turn += 1;
                let (text, options, answer) = match draw_kind(&mut draws, difficulty) {
                    Kind::Fact => fact(world, &mut draws, creature, attribute, wording),
                    Kind::Easy => easy(world, &mut draws, creature, attribute, wording),
                    Kind::Shared => shared(world, &mut draws, creature, attribute)
                        .unwrap_or_else(|| fact(world, &mut draws, creature, attribute, wording)),
                };
                let row = ChoiceRow { id: format!("{split}:{index}"), question: text, options, answer };
                (format!("{} {}", row.question, row.options.join(" ")), row)
            },
        )
    };
    Ok(SplitRows {
        train: rows("train", counts.train, &pairs[..train_end], common)?,
        valid: rows("valid", counts.valid, &pairs[train_end..valid_end], common)?,
        test: rows("test", counts.test, &pairs[valid_end..], test_only)?,
    })
}

/// What a question asks for.
enum Kind {
    /// A fact, among values of the same attribute.
    Fact,
    /// A fact, among values of other attributes.
    Easy,
    /// Another creature that has the same value.
    Shared,
}

fn draw_kind(draws: &mut Stream, difficulty: u8) -> Kind {
    match difficulty {
        0 => match draw::below(draws, 8) {
            at if at < EASY => Kind::Easy,
            at if at < EASY + SHARED => Kind::Shared,
            _ => Kind::Fact,
        },
        _ => Kind::Fact,
    }
}

/// A question, its four options and the place of the right one.
type Asked = (String, Vec<String>, usize);

fn fact(world: &World, draws: &mut Stream, creature: usize, attribute: Attribute, wording: usize) -> Asked {
    let words = &world.lexicon.values[attribute.index()];
    let right = world.facts.value(creature, attribute);
    let mut others: Vec<usize> = (0..words.len()).filter(|&value| value != right).collect();
    draw::shuffle(draws, &mut others);
    let others = others[..3].iter().map(|&value| words[value].clone()).collect();
    let question = grammar::question(&world.lexicon.creatures[creature], attribute, wording);
    among(draws, question, &words[right], others)
}

fn easy(world: &World, draws: &mut Stream, creature: usize, attribute: Attribute, wording: usize) -> Asked {
    let others = Attribute::ALL.into_iter().filter(|other| *other != attribute);
    let others = others.map(|other| world.draw_value(draws, other).to_owned()).collect();
    let question = grammar::question(&world.lexicon.creatures[creature], attribute, wording);
    among(draws, question, world.value(creature, attribute), others)
}

/// None where no other creature has the value, or fewer than three have another one.
fn shared(world: &World, draws: &mut Stream, creature: usize, attribute: Attribute) -> Option<Asked> {
    let value = |other: usize| world.facts.value(other, attribute);
    let rest = (0..world.sizes.creatures).filter(|&other| other != creature);
    let (same, mut others): (Vec<usize>, Vec<usize>) = rest.partition(|&other| value(other) == value(creature));
    if same.is_empty() || others.len() < 3 {
        return None;
    }
    let names = &world.lexicon.creatures;
    let right = *draw::pick(draws, &same);
    draw::shuffle(draws, &mut others);
    let others = others[..3].iter().map(|&other| names[other].clone()).collect();
    Some(among(draws, grammar::shared_question(&names[creature], attribute), &names[right], others))
}

/// Puts the right option among the others.
fn among(draws: &mut Stream, question: String, right: &str, mut options: Vec<String>) -> Asked {
    let answer = draw::below(draws, options.len() + 1);
    options.insert(answer, right.to_owned());
    (question, options, answer)
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;

    #[test]
    fn choice_asks_of_other_pairs_in_every_split() {
        let world = World::new(0);
        for difficulty in 0..=MOST_DIFFICULT_CHOICE {
            let rows = choice(&world, COUNTS, difficulty).unwrap();
            let questions = |rows: &[ChoiceRow]| rows.iter().map(|row| row.question.clone()).collect::<HashSet<_>>();
            let (train, valid, test) = (questions(&rows.train), questions(&rows.valid), questions(&rows.test));
            assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test));
            let place = |rows: &[ChoiceRow]| (0..4).map(|at| rows.iter().filter(|row| row.answer == at).count()).collect::<Vec<_>>();
            assert!(place(&rows.train).iter().all(|&n| (310..440).contains(&n)), "{:?}", place(&rows.train));
            let asks = |rows: &[ChoiceRow]| rows.iter().any(|row| row.question.starts_with("which"));
            assert_eq!((asks(&rows.train), asks(&rows.test)), (difficulty == 1, difficulty > 0));
        }
    }

    #[test]
    fn choice_answers_are_the_facts() {
        let world = World::new(0);
        for row in choice(&world, COUNTS, 1).unwrap().test {
            assert_eq!(row.options.iter().collect::<HashSet<_>>().len(), 4);
            let creature = world.lexicon.creatures.iter().position(|name| row.question.split([' ', '?']).any(|w| w == name)).unwrap();
            let values = Attribute::ALL.map(|attribute| world.value(creature, attribute));
            assert!(values.contains(&row.options[row.answer].as_str()));
        }
    }

    #[test]
    fn an_eighth_of_the_easiest_level_takes_two_facts_and_most_of_it_none() {
        let world = World::new(0);
        let rows = choice(&world, COUNTS, 0).unwrap().train;
        let shared: Vec<&ChoiceRow> = rows.iter().filter(|row| row.question.starts_with("who has the same")).collect();
        assert!((130..250).contains(&shared.len()), "{}", shared.len());
        let number = |name: &str| world.lexicon.creatures.iter().position(|creature| creature == name).unwrap();
        for row in shared {
            let words: Vec<&str> = row.question.trim_end_matches('?').split(' ').collect();
            let attribute = Attribute::ALL.into_iter().find(|&attribute| grammar::noun(attribute) == words[4]).unwrap();
            let value = |name: &str| world.value(number(name), attribute);
            let same = |option: &&String| value(option) == value(words[words.len() - 1]);
            assert_eq!(row.options.iter().filter(same).collect::<Vec<_>>(), [&row.options[row.answer]]);
        }
        let of_one_kind =
            |row: &&ChoiceRow| world.lexicon.values.iter().any(|words| row.options.iter().all(|option| words.contains(option)));
        let facts = rows.iter().filter(of_one_kind).count();
        assert!((300..460).contains(&facts), "{facts}");
    }
}
