//! Scoring 10,000 summaries of about 25 words on one core: ROUGE with and without stemmer, and BLEU beside it.

use criterion::{Criterion, criterion_group, criterion_main};
use peftbench_datasets::metrics::{self, Item};
use peftbench_spec::Component;
use peftbench_spec::seed::stream;
use rand::RngExt;
use serde_json::json;
use std::hint::black_box;
use std::time::Duration;

/// Words of many forms, so that the stemmer has something to do.
const ROOTS: [&str; 16] = [
    "summar", "dialogu", "amanda", "meet", "tomorrow", "relat", "generat", "hope", "run", "agre", "cook", "bring", "jerr", "vot", "elect",
    "walk",
];
const ENDINGS: [&str; 12] = ["", "s", "ed", "ing", "ation", "ize", "ies", "ly", "ness", "er", "ment", "ful"];

fn summaries(name: &str, count: usize) -> Vec<String> {
    let mut draws = stream(0, name);
    let mut word = || format!("{}{}", ROOTS[draws.random_range(0..ROOTS.len())], ENDINGS[draws.random_range(0..ENDINGS.len())]);
    let mut sentence = || (0..12).map(|_| word()).collect::<Vec<_>>().join(" ");
    (0..count).map(|_| format!("{}.\n{}.", sentence(), sentence())).collect()
}

fn scoring(criterion: &mut Criterion) {
    let predictions = summaries("bench/predictions", 10_000);
    let references: Vec<[String; 1]> = summaries("bench/references", 10_000).into_iter().map(|text| [text]).collect();
    let items: Vec<Item> = predictions.iter().zip(&references).map(|(prediction, references)| Item::new(prediction, references)).collect();
    let mut group = criterion.benchmark_group("score 10,000 summaries");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (name, component) in
        [("rouge", json!("rouge")), ("rouge with stemmer", json!({"type": "rouge", "stemmer": true})), ("bleu", json!("bleu"))]
    {
        let metric = Component::from_value(&component).and_then(|metric| metrics::build(&metric)).unwrap_or_else(|error| panic!("{error}"));
        group.bench_function(name, |bencher| bencher.iter(|| metric.score(black_box(&items))));
    }
    group.finish();
}

criterion_group!(benches, scoring);
criterion_main!(benches);
