//! chrF (Popović 2015) and chrF++ (2017) as sacrebleu computes them: the F-measure of character n-grams, and of word n-grams for chrF++.

use super::python::split;
use super::standard_error::bootstrap;
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::Hash;

/// `chrf`.
pub const CHRF: MetricEntry = MetricEntry {
    name: "chrf",
    summary: "corpus chrF, or chrF++ with word n-grams, as sacrebleu",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The F-measure, recall weighted beta² times, of the mean precision and recall over character n-gram orders up to \
                 `char_order`, white space left out; with `word_order = 2` over words as well, named `chrf++`. Of several references the \
                 best counts. An item's score is that of the item alone. Standard error by bootstrap over items.",
    reference: "sacrebleu `CHRF`, divided by 100",
    options: &[
        ("char_order", "longest character n-gram"),
        ("word_order", "longest word n-gram: 0 for chrF, 2 for chrF++"),
        ("beta", "how much recall weighs against precision"),
        ("lowercase", "whether case is ignored"),
        ("whitespace", "whether white space is part of the n-grams"),
        ("eps_smoothing", "whether every order counts, with 1e-16 for one that is empty, as chrF++.py, NLTK and Moses do"),
    ],
    build: |metric| Ok(Box::new(Chrf { options: Options::parse(metric)? })),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// Options of `chrf`, by sacrebleu's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    char_order: usize,
    word_order: usize,
    beta: f64,
    lowercase: bool,
    whitespace: bool,
    eps_smoothing: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { char_order: 6, word_order: 0, beta: 2.0, lowercase: false, whitespace: false, eps_smoothing: false }
    }
}

impl Options {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = metric.parse_options()?;
        match options {
            Self { char_order, .. } if !(1..=32).contains(&char_order) => {
                Err(SpecError::at("char_order", format!("expected 1 to 32, found {char_order}")))
            }
            Self { word_order, .. } if word_order > 2 => Err(SpecError::at("word_order", format!("expected 0 to 2, found {word_order}"))),
            Self { beta, .. } if !(beta > 0.0 && beta.is_finite()) => {
                Err(SpecError::at("beta", format!("expected a number above 0, found {beta}")))
            }
            _ => Ok(options),
        }
    }

    /// The counts of each order against the reference that gives the best score.
    fn best_counts(&self, item: &Item<'_>) -> Vec<Counts> {
        let prediction = Grams::of(item.prediction, self);
        let of = |reference: &String| {
            let counts = prediction.counts(&Grams::of(reference, self), self);
            (self.f_score(&counts), counts)
        };
        // The first of equally good ones, as sacrebleu takes it.
        let better = |best: (f64, Vec<Counts>), next: (f64, Vec<Counts>)| if next.0 > best.0 { next } else { best };
        item.references
            .iter()
            .map(of)
            .reduce(better)
            .map_or_else(|| vec![Counts::default(); self.char_order + self.word_order], |best| best.1)
    }

    fn f_score(&self, counts: &[Counts]) -> f64 {
        const EPS: f64 = 1e-16;
        let factor = self.beta * self.beta;
        let f = |precision: f64, recall: f64| (1.0 + factor) * precision * recall / (factor * precision + recall);
        let (mut score, mut precisions, mut recalls, mut orders) = (0.0, 0.0, 0.0, 0usize);
        for count in counts {
            let ratio = |of: usize| if of > 0 { count.shared as f64 / of as f64 } else { EPS };
            let (precision, recall) = (ratio(count.predicted), ratio(count.right));
            score += if factor * precision + recall > 0.0 { f(precision, recall) } else { EPS };
            if count.predicted > 0 && count.right > 0 {
                precisions += precision;
                recalls += recall;
                orders += 1;
            }
        }
        if self.eps_smoothing {
            return score / counts.len() as f64;
        }
        let (precision, recall) = (precisions / orders.max(1) as f64, recalls / orders.max(1) as f64);
        if precision + recall > 0.0 { f(precision, recall) } else { 0.0 }
    }
}

/// n-grams of one order.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Of the prediction; 0 where the reference has none of this order.
    predicted: usize,
    /// Of the reference.
    right: usize,
    /// Of both.
    shared: usize,
}

/// A text as characters and as words.
struct Grams {
    chars: Vec<char>,
    words: Vec<String>,
}

impl Grams {
    fn of(text: &str, options: &Options) -> Self {
        let text = if options.lowercase { text.to_lowercase() } else { text.to_owned() };
        let chars = if options.whitespace { text.chars().collect() } else { split(&text).flat_map(str::chars).collect() };
        Self { chars, words: if options.word_order > 0 { split_punctuation(&text) } else { Vec::new() } }
    }

    fn counts(&self, reference: &Self, options: &Options) -> Vec<Counts> {
        let chars = (1..=options.char_order).map(|n| compare(&self.chars, &reference.chars, n));
        chars.chain((1..=options.word_order).map(|n| compare(&self.words, &reference.words, n))).collect()
    }
}

/// Counts of the n-grams of one order.
fn compare<T: Eq + Hash>(prediction: &[T], reference: &[T], n: usize) -> Counts {
    let mut left: HashMap<&[T], usize> = HashMap::with_capacity(reference.len());
    reference.windows(n).for_each(|gram| *left.entry(gram).or_insert(0) += 1);
    let right = reference.len().saturating_sub(n - 1);
    let mut counts = Counts { predicted: if right > 0 { prediction.len().saturating_sub(n - 1) } else { 0 }, right, shared: 0 };
    for gram in prediction.windows(n) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            counts.shared += 1;
        }
    }
    counts
}

/// Words, with one ASCII punctuation mark at the end or else at the start of a longer word as a word of its own.
fn split_punctuation(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in split(text) {
        let is_mark = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
        let (mut from_start, mut from_end) = (word.chars(), word.chars());
        let (first, last) = (from_start.next(), from_end.next_back());
        match (from_start.as_str().is_empty(), first, last) {
            (false, _, Some(last)) if is_mark(Some(last)) => words.extend([from_end.as_str().to_owned(), last.to_string()]),
            (false, Some(first), _) if is_mark(Some(first)) => words.extend([first.to_string(), from_start.as_str().to_owned()]),
            _ => words.push(word.to_owned()),
        }
    }
    words
}

struct Chrf {
    options: Options,
}

impl Metric for Chrf {
    fn name(&self) -> &'static str {
        ["chrf", "chrf+", "chrf++"][self.options.word_order]
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let counts: Vec<Vec<Counts>> = items.iter().map(|item| self.options.best_counts(item)).collect();
        let of = |chosen: &mut dyn Iterator<Item = usize>| {
            let mut sum = vec![Counts::default(); self.options.char_order + self.options.word_order];
            for counts in chosen.map(|item| &counts[item]) {
                for (sum, count) in sum.iter_mut().zip(counts) {
                    sum.predicted += count.predicted;
                    sum.right += count.right;
                    sum.shared += count.shared;
                }
            }
            self.options.f_score(&sum)
        };
        let value = if items.is_empty() { 0.0 } else { of(&mut (0..items.len())) };
        let stderr = bootstrap(self.name(), items.len(), |chosen| of(&mut chosen.iter().copied()));
        let value = MetricValue { name: self.name().to_owned(), value, stderr, n_items: items.len(), higher_is_better: true };
        Ok(Scores { values: vec![value], items: counts.iter().map(|counts| self.options.f_score(counts)).collect() })
    }
}
