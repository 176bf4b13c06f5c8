//! METEOR (Lavie and Agarwal 2007) as NLTK computes it: words matched exactly, by stem and by WordNet's synonyms, and a penalty for matches that
//! are not in one piece.

use super::standard_error::mean_of;
use super::{Item, Metric, MetricEntry, Scores, nltk_words, porter};
use crate::error::Result;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// `meteor`.
pub const METEOR: MetricEntry = MetricEntry {
    name: "meteor_no_synonyms",
    summary: "mean METEOR with exact and stem matches, as NLTK without WordNet",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The mean over items of NLTK's METEOR: P·R / (alpha·P + (1−alpha)·R) · (1 − gamma·(chunks/matches)^beta), where words in lower \
                 case match exactly or else by Porter's stem. NLTK's third stage, WordNet's synonyms, is not there: hence the name. Words are \
                 NLTK's, of the text as one sentence. Of several references the best counts. Standard error s/√n.",
    reference: "NLTK `meteor_score` with a WordNet that knows no synonyms, over `word_tokenize(text, preserve_line=True)`",
    options: &[
        ("alpha", "how much precision weighs against recall"),
        ("beta", "how steeply the penalty grows with the number of pieces"),
        ("gamma", "the greatest penalty"),
    ],
    build: |metric| Ok(Box::new(Meteor { options: Options::parse(metric)? })),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// Options of `meteor`, by NLTK's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    alpha: f64,
    beta: f64,
    gamma: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { alpha: 0.9, beta: 3.0, gamma: 0.5 }
    }
}

impl Options {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = metric.parse_options()?;
        for (name, value) in [("alpha", options.alpha), ("gamma", options.gamma)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(SpecError::at(name, format!("expected 0 to 1, found {value}")));
            }
        }
        match options.beta >= 0.0 && options.beta.is_finite() {
            true => Ok(options),
            false => Err(SpecError::at("beta", format!("expected a number from 0, found {}", options.beta))),
        }
    }

    fn one_reference(&self, prediction: &Words, reference: &Words) -> f64 {
        let matches = align(prediction, reference);
        if matches.is_empty() {
            return 0.0;
        }
        let count = matches.len() as f64;
        let (precision, recall) = (count / prediction.exact.len() as f64, count / reference.exact.len() as f64);
        let mean = precision * recall / (self.alpha * precision + (1.0 - self.alpha) * recall);
        let joined = |pair: &[(usize, usize)]| pair[1].0 == pair[0].0 + 1 && pair[1].1 == pair[0].1 + 1;
        let chunks = 1 + matches.windows(2).filter(|pair| !joined(pair)).count();
        (1.0 - self.gamma * (chunks as f64 / count).powf(self.beta)) * mean
    }
}

/// The words of a text in lower case, and their stems.
struct Words {
    exact: Vec<String>,
    stems: Vec<String>,
}

impl Words {
    fn of(text: &str) -> Self {
        let exact: Vec<String> = nltk_words::tokenize(text).iter().map(|word| word.to_lowercase()).collect();
        Self { stems: exact.iter().map(|word| porter::stem(word)).collect(), exact }
    }
}

/// Pairs of positions of matched words, in the order of the prediction: equal words first, then equal stems among those left over.
fn align(prediction: &Words, reference: &Words) -> Vec<(usize, usize)> {
    let (mut free_here, mut free_there) = (vec![true; prediction.exact.len()], vec![true; reference.exact.len()]);
    let mut matches = Vec::new();
    for (here, there) in [(&prediction.exact, &reference.exact), (&prediction.stems, &reference.stems)] {
        let mut positions: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, word) in there.iter().enumerate().filter(|(at, _)| free_there[*at]) {
            positions.entry(word).or_default().push(at);
        }
        // From the end on both sides, as NLTK does.
        for (at, word) in here.iter().enumerate().rev() {
            if free_here[at]
                && let Some(found) = positions.get_mut(word.as_str()).and_then(Vec::pop)
            {
                free_here[at] = false;
                free_there[found] = false;
                matches.push((at, found));
            }
        }
    }
    matches.sort_unstable();
    matches
}

struct Meteor {
    options: Options,
}

impl Metric for Meteor {
    fn name(&self) -> &'static str {
        METEOR.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let score = |item: &Item<'_>| {
            let prediction = Words::of(item.prediction);
            let scores = item.references.iter().map(|reference| self.options.one_reference(&prediction, &Words::of(reference)));
            scores.fold(0.0, f64::max)
        };
        let items: Vec<f64> = items.iter().map(score).collect();
        Ok(Scores { values: vec![mean_of(METEOR.name, &items)], items })
    }
}
