//! What a model answered, beside what is right.

use crate::error::Result;
use crate::example::Example;
use crate::format::{AnswerReader, Format, Unanswered};
use crate::metrics::standard_error::proportion_of;
use crate::metrics::{self, Item, Scores};
use crate::sql::Database;
use peftbench_spec::Component;
use peftbench_spec::event::MetricValue;
use std::collections::BTreeMap;

/// The share of items without an answer, in results.
const UNANSWERED: &str = "unanswered";

/// The answers of a split, read as the task's format says.
pub(crate) struct Answers {
    items: Vec<Answer>,
    unanswered: Unanswered,
}

struct Answer {
    /// None where the text has none, or one that is no option.
    text: Option<String>,
    accepted: Vec<String>,
    group: String,
}

impl Answers {
    /// Reads the answer out of each prediction. Accepted are the references, or else what the example's own answer says.
    ///
    /// # Panics
    /// Where there is not one prediction for each example.
    pub(crate) fn read(format: &Format, examples: &[Example], predictions: &[String]) -> Result<Self> {
        assert_eq!(examples.len(), predictions.len(), "one prediction for each example");
        let reader = format.answer_reader()?;
        let items = predictions.iter().zip(examples).map(|(prediction, example)| Answer::read(&reader, example, prediction)).collect();
        Ok(Self { items, unanswered: format.unanswered })
    }

    /// Scores them by each metric; a dropped item counts 0 where single items are asked for. `databases` has what queries are asked of, by
    /// the group of their example.
    pub(crate) fn score(&self, metrics: &[Component], databases: &BTreeMap<String, Database>) -> Result<Scores> {
        let counted: Vec<usize> = (0..self.items.len()).filter(|&i| self.counts(&self.items[i])).collect();
        let items: Vec<Item<'_>> = counted.iter().map(|&i| self.items[i].item(databases)).collect();
        let mut scores = Scores { values: Vec::new(), items: vec![0.0; self.items.len()] };
        for (rank, metric) in metrics.iter().enumerate() {
            let found = metrics::build(metric)?.score(&items)?;
            if rank == 0 {
                counted.iter().zip(&found.items).for_each(|(&i, score)| scores.items[i] = *score);
            }
            scores.values.extend(found.values);
        }
        scores.values.extend(self.unanswered());
        Ok(scores)
    }

    fn counts(&self, answer: &Answer) -> bool {
        answer.text.is_some() || self.unanswered == Unanswered::Wrong
    }

    /// The share of items without an answer, where there is any or they do not count.
    fn unanswered(&self) -> Option<MetricValue> {
        let missing = || self.items.iter().map(|item| item.text.is_none());
        let asked = self.unanswered == Unanswered::Dropped || missing().any(|missing| missing);
        let share = asked.then(|| proportion_of(UNANSWERED, missing()).values.remove(0))?;
        Some(MetricValue { higher_is_better: false, ..share })
    }
}

impl Answer {
    fn read(reader: &AnswerReader, example: &Example, prediction: &str) -> Self {
        let is_option = |answer: &String| {
            let options = &example.choices;
            options.is_empty() || options.iter().any(|option| reader.read(option).as_ref() == Some(answer))
        };
        let accepted = match example.references.is_empty() {
            true => reader.read(&example.answer).into_iter().collect(),
            false => example.references.clone(),
        };
        Self { text: reader.read(prediction).filter(is_option), accepted, group: example.group.clone() }
    }

    fn item<'a>(&'a self, databases: &'a BTreeMap<String, Database>) -> Item<'a> {
        Item { database: databases.get(&self.group), ..Item::new(self.text.as_deref().unwrap_or_default(), &self.accepted) }
    }
}
