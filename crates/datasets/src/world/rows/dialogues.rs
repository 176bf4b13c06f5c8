//! Conversations, and what came of them.

use super::super::World;
use super::super::talk::Talk;
use super::{Counts, Result, SplitRows, draw_splits};
use crate::tasks::summarization::DialogueRow;

/// Conversations, a turn a line, and a sentence that says what came of each; see [`Talk::draw`] for the levels of difficulty.
pub(crate) fn dialogues(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<DialogueRow>> {
    draw_splits(world, "dialogues", counts, |draws, id, _| {
        let talk = Talk::draw(world, draws, difficulty);
        let turns: Vec<String> = talk.turns.iter().map(|(speaker, text)| format!("{speaker}: {text}")).collect();
        let dialogue = turns.join("\n");
        (dialogue.clone(), DialogueRow { id, dialogue, summary: talk.summary })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;

    #[test]
    fn conversations_grow_with_difficulty_and_are_told_in_a_sentence() {
        let world = World::new(0);
        let mean = |difficulty| {
            let rows = dialogues(&world, COUNTS, difficulty).unwrap().train;
            assert!(rows.iter().all(|row| row.summary.matches('.').count() == 1));
            rows.iter().map(|row| row.dialogue.lines().count() as f64).sum::<f64>() / rows.len() as f64
        };
        assert!(mean(0) < mean(2) && mean(2) < mean(3));
    }
}
