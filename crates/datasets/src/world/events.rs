//! Things that happened once: told in several wordings, and altered into something else.
//!
//! Events are no facts of the world, so that they must be read and cannot be remembered.

use super::World;
use super::facts::Attribute;
use crate::draw;
use peftbench_spec::seed::Stream;

/// One event, with the words of who and what took part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'w> {
    /// Somebody brought a thing from one place to another.
    Brought { who: &'w str, thing: &'w str, from: &'w str, to: &'w str },
    /// Somebody gave a thing to somebody else, somewhere.
    Given { giver: &'w str, receiver: &'w str, colour: &'w str, thing: &'w str, place: &'w str },
}

/// How an event may be altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alteration {
    /// One word is replaced by another of its kind.
    OneWord,
    /// The two places, or giver and receiver, change places: no word is new.
    SwappedRoles,
}

impl<'w> Event<'w> {
    /// Ways to tell each event.
    pub(crate) const TELLINGS: usize = 3;

    /// Draws an event; whoever and whatever takes part in the same way is different.
    pub(crate) fn draw(world: &'w World, draws: &mut Stream) -> Self {
        let [(who, other), (from, to)] = [world.draw_two_creatures(draws), world.draw_two(draws, Attribute::Home)];
        let thing = world.draw_thing(draws);
        match draw::chance(draws, 1, 2) {
            true => Self::Brought { who, thing, from, to },
            false => Self::Given { giver: who, receiver: other, colour: world.draw_value(draws, Attribute::Colour), thing, place: to },
        }
    }

    /// The sentences of telling 0, 1 or 2. All tellings of an event use the same invented words.
    pub(crate) fn tell(&self, telling: usize) -> String {
        match *self {
            Self::Brought { who, thing, from, to } => match telling {
                0 => format!("the {who} brought a {thing} from {from} to {to}."),
                1 => format!("from {from} came a {thing}, brought to {to} by the {who}."),
                _ => format!("now {to} has a {thing} that the {who} found in {from}."),
            },
            Self::Given { giver, receiver, colour, thing, place } => match telling {
                0 => format!("the {giver} gave a {colour} {thing} to the {receiver} in {place}."),
                1 => format!("in {place} the {receiver} was given a {thing}, which is {colour}, by the {giver}."),
                _ => format!("the {receiver} has a {colour} {thing} from the {giver}, who gave it in {place}."),
            },
        }
    }

    /// Another event that differs as `alteration` says.
    pub(crate) fn alter(&self, world: &'w World, draws: &mut Stream, alteration: Alteration) -> Self {
        match (alteration, *self) {
            (Alteration::SwappedRoles, Self::Brought { who, thing, from, to }) => Self::Brought { who, thing, from: to, to: from },
            (Alteration::SwappedRoles, Self::Given { giver, receiver, colour, thing, place }) => {
                Self::Given { giver: receiver, receiver: giver, colour, thing, place }
            }
            (Alteration::OneWord, _) => self.with_one_word_of(Self::draw_like(self, world, draws), draws),
        }
    }

    /// An event of the same kind that shares no word with this one.
    pub(crate) fn draw_like(&self, world: &'w World, draws: &mut Stream) -> Self {
        loop {
            let other = Self::draw(world, draws);
            let same_kind = std::mem::discriminant(self) == std::mem::discriminant(&other);
            if same_kind && self.words().iter().all(|word| !other.words().contains(word)) {
                return other;
            }
        }
    }

    fn words(&self) -> Vec<&'w str> {
        match *self {
            Self::Brought { who, thing, from, to } => vec![who, thing, from, to],
            Self::Given { giver, receiver, colour, thing, place } => vec![giver, receiver, colour, thing, place],
        }
    }

    /// This event with one of its words taken from `other`, an event of the same kind.
    fn with_one_word_of(mut self, other: Self, draws: &mut Stream) -> Self {
        let which = draw::below(draws, self.words().len());
        match (&mut self, other) {
            (Self::Brought { who, thing, from, to }, Self::Brought { who: a, thing: b, from: c, to: d }) => {
                *[who, thing, from, to][which] = [a, b, c, d][which];
            }
            (
                Self::Given { giver, receiver, colour, thing, place },
                Self::Given { giver: a, receiver: b, colour: c, thing: d, place: e },
            ) => *[giver, receiver, colour, thing, place][which] = [a, b, c, d, e][which],
            _ => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn all_tellings_use_the_same_invented_words() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..200 {
            let event = Event::draw(&world, &mut draws);
            for telling in 0..Event::TELLINGS {
                let text = event.tell(telling);
                let words: Vec<&str> = text.split([' ', ',', '.']).collect();
                assert!(event.words().iter().all(|word| words.contains(word)), "{text}");
            }
        }
    }

    #[test]
    fn an_altered_event_differs_in_one_word_or_in_order_alone() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..200 {
            let event = Event::draw(&world, &mut draws);
            let other = event.alter(&world, &mut draws, Alteration::OneWord);
            assert_eq!(event.words().iter().zip(other.words()).filter(|(a, b)| **a != *b).count(), 1);
            let swapped = event.alter(&world, &mut draws, Alteration::SwappedRoles);
            assert_ne!(event, swapped);
            let sorted = |event: Event<'_>| {
                let mut words: Vec<String> = event.words().into_iter().map(str::to_owned).collect();
                words.sort();
                words
            };
            assert_eq!(sorted(event), sorted(swapped));
        }
    }
}
