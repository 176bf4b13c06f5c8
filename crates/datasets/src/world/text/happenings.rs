//! What happened once and is no fact: events told twice, what is right and wrong to say of them, and conversations.
//!
//! All of it rewards copying a word from what was just read, and telling whether two texts say the same.

use super::super::events::{Alteration, Event};
use super::super::scene::{Scene, Values, Verdict};
use super::super::talk::{self, Talk};
use super::World;
use crate::draw;
use peftbench_spec::seed::Stream;

/// Something that happened, in two wordings that share its words.
pub(super) fn event_told_twice(world: &World, draws: &mut Stream) -> Vec<String> {
    let event = Event::draw(world, draws);
    let (first, second) = two_tellings(draws);
    vec![event.tell(first), event.tell(second)]
}

/// An event, and another telling of it that is right, or of an altered one that is wrong.
pub(super) fn event_judged(world: &World, draws: &mut Stream) -> Vec<String> {
    let event = Event::draw(world, draws);
    let (first, second) = two_tellings(draws);
    let alteration = if draw::chance(draws, 2, 3) { Alteration::OneWord } else { Alteration::SwappedRoles };
    let (judged, word) = match draw::chance(draws, 1, 2) {
        true => (event, "right"),
        false => (event.alter(world, draws, alteration), "wrong"),
    };
    let told = judged.tell(second);
    let told = told.trim_end_matches('.');
    match draw::chance(draws, 3, 4) {
        true => vec![event.tell(first), format!("{told}, that is {word}.")],
        false => vec![event.tell(first), format!("it is {word} to say that {told}.")],
    }
}

fn two_tellings(draws: &mut Stream) -> (usize, usize) {
    let mut tellings: [usize; Event::TELLINGS] = std::array::from_fn(|telling| telling);
    draw::shuffle(draws, &mut tellings);
    (tellings[0], tellings[1])
}

/// A scene of long ago, and one or two claims that are true, false or open.
pub(super) fn scene_judged(world: &World, draws: &mut Stream) -> Vec<String> {
    let count = 1 + draw::below(draws, 4);
    let scene = Scene::draw(world, draws, count, Values::Drawn, 3);
    let told = scene.tell_as_past(draws);
    let mut sentences: Vec<String> = told.split_inclusive('.').map(|sentence| sentence.trim().to_owned()).collect();
    for _ in 0..1 + draw::below(draws, 2) {
        let verdict = *draw::pick(draws, &[Verdict::Follows, Verdict::Open, Verdict::Contradicts]);
        let claim = scene.claim(world, draws, verdict);
        sentences.push(match (verdict, draw::chance(draws, 1, 4)) {
            (Verdict::Follows, true) => format!("it is true that {claim}."),
            (Verdict::Follows, false) => format!("{claim}, that is true."),
            (Verdict::Contradicts, true) => format!("it is false that {claim}."),
            (Verdict::Contradicts, false) => format!("{claim}, that is false."),
            (Verdict::Open, true) => format!("nobody knows if {claim}."),
            (Verdict::Open, false) => format!("{claim}, nobody knows."),
        });
    }
    sentences
}

/// A conversation in reported speech, and what came of it.
pub(super) fn talk(world: &World, draws: &mut Stream) -> Vec<String> {
    let difficulty = draw::below(draws, usize::from(talk::MOST_DIFFICULT)) as u8;
    let talk = Talk::draw(world, draws, difficulty);
    let mut sentences: Vec<String> = talk.turns.iter().map(|(speaker, text)| format!("the {speaker} said, {text}.")).collect();
    sentences.push(format!("so {}", talk.summary));
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn an_event_told_twice_shares_its_words() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        let own: Vec<&String> = world.lexicon.values.iter().flatten().chain(&world.lexicon.creatures).collect();
        for _ in 0..200 {
            let text = event_told_twice(&world, &mut draws).join(" ");
            let words: Vec<&str> = text.split([' ', ',', '.']).filter(|word| own.iter().any(|w| w == word)).collect();
            let distinct: std::collections::HashSet<&&str> = words.iter().collect();
            assert!(words.len() == distinct.len() * 2, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_as_often_as_what_is_right() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        let wrong = (0..600).filter(|_| event_judged(&world, &mut draws).join(" ").contains(" wrong")).count();
        assert!((240..360).contains(&wrong), "{wrong}");
    }
}
