//! How the world speaks of its facts: statements about one creature and one attribute, joined to sentences.

use super::facts::Attribute;

/// One thing said of a creature: the attribute and the word for its value.
pub type Statement<'a> = (Attribute, &'a str);

/// The ways to tell several statements about one creature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One sentence each: `the miro eats tavu. it lives in lopan.`
    Sentences,
    /// One sentence for all: `the miro eats tavu, lives in lopan and is kesi.`
    Joined,
    /// The first as a relative clause: `the miro, which eats tavu, lives in lopan and is kesi.`
    Relative,
    /// The attribute first: `the food of the miro is tavu. its home is lopan.`
    Nominal,
}

impl Style {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sentences, Self::Joined, Self::Relative, Self::Nominal];
}

/// The form of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Of one creature, now: what is said so is a fact of the world.
    Present,
    /// Of several creatures, now.
    Plural,
    /// Of something that was: no fact.
    Past,
}

/// The verb of an attribute in one of two wordings and a form, and what stands around the value behind it.
fn verb(attribute: Attribute, form: Form, second_wording: bool) -> (&'static str, &'static str, &'static str) {
    let in_form = |forms: [&'static str; 3]| forms[form as usize];
    match (attribute, second_wording) {
        (Attribute::Food, false) => (in_form(["eats", "eat", "ate"]), "", ""),
        (Attribute::Food, true) => (in_form(["feeds", "feed", "fed"]), "on ", ""),
        (Attribute::Home, false) => (in_form(["lives", "live", "lived"]), "in ", ""),
        (Attribute::Home, true) => (in_form(["stays", "stay", "stayed"]), "in ", ""),
        (Attribute::Colour, false) => (in_form(["is", "are", "was"]), "", ""),
        (Attribute::Colour, true) => (in_form(["has", "have", "had"]), "a ", " coat"),
        (Attribute::Tool, false) => (in_form(["carries", "carry", "carried"]), "a ", ""),
        (Attribute::Tool, true) => (in_form(["works", "work", "worked"]), "with a ", ""),
    }
}

/// The verb phrase of a statement, in one of two wordings.
pub fn verb_phrase((attribute, value): Statement, form: Form, second_wording: bool) -> String {
    let (verb, before, after) = verb(attribute, form, second_wording);
    format!("{verb} {before}{value}{after}")
}

/// The English noun for an attribute.
pub fn noun(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Food => "food",
        Attribute::Home => "home",
        Attribute::Colour => "colour",
        Attribute::Tool => "tool",
    }
}

/// The predicate of an attribute in a linearised triple.
pub fn predicate(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Food => "eats",
        Attribute::Home => "lives in",
        Attribute::Colour => "colour",
        Attribute::Tool => "carries",
    }
}

/// The sentences that tell `statements` (at least one) about the creature called `name`, in the present or the past.
pub fn tell(name: &str, statements: &[Statement], style: Style, form: Form, second_wording: bool) -> Vec<String> {
    let phrases: Vec<String> = statements.iter().map(|&statement| verb_phrase(statement, form, second_wording)).collect();
    let is = if form == Form::Past { "was" } else { "is" };
    match style {
        Style::Sentences => phrases
            .iter()
            .enumerate()
            .map(|(i, phrase)| if i == 0 { format!("the {name} {phrase}.") } else { format!("it {phrase}.") })
            .collect(),
        Style::Relative if phrases.len() > 1 => vec![format!("the {name}, which {}, {}.", phrases[0], list(&phrases[1..]))],
        Style::Joined | Style::Relative => vec![format!("the {name} {}.", list(&phrases))],
        Style::Nominal => {
            let sentence = |(i, &(attribute, value)): (usize, &Statement)| match i {
                0 => format!("the {} of the {name} {is} {value}.", noun(attribute)),
                _ => format!("its {} {is} {value}.", noun(attribute)),
            };
            statements.iter().enumerate().map(sentence).collect()
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(phrases: &[String]) -> String {
    match phrases {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// How many ways there are to ask for an attribute.
pub const QUESTIONS: usize = 4;

/// A question for `attribute` of the creature called `name`, in wording 0 to 3. The answer is the bare word of the value.
pub fn question(name: &str, attribute: Attribute, wording: usize) -> String {
    let noun = noun(attribute);
    match wording {
        0 => match attribute {
            Attribute::Food => format!("what does the {name} eat?"),
            Attribute::Home => format!("where does the {name} live?"),
            Attribute::Colour => format!("what colour is the {name}?"),
            Attribute::Tool => format!("what does the {name} carry?"),
        },
        1 => format!("what is the {noun} of the {name}?"),
        2 => format!("the {name} has which {noun}?"),
        _ => format!("which {noun} is that of the {name}?"),
    }
}

/// A question for another creature that has the `attribute` of the one called `name`. The answer is a bare name.
pub fn shared_question(name: &str, attribute: Attribute) -> String {
    format!("who has the same {} as the {name}?", noun(attribute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_reads_as_meant() {
        let said = [(Attribute::Food, "tavu"), (Attribute::Home, "lopan"), (Attribute::Colour, "kesi")];
        let told = |style, second| tell("miro", &said, style, Form::Present, second).join(" ");
        assert_eq!(told(Style::Sentences, false), "the miro eats tavu. it lives in lopan. it is kesi.");
        assert_eq!(told(Style::Joined, true), "the miro feeds on tavu, stays in lopan and has a kesi coat.");
        assert_eq!(told(Style::Relative, false), "the miro, which eats tavu, lives in lopan and is kesi.");
        assert_eq!(told(Style::Nominal, false), "the food of the miro is tavu. its home is lopan. its colour is kesi.");
        assert_eq!(tell("miro", &said[..1], Style::Relative, Form::Present, false), ["the miro eats tavu."]);
        let past = |style, second| tell("miro", &said, style, Form::Past, second).join(" ");
        assert_eq!(past(Style::Joined, true), "the miro fed on tavu, stayed in lopan and had a kesi coat.");
        assert_eq!(past(Style::Nominal, false), "the food of the miro was tavu. its home was lopan. its colour was kesi.");
    }

    #[test]
    fn wordings_of_a_question_differ() {
        for attribute in Attribute::ALL {
            let asked: std::collections::HashSet<String> = (0..QUESTIONS).map(|wording| question("miro", attribute, wording)).collect();
            assert_eq!(asked.len(), QUESTIONS);
        }
    }
}
