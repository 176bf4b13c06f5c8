//! ROUGE (Lin 2004) as Google's `rouge-score` computes it: n-grams, the longest common subsequence, and the same over lines.

use super::lcs::LcsTable;
use super::porter;
use super::standard_error::mean_of;
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::Result;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// `rouge`.
pub const ROUGE: MetricEntry = MetricEntry {
    name: "rouge",
    summary: "ROUGE-1, -2, -L and -Lsum, as rouge-score",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The mean over items of the F-measure of shared n-grams (`rouge1` to `rouge9`), of the longest common subsequence (`rougeL`), \
                 and of the union of those between lines (`rougeLsum`); of several references the best counts, for each kind alone. Tokens \
                 are runs of a-z and 0-9 of the text in lower case. Standard error s/√n.",
    reference: "rouge-score `RougeScorer.score_multi`",
    options: &[
        ("types", "which values, the main one first: `rouge1` to `rouge9`, `rougeL`, `rougeLsum`"),
        ("stemmer", "whether tokens longer than three characters are stemmed (Porter's stemmer with NLTK's extensions)"),
    ],
    build: |metric| Ok(Box::new(Rouge::parse(metric)?)),
    resolve: |metric| metric.resolved(&Rouge::parse(metric)?.options),
};

/// Options of `rouge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    types: Vec<String>,
    stemmer: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { types: ["rouge1", "rouge2", "rougeL", "rougeLsum"].map(str::to_owned).to_vec(), stemmer: false }
    }
}

/// One kind of ROUGE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ngrams(usize),
    Lcs,
    LcsSum,
}

/// Their names.
const KINDS: [(&str, Kind); 11] = [
    ("rouge1", Kind::Ngrams(1)),
    ("rouge2", Kind::Ngrams(2)),
    ("rouge3", Kind::Ngrams(3)),
    ("rouge4", Kind::Ngrams(4)),
    ("rouge5", Kind::Ngrams(5)),
    ("rouge6", Kind::Ngrams(6)),
    ("rouge7", Kind::Ngrams(7)),
    ("rouge8", Kind::Ngrams(8)),
    ("rouge9", Kind::Ngrams(9)),
    ("rougeL", Kind::Lcs),
    ("rougeLsum", Kind::LcsSum),
];

struct Rouge {
    options: Options,
    kinds: Vec<(&'static str, Kind)>,
}

impl Rouge {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Options = metric.parse_options()?;
        let kind = |name: &String| {
            KINDS
                .into_iter()
                .find(|(known, _)| known == name)
                .ok_or_else(|| SpecError::at("types", format!("expected `rouge1` to `rouge9`, `rougeL` or `rougeLsum`, found `{name}`")))
        };
        let kinds = options.types.iter().map(kind).collect::<std::result::Result<Vec<_>, _>>()?;
        match kinds.is_empty() {
            true => Err(SpecError::at("types", "expected at least one, found none")),
            false => Ok(Self { options, kinds }),
        }
    }
}

impl Metric for Rouge {
    fn name(&self) -> &'static str {
        self.kinds[0].0
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let mut tokens = Tokens { stemmer: self.options.stemmer, ids: HashMap::new(), stems: HashMap::new() };
        let mut table = LcsTable::default();
        let mut scores = vec![Vec::with_capacity(items.len()); self.kinds.len()];
        for item in items {
            let prediction = tokens.text(item.prediction);
            let references: Vec<Text> = item.references.iter().map(|reference| tokens.text(reference)).collect();
            for ((_, kind), scores) in self.kinds.iter().zip(&mut scores) {
                let best = references.iter().map(|reference| kind.f_measure(reference, &prediction, &mut table)).fold(0.0, f64::max);
                scores.push(best);
            }
        }
        let values = self.kinds.iter().zip(&scores).map(|((name, _), scores)| mean_of(name, scores)).collect();
        Ok(Scores { values, items: scores.swap_remove(0) })
    }
}

/// Token ids of a text: of the whole, and of each line that is not empty.
struct Text {
    tokens: Vec<u32>,
    lines: Vec<Vec<u32>>,
}

/// A number for each token; tokens with one stem share it.
struct Tokens {
    stemmer: bool,
    ids: HashMap<String, u32>,
    stems: HashMap<String, u32>,
}

impl Tokens {
    fn text(&mut self, text: &str) -> Text {
        let lower = text.to_lowercase();
        let lines: Vec<Vec<u32>> = lower.split('\n').filter(|line| !line.is_empty()).map(|line| self.line(line)).collect();
        // A line break parts tokens as any other mark does.
        Text { tokens: lines.concat(), lines }
    }

    fn line(&mut self, line: &str) -> Vec<u32> {
        let is_token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        line.split(|c| !is_token(c)).filter(|token| !token.is_empty()).map(|token| self.id(token)).collect()
    }

    fn id(&mut self, token: &str) -> u32 {
        if let Some(&id) = self.ids.get(token) {
            return id;
        }
        let stem = if self.stemmer && token.len() > 3 { porter::stem(token) } else { token.to_owned() };
        let new = self.stems.len() as u32;
        let id = *self.stems.entry(stem).or_insert(new);
        self.ids.insert(token.to_owned(), id);
        id
    }
}

impl Kind {
    fn f_measure(self, reference: &Text, prediction: &Text, table: &mut LcsTable) -> f64 {
        match self {
            Self::Ngrams(n) => {
                let (reference, prediction) = (ngrams(&reference.tokens, n), ngrams(&prediction.tokens, n));
                let total = |grams: &HashMap<&[u32], usize>| grams.values().sum::<usize>();
                let shared: usize = reference.iter().map(|(gram, &count)| count.min(prediction.get(gram).copied().unwrap_or(0))).sum();
                harmonic_mean(shared, total(&prediction), total(&reference))
            }
            Self::Lcs => harmonic_mean(table.fill(&reference.tokens, &prediction.tokens), prediction.tokens.len(), reference.tokens.len()),
            Self::LcsSum => harmonic_mean(summary_hits(reference, prediction, table), prediction.tokens.len(), reference.tokens.len()),
        }
    }
}

fn ngrams(tokens: &[u32], n: usize) -> HashMap<&[u32], usize> {
    let mut counts = HashMap::with_capacity(tokens.len());
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// Tokens of the reference's lines in the union of their longest common subsequences with every line of the prediction; a token counts at
/// most as often as it occurs in either text.
fn summary_hits(reference: &Text, prediction: &Text, table: &mut LcsTable) -> usize {
    let mut left: HashMap<u32, (usize, usize)> = HashMap::new();
    reference.tokens.iter().for_each(|&token| left.entry(token).or_default().0 += 1);
    prediction.tokens.iter().for_each(|&token| left.entry(token).or_default().1 += 1);
    let mut hits = 0;
    for line in &reference.lines {
        let mut hit = vec![false; line.len()];
        prediction.lines.iter().for_each(|candidate| table.mark(line, candidate, &mut hit));
        for (token, _) in line.iter().zip(hit).filter(|(_, hit)| *hit) {
            if let Some((in_reference, in_prediction)) = left.get_mut(token)
                && *in_reference > 0
                && *in_prediction > 0
            {
                *in_reference -= 1;
                *in_prediction -= 1;
                hits += 1;
            }
        }
    }
    hits
}

/// The F-measure of `hits / predicted` and `hits / right`, 0 for none.
fn harmonic_mean(hits: usize, predicted: usize, right: usize) -> f64 {
    let (precision, recall) = (hits as f64 / predicted.max(1) as f64, hits as f64 / right.max(1) as f64);
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}
