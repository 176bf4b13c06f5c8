//! Metrics against reference implementations that nobody here wrote, over the fixtures that the scripts in `fixtures/` make.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_datasets::metrics::{self, Item, Metric, Scores};
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
