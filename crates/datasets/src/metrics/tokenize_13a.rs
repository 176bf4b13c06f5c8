//! sacrebleu's `13a` tokenizer (mteval-v13a): what a word is to BLEU.
//!
//! A plain rewrite of its four regular expressions as scans. The scans keep the expressions' one subtlety: each match consumes the
//! characters it looks at, so in `a..` the second full stop is not seen as preceded by the first.

use super::python::{is_space, split};

/// Splits `text` into BLEU's tokens.
pub fn tokenize(text: &str) -> Vec<String> {
    let mut line = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        line = line.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    split_symbols(&format!(" {line} "))
}

/// The expressions themselves, over a line as it stands.
pub(super) fn split_symbols(line: &str) -> Vec<String> {
    let chars: Vec<char> = line.chars().collect();
    let chars = space_symbols(&chars);
    let chars = replace_pairs(&chars, |a, b| !a.is_ascii_digit() && is_stop(b), |a, b| [a, ' ', b, ' ']);
    let chars = replace_pairs(&chars, |a, b| is_stop(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    let chars = replace_pairs(&chars, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    split(&chars.into_iter().collect::<String>()).map(str::to_owned).collect()
}

/// `([\{-\~\[-\` -\&\(-\+\:-\@\/])` → ` \1 `: ASCII symbols but `'`, `,`, `-`, `.`.
fn space_symbols(chars: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(chars.len() * 2);
    for &c in chars {
        match c {
            '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/' => out.extend([' ', c, ' ']),
            _ => out.push(c),
        }
    }
    out
}

/// Replaces every pair of neighbours that `matches`, left to right, without overlap.
fn replace_pairs(chars: &[char], matches: impl Fn(char, char) -> bool, by: impl Fn(char, char) -> [char; 4]) -> Vec<char> {
    let mut out = Vec::with_capacity(chars.len() * 2);
    let mut at = 0;
    while at < chars.len() {
        match chars.get(at + 1) {
            Some(&next) if matches(chars[at], next) => {
                out.extend(by(chars[at], next));
                at += 2;
            }
            _ => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out
}

fn is_stop(c: char) -> bool {
    c == '.' || c == ','
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_stops_and_digits() {
        assert_eq!(tokenize("it's 1,000.5 (ok), no-one 3-4 a.. b").join(" "), "it's 1,000.5 ( ok ) , no-one 3 - 4 a . . b");
        assert_eq!(tokenize("&lt;a&gt; &amp;lt;").join("|"), "<|a|>|<");
        assert!(tokenize(" \u{1c}\n").is_empty());
    }
}
