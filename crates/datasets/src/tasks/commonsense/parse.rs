//! Reads the question and the options out of the `instruction` of an LLM-Adapters row.
//!
//! The layouts are those of every row of the six files (checked): the label `Answer2: ` with a space before it and a colon and a space
//! behind, one blank line between parts.

use super::ChoiceRow;
use crate::error::Result;
use crate::source::Row;
use serde_json::Value;

/// How an `instruction` is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `Please answer the following question with true or false, question: …?`
    TrueFalse,
    /// A lead, the question, and the options behind `Answer1: ` and so on.
    Options {
        /// What the instruction begins with.
        lead: &'static str,
        /// The word of the labels, capitalised.
        label: &'static str,
        /// What stands between two options, before the label.
        between: &'static str,
        /// What stands before the line that names the labels.
        before_format: &'static str,
    },
}

impl Layout {
    /// The label of the option at `index`.
    pub(super) fn label(&self, index: usize) -> String {
        match self {
            Self::TrueFalse => ["true", "false"][index].to_owned(),
            Self::Options { label, .. } => format!("{}{}", label.to_lowercase(), index + 1),
        }
    }

    /// The instruction that asks a question.
    pub(super) fn instruction(&self, row: &ChoiceRow) -> String {
        let Self::Options { lead, label, between, before_format } = self else {
            return format!("{TRUE_FALSE_LEAD}{}\n\n{FORMAT}true/false", row.question);
        };
        let options: Vec<String> = row.options.iter().enumerate().map(|(index, text)| format!("{label}{}: {text}", index + 1)).collect();
        let labels: Vec<String> = (0..options.len()).map(|index| self.label(index)).collect();
        format!("{lead}{}\n\n{}{before_format}{FORMAT}{}", row.question, options.join(between), labels.join("/"))
    }
}

/// Before the names of the labels.
const FORMAT: &str = "Answer format: ";
const TRUE_FALSE_LEAD: &str = "Please answer the following question with true or false, question: ";

/// Reads one row; an error shows the layout that was expected.
pub(super) fn read(row: &Row, layout: Layout) -> Result<ChoiceRow> {
    let instruction = row.text("instruction")?;
    let label = row.text("answer")?;
    let Some((question, options, labels)) = split(instruction, layout) else {
        let expected = match layout {
            Layout::TrueFalse => format!("`{TRUE_FALSE_LEAD}…?` and a line `{FORMAT}true/false`"),
            Layout::Options { lead, label, .. } => {
                format!("`{lead}…`, the options behind `{label}1: `, `{label}2: ` …, and their names behind `{FORMAT}`")
            }
        };
        return Err(row.wrong("instruction", &expected, Some(&Value::from(instruction))));
    };
    let answer = labels.iter().position(|name| name == label).ok_or_else(|| {
        let expected = format!("one of {}", labels.join(", "));
        row.wrong("answer", &expected, Some(&Value::from(label)))
    })?;
    let (question, options) = (question.to_owned(), options.into_iter().map(str::to_owned).collect());
    Ok(ChoiceRow { id: row.id(), question, options, answer })
}

/// The question, the options' texts and their labels.
fn split(instruction: &str, layout: Layout) -> Option<(&str, Vec<&str>, Vec<String>)> {
    let Layout::Options { lead, label, between, before_format } = layout else {
        let question = instruction.strip_prefix(TRUE_FALSE_LEAD)?.strip_suffix("true/false")?.strip_suffix(FORMAT)?.strip_suffix("\n\n")?;
        return question.ends_with('?').then(|| (question, vec!["true", "false"], vec!["true".to_owned(), "false".to_owned()]));
    };
    let (body, names) = instruction.strip_prefix(lead)?.rsplit_once(FORMAT)?;
    let body = body.strip_suffix(before_format)?;
    let (question, mut rest) = body.split_once(&format!("\n\n{label}1: "))?;
    let mut options = Vec::new();
    while let Some((option, after)) = rest.split_once(&format!("{between}{label}{}: ", options.len() + 2)) {
        options.push(option);
        rest = after;
    }
    options.push(rest);
    let labels: Vec<String> = (1..=options.len()).map(|n| format!("{}{n}", label.to_lowercase())).collect();
    let whole = names == labels.join("/") && options.len() >= 2 && !question.is_empty() && options.iter().all(|o| !o.trim().is_empty());
    whole.then(|| (question.trim(), options.into_iter().map(str::trim).collect(), labels))
}

#[cfg(test)]
mod tests {
    use super::super::DATA_SETS;
    use super::*;

    fn layout(name: &str) -> Layout {
        DATA_SETS.iter().find(|set| set.name == name).unwrap().layout
    }

    #[test]
    fn rows_of_every_data_set_are_read() {
        let cases: [(&str, &str, &str, &[&str]); 7] = [
            (
                "commonsense/arc_easy",
                "Please choose the correct answer to the question: Which gas?\n\nAnswer1: air: mixed Answer2: O2 Answer3: N2.\n\nAnswer format: answer1/answer2/answer3",
                "Which gas?",
                &["air: mixed", "O2", "N2."],
            ),
            (
                "commonsense/arc_challenge",
                "Please choose the correct answer to the question: Two\nlines?\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2",
                "Two\nlines?",
                &["a", "b"],
            ),
            (
                "commonsense/openbookqa",
                "Please choose the correct answer to the question: There is fog around:\n\nAnswer1: a marsh Answer2: a tundra Answer3: the plains Answer4: a desert\n\nAnswer format: answer1/answer2/answer3/answer4",
                "There is fog around:",
                &["a marsh", "a tundra", "the plains", "a desert"],
            ),
            (
                "commonsense/boolq",
                "Please answer the following question with true or false, question: is house tax and property tax are same?\n\nAnswer format: true/false",
                "is house tax and property tax are same?",
                &["true", "false"],
            ),
            (
                "commonsense/piqa",
                "Please choose the correct solution to the question: dresser\n\nSolution1: replace drawer with bobby pin \n\nSolution2: finish, woodgrain with  bobby pin \n\nAnswer format: solution1/solution2",
                "dresser",
                &["replace drawer with bobby pin", "finish, woodgrain with  bobby pin"],
            ),
            (
                "commonsense/hellaswag",
                "Please choose the correct ending to complete the given sentence: Playing drums: People stand behind drums. A man\n\nEnding1: is. Ending2: starts to play. Ending3: begins. Ending4: plays the bagpipe.\n\nAnswer format: ending1/ending2/ending3/ending4",
                "Playing drums: People stand behind drums. A man",
                &["is.", "starts to play.", "begins.", "plays the bagpipe."],
            ),
            (
                "commonsense/winogrande",
                "Please choose the correct answer to fill in the blank to complete the given sentence: Sarah was better than Maria so _ won.\n\nOption1: Sarah Option2: Maria Answer format: option1/option2",
                "Sarah was better than Maria so _ won.",
                &["Sarah", "Maria"],
            ),
        ];
        for (name, instruction, question, options) in cases {
            let layout = layout(name);
            let (read_question, read_options, labels) = split(instruction, layout).unwrap();
            assert_eq!((read_question, &read_options[..], labels.len()), (question, options, options.len()), "{name}");
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            let row = ChoiceRow { id: String::new(), question: question.to_owned(), options, answer: 0 };
            // Spaces at the ends of options apart, which reading takes away.
            assert_eq!(layout.instruction(&row), instruction.replace(" \n\n", "\n\n"));
        }
    }

    #[test]
    fn a_layout_that_differs_is_not_guessed_at() {
        let reads = |text: &str| split(text, layout("commonsense/arc_easy")).is_some();
        let lead = "Please choose the correct answer to the question: ";
        assert!(reads(&format!("{lead}Q\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2")));
        assert!(!reads(&format!("{lead}Q\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2/answer3")));
        assert!(!reads(&format!("{lead}Q\n\nAnswer1: a Answer3: b\n\nAnswer format: answer1/answer2")));
        assert!(!reads(&format!("{lead}Q\n\nAnswer1: a\n\nAnswer format: answer1")));
        assert!(!reads("Q\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2"));
    }
}
