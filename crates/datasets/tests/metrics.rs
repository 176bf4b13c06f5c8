//! Metrics against reference implementations that nobody here wrote, over the fixtures that the scripts in `fixtures/` make.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_datasets::metrics::{self, Item, Likelihood, Metric, Scores};
use peftbench_spec::Component;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A fixture, made by the script `make_<name>.py` beside it.
fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn metric(value: Value) -> Box<dyn Metric> {
    metrics::build(&Component::from_value(&value).unwrap()).unwrap()
}

/// Scores of one corpus of (prediction, references).
fn score(metric: &dyn Metric, pairs: &[(String, Vec<String>)]) -> Scores {
    let items: Vec<Item> = pairs.iter().map(|(prediction, references)| Item::new(prediction, references)).collect();
    metric.score(&items).unwrap()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: impl std::fmt::Debug) {
    assert!((found - expected).abs() < 1e-12, "{what:?}: expected {expected}, found {found}");
}

#[derive(serde::Deserialize)]
struct ClassFixture {
    cases: Vec<ClassCase>,
}
#[derive(Debug, serde::Deserialize)]
struct ClassCase {
    labels: Vec<String>,
    predictions: Vec<String>,
    accuracy: f64,
    matthews: f64,
    #[serde(rename = "macro")]
    macro_f1: f64,
    micro: f64,
    weighted: f64,
    binary: BTreeMap<String, f64>,
}

#[test]
fn classes_agree_with_scikit_learn() {
    let cases = fixture::<ClassFixture>("classes").cases;
    assert!(cases.len() >= 300);
    for case in &cases {
        let pairs: Vec<_> = case.predictions.iter().cloned().zip(case.labels.iter().map(|label| vec![label.clone()])).collect();
        let value = |wanted: Value| score(&*metric(wanted), &pairs).values[0].value;
        assert_close(value(json!("accuracy")), case.accuracy, case);
        assert_close(value(json!("matthews")), case.matthews, case);
        for (average, expected) in [("macro", case.macro_f1), ("micro", case.micro), ("weighted", case.weighted)] {
            assert_close(value(json!({"type": "f1", "average": average})), expected, case);
        }
        for (class, expected) in &case.binary {
            assert_close(value(json!({"type": "f1", "average": "binary", "positive": class})), *expected, case);
        }
    }
}

#[derive(serde::Deserialize)]
struct MatchFixture {
    exact: Vec<ExactCase>,
    numeric: Vec<NumericCase>,
}
#[derive(serde::Deserialize)]
struct ExactCase {
    prediction: String,
    references: Vec<String>,
    exact: bool,
    ignoring_case: bool,
}
#[derive(serde::Deserialize)]
struct NumericCase {
    prediction: String,
    references: Vec<String>,
    #[serde(rename = "match")]
    within: bool,
    equal: bool,
}

#[test]
fn matches_agree_with_python() {
    let fixture = fixture::<MatchFixture>("matches");
    assert!(fixture.exact.len() >= 300 && fixture.numeric.len() >= 300);
    let as_score = |right: &bool| f64::from(u8::from(*right));
    let expect = |wanted: Value, pairs: &[(String, Vec<String>)], rights: Vec<f64>| {
        for ((pair, found), right) in pairs.iter().zip(score(&*metric(wanted.clone()), pairs).items).zip(rights) {
            assert_eq!(found, right, "{wanted} {pair:?}");
        }
    };
    let exact: Vec<_> = fixture.exact.iter().map(|case| (case.prediction.clone(), case.references.clone())).collect();
    expect(json!("exact_match"), &exact, fixture.exact.iter().map(|case| as_score(&case.exact)).collect());
    let ignoring = json!({"type": "exact_match", "ignore_case": true});
    expect(ignoring, &exact, fixture.exact.iter().map(|case| as_score(&case.ignoring_case)).collect());
    let numeric: Vec<_> = fixture.numeric.iter().map(|case| (case.prediction.clone(), case.references.clone())).collect();
    expect(json!("numeric_match"), &numeric, fixture.numeric.iter().map(|case| as_score(&case.within)).collect());
    let equal = json!({"type": "numeric_match", "tolerance": 0.0});
    expect(equal, &numeric, fixture.numeric.iter().map(|case| as_score(&case.equal)).collect());
}

/// (prediction, references) of a text fixture.
#[derive(Debug, serde::Deserialize)]
struct Pair {
    prediction: String,
    references: Vec<String>,
}

fn texts(pairs: &[Pair]) -> Vec<(String, Vec<String>)> {
    pairs.iter().map(|pair| (pair.prediction.clone(), pair.references.clone())).collect()
}

/// The metric `name` with `options`.
fn with_options(name: &str, options: &serde_json::Map<String, Value>) -> Box<dyn Metric> {
    metrics::build(&Component { name: name.to_owned(), options: options.clone() }).unwrap()
}

#[derive(serde::Deserialize)]
struct RougeFixture {
    types: Vec<String>,
    cases: Vec<RougeCase>,
}
#[derive(serde::Deserialize)]
struct RougeCase {
    #[serde(flatten)]
    pair: Pair,
    plain: Vec<f64>,
    stemmed: Vec<f64>,
}

#[test]
fn rouge_agrees_with_rouge_score_bit_for_bit() {
    let RougeFixture { types, cases } = fixture("rouge");
    assert!(cases.len() >= 400);
    for stemmer in [false, true] {
        let metric = metric(json!({"type": "rouge", "types": types, "stemmer": stemmer}));
        for case in &cases {
            let values = score(&*metric, &texts(std::slice::from_ref(&case.pair))).values;
            let found: Vec<f64> = values.iter().map(|value| value.value).collect();
            assert_eq!(&found, if stemmer { &case.stemmed } else { &case.plain }, "{:?}", case.pair);
        }
        let all: Vec<_> = cases.iter().flat_map(|case| texts(std::slice::from_ref(&case.pair))).collect();
        let corpus = score(&*metric, &all);
        for (k, value) in corpus.values.iter().enumerate() {
            let expected = cases.iter().map(|case| if stemmer { case.stemmed[k] } else { case.plain[k] }).sum::<f64>() / cases.len() as f64;
            assert_close(value.value, expected, &value.name);
        }
    }
}

#[derive(serde::Deserialize)]
struct SacrebleuFixture {
    cases: Vec<Pair>,
    corpora: Vec<Vec<usize>>,
    bleu: Vec<Scored>,
    chrf: Vec<Scored>,
}
#[derive(serde::Deserialize)]
struct Scored {
    options: serde_json::Map<String, Value>,
    sentences: Vec<f64>,
    corpora: Vec<f64>,
}

#[test]
fn bleu_and_chrf_agree_with_sacrebleu() {
    let fixture: SacrebleuFixture = fixture("sacrebleu");
    assert!(fixture.cases.len() >= 300);
    let pairs = texts(&fixture.cases);
    for (name, all) in [("bleu", &fixture.bleu), ("chrf", &fixture.chrf)] {
        for expected in all {
            let metric = with_options(name, &expected.options);
            for ((pair, found), sentence) in pairs.iter().zip(score(&*metric, &pairs).items).zip(&expected.sentences) {
                assert_close(found, *sentence, (name, &expected.options, pair));
            }
            for (indices, corpus) in fixture.corpora.iter().zip(&expected.corpora) {
                let chosen: Vec<_> = indices.iter().map(|&i| pairs[i].clone()).collect();
                assert_close(score(&*metric, &chosen).values[0].value, *corpus, (name, &expected.options, indices));
            }
        }
    }
    for expected in &fixture.bleu {
        let mean = expected.sentences.iter().sum::<f64>() / pairs.len() as f64;
        assert_close(score(&*with_options("sentence_bleu", &expected.options), &pairs).values[0].value, mean, &expected.options);
    }
}

#[derive(serde::Deserialize)]
struct MeteorFixture {
    options: Vec<serde_json::Map<String, Value>>,
    cases: Vec<MeteorCase>,
}
#[derive(serde::Deserialize)]
struct MeteorCase {
    #[serde(flatten)]
    pair: Pair,
    scores: Vec<f64>,
}

#[test]
fn meteor_agrees_with_nltk() {
    let fixture: MeteorFixture = fixture("meteor");
    assert!(fixture.cases.len() >= 400);
    let pairs: Vec<_> = fixture.cases.iter().flat_map(|case| texts(std::slice::from_ref(&case.pair))).collect();
    for (k, options) in fixture.options.iter().enumerate() {
        let found = score(&*with_options("meteor", options), &pairs).items;
        for (case, found) in fixture.cases.iter().zip(found) {
            assert_close(found, case.scores[k], &case.pair);
        }
    }
}

#[derive(serde::Deserialize)]
struct PerplexityFixture {
    corpora: Vec<PerplexityCorpus>,
}
#[derive(serde::Deserialize)]
struct PerplexityCorpus {
    nats: Vec<f64>,
    tokens: Vec<usize>,
    perplexity: f64,
    items: Vec<f64>,
}

#[test]
fn perplexity_agrees_with_numpy_and_asks_for_likelihoods() {
    let perplexity = metric(json!("perplexity"));
    let corpora = fixture::<PerplexityFixture>("perplexity").corpora;
    assert!(corpora.len() >= 200);
    for corpus in &corpora {
        let likelihoods = corpus.nats.iter().zip(&corpus.tokens).map(|(&nats, &tokens)| Likelihood { nats, tokens });
        let items: Vec<Item> = likelihoods.map(|likelihood| Item { likelihood: Some(likelihood), ..Item::new("", &[]) }).collect();
        let scores = perplexity.score(&items).unwrap();
        assert!((scores.values[0].value / corpus.perplexity - 1.0).abs() < 1e-12);
        assert!(scores.items.iter().zip(&corpus.items).all(|(found, expected)| (found / expected - 1.0).abs() < 1e-12));
    }
    let message = perplexity.score(&[Item::new("", &[])]).unwrap_err().to_string();
    assert!(message.contains("item 1 lacks the log-likelihood"), "{message}");
}

#[derive(serde::Deserialize)]
struct WordNetFixture {
    cases: Vec<WordNetCase>,
}
#[derive(serde::Deserialize)]
struct WordNetCase {
    #[serde(flatten)]
    pair: Pair,
    score: f64,
    without: f64,
}

#[test]
fn meteor_with_synonyms_agrees_with_nltk_and_has_another_name() {
    let cases = fixture::<WordNetFixture>("wordnet").cases;
    assert!(cases.len() >= 300);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wordnet");
    let (with, without) = (metric(json!({"type": "meteor", "wordnet": folder})), metric(json!("meteor")));
    assert_eq!((with.name(), without.name()), ("meteor", "meteor_no_synonyms"));
    let pairs: Vec<_> = cases.iter().flat_map(|case| texts(std::slice::from_ref(&case.pair))).collect();
    for ((case, with), without) in cases.iter().zip(score(&*with, &pairs).items).zip(score(&*without, &pairs).items) {
        assert_close(with, case.score, &case.pair);
        assert_close(without, case.without, &case.pair);
    }
    assert!(cases.iter().filter(|case| case.score > case.without).count() >= 100, "synonyms matter");
}
