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

/// Questions for one attribute of one creature, with four options of the right kind. The (creature, attribute) pairs are dealt to the
/// splits: 60 % to training, 10 % to validation, 30 % to the test. Difficulty 0 asks in one wording, 1 in four; 2 keeps one of the four
/// for the test.
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
                choice_row(world, &mut draws, format!("{split}:{index}"), creature, attribute, wording)
            },
        )
    };
    Ok(SplitRows {
        train: rows("train", counts.train, &pairs[..train_end], common)?,
        valid: rows("valid", counts.valid, &pairs[train_end..valid_end], common)?,
        test: rows("test", counts.test, &pairs[valid_end..], test_only)?,
    })
}

fn choice_row(world: &World, draws: &mut Stream, id: String, creature: usize, attribute: Attribute, wording: usize) -> (String, ChoiceRow) {
    let words = &world.lexicon.values[attribute.index()];
    let right = world.facts.value(creature, attribute);
    let mut others: Vec<usize> = (0..words.len()).filter(|&value| value != right).collect();
    draw::shuffle(draws, &mut others);
    let answer = draw::below(draws, 4);
    let mut options: Vec<String> = others[..3].iter().map(|&value| words[value].clone()).collect();
    options.insert(answer, words[right].clone());
    let question = grammar::question(&world.lexicon.creatures[creature], attribute, wording);
    (format!("{question} {}", options.join(" ")), ChoiceRow { id, question, options, answer })
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
}
