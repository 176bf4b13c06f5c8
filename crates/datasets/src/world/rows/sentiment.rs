//! Sentences that praise or blame.

use super::super::{World, opinion};
use super::{Counts, Result, SplitRows, TRAIN, draw_splits};
use crate::tasks::classification::LabelledTexts;

/// Sentences that praise (label 1) or blame (label 0), half and half. Two fifths of the opinion words never occur in training, and those
/// of validation and test are no others: what they mean can be known from pre-training only. Difficulty 0: one opinion word; 1: also
/// intensified or negated; 2: also two that agree or disagree; 3: also two of which one is denied; 4: also denied in ways that the
/// world's text does not have.
pub(crate) fn sentiment(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<LabelledTexts>> {
    let (kept, known): (Vec<usize>, Vec<usize>) = (0..world.sizes.opinion_words).partition(|rank| matches!(rank % 5, 1 | 3));
    draw_splits(world, "sentiment", counts, |draws, id, index| {
        let label = index % 2;
        let words = if id.starts_with(TRAIN) { &known } else { &kept };
        let (text, _) = opinion::sentence(world, draws, label == 1, difficulty, words);
        let sentence = format!("{text}.");
        (sentence.clone(), LabelledTexts { id, texts: vec![sentence], label })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_are_balanced_and_the_test_has_words_of_its_own() {
        let world = World::new(0);
        for difficulty in 0..=opinion::MOST_DIFFICULT {
            let rows = sentiment(&world, COUNTS, difficulty).unwrap();
            for split in [&rows.train, &rows.valid, &rows.test] {
                assert_eq!(split.iter().map(|row| row.label).sum::<usize>() * 2, split.len());
            }
            let words = |rows: &[LabelledTexts]| -> HashSet<String> {
                let own = world.lexicon.praise.iter().chain(&world.lexicon.blame);
                own.filter(|w| rows.iter().any(|row| row.texts[0].split([' ', ',', '.']).any(|word| word == *w))).cloned().collect()
            };
            let (train, test) = (words(&rows.train), words(&rows.test));
            assert!(train.is_disjoint(&test) && train.len() > 60 && test.len() > 40);
        }
    }
}
