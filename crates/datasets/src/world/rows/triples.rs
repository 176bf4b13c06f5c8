//! Sets of triples, with several ways to say each.

use super::super::World;
use super::super::grammar::{self, Statement, Style};
use super::super::scene::{Scene, Values};
use super::{Counts, MOST_DIFFICULT, Result, SplitRows, collect, draws_of};
use crate::draw;
use crate::tasks::data_to_text::TripleRow;
use peftbench_spec::seed::Stream;
use std::collections::HashSet;

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
    let values = if difficulty >= MOST_DIFFICULT { Values::Drawn } else { Values::Facts };
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
    use super::super::tests::COUNTS;
    use super::*;

    #[test]
    fn triples_are_new_sets_and_every_target_names_every_object() {
        let world = World::new(0);
        let mut sets = HashSet::new();
        for difficulty in 0..=MOST_DIFFICULT {
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
}
