//! The commonsense data sets as the hub has them, and how LLM-Adapters words their rows.

use super::parse::Layout;
use super::{ANSWERS, ChoiceRow, DATA_SETS};
use crate::tasks::published::{Columns, Form, Published, PublishedSplit, expected, row, text, texts};
use serde_json::Value;

const fn train_and(test: &'static str, train: &'static str) -> [PublishedSplit; 2] {
    [PublishedSplit { file: "train", from: train }, PublishedSplit { file: "test", from: test }]
}

pub(super) const BOOLQ: Published = Published {
    hub: "google/boolq",
    revision: "main",
    licence: "CC BY-SA 3.0",
    splits: &train_and("data/validation-", "data/train-"),
    columns: &["question", "answer"],
    form: Form::Text(|columns| {
        let answer =
            columns.get("answer").and_then(Value::as_bool).ok_or_else(|| expected("true or false", "answer", columns.get("answer")))?;
        let question = format!("{}?", text(&columns, "question")?.trim_end_matches('?'));
        worded(Layout::TrueFalse, question, vec!["true".to_owned(), "false".to_owned()], usize::from(!answer))
    }),
};

pub(super) const PIQA: Published = Published {
    hub: "ybisk/piqa",
    revision: "refs/convert/parquet",
    licence: "AFL 3.0",
    splits: &train_and("plain_text/validation/", "plain_text/train/"),
    columns: &["goal", "sol1", "sol2", "label"],
    form: Form::Text(|columns| {
        let options = vec![text(&columns, "sol1")?, text(&columns, "sol2")?];
        worded(layout("commonsense/piqa"), text(&columns, "goal")?, options, position(&columns, "label", &["0", "1"])?)
    }),
};

pub(super) const SIQA: Published = Published {
    hub: "allenai/social_i_qa",
    revision: "refs/convert/parquet",
    licence: "CC BY 4.0",
    splits: &train_and("default/validation/", "default/train/"),
    columns: &["context", "question", "answerA", "answerB", "answerC", "label"],
    form: Form::Text(|columns| {
        let question = format!("{} {}", text(&columns, "context")?, text(&columns, "question")?);
        let options = vec![text(&columns, "answerA")?, text(&columns, "answerB")?, text(&columns, "answerC")?];
        worded(ANSWERS, question, options, position(&columns, "label", &["1", "2", "3"])?)
    }),
};

pub(super) const HELLASWAG: Published = Published {
    hub: "Rowan/hellaswag",
    revision: "main",
    licence: "MIT",
    splits: &train_and("data/validation-", "data/train-"),
    columns: &["activity_label", "ctx", "endings", "label"],
    form: Form::Text(|columns| {
        let question = format!("{}: {}", text(&columns, "activity_label")?, text(&columns, "ctx")?);
        let right = position(&columns, "label", &["0", "1", "2", "3"])?;
        worded(layout("commonsense/hellaswag"), question, texts(&columns, "endings")?, right)
    }),
};

pub(super) const WINOGRANDE: Published = Published {
    hub: "allenai/winogrande",
    revision: "refs/convert/parquet",
    licence: "CC BY",
    splits: &train_and("winogrande_xl/validation/", "winogrande_xl/train/"),
    columns: &["sentence", "option1", "option2", "answer"],
    form: Form::Text(|columns| {
        let options = vec![text(&columns, "option1")?, text(&columns, "option2")?];
        worded(layout("commonsense/winogrande"), text(&columns, "sentence")?, options, position(&columns, "answer", &["1", "2"])?)
    }),
};

pub(super) const ARC_EASY: Published = Published { splits: &train_and("ARC-Easy/test-", "ARC-Easy/train-"), ..ARC };
pub(super) const ARC_CHALLENGE: Published = Published { splits: &train_and("ARC-Challenge/test-", "ARC-Challenge/train-"), ..ARC };
const ARC: Published = Published {
    hub: "allenai/ai2_arc",
    revision: "main",
    licence: "CC BY-SA 4.0",
    splits: &[],
    columns: &["question", "choices", "answerKey"],
    form: Form::Text(|columns| lettered(&columns, "question")),
};

pub(super) const OPENBOOKQA: Published = Published {
    hub: "allenai/openbookqa",
    revision: "main",
    licence: "Apache-2.0",
    splits: &train_and("main/test-", "main/train-"),
    columns: &["question_stem", "choices", "answerKey"],
    form: Form::Text(|columns| lettered(&columns, "question_stem")),
};

/// A question whose `choices` are a table of `text` and `label`.
fn lettered(columns: &Columns, question: &str) -> Result<Option<Columns>, String> {
    let choices =
        columns.get("choices").and_then(Value::as_object).ok_or_else(|| expected("a table", "choices", columns.get("choices")))?;
    let (options, labels) = (texts(choices, "text")?, texts(choices, "label")?);
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    worded(ANSWERS, text(columns, question)?, options, position(columns, "answerKey", &labels)?)
}

fn layout(name: &str) -> Layout {
    DATA_SETS.iter().find(|set| set.name == name).map_or(ANSWERS, |set| set.layout)
}

/// Which of `labels` a column holds.
fn position(columns: &Columns, name: &str, labels: &[&str]) -> Result<usize, String> {
    let label = text(columns, name)?;
    labels
        .iter()
        .position(|known| *known == label)
        .ok_or_else(|| expected(&format!("one of {}", labels.join(", ")), name, columns.get(name)))
}

/// LLM-Adapters' row for a question.
fn worded(layout: Layout, question: String, options: Vec<String>, answer: usize) -> Result<Option<Columns>, String> {
    if answer >= options.len() {
        return Err(format!("the answer is option {} of {}", answer + 1, options.len()));
    }
    let question = ChoiceRow { id: String::new(), question, options, answer };
    let label = layout.label(answer);
    Ok(Some(row([
        ("instruction", layout.instruction(&question).into()),
        ("input", "".into()),
        ("output", format!("the correct answer is {label}").into()),
        ("answer", label.into()),
    ])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn convert(published: &Published, columns: Value) -> Result<String, String> {
        let Value::Object(columns) = columns else { unreachable!() };
        let Form::Text(convert) = published.form else { panic!("rows of text") };
        Ok(Value::Object(convert(columns)?.unwrap())["instruction"].as_str().unwrap().to_owned())
    }

    #[test]
    fn rows_of_the_hub_become_the_rows_of_llm_adapters() {
        // Instructions that LLM-Adapters' own files have for these rows.
        let arc = json!({"question": "Which gas?", "choices": {"text": ["air", "O2"], "label": ["A", "B"]}, "answerKey": "B"});
        assert_eq!(
            convert(&ARC_EASY, arc).unwrap(),
            "Please choose the correct answer to the question: Which gas?\n\nAnswer1: air Answer2: O2\n\nAnswer format: answer1/answer2"
        );
        let boolq = json!({"question": "is house tax and property tax are same", "answer": true, "passage": "..."});
        assert_eq!(
            convert(&BOOLQ, boolq).unwrap(),
            "Please answer the following question with true or false, question: is house tax and property tax are same?\n\nAnswer format: true/false"
        );
        let winogrande = json!({"sentence": "So _ won.", "option1": "Sarah", "option2": "Maria", "answer": "2"});
        assert_eq!(
            convert(&WINOGRANDE, winogrande).unwrap(),
            "Please choose the correct answer to fill in the blank to complete the given sentence: So _ won.\n\nOption1: Sarah Option2: Maria Answer format: option1/option2"
        );
        let piqa = json!({"goal": "dresser", "sol1": "pin", "sol2": "wood", "label": 1});
        assert!(convert(&PIQA, piqa).unwrap().ends_with("Solution1: pin\n\nSolution2: wood\n\nAnswer format: solution1/solution2"));
        let siqa = json!({"context": "A moved.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"});
        assert!(convert(&SIQA, siqa).unwrap().contains("question: A moved. Why?\n\nAnswer1: x Answer2: y Answer3: z\n\n"));
        let hellaswag = json!({"activity_label": "Drums", "ctx": "A man", "endings": ["a", "b", "c", "d"], "label": "0"});
        assert!(convert(&HELLASWAG, hellaswag).unwrap().contains("sentence: Drums: A man\n\nEnding1: a Ending2: b"));
    }

    #[test]
    fn a_column_that_is_not_as_described_is_named() {
        let error = convert(&WINOGRANDE, json!({"sentence": "_", "option1": "a", "option2": "b", "answer": ""})).unwrap_err();
        assert_eq!(error, "column `answer`: expected one of 1, 2, found \"\"");
        assert_eq!(convert(&BOOLQ, json!({})).unwrap_err(), "column `answer`: expected true or false, found no such column");
    }
}
