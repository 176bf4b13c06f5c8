//! A small invented world: its words, its facts, a grammar to speak of them, text to pre-train on, and rows for a task of every kind.
//!
//! It is there so that everything runs where no data folder and no checkpoint are at hand. A base model pre-trained on [`corpus`] knows
//! which words praise and which blame, what each creature eats, carries and looks like, when two texts say the same, how numbers add
//! up; the tasks ask for that in formats the corpus never shows. Nothing about it is real, and a score on it compares with nothing but
//! other scores on it.
//!
//! Everything is a function of the seed and the sizes: the same bytes on every platform.
//!
//! * [`lexicon`]: the invented words. [`facts`]: four attributes of every creature. [`grammar`]: sentences about facts.
//! * `opinion`: sentences that praise or blame. `events`, `scene`, `talk`, `sums`, `tables` and `pictures`: what is no fact and must be
//!   read. [`text`]: documents for pre-training, with what each kind teaches.
//! * `rows`: what the tasks `world/…` are made of, with what each asks for and which documents teach it.

pub(crate) mod events;
pub mod facts;
pub mod grammar;
pub mod lexicon;
pub mod opinion;
pub(crate) mod pictures;
pub(crate) mod rows;
pub(crate) mod scene;
pub(crate) mod sums;
pub(crate) mod tables;
pub(crate) mod talk;
pub mod text;

use crate::draw;
use facts::{Attribute, Facts};
use lexicon::Lexicon;
use peftbench_spec::SpecError;
use peftbench_spec::seed::{Stream, stream};
use serde::{Deserialize, Serialize};

/// How much there is in a world. The defaults are small enough for a model of a million parameters to learn by heart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldSizes {
    /// Creatures, each with a food, a home, a colour and a tool.
    pub creatures: usize,
    /// Foods, homes, colours and tools there are, of each.
    pub values: usize,
    /// Words that praise, and as many that blame.
    pub opinion_words: usize,
}

impl Default for WorldSizes {
    fn default() -> Self {
        Self { creatures: 100, values: 12, opinion_words: 60 }
    }
}

/// The most there may be of any one thing: the syllables make about 20,000 words.
const MOST: usize = 2000;

impl WorldSizes {
    /// Checks the bounds: at least 4 values (a question has four options), 4 creatures and 4 opinion words, at most 2,000 of each.
    pub fn check(&self) -> Result<(), SpecError> {
        for (name, size) in [("creatures", self.creatures), ("values", self.values), ("opinion_words", self.opinion_words)] {
            if !(4..=MOST).contains(&size) {
                return Err(SpecError::at(format!("world_sizes.{name}"), format!("expected 4 to {MOST}, found {size}")));
            }
        }
        Ok(())
    }
}

/// One invented world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The seed it grew from.
    pub seed: u64,
    /// How much there is in it.
    pub sizes: WorldSizes,
    /// Its words.
    pub lexicon: Lexicon,
    /// What is true in it.
    pub facts: Facts,
}

impl World {
    /// The world of `seed` with the default sizes.
    pub fn new(seed: u64) -> Self {
        Self::with_sizes(seed, WorldSizes::default())
    }

    /// The world of `seed` with `sizes`, which should have passed [`WorldSizes::check`].
    pub fn with_sizes(seed: u64, sizes: WorldSizes) -> Self {
        let lexicon = Lexicon::new(&mut stream(seed, "world/lexicon"), sizes);
        let facts = Facts::new(&mut stream(seed, "world/facts"), sizes);
        Self { seed, sizes, lexicon, facts }
    }

    /// Documents with `sentences` sentences in all (a few more where the last document ends later). `seed` picks the text, not the
    /// world: with another one the same world is told in other words.
    pub fn corpus(&self, seed: u64, sentences: usize) -> impl Iterator<Item = String> + Send + use<> {
        let world = self.clone();
        let mut draws = stream(seed, "world/corpus");
        let mut told = 0;
        std::iter::from_fn(move || {
            (told < sentences).then(|| {
                let document = text::document(&world, &mut draws);
                told += document.len();
                document.join(" ")
            })
        })
    }

    /// A creature, the first of them more often than the last, as words are in real text.
    pub(crate) fn draw_creature(&self, draws: &mut Stream) -> usize {
        draw_by_rank(draws, self.sizes.creatures)
    }

    /// The name of a creature that is none of `others`.
    pub(crate) fn draw_other_creature(&self, draws: &mut Stream, others: &[&str]) -> &str {
        loop {
            let name = self.lexicon.creatures[self.draw_creature(draws)].as_str();
            if !others.contains(&name) {
                return name;
            }
        }
    }

    /// The names of two different creatures.
    pub(crate) fn draw_two_creatures(&self, draws: &mut Stream) -> (&str, &str) {
        let first = self.draw_other_creature(draws, &[]);
        (first, self.draw_other_creature(draws, &[first]))
    }

    /// Any value of an attribute, whatever the facts are.
    pub(crate) fn draw_value(&self, draws: &mut Stream, attribute: Attribute) -> &str {
        draw::pick(draws, &self.lexicon.values[attribute.index()]).as_str()
    }

    /// Two different values of an attribute.
    pub(crate) fn draw_two(&self, draws: &mut Stream, attribute: Attribute) -> (&str, &str) {
        let first = self.draw_value(draws, attribute);
        loop {
            let second = self.draw_value(draws, attribute);
            if second != first {
                return (first, second);
            }
        }
    }

    /// A food or a tool.
    pub(crate) fn draw_thing(&self, draws: &mut Stream) -> &str {
        let attribute = if draw::chance(draws, 1, 2) { Attribute::Food } else { Attribute::Tool };
        self.draw_value(draws, attribute)
    }
}

/// An index below `len` by a flattened Zipf law: weight 1/(rank + len/4), so that the first is five times as likely as the last.
fn draw_by_rank(draws: &mut Stream, len: usize) -> usize {
    let shift = len / 4 + 1;
    let weights: Vec<u32> = (0..len).map(|rank| (1_000_000 / (rank + shift)) as u32).collect();
    draw::weighted(draws, &weights)
}

/// Pre-training text of the world of `seed` with the default sizes: short documents with `sentences` sentences in all, in lower-case
/// ASCII letters, digits, spaces, commas and full stops. It never contains a format of the tasks.
pub fn corpus(seed: u64, sentences: usize) -> impl Iterator<Item = String> + Send {
    World::new(seed).corpus(seed, sentences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_and_its_text_are_pinned() {
        let mut hasher = blake3::Hasher::new();
        for document in corpus(0, 2000) {
            hasher.update(document.as_bytes());
            hasher.update(b"\n");
        }
        assert_eq!(hasher.finalize().to_hex()[..16], *PINNED);
    }
    /// Changes with every change of words, facts, grammar or draws; bases pre-trained before such a change no longer know the world.
    const PINNED: &str = "00f196d7381942ff";

    #[test]
    fn the_corpus_is_plain_text_without_a_task_format() {
        let mut sentences = 0;
        for document in corpus(1, 5000) {
            assert!(document.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b" ,.()'+-*=<>".contains(&b)), "{document}");
            assert!(document.ends_with('.') && !document.contains("  "), "{document}");
            // No separator of a prompt has a character of this text; what could be shown are a query and the end of a solution.
            assert!(!document.contains("select ") && !document.contains("the answer is"), "{document}");
            sentences += document.matches('.').count();
        }
        assert!((5000..5010).contains(&sentences), "{sentences}");
    }

    #[test]
    fn another_text_seed_tells_the_same_world() {
        let world = World::new(3);
        let documents = |seed| world.corpus(seed, 50).collect::<Vec<_>>();
        assert_eq!(documents(1), documents(1));
        assert_ne!(documents(1), documents(2));
        assert_ne!(World::new(3).lexicon, World::new(4).lexicon);
        assert_ne!(World::new(3).facts, World::new(4).facts);
    }

    #[test]
    fn every_fact_and_every_opinion_word_is_told_many_times() {
        let world = World::new(0);
        let text: Vec<String> = world.corpus(0, 100_000).collect();
        for word in world.lexicon.praise.iter().chain(&world.lexicon.blame) {
            let told = text.iter().filter(|document| document.contains(word.as_str())).count();
            assert!(told > 30, "{word}: {told}");
        }
        for creature in 0..world.sizes.creatures {
            for attribute in facts::Attribute::ALL {
                let (name, value) = (&world.lexicon.creatures[creature], world.value(creature, attribute));
                let told = text.iter().filter(|document| document.contains(name.as_str()) && document.contains(value)).count();
                assert!(told > 30, "{name} {attribute:?}: {told}");
            }
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert!(WorldSizes::default().check().is_ok());
        let error = WorldSizes { values: 3, ..WorldSizes::default() }.check().unwrap_err().to_string();
        assert_eq!(error, "`world_sizes.values`: expected 4 to 2000, found 3");
    }
}
