//! A text and a claim: does it follow?

use super::super::World;
use super::super::scene::{Scene, Values, Verdict};
use super::{Counts, Result, SplitRows, draw_splits};
use crate::draw;
use crate::tasks::classification::LabelledTexts;

/// Verdicts in the order of MNLI's labels.
const LABELS: [Verdict; 3] = [Verdict::Follows, Verdict::Open, Verdict::Contradicts];

/// Texts of long ago and claims that follow (label 0), are open (1) or contradicted (2), a third each. A text says one thing with
/// difficulty 0, one or two of one creature with 1, up to three of one or two with 2, up to four with 3.
pub(crate) fn entailment(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<LabelledTexts>> {
    draw_splits(world, "entailment", counts, |draws, id, index| {
        let label = index % LABELS.len();
        let said = 1 + draw::below(draws, usize::from(difficulty) + 1);
        let pairs = if difficulty < 2 { 0 } else { 3 };
        let scene = Scene::draw(world, draws, said, Values::Drawn, pairs);
        let claim = format!("{}.", scene.claim(world, draws, LABELS[label]));
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
            assert!((0..3).all(|label| rows.iter().filter(|row| row.label == label).count() == 500));
            rows.iter().map(|row| row.texts[0].split(' ').count()).sum::<usize>() / rows.len()
        };
        assert!(mean(0) < mean(1) && mean(1) < mean(3));
    }
}
