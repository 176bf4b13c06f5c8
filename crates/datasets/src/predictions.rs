//! A file of predictions: JSON Lines, one object a line with `id` and `prediction`, and perhaps the references and the database.

use crate::error::Result;
use crate::example::Example;
use crate::source::{Row, read_rows};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predicted {
    /// Which item it is of.
    pub id: String,
    /// What was predicted.
    pub prediction: String,
    /// `reference` or `references`, where the line has them.
    pub references: Option<Vec<String>>,
    /// `database`, where the line has it: which one a query is asked of.
    pub database: Option<String>,
}

/// Reads a file; blank lines are skipped.
///
/// # Errors
/// Where it cannot be read, has no line, or a line is not as above or has an id for the second time; the line is named by its number.
pub fn read(path: &Path) -> Result<Vec<Predicted>> {
    let mut seen = HashSet::new();
    let mut read = Vec::new();
    for row in read_rows(path)? {
        let predicted = parse(&row)?;
        if !seen.insert(predicted.id.clone()) {
            return Err(row.wrong("id", "an id that no line above has", row.get("id")));
        }
        read.push(predicted);
    }
    Ok(read)
}

fn parse(row: &Row) -> Result<Predicted> {
    let id = match row.get("id") {
        Some(Value::Number(number)) => number.to_string(),
        _ => row.text("id")?.to_owned(),
    };
    let references = match (row.get("reference"), row.get("references")) {
        (None, None) => None,
        (Some(_), None) => Some(vec![row.text("reference")?.to_owned()]),
        (None, Some(_)) => Some(row.texts("references")?),
        (Some(one), Some(_)) => return Err(row.wrong("reference", "either `reference` or `references`", Some(one))),
    };
    let database = row.get("database").map(|_| row.text("database")).transpose()?.map(str::to_owned);
    Ok(Predicted { id, prediction: row.text("prediction")?.to_owned(), references, database })
}

/// A split and what was predicted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The items to score, in the order of the split.
    pub examples: Vec<Example>,
    /// The prediction for each; empty for one that is missing.
    pub predictions: Vec<String>,
    /// Ids of the split without a prediction.
    pub missing: Vec<String>,
    /// Ids of the file that the split does not have.
    pub unknown: Vec<String>,
}

/// Puts predictions beside the items of a split. A line's own references take the place of the split's. An item without a prediction has an
/// empty one, or is left out if `only_given`.
pub fn join(examples: &[Example], predicted: &[Predicted], only_given: bool) -> Joined {
    let by_id: HashMap<&str, &Predicted> = predicted.iter().map(|line| (line.id.as_str(), line)).collect();
    let known: HashSet<&str> = examples.iter().map(|example| example.id.as_str()).collect();
    let unknown = predicted.iter().filter(|line| !known.contains(line.id.as_str())).map(|line| line.id.clone()).collect();
    let mut joined = Joined { examples: Vec::new(), predictions: Vec::new(), missing: Vec::new(), unknown };
    for example in examples {
        let line = by_id.get(example.id.as_str());
        if line.is_none() {
            joined.missing.push(example.id.clone());
            if only_given {
                continue;
            }
        }
        let mut example = example.clone();
        if let Some(references) = line.and_then(|line| line.references.as_ref()) {
            example.answer.clone_from(&references[0]);
            example.references.clone_from(references);
        }
        joined.examples.push(example);
        joined.predictions.push(line.map(|line| line.prediction.clone()).unwrap_or_default());
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Predicted>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lines_are_read_and_bad_ones_named_by_number() {
        let lines = read_text(
            "{\"id\": \"a\", \"prediction\": \"x\"}\n\n{\"id\": 7, \"prediction\": \"\", \"reference\": \"r\", \"database\": \"d\"}\n\
             {\"id\": \"b\", \"prediction\": \"y\", \"references\": [\"r\", \"s\"], \"more\": 1}\n",
        )
        .unwrap();
        assert_eq!(lines[1].id, "7");
        assert_eq!((lines[1].references.as_ref().unwrap().len(), lines[1].database.as_deref()), (1, Some("d")));
        assert_eq!((&lines[0].references, lines[2].references.as_ref().unwrap().len()), (&None, 2));
        let message = |line: &str| read_text(&format!("{{\"id\": \"a\", \"prediction\": \"x\"}}\n{line}\n")).unwrap_err().to_string();
        for (line, part) in [
            ("{\"id\": \"a\", \"prediction\": \"y\"}", ":2: field `id`: expected an id that no line above has, found \"a\""),
            ("{\"id\": \"b\"}", ":2: field `prediction`: expected a string, found no such field"),
            ("{\"prediction\": \"b\"}", ":2: field `id`: expected a string"),
            ("{\"id\": \"b\", \"prediction\": 3}", ":2: field `prediction`: expected a string, found 3"),
            ("{\"id\": \"b\", \"prediction\": \"\", \"references\": []}", ":2: field `references`"),
            ("{\"id\": \"b\", \"prediction\": \"\", \"reference\": \"\", \"references\": [\"\"]}", "either `reference` or `references`"),
            ("{\"id\": ", ":2: row: expected one JSON object"),
        ] {
            assert!(message(line).contains(part), "{}", message(line));
        }
    }

    #[test]
    fn predictions_find_their_items() {
        let example =
            |id: &str| Example { id: id.to_owned(), answer: "r".to_owned(), references: vec!["r".to_owned()], ..Example::default() };
        let line = |id: &str, references: Option<&str>| Predicted {
            id: id.to_owned(),
            prediction: format!("for {id}"),
            references: references.map(|reference| vec![reference.to_owned()]),
            database: None,
        };
        let examples = [example("a"), example("b"), example("c")];
        let predicted = [line("c", Some("own")), line("x", None), line("a", None)];
        let all = join(&examples, &predicted, false);
        assert_eq!((&all.missing[..], &all.unknown[..]), (&["b".to_owned()][..], &["x".to_owned()][..]));
        assert_eq!(all.predictions, ["for a", "", "for c"]);
        assert_eq!((all.examples[0].answer.as_str(), all.examples[2].answer.as_str()), ("r", "own"));
        assert_eq!(join(&examples, &predicted, true).predictions, ["for a", "for c"]);
    }
}
