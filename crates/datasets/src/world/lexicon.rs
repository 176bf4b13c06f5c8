//! The invented words: two syllables each, all different, none an English word that the grammar uses.

use super::WorldSizes;
use super::facts::Attribute;
use crate::draw;
use peftbench_spec::seed::Stream;
use std::collections::HashSet;

/// All words of a world that are its own. Everything else in its text is a small set of English function words, verbs and nouns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexicon {
    /// Names of creatures.
    pub creatures: Vec<String>,
    /// Names of the values of each attribute, in the order of [`Attribute::ALL`].
    pub values: [Vec<String>; Attribute::COUNT],
    /// Words that praise.
    pub praise: Vec<String>,
    /// Words that blame. Nothing in a word's form tells praise from blame.
    pub blame: Vec<String>,
}

const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
const VOWELS: &[u8] = b"aeiou";
const CODAS: [&str; 10] = ["", "", "", "", "n", "r", "l", "s", "k", "m"];

/// English words of the world's text that an invented one could begin like: two times a consonant and a vowel.
const TAKEN: [&str; 16] =
    ["home", "gave", "came", "live", "colour", "never", "more", "made", "same", "name", "last", "nobody", "total", "need", "size", "today"];

impl Lexicon {
    /// Draws the words of a world. No word is a prefix of another.
    pub fn new(draws: &mut Stream, sizes: WorldSizes) -> Self {
        // Every prefix of four letters is used once: that keeps words apart and makes none a prefix of another.
        let mut stems: HashSet<String> = TAKEN.iter().map(|word| word.chars().take(4).collect()).collect();
        let mut words = |count: usize| -> Vec<String> { (0..count).map(|_| new_word(draws, &mut stems)).collect() };
        Self {
            creatures: words(sizes.creatures),
            values: std::array::from_fn(|_| words(sizes.values)),
            praise: words(sizes.opinion_words),
            blame: words(sizes.opinion_words),
        }
    }
}

fn new_word(draws: &mut Stream, stems: &mut HashSet<String>) -> String {
    loop {
        let mut stem = String::new();
        for _ in 0..2 {
            stem.push(char::from(*draw::pick(draws, CONSONANTS)));
            stem.push(char::from(*draw::pick(draws, VOWELS)));
        }
        let coda = *draw::pick(draws, &CODAS);
        // The stems run out in a world of many thousand words; a third syllable then makes room.
        let full = stems.len() > 3000;
        if full {
            stem.push(char::from(*draw::pick(draws, CONSONANTS)));
            stem.push(char::from(*draw::pick(draws, VOWELS)));
        }
        if stems.insert(stem.clone()) {
            return stem + coda;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    fn all(lexicon: &Lexicon) -> Vec<&String> {
        let Lexicon { creatures, values, praise, blame } = lexicon;
        creatures.iter().chain(values.iter().flatten()).chain(praise).chain(blame).collect()
    }

    #[test]
    fn words_are_different_and_none_is_a_prefix_of_another() {
        let lexicon = Lexicon::new(&mut stream(0, "t"), WorldSizes::default());
        let words = all(&lexicon);
        assert_eq!(words.len(), 100 + 4 * 12 + 2 * 60);
        for (i, a) in words.iter().enumerate() {
            for (j, b) in words.iter().enumerate() {
                assert!(i == j || !b.starts_with(a.as_str()), "{a} {b}");
            }
        }
    }

    #[test]
    fn no_invented_word_is_an_english_one_of_the_text() {
        let world = crate::world::World::new(0);
        let own: HashSet<&String> = all(&world.lexicon).into_iter().collect();
        let text: Vec<String> = world.corpus(0, 5000).collect();
        let english: HashSet<String> =
            text.iter().flat_map(|document| document.split(|c: char| !c.is_ascii_alphabetic())).map(str::to_owned).collect();
        let english: HashSet<String> = english.into_iter().filter(|word| !own.contains(word)).collect();
        assert!((100..250).contains(&english.len()), "{english:?}");
        for seed in 0..30 {
            let other = Lexicon::new(&mut stream(seed, "world/lexicon"), WorldSizes::default());
            assert!(all(&other).iter().all(|word| !english.contains(*word)));
        }
    }

    #[test]
    fn a_large_world_finds_its_words() {
        let sizes = WorldSizes { creatures: 2000, values: 1000, opinion_words: 1000 };
        let lexicon = Lexicon::new(&mut stream(0, "t"), sizes);
        let distinct: HashSet<&String> = all(&lexicon).into_iter().collect();
        assert_eq!(distinct.len(), 8000);
    }
}
