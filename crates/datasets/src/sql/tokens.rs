//! A query as the evaluator's words: NLTK's, with quoted values whole and comparison signs joined.

use super::query::Unparsable;
use crate::metrics::nltk_words;
use std::collections::HashMap;

/// The words of `query` in lower case; quoted values keep their case and their quotation marks, which all become `"`.
pub(super) fn tokenize(query: &str) -> Result<Vec<String>, Unparsable> {
    let query = query.replace('\'', "\"");
    let parts: Vec<&str> = query.split('"').collect();
    if parts.len().is_multiple_of(2) {
        return Err(Unparsable);
    }
    let mut values = HashMap::new();
    let mut plain = String::with_capacity(query.len());
    for (index, part) in parts.iter().enumerate() {
        match index % 2 {
            0 => plain.push_str(part),
            _ => {
                let key = format!("__val_{index}_{index}__");
                plain.push_str(&key);
                values.insert(key, format!("\"{part}\""));
            }
        }
    }
    let mut words: Vec<String> = Vec::new();
    for word in nltk_words::tokenize(&plain) {
        let word = word.to_lowercase();
        match words.last_mut() {
            Some(before) if word == "=" && matches!(before.as_str(), "!" | ">" | "<") => before.push('='),
            _ => words.push(values.get(&word).cloned().unwrap_or(word)),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_whole_and_signs_are_joined() {
        let words = tokenize("SELECT a.B FROM T WHERE x >= 'It is, Me' AND y! = 3;").unwrap();
        assert_eq!(words, ["select", "a.b", "from", "t", "where", "x", ">=", "\"It is, Me\"", "and", "y", "!=", "3", ";"]);
        assert!(tokenize("select 'a").is_err());
    }
}
