//! The rows of the three tasks: different in every split, so that nothing can be recited.

use super::facts::Attribute;
use super::grammar::{self, Statement, Style};
use super::scene::{Scene, Values};
use super::{World, opinion};
use crate::draw;
use crate::tasks::classification::LabelledTexts;
use crate::tasks::commonsense::ChoiceRow;
use crate::tasks::data_to_text::TripleRow;
use peftbench_spec::seed::{Stream, stream};
use std::collections::HashSet;

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

/// Sentences that praise (label 1) or blame (label 0), half and half. Two fifths of the opinion words never occur in training;
/// `new_words` is the share of validation and test sentences made of those, the others are made of the words of training.
pub(crate) fn sentiment(world: &World, counts: Counts, difficulty: u8, new_words: f64) -> Result<SplitRows<LabelledTexts>> {
    let (kept, known): (Vec<usize>, Vec<usize>) = (0..world.sizes.opinion_words).partition(|rank| matches!(rank % 5, 1 | 3));
    let mut seen = HashSet::new();
    let mut rows = |split: &'static str, wanted: usize, share: f64| {
        let mut draws = draws_of(world, "sentiment", split);
        collect(
            split,
            wanted,
            &mut seen,
            |_| 1,
            |index| {
                // By count and not by chance, so that both labels have their share.
                let new = (((index / 2 + 1) as f64 * share) as usize) > ((index / 2) as f64 * share) as usize;
                let label = index % 2;
                let (text, _) = opinion::sentence(world, &mut draws, label == 1, difficulty, if new { &kept } else { &known });
                let sentence = format!("{text}.");
                (sentence.clone(), LabelledTexts { id: format!("{split}:{index}"), texts: vec![sentence], label })
            },
        )
    };
    let mut made = SplitRows {
        train: rows("train", counts.train, 0.0)?,
        valid: rows("valid", counts.valid, new_words)?,
        test: rows("test", counts.test, new_words)?,
    };
    for (split, name) in [(&mut made.train, "train"), (&mut made.valid, "valid"), (&mut made.test, "test")] {
        draw::shuffle(&mut draws_of(world, "sentiment/order", name), split);
    }
    Ok(made)
}

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

/// The hardest level of `triples`.
pub(crate) const MOST_DIFFICULT_TRIPLES: u8 = 3;

/// Sets of triples about one or two creatures, each with several ways to say it. No set occurs twice, in whatever order. Difficulty 0
/// has one triple a set, 1 up to two, 2 up to three; 3 has up to three whose objects are not the world's facts, so that they
/// must be copied and cannot be remembered. `counts.train` counts one row a reference, as training explodes them.
pub(crate) fn triples(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<TripleRow>> {
    let mut seen = HashSet::new();
    let mut rows = |split: &'static str, wanted: usize, explode: bool| {
        let mut draws = draws_of(world, "triples", split);
        let examples_of = |row: &TripleRow| if explode { row.targets.len() } else { 1 };
        collect(split, wanted, &mut seen, examples_of, |index| {
            let row = triple_row(world, &mut draws, format!("{split}:{index}"), difficulty);
            let mut key: Vec<String> = row.triples.iter().map(|triple| triple.join(" : ")).collect();
            key.sort_unstable();
            (key.join(" | "), row)
        })
    };
    let train = rows("train", counts.train, true)?;
    Ok(SplitRows { train, valid: rows("valid", counts.valid, false)?, test: rows("test", counts.test, false)? })
}

fn triple_row(world: &World, draws: &mut Stream, id: String, difficulty: u8) -> TripleRow {
    let count = 1 + draw::below(draws, usize::from(difficulty).min(2) + 1);
    let values = if difficulty >= MOST_DIFFICULT_TRIPLES { Values::Drawn } else { Values::Facts };
    let scene = Scene::draw(world, draws, count, values, 2);
    let triple = |name: &str, &(attribute, value): &Statement| [name, grammar::predicate(attribute), value].map(str::to_owned);
    let triples = scene.said.iter().flat_map(|(name, statements)| statements.iter().map(|s| triple(name, s))).collect();
    let mut targets: Vec<String> = Vec::new();
    for (style, second_wording) in [(Style::Joined, false), (Style::Sentences, true), (Style::Relative, false)] {
        let text = scene.tell(style, second_wording);
        if !targets.contains(&text) {
            targets.push(text);
        }
    }
    TripleRow { id, triples, targets }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts { train: 1500, valid: 300, test: 500 };

    #[test]
    fn sentiment_rows_are_balanced_and_keep_words_for_the_test() {
        let world = World::new(0);
        for difficulty in 0..=opinion::MOST_DIFFICULT {
            let rows = sentiment(&world, COUNTS, difficulty, 0.5).unwrap();
            for split in [&rows.train, &rows.valid, &rows.test] {
                assert_eq!(split.iter().map(|row| row.label).sum::<usize>() * 2, split.len());
            }
            let kept: Vec<&String> =
                [&world.lexicon.praise, &world.lexicon.blame].into_iter().flat_map(|w| [1, 3, 6, 8].map(|rank| &w[rank])).collect();
            let with = |rows: &[LabelledTexts]| {
                rows.iter().filter(|row| kept.iter().any(|word| row.texts[0].split([' ', ',', '.']).any(|w| w == *word))).count()
            };
            assert_eq!(with(&rows.train), 0);
            assert!(with(&rows.test) > 50);
        }
    }

    #[test]
    fn new_words_is_the_share_it_says() {
        let world = World::new(0);
        let new = |share: f64| {
            let rows = sentiment(&world, COUNTS, 0, share).unwrap();
            let kept = |word: &str| {
                [&world.lexicon.praise, &world.lexicon.blame]
                    .into_iter()
                    .flatten()
                    .enumerate()
                    .any(|(i, w)| w == word && matches!(i % 5, 1 | 3))
            };
            rows.test.iter().filter(|row| row.texts[0].split([' ', ',', '.']).any(kept)).count()
        };
        assert_eq!((new(0.0), new(0.5), new(1.0)), (0, 250, 500));
    }

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
    fn triples_are_new_sets_and_every_target_names_every_object() {
        let world = World::new(0);
        let mut sets = HashSet::new();
        for difficulty in 0..=MOST_DIFFICULT_TRIPLES {
            let counts = if difficulty == 0 { Counts { train: 200, valid: 50, test: 50 } } else { COUNTS };
            let rows = triples(&world, counts, difficulty).unwrap();
            sets.clear();
            let all = [rows.train, rows.valid, rows.test].concat();
            assert_eq!(all.iter().map(|row| row.triples.len()).max(), Some([1, 2, 3, 3][usize::from(difficulty)]));
            for row in all {
                let mut set = row.triples.clone();
                set.sort();
                assert!(sets.insert(set));
                for target in &row.targets {
                    for [subject, _, object] in &row.triples {
                        assert!(target.contains(subject.as_str()) && target.contains(object.as_str()), "{target}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_world_that_is_too_small_says_so() {
        let sizes = super::super::WorldSizes { creatures: 4, values: 4, opinion_words: 4 };
        let world = World::with_sizes(0, sizes);
        let short = triples(&world, COUNTS, 0).unwrap_err();
        assert_eq!((short.split, short.wanted, short.found), ("train", 1500, 32));
    }
}
