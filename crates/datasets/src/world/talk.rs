//! Conversations of two creatures, and what came of them in one sentence.

use super::World;
use super::facts::Attribute;
use crate::draw;
use peftbench_spec::seed::Stream;

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Talk<'w> {
    /// Who said what, without a mark at the end.
    pub(crate) turns: Vec<(&'w str, String)>,
    /// What came of it, with a full stop.
    pub(crate) summary: String,
}

/// The hardest level of [`Talk::draw`].
pub(crate) const MOST_DIFFICULT: u8 = 3;

impl<'w> Talk<'w> {
    /// Draws a conversation. Difficulty 0: one wish and its answer; 1: what is agreed on is not always what was said first; 2: with a turn
    /// that has nothing to do with it; 3: with two.
    pub(crate) fn draw(world: &'w World, draws: &mut Stream, difficulty: u8) -> Self {
        let (a, b) = world.draw_two_creatures(draws);
        let changed = difficulty > 0 && draw::chance(draws, 1, 2);
        let mut talk = match draw::below(draws, 3) {
            0 => Self::errand(world, draws, (a, b), changed),
            1 => Self::meeting(world, draws, (a, b), changed),
            _ => Self::loss(world, draws, (a, b), changed),
        };
        for _ in 1..difficulty {
            // An aside opens the talk or stands between two turns.
            let at = draw::below(draws, talk.turns.len());
            let speaker = if draw::chance(draws, 1, 2) { a } else { b };
            let aside = match draw::below(draws, 3) {
                0 => format!("i ate {} today", world.draw_value(draws, Attribute::Food)),
                1 => format!("my coat is {} now", world.draw_value(draws, Attribute::Colour)),
                _ => format!("i was in {} last year", world.draw_value(draws, Attribute::Home)),
            };
            talk.turns.insert(at, (speaker, aside));
        }
        talk
    }

    fn errand(world: &'w World, draws: &mut Stream, (a, b): (&'w str, &'w str), changed: bool) -> Self {
        let (first, second) = world.draw_two(draws, Attribute::Tool);
        let place = world.draw_value(draws, Attribute::Home);
        let mut turns = vec![(a, format!("can you bring me a {first}"))];
        match changed {
            true => turns.extend([(b, format!("no, but i have a {second}")), (a, format!("then bring that to {place}"))]),
            false => turns.extend([(b, "yes, where do you need it".to_owned()), (a, format!("i need it in {place}"))]),
        }
        let thing = if changed { second } else { first };
        Self { turns, summary: format!("the {b} will bring a {thing} to the {a} in {place}.") }
    }

    fn meeting(world: &'w World, draws: &mut Stream, (a, b): (&'w str, &'w str), changed: bool) -> Self {
        let (first, second) = world.draw_two(draws, Attribute::Home);
        let food = world.draw_value(draws, Attribute::Food);
        let mut turns = vec![(a, format!("let us eat {food} in {first}"))];
        match changed {
            true => turns.extend([(b, format!("that is far, i am in {second}")), (a, "then i will come to you".to_owned())]),
            false => turns.extend([(b, "yes, i will be there".to_owned())]),
        }
        let place = if changed { second } else { first };
        Self { turns, summary: format!("the {a} and the {b} will eat {food} in {place}.") }
    }

    fn loss(world: &'w World, draws: &mut Stream, (a, b): (&'w str, &'w str), changed: bool) -> Self {
        let (first, second) = world.draw_two(draws, Attribute::Home);
        let thing = world.draw_value(draws, Attribute::Tool);
        let mut turns = vec![(a, format!("i lost my {thing}")), (b, format!("was it in {first}"))];
        match changed {
            true => turns.push((a, format!("no, it was in {second}"))),
            false => turns.push((a, "yes, it was there".to_owned())),
        }
        let place = if changed { second } else { first };
        Self { turns, summary: format!("the {a} lost a {thing} in {place} and told the {b}.") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn a_summary_says_nothing_that_was_not_said() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        let own: Vec<&String> = world.lexicon.values.iter().flatten().collect();
        for difficulty in 0..=MOST_DIFFICULT {
            for _ in 0..200 {
                let talk = Talk::draw(&world, &mut draws, difficulty);
                let said: Vec<&str> = talk.turns.iter().flat_map(|(_, text)| text.split([' ', ','])).collect();
                for word in talk.summary.split([' ', '.']) {
                    let named = talk.turns.iter().any(|(speaker, _)| *speaker == word);
                    assert!(named || said.contains(&word) || !own.iter().any(|w| *w == word), "{talk:?}");
                }
                assert!(talk.turns.len() >= 2 + usize::from(difficulty.saturating_sub(1)));
            }
        }
    }
}
