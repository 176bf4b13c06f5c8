//! sacrebleu's tokenizers: what a word is to BLEU.

use super::python::{is_space, split};
use super::tokenize_13a;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// A tokenizer of sacrebleu, by its name there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BleuTokenizer {
    /// mteval-v13a: the default.
    #[default]
    #[serde(rename = "13a")]
    Mteval13a,
    /// White space alone.
    None,
    /// Every character.
    Char,
    /// mteval-v14: every punctuation mark and symbol of Unicode, but for marks between digits.
    Intl,
    /// Every Chinese character, and 13a for the rest.
    Zh,
}

/// mteval-v14's substitutions, in order: marks behind a non-digit, marks before a non-digit, symbols.
static INTL: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [(r"(\P{N})(\p{P})", "$1 $2 "), (r"(\p{P})(\P{N})", " $1 $2"), (r"(\p{S})", " $1 ")];
    rules.into_iter().filter_map(|(pattern, by)| Some((Regex::new(pattern).ok()?, by))).collect()
});

impl BleuTokenizer {
    /// Splits `text` into tokens.
    pub fn tokenize(self, text: &str) -> Vec<String> {
        let text = text.trim_end_matches(is_space);
        match self {
            Self::Mteval13a => tokenize_13a::tokenize(text),
            Self::None => words(text),
            Self::Char => text.chars().filter(|&c| !is_space(c)).map(String::from).collect(),
            Self::Intl => words(&INTL.iter().fold(text.to_owned(), |line, (rule, by)| rule.replace_all(&line, *by).into_owned())),
            Self::Zh => {
                let spaced = |c: char| if is_chinese(c) { vec![' ', c, ' '] } else { vec![c] };
                tokenize_13a::split_symbols(&text.trim_matches(is_space).chars().flat_map(spaced).collect::<String>())
            }
        }
    }
}

fn words(text: &str) -> Vec<String> {
    split(text).map(str::to_owned).collect()
}

/// sacrebleu's ranges. It writes two of them with five hexadecimal digits, which Python reads as a character and a digit: they cover
/// U+2001 to U+2A6D and U+2F81 to U+2FA1, and so they do here.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fbb}' | '\u{f900}'..='\u{fa2d}' | '\u{fa30}'..='\u{fa6a}' | '\u{fa70}'..='\u{fad9}'
        | '\u{2001}'..='\u{2a6d}' | '\u{2f81}'..='\u{2fa1}' | '\u{ff00}'..='\u{ffef}' | '\u{2e80}'..='\u{2eff}' | '\u{3000}'..='\u{303f}'
        | '\u{31c0}'..='\u{31ef}' | '\u{2f00}'..='\u{2fdf}' | '\u{2ff0}'..='\u{2fff}' | '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}'
        | '\u{fe10}'..='\u{fe1f}' | '\u{fe30}'..='\u{fe4f}' | '\u{3200}'..='\u{33ff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_mteval_14_compiles() {
        assert_eq!(INTL.len(), 3);
    }
}
