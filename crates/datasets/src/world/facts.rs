//! What is true in the world: four attributes of every creature.

use super::{World, WorldSizes};
use crate::draw;
use peftbench_spec::seed::Stream;

/// What can be said of a creature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// What it eats.
    Food,
    /// Where it lives.
    Home,
    /// What colour it is.
    Colour,
    /// What it carries.
    Tool,
}

impl Attribute {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [Self::Food, Self::Home, Self::Colour, Self::Tool];

    /// Its place in [`Attribute::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The value of every attribute of every creature, as indices into the lexicon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    values: Vec<[usize; Attribute::COUNT]>,
}

impl Facts {
    /// Draws the facts: every value belongs to as many creatures as any other, give or take one, so that guessing the most common value
    /// gains nothing.
    pub fn new(draws: &mut Stream, sizes: WorldSizes) -> Self {
        let mut values = vec![[0; Attribute::COUNT]; sizes.creatures];
        for attribute in Attribute::ALL {
            let mut dealt: Vec<usize> = (0..sizes.creatures).map(|creature| creature % sizes.values).collect();
            draw::shuffle(draws, &mut dealt);
            for (creature, value) in dealt.into_iter().enumerate() {
                values[creature][attribute.index()] = value;
            }
        }
        Self { values }
    }

    /// Index of the value that `attribute` has for `creature`.
    pub fn value(&self, creature: usize, attribute: Attribute) -> usize {
        self.values[creature][attribute.index()]
    }
}

impl World {
    /// The word for the value that `attribute` has for `creature`.
    pub fn value(&self, creature: usize, attribute: Attribute) -> &str {
        &self.lexicon.values[attribute.index()][self.facts.value(creature, attribute)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn values_are_dealt_evenly() {
        let sizes = WorldSizes::default();
        let facts = Facts::new(&mut stream(0, "t"), sizes);
        for attribute in Attribute::ALL {
            let mut counts = vec![0; sizes.values];
            (0..sizes.creatures).for_each(|creature| counts[facts.value(creature, attribute)] += 1);
            assert!(counts.iter().all(|&n| n == 8 || n == 9), "{counts:?}");
        }
    }
}
