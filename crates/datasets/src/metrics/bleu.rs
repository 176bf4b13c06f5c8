//! BLEU-4 over several references, as sacrebleu computes it (Papineni et al. 2002; Post 2018): the closest reference length (the shorter of
//! two equally close), 13a tokens and `exp` smoothing unless told otherwise.
//!
//! The corpus score takes no effective order; the sentence score does, as sacrebleu's `sentence_bleu`. Hugging Face's `evaluate` `bleu`
//! differs in two ways: no smoothing, and the shortest reference's length.

use super::bleu_tokens::BleuTokenizer;
use super::standard_error::{bootstrap, mean_of};
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::Result;
use peftbench_spec::event::MetricValue;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// `bleu`.
pub const BLEU: MetricEntry = MetricEntry {
    name: "bleu",
    summary: "corpus BLEU-4 over all references, as sacrebleu",
    higher_is_better: true,
    range: "0 to 1",
    definition: "BLEU-4 of the corpus (Papineni et al. 2002) over all references; an item's score is its sentence BLEU with effective order. \
                 Standard error by bootstrap over items.",
    reference: "sacrebleu `BLEU`, divided by 100",
    options: OPTIONS,
    build: |metric| Ok(Box::new(Bleu { level: Level::Corpus, options: Options::parse(metric)? })),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// `sentence_bleu`.
pub const SENTENCE_BLEU: MetricEntry = MetricEntry {
    name: "sentence_bleu",
    summary: "mean of the items' sentence BLEU-4, as sacrebleu",
    definition: "The mean over items of sentence BLEU-4 with effective order: only the n-gram orders that the prediction is long enough for. \
                 Standard error s/√n.",
    reference: "sacrebleu `BLEU(effective_order=True).sentence_score`, divided by 100",
    build: |metric| Ok(Box::new(Bleu { level: Level::Sentence, options: Options::parse(metric)? })),
    ..BLEU
};

const OPTIONS: &[(&str, &str)] = &[
    ("tokenize", "`13a`, `none`, `char`, `intl` or `zh`: sacrebleu's tokenizers"),
    ("smooth_method", "what an n-gram order without a match counts: `exp`, `floor`, `add-k` or `none`"),
    ("smooth_value", "of `floor` (0.1 unless given) and `add-k` (1 unless given)"),
    ("lowercase", "whether case is ignored"),
];

/// Its name in results.
pub const NAME: &str = BLEU.name;

/// What an n-gram order without a match counts (Chen and Cherry 2014).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SmoothMethod {
    #[default]
    Exp,
    Floor,
    AddK,
    None,
}

/// Options of `bleu` and `sentence_bleu`, by sacrebleu's names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    tokenize: BleuTokenizer,
    smooth_method: SmoothMethod,
    #[serde(skip_serializing_if = "Option::is_none")]
    smooth_value: Option<f64>,
    lowercase: bool,
}

impl Options {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = metric.parse_options()?;
        match (options.smooth_method, options.smooth_value) {
            (SmoothMethod::Exp | SmoothMethod::None, Some(_)) => {
                Err(SpecError::at("smooth_value", "only `floor` and `add-k` take a value; leave it out"))
            }
            (_, Some(value)) if !(value >= 0.0 && value.is_finite()) => {
                Err(SpecError::at("smooth_value", format!("expected a number from 0, found {value}")))
            }
            _ => Ok(options),
        }
    }

    /// The counts of one segment.
    fn counts(&self, hypothesis: &str, references: &[String]) -> Counts {
        let tokens = |text: &str| match self.lowercase {
            true => self.tokenize.tokenize(&text.to_lowercase()),
            false => self.tokenize.tokenize(text),
        };
        Counts::of(&tokens(hypothesis), &references.iter().map(|text| tokens(text)).collect::<Vec<_>>())
    }

    /// BLEU from counts, 0 to 1. With `effective_order`, only the n-gram orders that the hypothesis is long enough for count.
    fn bleu(&self, counts: &Counts, effective_order: bool) -> f64 {
        if counts.correct.iter().all(|&count| count == 0) {
            return 0.0;
        }
        let add = match self.smooth_method {
            SmoothMethod::AddK => self.smooth_value.unwrap_or(1.0),
            _ => 0.0,
        };
        let (mut log_sum, mut order, mut halves) = (0.0, 0, 1.0);
        for n in 0..ORDER {
            let added = if n > 0 { add } else { 0.0 };
            let (correct, total) = (counts.correct[n] as f64 + added, counts.total[n] as f64 + added);
            if total == 0.0 {
                if effective_order {
                    break;
                }
                // An order with no n-gram at all has precision 0, which smoothing leaves alone.
                return 0.0;
            }
            order += 1;
            let precision = match self.smooth_method {
                SmoothMethod::Exp if correct == 0.0 => {
                    halves *= 2.0;
                    1.0 / (halves * total)
                }
                SmoothMethod::Floor if correct == 0.0 => self.smooth_value.unwrap_or(0.1) / total,
                _ => correct / total,
            };
            log_sum += precision.ln();
        }
        let brevity = match counts.hypothesis_len < counts.reference_len {
            true => (1.0 - counts.reference_len as f64 / counts.hypothesis_len as f64).exp(),
            false => 1.0,
        };
        brevity * (log_sum / order as f64).exp()
    }

    /// BLEU of the corpus of these segments.
    fn corpus(&self, segments: &[Counts]) -> MetricValue {
        let score = |chosen: &mut dyn Iterator<Item = usize>| {
            let mut sum = Counts::default();
            chosen.for_each(|index| sum.add(&segments[index]));
            self.bleu(&sum, false)
        };
        let value = score(&mut (0..segments.len()));
        let stderr = bootstrap(NAME, segments.len(), |chosen| score(&mut chosen.iter().copied()));
        MetricValue { name: NAME.to_owned(), value, stderr, n_items: segments.len(), higher_is_better: true }
    }
}

enum Level {
    Corpus,
    Sentence,
}

struct Bleu {
    level: Level,
    options: Options,
}

impl Metric for Bleu {
    fn name(&self) -> &'static str {
        match self.level {
            Level::Corpus => NAME,
            Level::Sentence => SENTENCE_BLEU.name,
        }
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let segments: Vec<Counts> = items.iter().map(|item| self.options.counts(item.prediction, item.references)).collect();
        let items: Vec<f64> = segments.iter().map(|counts| self.options.bleu(counts, true)).collect();
        Ok(match self.level {
            Level::Corpus => Scores { values: vec![self.options.corpus(&segments)], items },
            Level::Sentence => Scores { values: vec![mean_of(self.name(), &items)], items },
        })
    }
}

/// The longest n-gram counted.
const ORDER: usize = 4;

/// Counts of one segment; BLEU of a corpus is a function of their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    /// n-grams of the hypothesis also in a reference, at most as often as in the reference that has it most often.
    correct: [usize; ORDER],
    /// n-grams of the hypothesis.
    total: [usize; ORDER],
    /// Tokens of the hypothesis.
    hypothesis_len: usize,
    /// Tokens of the reference closest in length.
    reference_len: usize,
}

impl Counts {
    /// Counts of one segment, in tokens. Without references nothing is correct.
    fn of(words: &[String], references: &[Vec<String>]) -> Self {
        let mut most: HashMap<&[String], usize> = HashMap::new();
        for reference in references {
            for (gram, count) in grams(reference) {
                let entry = most.entry(gram).or_insert(0);
                *entry = count.max(*entry);
            }
        }
        let closest = references.iter().map(Vec::len).min_by_key(|&len| (len.abs_diff(words.len()), len));
        let mut counts = Self { hypothesis_len: words.len(), reference_len: closest.unwrap_or(0), ..Self::default() };
        for (gram, count) in grams(words) {
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
    let options = Options::default();
    options.bleu(&options.counts(hypothesis, references), true)
}

/// BLEU over pairs of (hypothesis, references). The standard error is a bootstrap over segments with a fixed seed, from two segments on.
pub fn corpus_bleu<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> MetricValue {
    let options = Options::default();
    options.corpus(&pairs.into_iter().map(|(hypothesis, references)| options.counts(hypothesis, references)).collect::<Vec<_>>())
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
            assert_eq!(BleuTokenizer::default().tokenize(&case.hypothesis).join(" "), case.tokens, "{:?}", case.hypothesis);
            let counts = Options::default().counts(&case.hypothesis, &case.references);
            assert_eq!((counts.correct, counts.total), (case.correct, case.total), "{:?}", case.hypothesis);
            assert_eq!([counts.hypothesis_len, counts.reference_len], case.lengths, "{:?}", case.hypothesis);
            let found = sentence_bleu(&case.hypothesis, &case.references);
            assert!((found - case.sentence).abs() < 1e-12, "{:?}: {found} {}", case.hypothesis, case.sentence);
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
