//! BLEU-4 over several references, as sacrebleu computes it (Papineni et al. 2002; Post 2018): 13a tokens, `exp` smoothing, the closest
//! reference length (the shorter of two equally close).
//!
//! The corpus score takes no effective order; the sentence score does, as sacrebleu's `sentence_bleu`. Hugging Face's `evaluate` `bleu`
//! differs in two ways: no smoothing, and the shortest reference's length.

use super::standard_error::bootstrap;
use super::tokenize_13a::tokenize;
use super::{Item, Metric, MetricEntry, NoOptions, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;
use std::collections::HashMap;

/// `bleu`.
pub const BLEU: MetricEntry = MetricEntry {
    name: "bleu",
    summary: "corpus BLEU-4, sacrebleu's 13a tokens and exp smoothing, all references",
    higher_is_better: true,
    range: "0 to 1",
    definition: "BLEU-4 of the corpus (Papineni et al. 2002) over all references; an item's score is its sentence BLEU with effective order. \
                 Standard error by bootstrap over items.",
    reference: "sacrebleu `BLEU`, over 100",
    options: &[],
    build: |metric| metric.parse_options::<NoOptions>().map(|_| Box::new(Bleu) as Box<dyn Metric>),
    resolve: |metric| metric.resolved(&metric.parse_options::<NoOptions>()?),
};

/// Its name in results.
pub const NAME: &str = BLEU.name;

struct Bleu;

impl Metric for Bleu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let segments: Vec<Counts> = items.iter().map(|item| Counts::of(item.prediction, item.references)).collect();
        Ok(Scores { values: vec![corpus(&segments)], items: segments.iter().map(|counts| counts.bleu(true)).collect() })
    }
}

/// The longest n-gram counted.
const ORDER: usize = 4;

/// Counts of one segment; BLEU of a corpus is a function of their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// n-grams of the hypothesis also in a reference, at most as often as in the reference that has it most often.
    pub correct: [usize; ORDER],
    /// n-grams of the hypothesis.
    pub total: [usize; ORDER],
    /// Tokens of the hypothesis.
    pub hypothesis_len: usize,
    /// Tokens of the reference closest in length.
    pub reference_len: usize,
}

impl Counts {
    /// Counts of one segment. Without references nothing is correct.
    pub fn of(hypothesis: &str, references: &[String]) -> Self {
        let words = tokenize(hypothesis);
        let references: Vec<Vec<String>> = references.iter().map(|text| tokenize(text)).collect();
        let mut most: HashMap<&[String], usize> = HashMap::new();
        for reference in &references {
            for (gram, count) in grams(reference) {
                let entry = most.entry(gram).or_insert(0);
                *entry = count.max(*entry);
            }
        }
        let closest = references.iter().map(Vec::len).min_by_key(|&len| (len.abs_diff(words.len()), len));
        let mut counts = Self { hypothesis_len: words.len(), reference_len: closest.unwrap_or(0), ..Self::default() };
        for (gram, count) in grams(&words) {
            counts.total[gram.len() - 1] += count;
            counts.correct[gram.len() - 1] += count.min(most.get(gram).copied().unwrap_or(0));
        }
        counts
    }

    fn add(&mut self, other: &Self) {
        for n in 0..ORDER {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
        self.hypothesis_len += other.hypothesis_len;
        self.reference_len += other.reference_len;
    }

    /// BLEU from these counts, 0 to 1. With `effective_order`, only the n-gram orders that the hypothesis is long enough for count.
    pub fn bleu(&self, effective_order: bool) -> f64 {
        if self.correct.iter().all(|&count| count == 0) {
            return 0.0;
        }
        let mut log_sum = 0.0;
        let mut order = 0;
        let mut smooth = 1.0;
        for n in 0..ORDER {
            if self.total[n] == 0 {
                if effective_order {
                    break;
                }
                // An order with no n-gram at all has precision 0, which smoothing leaves alone.
                return 0.0;
            }
            order += 1;
            let precision = match self.correct[n] {
                0 => {
                    smooth *= 2.0;
                    1.0 / (smooth * self.total[n] as f64)
                }
                correct => correct as f64 / self.total[n] as f64,
            };
            log_sum += precision.ln();
        }
        let brevity = match self.hypothesis_len < self.reference_len {
            true => (1.0 - self.reference_len as f64 / self.hypothesis_len as f64).exp(),
            false => 1.0,
        };
        brevity * (log_sum / order as f64).exp()
    }
}

/// How often each n-gram of 1 to 4 words occurs.
fn grams(words: &[String]) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for n in 1..=ORDER {
        for gram in words.windows(n) {
            *counts.entry(gram).or_insert(0) += 1;
        }
    }
    counts
}

/// BLEU of one segment, with effective order: what sacrebleu's `sentence_bleu` gives, over 100.
pub fn sentence_bleu(hypothesis: &str, references: &[String]) -> f64 {
    Counts::of(hypothesis, references).bleu(true)
}

/// BLEU over pairs of (hypothesis, references). The standard error is a bootstrap over segments with a fixed seed, from two segments on.
pub fn corpus_bleu<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> MetricValue {
    let segments: Vec<Counts> = pairs.into_iter().map(|(hypothesis, references)| Counts::of(hypothesis, references)).collect();
    corpus(&segments)
}

fn corpus(segments: &[Counts]) -> MetricValue {
    let score = |chosen: &mut dyn Iterator<Item = usize>| {
        let mut sum = Counts::default();
        chosen.for_each(|index| sum.add(&segments[index]));
        sum.bleu(false)
    };
    let value = score(&mut (0..segments.len()));
    let stderr = bootstrap(NAME, segments.len(), |chosen| score(&mut chosen.iter().copied()));
    MetricValue { name: NAME.to_owned(), value, stderr, n_items: segments.len(), higher_is_better: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        sacrebleu: String,
        cases: Vec<Case>,
        corpora: Vec<Corpus>,
    }
    #[derive(Deserialize)]
    struct Case {
        hypothesis: String,
        references: Vec<String>,
        tokens: String,
        correct: [usize; ORDER],
        total: [usize; ORDER],
        lengths: [usize; 2],
        sentence: f64,
    }
    #[derive(Deserialize)]
    struct Corpus {
        cases: Vec<usize>,
        bleu: f64,
        bootstrap_stderr: f64,
    }

    /// Made by `fixtures/make_bleu.py` with the real sacrebleu.
    fn fixture() -> Fixture {
        serde_json::from_str(include_str!("../../fixtures/bleu.json")).unwrap()
    }

    #[test]
    fn every_segment_agrees_with_sacrebleu() {
        let fixture = fixture();
        assert!(fixture.cases.len() >= 300 && !fixture.sacrebleu.is_empty());
        for case in &fixture.cases {
            assert_eq!(tokenize(&case.hypothesis).join(" "), case.tokens, "{:?}", case.hypothesis);
            let counts = Counts::of(&case.hypothesis, &case.references);
            assert_eq!((counts.correct, counts.total), (case.correct, case.total), "{:?}", case.hypothesis);
            assert_eq!([counts.hypothesis_len, counts.reference_len], case.lengths, "{:?}", case.hypothesis);
            assert!((counts.bleu(true) - case.sentence).abs() < 1e-12, "{:?}: {} {}", case.hypothesis, counts.bleu(true), case.sentence);
        }
    }

    #[test]
    fn every_corpus_agrees_with_sacrebleu() {
        let fixture = fixture();
        for corpus in &fixture.corpora {
            let pairs = corpus.cases.iter().map(|&i| (fixture.cases[i].hypothesis.as_str(), &fixture.cases[i].references[..]));
            let value = corpus_bleu(pairs);
            assert!((value.value - corpus.bleu).abs() < 1e-12, "{:?}: {} {}", corpus.cases, value.value, corpus.bleu);
            if corpus.cases.len() >= 50 {
                // Two independent bootstraps: equal up to their own noise.
                let ratio = value.stderr.unwrap() / corpus.bootstrap_stderr;
                assert!((0.85..1.18).contains(&ratio), "{ratio}");
            }
        }
    }

    #[test]
    fn degenerate_corpora_score_0_and_are_repeatable() {
        assert_eq!(corpus_bleu([]).value, 0.0);
        assert_eq!(corpus_bleu([("", &["a b".to_owned()][..])]).value, 0.0);
        assert_eq!(corpus_bleu([("a b", &[][..])]).value, 0.0);
        let references = ["a b c d e".to_owned()];
        let pairs = [("a b c d", &references[..]), ("a x c d e", &references[..])];
        assert_eq!(corpus_bleu(pairs), corpus_bleu(pairs));
    }
}
