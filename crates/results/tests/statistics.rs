//! Statistics against scipy and statsmodels. `fixtures/statistics.py` made the numbers.

#![allow(clippy::unwrap_used)]

use peftbench_results::statistics::*;
use peftbench_spec::seed::stream;
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/statistics.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn close(found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
}

#[test]
fn mean_deviation_and_t_interval() {
    for case in fixture()["t"].as_array().unwrap() {
        let values = numbers(&case["values"]);
        close(mean(&values).unwrap(), &case["mean"], 1e-12);
        close(standard_deviation(&values).unwrap(), &case["sd"], 1e-12);
        let interval = t_interval(&values).unwrap();
        close(interval.low, &case["low"], 1e-9);
        close(interval.high, &case["high"], 1e-9);
    }
}

#[test]
fn normal_interval_and_median() {
    let fixture = fixture();
    let interval = normal_interval(0.7, 0.032).unwrap();
    close(interval.low, &fixture["normal"]["interval"][0], 1e-10);
    close(interval.high, &fixture["normal"]["interval"][1], 1e-10);
    close(median(&numbers(&fixture["median"]["values"])).unwrap(), &fixture["median"]["median"], 1e-12);
}

/// The resampling is random on both sides, so the ends agree to about their own Monte Carlo error.
#[test]
fn bootstrap_intervals() {
    let fixture = fixture();
    let items = bootstrap_items(&numbers(&fixture["items"]["scores"]), 40_000, &mut stream(0, "test")).unwrap();
    close(items.low, &fixture["items"]["interval"][0], 0.0051);
    close(items.high, &fixture["items"]["interval"][1], 0.0051);
    let scores: Vec<Vec<f64>> = fixture["crossed"]["scores"].as_array().unwrap().iter().map(numbers).collect();
    let crossed = bootstrap_seeds_items(&scores, 40_000, &mut stream(0, "test")).unwrap();
    close(crossed.low, &fixture["crossed"]["interval"][0], 0.003);
    close(crossed.high, &fixture["crossed"]["interval"][1], 0.003);
}

#[test]
fn paired_comparisons() {
    let fixture = fixture();
    let (a, b) = (numbers(&fixture["paired"]["a"]), numbers(&fixture["paired"]["b"]));
    let found = paired_bootstrap(&a, &b, 40_000, &mut stream(0, "test")).unwrap();
    close(found.difference, &fixture["paired"]["difference"], 1e-12);
    close(found.interval.low, &fixture["paired"]["interval"][0], 0.0051);
    close(found.interval.high, &fixture["paired"]["interval"][1], 0.0051);
    for case in fixture["mcnemar"].as_array().unwrap() {
        close(mcnemar_exact(case["b"].as_u64().unwrap(), case["c"].as_u64().unwrap()), &case["p"], 1e-9);
    }
}

#[test]
fn holm_correction() {
    let fixture = fixture();
    let adjusted = holm(&numbers(&fixture["holm"]["p"]));
    for (found, expected) in adjusted.iter().zip(fixture["holm"]["adjusted"].as_array().unwrap()) {
        close(*found, expected, 1e-12);
    }
}

/// `fixtures/stratified.py` made the numbers.
#[test]
fn means_over_cells_agree_with_student_and_welch() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/stratified.json")).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let stratum = |value: &Value| Stratum {
            seeds: numbers(&value["seeds"]),
            items: value["items"].as_array().unwrap().iter().map(numbers).collect(),
        };
        let strata: Vec<Stratum> = case["strata"].as_array().unwrap().iter().map(stratum).collect();
        let found = stratified_mean(&strata).unwrap();
        close(found.mean, &case["mean"], 1e-12);
        close(found.standard_error, &case["standard_error"], 1e-12);
        close(found.freedom, &case["freedom"], 1e-9);
        close(found.interval().low, &case["low"], 1e-9);
        close(found.interval().high, &case["high"], 1e-9);
        close(found.p_value(0.0), &case["p"], 1e-9);
    }
}
