//! Whether the test was trained on: items that training and test have in common, whatever their spelling.

use crate::example::{Example, Splits};
use std::collections::HashSet;

/// Counts of test and validation items that are in the training split too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overlap {
    /// Test items.
    pub test: usize,
    /// Validation items.
    pub valid: usize,
}

/// Counts what the splits have in common: items whose question and options are the same letters and digits in the same order, in lower
/// case, once everything else is one space. Instructions that all items share make no difference.
pub fn overlap(splits: &Splits) -> Overlap {
    let train: HashSet<blake3::Hash> = splits.train.iter().map(key).collect();
    let shared = |examples: &[Example]| examples.iter().filter(|example| train.contains(&key(example))).count();
    Overlap { test: shared(&splits.test), valid: shared(&splits.valid) }
}

/// What makes an item the same as another: its prompt and options, or the text itself where there is no prompt.
fn key(example: &Example) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let question = if example.prompt.is_empty() { &example.answer } else { &example.prompt };
    for text in std::iter::once(question).chain(&example.choices) {
        hasher.update(normalized(text).as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize()
}

fn normalized(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() {
            normal.extend(c.to_lowercase());
        } else if !normal.ends_with(' ') {
            normal.push(' ');
        }
    }
    normal.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_hides_nothing_and_other_options_make_another_question() {
        let example = |prompt: &str, choices: &[&str]| Example {
            prompt: prompt.to_owned(),
            choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
            ..Example::default()
        };
        let train = vec![example("  Is it so, then?", &["yes", "no"]), example("Another", &[])];
        let test = vec![
            example("is it SO\nthen", &["Yes.", "No!"]),
            example("Is it so, then?", &["no", "yes"]),
            example("is it so th en", &["yes", "no"]),
            example("", &[]),
        ];
        let splits = Splits { train, valid: vec![example("another!", &[])], test, ..Splits::default() };
        assert_eq!(overlap(&splits), Overlap { test: 1, valid: 1 });
    }

    #[test]
    fn texts_without_a_prompt_are_compared_themselves() {
        let text = |answer: &str| Example { answer: answer.to_owned(), ..Example::default() };
        let splits = Splits { train: vec![text("One two.")], test: vec![text("one  two"), text("three")], ..Splits::default() };
        assert_eq!(overlap(&splits).test, 1);
    }
}
