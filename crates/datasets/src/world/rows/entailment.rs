//! A text and a claim: does it follow?

use super::super::World;
use super::super::scene::{Scene, Values, Verdict};
use super::{Counts, MOST_DIFFICULT, Result, SplitRows, draw_splits};
use crate::draw;
use crate::tasks::classification::LabelledTexts;

/// Texts of long ago and claims that follow (label 0) or do not (1), half and half. A text says one thing up to difficulty 1, up to two
/// of one creature with 2, up to four of one or two with 3. A claim that does not follow is of something else with difficulty 0; with 1 a
/// quarter of them have another value for what was said, from 2 on half.
pub(crate) fn entailment(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<LabelledTexts>> {
    draw_splits(world, "entailment", counts, |draws, id, index| {
        let label = index % 2;
        let (most, pairs, contradicted) = [(1, 0, 0), (1, 0, 1), (2, 0, 2), (4, 3, 2)][usize::from(difficulty.min(MOST_DIFFICULT))];
        let said = 1 + draw::below(draws, most);
        let scene = Scene::draw(world, draws, said, Values::Drawn, pairs);
        let verdict = match label {
            0 => Verdict::Follows,
            _ if draw::chance(draws, contradicted, 4) => Verdict::Contradicts,
            _ => Verdict::Open,
        };
        let claim = format!("{}.", scene.claim(world, draws, verdict));
        let texts = vec![scene.tell_as_past(draws), claim];
        (texts.join(" "), LabelledTexts { id, texts, label })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;

    #[test]
    fn labels_are_dealt_evenly_and_texts_grow_with_difficulty() {
        let world = World::new(0);
        let mean = |difficulty| {
            let rows = entailment(&world, COUNTS, difficulty).unwrap().train;
            assert_eq!(rows.iter().filter(|row| row.label == 0).count(), 750);
            rows.iter().map(|row| row.texts[0].split(' ').count() as f64).sum::<f64>() / rows.len() as f64
        };
        assert!(mean(1) < mean(2) && mean(2) < mean(3));
    }
}
