//! METEOR (Lavie and Agarwal 2007) as NLTK computes it: words matched exactly, by stem and by WordNet's synonyms, and a penalty for matches that
//! are not in one piece.

use super::standard_error::mean_of;
use super::wordnet::WordNet;
use super::{Item, Metric, MetricEntry, Scores, nltk_words, porter};
use crate::error::Result;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// `meteor`.
pub const METEOR: MetricEntry = MetricEntry {
    name: "meteor",
    summary: "mean METEOR, as NLTK; `meteor_no_synonyms` without WordNet",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The mean over items of NLTK's METEOR: P·R / (alpha·P + (1−alpha)·R) · (1 − gamma·(chunks/matches)^beta), where words in lower \
                 case match exactly, or else by Porter's stem, or else where a stem is a WordNet synonym of the other. Without `wordnet` that third \
                 stage is left out, and the value is named `meteor_no_synonyms`. Words are NLTK's, of the text as one sentence. Of several \
                 references the best counts. Standard error s/√n.",
    reference: "NLTK `meteor_score` over `word_tokenize(text, preserve_line=True)`",
    options: &[
        ("alpha", "how much precision weighs against recall"),
        ("beta", "how steeply the penalty grows with the number of pieces"),
        ("gamma", "the greatest penalty"),
        ("wordnet", "folder of WordNet's dictionary files: `index.noun`, `data.noun`, `noun.exc` and so on"),
    ],
    build: |metric| Ok(Box::new(Meteor::open(Options::parse(metric)?)?)),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// Options of `meteor`, by NLTK's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    alpha: f64,
    beta: f64,
    gamma: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wordnet: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { alpha: 0.9, beta: 3.0, gamma: 0.5, wordnet: None }
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

/// The words of both texts that no stage has matched yet, and the matches: pairs of positions.
struct Alignment {
    free_here: Vec<bool>,
    free_there: Vec<bool>,
    matches: Vec<(usize, usize)>,
}

impl Alignment {
    fn of(prediction: &Words, reference: &Words, wordnet: Option<&WordNet>) -> Self {
        let mut alignment =
            Self { free_here: vec![true; prediction.exact.len()], free_there: vec![true; reference.exact.len()], matches: Vec::new() };
        alignment.stage(&prediction.exact, &reference.exact, None);
        alignment.stage(&prediction.stems, &reference.stems, None);
        if wordnet.is_some() {
            // NLTK looks up stems, not words: they are what its second stage leaves over.
            alignment.stage(&prediction.stems, &reference.stems, wordnet);
        }
        alignment.matches.sort_unstable();
        alignment
    }

    /// Matches free words from the end on, as NLTK does: each with the last free word there that equals it or one of its synonyms.
    fn stage(&mut self, here: &[String], there: &[String], wordnet: Option<&WordNet>) {
        let mut positions: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, word) in there.iter().enumerate().filter(|(at, _)| self.free_there[*at]) {
            positions.entry(word).or_default().push(at);
        }
        for (at, word) in here.iter().enumerate().rev().filter(|(at, _)| self.free_here[*at]).collect::<Vec<_>>() {
            let synonyms = wordnet.map(|wordnet| wordnet.synonyms(word)).unwrap_or_default();
            let candidates = synonyms.into_iter().chain([word.as_str()]);
            let last = candidates.filter_map(|word| Some((*positions.get(word)?.last()?, word))).max();
            if let Some((found, word)) = last {
                positions.get_mut(word).and_then(Vec::pop);
                self.free_here[at] = false;
                self.free_there[found] = false;
                self.matches.push((at, found));
            }
        }
    }
}

struct Meteor {
    options: Options,
    wordnet: Option<WordNet>,
}

impl Meteor {
    fn open(options: Options) -> std::result::Result<Self, SpecError> {
        let wordnet = options.wordnet.as_ref().map(|folder| WordNet::open(Path::new(folder))).transpose();
        Ok(Self { wordnet: wordnet.map_err(|problem| SpecError::at("wordnet", problem))?, options })
    }

    fn one_reference(&self, prediction: &Words, reference: &Words) -> f64 {
        let Options { alpha, beta, gamma, .. } = self.options;
        let matches = Alignment::of(prediction, reference, self.wordnet.as_ref()).matches;
        if matches.is_empty() {
            return 0.0;
        }
        let count = matches.len() as f64;
        let (precision, recall) = (count / prediction.exact.len() as f64, count / reference.exact.len() as f64);
        let mean = precision * recall / (alpha * precision + (1.0 - alpha) * recall);
        let joined = |pair: &[(usize, usize)]| pair[1].0 == pair[0].0 + 1 && pair[1].1 == pair[0].1 + 1;
        let chunks = 1 + matches.windows(2).filter(|pair| !joined(pair)).count();
        (1.0 - gamma * (chunks as f64 / count).powf(beta)) * mean
    }
}

impl Metric for Meteor {
    fn name(&self) -> &'static str {
        if self.wordnet.is_some() { METEOR.name } else { "meteor_no_synonyms" }
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let score = |item: &Item<'_>| {
            let prediction = Words::of(item.prediction);
            let scores = item.references.iter().map(|reference| self.one_reference(&prediction, &Words::of(reference)));
            scores.fold(0.0, f64::max)
        };
        let items: Vec<f64> = items.iter().map(score).collect();
        Ok(Scores { values: vec![mean_of(self.name(), &items)], items })
    }
}
