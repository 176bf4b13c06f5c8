//! A few statements about one or two creatures, and claims that follow from them, contradict them or are left open by them.

use super::World;
use super::facts::Attribute;
use super::grammar::{Form, Statement, Style, noun, tell, verb_phrase};
use crate::draw;
use peftbench_spec::seed::Stream;

/// What a scene says of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The claim says what the scene says, perhaps in other words.
    Follows,
    /// The scene says nothing of it.
    Open,
    /// The scene has another value.
    Contradicts,
}

/// Where a scene's values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// The world's facts: a model that knows them need not read.
    Facts,
    /// Drawn for this scene: they must be read.
    Drawn,
}

/// Statements about one or two creatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scene<'w> {
    /// Each creature's name, with what is said of it.
    pub(crate) said: Vec<(&'w str, Vec<Statement<'w>>)>,
}

impl<'w> Scene<'w> {
    /// Draws `count` statements (1 to 4) about one creature or, where there is more than one and in `pairs` of 6 draws, about two.
    pub(crate) fn draw(world: &'w World, draws: &mut Stream, count: usize, values: Values, pairs: usize) -> Self {
        let split = if count > 1 && draw::chance(draws, pairs, 6) { 1 + draw::below(draws, count - 1) } else { count };
        let first = world.draw_creature(draws);
        let second = (first + 1 + draw::below(draws, world.sizes.creatures - 1)) % world.sizes.creatures;
        let mut said = Vec::new();
        for (creature, count) in [(first, split), (second, count - split)] {
            let mut attributes = Attribute::ALL;
            draw::shuffle(draws, &mut attributes);
            let statement = |&attribute: &Attribute| match values {
                Values::Facts => (attribute, world.value(creature, attribute)),
                Values::Drawn => (attribute, world.draw_value(draws, attribute)),
            };
            let statements: Vec<Statement> = attributes[..count].iter().map(statement).collect();
            if !statements.is_empty() {
                said.push((world.lexicon.creatures[creature].as_str(), statements));
            }
        }
        Self { said }
    }

    /// The sentences that tell all of it in the present tense, as a fact is told.
    pub(crate) fn tell(&self, style: Style, second_wording: bool) -> String {
        self.told(style, Form::Present, second_wording)
    }

    /// The same as something of long ago, in a style and wording that are drawn.
    pub(crate) fn tell_as_past(&self, draws: &mut Stream) -> String {
        let style = *draw::pick(draws, &Style::ALL);
        format!("long ago {}", self.told(style, Form::Past, draw::chance(draws, 1, 2)))
    }

    fn told(&self, style: Style, form: Form, second_wording: bool) -> String {
        let sentences = self.said.iter().flat_map(|(name, statements)| tell(name, statements, style, form, second_wording));
        sentences.collect::<Vec<_>>().join(" ")
    }

    /// A claim in the past tense, without a full stop, on which the scene's verdict is `verdict`.
    pub(crate) fn claim(&self, world: &'w World, draws: &mut Stream, verdict: Verdict) -> String {
        let (name, statements) = draw::pick(draws, &self.said);
        let stated = *draw::pick(draws, statements);
        let (attribute, value) = match verdict {
            Verdict::Follows => stated,
            Verdict::Contradicts => (stated.0, self.another_value(world, draws, stated)),
            Verdict::Open => {
                let open: Vec<Attribute> = Attribute::ALL.into_iter().filter(|a| statements.iter().all(|said| said.0 != *a)).collect();
                // Of a creature with all four said, what is open is another one's.
                match open.is_empty() {
                    false => {
                        let attribute = *draw::pick(draws, &open);
                        (attribute, world.draw_value(draws, attribute))
                    }
                    true => return past_claim(world.draw_other_creature(draws, &self.names()), stated, draws),
                }
            }
        };
        past_claim(name, (attribute, value), draws)
    }

    fn names(&self) -> Vec<&'w str> {
        self.said.iter().map(|&(name, _)| name).collect()
    }

    /// A value that `stated` does not have: another creature's in the scene where there is one, in half of the draws.
    fn another_value(&self, world: &'w World, draws: &mut Stream, stated: Statement<'w>) -> &'w str {
        let others: Vec<&'w str> =
            self.said.iter().flat_map(|(_, s)| s).filter(|s| s.0 == stated.0 && s.1 != stated.1).map(|s| s.1).collect();
        if !others.is_empty() && draw::chance(draws, 1, 2) {
            return others[draw::below(draws, others.len())];
        }
        loop {
            let value = world.draw_value(draws, stated.0);
            if value != stated.1 {
                return value;
            }
        }
    }
}

/// One statement of the past, in one of three wordings.
fn past_claim(name: &str, (attribute, value): Statement, draws: &mut Stream) -> String {
    match draw::below(draws, 3) {
        0 => format!("the {} of the {name} was {value}", noun(attribute)),
        wording => format!("the {name} {}", verb_phrase((attribute, value), Form::Past, wording == 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    /// The verdict read back from the words alone: which attribute a claim is of, and whether the scene gives it to that creature.
    fn read(world: &World, scene: &Scene, claim: &str) -> Verdict {
        let words: Vec<&str> = claim.split(' ').collect();
        let value = |attribute: Attribute| world.lexicon.values[attribute.index()].iter().find(|v| words.contains(&v.as_str()));
        let (attribute, value) = Attribute::ALL.into_iter().find_map(|a| value(a).map(|v| (a, v))).unwrap();
        let said = scene.said.iter().filter(|(name, _)| words.contains(name)).flat_map(|(_, statements)| statements);
        match said.clone().find(|s| s.0 == attribute) {
            None => Verdict::Open,
            Some(stated) if stated.1 == value => Verdict::Follows,
            Some(_) => Verdict::Contradicts,
        }
    }

    #[test]
    fn every_claim_has_the_verdict_it_was_made_for() {
        let world = World::new(1);
        let mut draws = stream(0, "t");
        for i in 0..600 {
            let scene = Scene::draw(&world, &mut draws, 1 + i % 4, Values::Drawn, 3);
            for verdict in [Verdict::Follows, Verdict::Open, Verdict::Contradicts] {
                let claim = scene.claim(&world, &mut draws, verdict);
                assert_eq!(read(&world, &scene, &claim), verdict, "{scene:?} {claim}");
            }
            let told = scene.tell_as_past(&mut draws);
            assert!(scene.said.iter().all(|(name, s)| told.contains(name) && s.iter().all(|s| told.contains(s.1))), "{told}");
        }
    }
}
