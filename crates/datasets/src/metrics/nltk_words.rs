//! NLTK's word tokenizer (`NLTKWordTokenizer`, what `word_tokenize` gives for one sentence).
//!
//! A text is not split into sentences first, as `word_tokenize(text, preserve_line=True)`: a full stop is a word of its own only at the
//! very end, where NLTK's trained sentence splitter would also set it off at the end of an inner sentence.

use regex::Regex;
use std::sync::LazyLock;

/// Substitutions before the apostrophes: opening quotation marks.
const OPENING: &[(&str, &str)] = &[("([«“‘„]|[`]+)", " $1 "), (r#"^""#, "``"), ("(``)", " $1 "), (r#"([ \(\[{<])("|'{2})"#, "$1 `` ")];

/// Substitutions after them: punctuation, brackets, dashes.
const PUNCTUATION: &[(&str, &str)] = &[
    (r#"([^\.])(\.)([\]\)}>"'»”’ ]*)[\s\x1c-\x1f]*$"#, "$1 $2 $3 "),
    (r"([:,])([^\d])", " $1 $2"),
    (r"([:,])$", " $1 "),
    (r"\.{2,}", " $0 "),
    (r"[;@#$%&]", " $0 "),
    ("[\u{2012}-\u{2015}]", " $0 "),
    (r#"([^\.])(\.)([\]\)}>"']*)[\s\x1c-\x1f]*$"#, "$1 $2$3 "),
    (r"[?!]", " $0 "),
    (r"([^'])' ", "$1 ' "),
    (r"[*]", " $0 "),
    (r"[\]\[\(\)\{\}<>]", " $0 "),
    (r"--", " -- "),
];

/// Substitutions in the text with a space on both sides: closing quotation marks and contractions.
const CLOSING: &[(&str, &str)] = &[
    ("([»”’])", " $1 "),
    (r"''", " '' "),
    (r#"""#, " '' "),
    (r"[\s\x1c-\x1f]+", " "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
    (r"\b([cC][aA][nN])([nN][oO][tT])\b", " $1 $2 "),
    (r"\b([dD])('[yY][eE])\b", " $1 $2 "),
    (r"\b([gG][iI][mM])([mM][eE])\b", " $1 $2 "),
    (r"\b([gG][oO][nN])([nN][aA])\b", " $1 $2 "),
    (r"\b([gG][oO][tT])([tT][aA])\b", " $1 $2 "),
    (r"\b([lL][eE][mM])([mM][eE])\b", " $1 $2 "),
    (r"\b([mM][oO][rR][eE])('[nN])\b", " $1 $2 "),
    (r"\b([wW][aA][nN])([nN][aA])( )", " $1 $2 $3"),
    (r" ('[tT])([iI][sS])\b", " $1 $2 "),
    (r" ('[tT])([wW][aA][sS])\b", " $1 $2 "),
];

type Rules = Vec<(Regex, &'static str)>;

static RULES: LazyLock<[Rules; 3]> = LazyLock::new(|| {
    let compile =
        |rules: &'static [(&str, &str)]| rules.iter().filter_map(|(pattern, by)| Some((Regex::new(pattern).ok()?, *by))).collect();
    [compile(OPENING), compile(PUNCTUATION), compile(CLOSING)]
});

fn apply(rules: &Rules, text: String) -> String {
    rules.iter().fold(text, |text, (rule, by)| match rule.replace_all(&text, *by) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(new) => new,
    })
}

/// The words of `text`.
pub(crate) fn tokenize(text: &str) -> Vec<String> {
    let [opening, punctuation, closing] = &*RULES;
    let text = part_opening_apostrophes(&apply(opening, text.to_owned()));
    let text = apply(closing, format!(" {} ", apply(punctuation, text)));
    super::python::split(&text).map(str::to_owned).collect()
}

/// An apostrophe before a word, and what word character stands before it.
static APOSTROPHE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\w?)'(\w+)").ok());

/// Puts a space behind an apostrophe that opens a word, unless that word is a contraction's second half.
fn part_opening_apostrophes(text: &str) -> String {
    const CLITICS: [&str; 8] = ["re", "ve", "ll", "m", "t", "s", "d", "n"];
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for found in APOSTROPHE.iter().flat_map(|rule| rule.captures_iter(text)) {
        let [Some(before), Some(word)] = [found.get(1), found.get(2)] else { continue };
        // Directly behind the match before this one stands its word.
        let inside_a_word = !before.is_empty() || (done > 0 && before.start() == done);
        out.push_str(&text[done..word.start()]);
        if !inside_a_word && !CLITICS.contains(&word.as_str().to_lowercase().as_str()) {
            out.push(' ');
        }
        out.push_str(word.as_str());
        done = word.end();
    }
    out + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_compiles() {
        let [opening, punctuation, closing] = &*RULES;
        assert_eq!([opening.len(), punctuation.len(), closing.len()], [OPENING.len(), PUNCTUATION.len(), CLOSING.len()]);
        assert!(APOSTROPHE.is_some());
    }

    #[derive(serde::Deserialize)]
    struct Fixture {
        words: Vec<(String, Vec<String>)>,
    }

    /// Made by `fixtures/make_meteor.py` with NLTK.
    #[test]
    fn every_text_has_the_words_that_nltk_gives_it() {
        let fixture: Fixture = serde_json::from_str(include_str!("../../fixtures/meteor.json")).unwrap();
        assert!(fixture.words.len() >= 300);
        for (text, expected) in &fixture.words {
            assert_eq!(&tokenize(text), expected, "{text:?}");
        }
    }
}
