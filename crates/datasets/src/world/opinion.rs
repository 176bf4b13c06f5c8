//! Sentences that praise or blame, built so that what they mean follows from invented words and a few English ones.

use super::{World, draw_by_rank};
use crate::draw;
use peftbench_spec::seed::Stream;

/// How an opinion is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// `was tavu`.
    Plain,
    /// `was very tavu`: the same as without.
    Intensified,
    /// `was not tavu`: the opposite of the word.
    Negated,
    /// `was tavu and lopan`: two words that agree.
    Doubled,
    /// `was tavu but lopan`: two words that disagree; the last one counts.
    Contrasted,
    /// `was not tavu but lopan`, `was lopan, not tavu`: two words that disagree, one denied; the other counts.
    Corrected,
    /// `was far from tavu`: the opposite of the word, in a way the world's text never says it.
    Reversed,
}

/// The hardest level of [`builds`].
pub const MOST_DIFFICULT: u8 = 4;

/// The hardest level that the world's text has.
pub const MOST_DIFFICULT_TOLD: u8 = 3;

/// The builds of a level of difficulty, with weights: 0 plain words; 1 adds intensifiers and negation; 2 adds pairs of words that agree
/// or disagree; 3 adds pairs of which one is denied; 4 adds
/// denials that the world's text does not have.
pub fn builds(difficulty: u8) -> &'static [(Build, u32)] {
    use Build::*;
    match difficulty {
        0 => &[(Plain, 1)],
        1 => &[(Plain, 4), (Intensified, 3), (Negated, 3)],
        2 => &[(Plain, 2), (Intensified, 2), (Negated, 3), (Doubled, 1), (Contrasted, 2)],
        3 => &[(Plain, 1), (Intensified, 2), (Negated, 3), (Doubled, 1), (Contrasted, 2), (Corrected, 2)],
        _ => &[(Plain, 1), (Intensified, 2), (Negated, 2), (Contrasted, 2), (Corrected, 2), (Reversed, 3)],
    }
}

/// What turns a word into its opposite without a word for no.
const REVERSALS: [&str; 3] = ["far from", "anything but", "hardly"];

/// The opinion words that may be used: a range of ranks, by which training words and words kept for the test are told apart.
pub type Ranks<'a> = &'a [usize];

/// A sentence without its full stop that praises (`good`) or blames, and the creature it is about.
pub fn sentence(world: &World, draws: &mut Stream, good: bool, difficulty: u8, ranks: Ranks) -> (String, usize) {
    let table = builds(difficulty);
    let weights: Vec<u32> = table.iter().map(|&(_, weight)| weight).collect();
    let build = table[draw::weighted(draws, &weights)].0;
    let opinion = opinion(world, draws, good, build, ranks);
    let creature = world.draw_creature(draws);
    let name = &world.lexicon.creatures[creature];
    let [foods, places, _, tools] = &world.lexicon.values;
    let things = if draw::chance(draws, 1, 2) { foods } else { tools };
    let thing = draw::pick(draws, things);
    let place = draw::pick(draws, places);
    let text = match draw::below(draws, 6) {
        0 => format!("the {thing} of the {name} was {opinion}"),
        1 => format!("the {name} found a {thing} that was {opinion}"),
        2 => format!("in {place} the {name} saw a {thing} and it was {opinion}"),
        3 => format!("the {name} said that the {thing} was {opinion}"),
        4 => format!("the {thing} that the {name} brought from {place} was {opinion}"),
        _ => format!("the {name} was {opinion} in {place}"),
    };
    (text, creature)
}

fn opinion(world: &World, draws: &mut Stream, good: bool, build: Build, ranks: Ranks) -> String {
    let words = |good: bool| if good { &world.lexicon.praise } else { &world.lexicon.blame };
    // Ranks are in order of frequency: common words are common in every split.
    let mut word = |good: bool| words(good)[ranks[draw_by_rank(draws, ranks.len())]].as_str();
    match build {
        Build::Plain => word(good).to_owned(),
        Build::Intensified => {
            let word = word(good);
            format!("{} {word}", draw::pick(draws, &["very", "quite", "really", "so"]))
        }
        Build::Negated => {
            let word = word(!good);
            format!("{} {word}", draw::pick(draws, &["not", "never", "not very", "not at all"]))
        }
        Build::Reversed => {
            let word = word(!good);
            format!("{} {word}", draw::pick(draws, &REVERSALS))
        }
        Build::Doubled => format!("{} and {}", word(good), word(good)),
        Build::Contrasted => {
            let (first, last) = (word(!good), word(good));
            format!("{first} {} {last}", draw::pick(draws, &["but", "but very", "but in the end"]))
        }
        Build::Corrected => {
            let (denied, meant) = (word(!good), word(good));
            match draw::chance(draws, 1, 2) {
                true => format!("not {denied} but {meant}"),
                false => format!("{meant}, not {denied}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    /// Reads the meaning back from the words alone, by rules written apart from the generator.
    fn read(world: &World, sentence: &str) -> bool {
        let words: Vec<&str> = sentence.split([' ', ',']).collect();
        let polarity = |word: &str| match word {
            word if world.lexicon.praise.iter().any(|w| w == word) => Some(true),
            word if world.lexicon.blame.iter().any(|w| w == word) => Some(false),
            _ => None,
        };
        let mut meant = None;
        for (at, word) in words.iter().enumerate() {
            let Some(polarity) = polarity(word) else { continue };
            let before = &words[at.saturating_sub(3)..at];
            let reversed =
                [["far", "from"], ["anything", "but"]].iter().any(|pair| before.ends_with(pair)) || before.ends_with(&["hardly"]);
            let denied = reversed || before.iter().rev().take_while(|w| **w != "but").any(|w| ["not", "never"].contains(w));
            match (denied, meant) {
                (true, Some(_)) => {}
                (true, None) => meant = Some(!polarity),
                (false, _) => meant = Some(polarity),
            }
        }
        meant.unwrap()
    }

    #[test]
    fn every_sentence_means_what_its_label_says() {
        let world = World::new(5);
        let ranks: Vec<usize> = (0..world.sizes.opinion_words).collect();
        let mut draws = stream(0, "t");
        for difficulty in 0..=MOST_DIFFICULT {
            for i in 0..500 {
                let (text, creature) = sentence(&world, &mut draws, i % 2 == 0, difficulty, &ranks);
                assert_eq!(read(&world, &text), i % 2 == 0, "{text}");
                assert!(text.contains(&world.lexicon.creatures[creature]));
            }
        }
    }

    #[test]
    fn easier_levels_lack_the_harder_builds() {
        let world = World::new(5);
        let ranks: Vec<usize> = (0..world.sizes.opinion_words).collect();
        let mut draws = stream(0, "t");
        let mut contain = |difficulty, word: &str| {
            (0..300).any(|_| sentence(&world, &mut draws, true, difficulty, &ranks).0.split([' ', ',']).any(|w| w == word))
        };
        assert!(!contain(0, "not") && !contain(0, "very") && contain(1, "not") && !contain(1, "but") && contain(2, "but"));
    }
}
