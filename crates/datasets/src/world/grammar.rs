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

/// The verb phrase of a statement, in one of two wordings.
pub fn verb_phrase((attribute, value): Statement, second_wording: bool) -> String {
    match (attribute, second_wording) {
        (Attribute::Food, false) => format!("eats {value}"),
        (Attribute::Food, true) => format!("feeds on {value}"),
        (Attribute::Home, false) => format!("lives in {value}"),
        (Attribute::Home, true) => format!("stays in {value}"),
        (Attribute::Colour, false) => format!("is {value}"),
        (Attribute::Colour, true) => format!("has a {value} coat"),
        (Attribute::Tool, false) => format!("carries a {value}"),
        (Attribute::Tool, true) => format!("works with a {value}"),
    }
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

/// The sentences that tell `statements` (at least one) about the creature called `name`.
pub fn tell(name: &str, statements: &[Statement], style: Style, second_wording: bool) -> Vec<String> {
    let phrases: Vec<String> = statements.iter().map(|&statement| verb_phrase(statement, second_wording)).collect();
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
                0 => format!("the {} of the {name} is {value}.", noun(attribute)),
                _ => format!("its {} is {value}.", noun(attribute)),
            };
            statements.iter().enumerate().map(sentence).collect()
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn list(phrases: &[String]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_reads_as_meant() {
        let said = [(Attribute::Food, "tavu"), (Attribute::Home, "lopan"), (Attribute::Colour, "kesi")];
        let told = |style, second| tell("miro", &said, style, second).join(" ");
        assert_eq!(told(Style::Sentences, false), "the miro eats tavu. it lives in lopan. it is kesi.");
        assert_eq!(told(Style::Joined, true), "the miro feeds on tavu, stays in lopan and has a kesi coat.");
        assert_eq!(told(Style::Relative, false), "the miro, which eats tavu, lives in lopan and is kesi.");
        assert_eq!(told(Style::Nominal, false), "the food of the miro is tavu. its home is lopan. its colour is kesi.");
        assert_eq!(tell("miro", &said[..1], Style::Relative, false), ["the miro eats tavu."]);
    }

    #[test]
    fn wordings_of_a_question_differ() {
        for attribute in Attribute::ALL {
            let asked: std::collections::HashSet<String> = (0..QUESTIONS).map(|wording| question("miro", attribute, wording)).collect();
            assert_eq!(asked.len(), QUESTIONS);
        }
    }
}
