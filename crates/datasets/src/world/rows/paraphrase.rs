//! Two sentences: do they tell of one event?

use super::super::World;
use super::super::events::{Alteration, Event};
use super::{Counts, MOST_DIFFICULT, Result, SplitRows, draw_splits};
use crate::draw;
use crate::tasks::classification::LabelledTexts;
use peftbench_spec::seed::Stream;

/// How a sentence begins that denies an event.
const DENIED: &str = "it is not so that ";

/// Pairs that tell of one event in two wordings (label 1) and pairs that do not (label 0), half and half. Of those that do not,
/// three quarters deny it with difficulty 0, a telling of the event that begins with [`DENIED`], and the others share no invented word;
/// with 1 a half deny it, and the others share no word or differ in one; with 2 all differ in one word; 3 also swaps the places, or
/// giver and receiver.
pub(crate) fn paraphrase(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<LabelledTexts>> {
    draw_splits(world, "paraphrase", counts, |draws, id, index| {
        let label = index % 2;
        let event = Event::draw(world, draws);
        let denied = label == 0 && draw::chance(draws, [3, 2, 0, 0][usize::from(difficulty.min(MOST_DIFFICULT))], 4);
        let second = if label == 1 || denied { event } else { other_event(&event, world, draws, difficulty) };
        let mut tellings: [usize; Event::TELLINGS] = std::array::from_fn(|telling| telling);
        draw::shuffle(draws, &mut tellings);
        let begin = if denied { DENIED } else { "" };
        let texts = vec![event.tell(tellings[0]), format!("{begin}{}", second.tell(tellings[1]))];
        (texts.join(" "), LabelledTexts { id, texts, label })
    })
}

fn other_event<'w>(event: &Event<'w>, world: &'w World, draws: &mut Stream, difficulty: u8) -> Event<'w> {
    match difficulty {
        0 => event.draw_like(world, draws),
        1 if draw::chance(draws, 1, 2) => event.draw_like(world, draws),
        3.. if draw::chance(draws, 1, 3) => event.alter(world, draws, Alteration::SwappedRoles),
        _ => event.alter(world, draws, Alteration::OneWord),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;

    /// How many invented words of the first text stand in the second.
    fn shared(world: &World, row: &LabelledTexts) -> (usize, usize) {
        let own: Vec<&String> = world.lexicon.values.iter().flatten().chain(&world.lexicon.creatures).collect();
        let words = |text: &str| -> Vec<String> {
            text.split([' ', ',', '.']).filter(|word| own.iter().any(|w| w == word)).map(str::to_owned).collect()
        };
        let (first, second) = (words(&row.texts[0]), words(&row.texts[1]));
        (first.iter().filter(|word| second.contains(word)).count(), first.len())
    }

    #[test]
    fn the_labels_are_right_and_levels_differ_in_what_is_shared() {
        let world = World::new(0);
        for difficulty in 0..=super::super::MOST_DIFFICULT {
            for row in paraphrase(&world, COUNTS, difficulty).unwrap().train {
                let (shared, all) = shared(&world, &row);
                match (row.label, difficulty) {
                    (1, _) => assert_eq!(shared, all, "{row:?}"),
                    (_, 0 | 1) if row.texts[1].starts_with(DENIED) => assert_eq!(shared, all, "{row:?}"),
                    (_, 0) => assert_eq!(shared, 0, "{row:?}"),
                    (_, 2) => assert_eq!(shared, all - 1, "{row:?}"),
                    _ => {}
                }
            }
        }
    }
}
