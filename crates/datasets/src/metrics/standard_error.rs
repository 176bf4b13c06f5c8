//! Values with their standard errors: exact where there is a formula, else by bootstrap.

use super::Scores;
use crate::draw;
use peftbench_spec::event::MetricValue;
use peftbench_spec::seed::stream;

/// Bootstrap resamples behind a standard error: its own relative error is about 1/√(2·500) = 3 %.
const RESAMPLES: usize = 500;

/// The fraction `hits / n` with its binomial standard error √(p(1−p)/n). Over no items it is 0 with no standard error.
pub(crate) fn proportion(name: &str, hits: usize, n: usize) -> MetricValue {
    let value = if n == 0 { 0.0 } else { hits as f64 / n as f64 };
    let stderr = (n > 0).then(|| (value * (1.0 - value) / n as f64).sqrt());
    MetricValue { name: name.to_owned(), value, stderr, n_items: n, higher_is_better: true }
}

/// The fraction of items that are right, and each item's 0 or 1.
pub(crate) fn proportion_of(name: &str, right: impl IntoIterator<Item = bool>) -> Scores {
    let items: Vec<f64> = right.into_iter().map(|right| f64::from(u8::from(right))).collect();
    let hits = items.iter().filter(|&&score| score == 1.0).count();
    Scores { values: vec![proportion(name, hits, items.len())], items }
}

/// The mean of the items' scores with its standard error s/√n, from two items on. Over no items it is 0.
pub(crate) fn mean_of(name: &str, scores: &[f64]) -> MetricValue {
    let n = scores.len();
    let value = scores.iter().sum::<f64>() / n.max(1) as f64;
    let stderr = (n > 1).then(|| (scores.iter().map(|score| (score - value).powi(2)).sum::<f64>() / ((n - 1) * n) as f64).sqrt());
    MetricValue { name: name.to_owned(), value, stderr, n_items: n, higher_is_better: true }
}

/// The standard deviation of `statistic` over resamples of `n` items drawn with replacement (Efron 1979), from two items on. The draws are
/// those of the stream `metric/<name>/bootstrap` of seed 0, so that equal items give equal bytes.
pub(crate) fn bootstrap(name: &str, n: usize, mut statistic: impl FnMut(&[usize]) -> f64) -> Option<f64> {
    if n < 2 {
        return None;
    }
    let mut draws = stream(0, &format!("metric/{name}/bootstrap"));
    let mut chosen = vec![0; n];
    let mut resampled = || {
        chosen.fill_with(|| draw::below(&mut draws, n));
        statistic(&chosen)
    };
    let values: Vec<f64> = (0..RESAMPLES).map(|_| resampled()).collect();
    let mean = values.iter().sum::<f64>() / RESAMPLES as f64;
    Some((values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (RESAMPLES - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_of_a_fraction_agrees_with_its_formula_and_repeats() {
        let hits: Vec<bool> = (0..400).map(|i| i % 5 < 2).collect();
        let fraction = |chosen: &[usize]| chosen.iter().filter(|&&i| hits[i]).count() as f64 / chosen.len() as f64;
        let stderr = bootstrap("test", hits.len(), fraction).unwrap();
        let exact = proportion_of("test", hits.iter().copied()).values[0].stderr.unwrap();
        assert!((stderr / exact - 1.0).abs() < 0.12, "{stderr} {exact}");
        assert_eq!(bootstrap("test", hits.len(), fraction), Some(stderr));
        assert_eq!(bootstrap("test", 1, |_| 1.0), None);
    }
}
