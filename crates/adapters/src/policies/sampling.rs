//! Drawing layers without replacement.

use peftbench_spec::seed::Stream;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// How layers are drawn by their importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// One after the other with probabilities in proportion to σ(importance): the released code of IST.
    #[default]
    Multinomial,
    /// The largest of draws from U(0, σ(importance)): IST as its paper has it.
    UniformTopk,
    /// The most important ones; of equals the lower layer.
    Topk,
    /// One after the other with probabilities in proportion to exp(importance).
    Softmax,
}

/// σ(x) = 1 / (1 + e^(−x)).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Sampler {
    /// Draws `count` of the indices of `importance`, ascending.
    pub fn draw(self, importance: &[f64], count: usize, stream: &mut Stream) -> Vec<usize> {
        match self {
            Self::Multinomial => weighted(importance.iter().map(|&i| sigmoid(i).ln()), count, stream),
            Self::UniformTopk => {
                let draws: Vec<f64> = importance.iter().map(|&i| stream.random::<f64>() * sigmoid(i)).collect();
                largest(&draws, count)
            }
            Self::Topk => largest(importance, count),
            Self::Softmax => weighted(importance.iter().copied(), count, stream),
        }
    }
}

/// `count` indices drawn one after the other without replacement, with probabilities in proportion to weights given by their logarithms
/// (torch.multinomial), ascending. Drawn as a race of exponential clocks: the first `count` to ring, with rates the weights, have this
/// distribution.
pub fn weighted(log_weights: impl Iterator<Item = f64>, count: usize, stream: &mut Stream) -> Vec<usize> {
    let mut exponential = || -(1.0 - stream.random::<f64>()).ln();
    let earliness: Vec<f64> = log_weights.map(|log_weight| log_weight - exponential().ln()).collect();
    largest(&earliness, count)
}

/// Indices of the `count` largest values, the first of equals, ascending.
pub fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    /// How often an important and another layer are drawn: 8 of 32 layers, 8 of them important.
    fn inclusion(sampler: Sampler, good: f64, rest: f64) -> (f64, f64) {
        let logit = |p: f64| (p / (1.0 - p)).ln();
        let importance: Vec<f64> = (0..32).map(|i| logit(if i < 8 { good } else { rest })).collect();
        let mut draws = stream(0, "inclusion");
        let mut counts = [0.0; 2];
        const DRAWS: usize = 100_000;
        for _ in 0..DRAWS {
            for layer in sampler.draw(&importance, 8, &mut draws) {
                counts[usize::from(layer >= 8)] += 1.0;
            }
        }
        (counts[0] / (8 * DRAWS) as f64, counts[1] / (24 * DRAWS) as f64)
    }

    /// Frequencies over 1e5 draws with torch.multinomial and with NumPy's uniform, given to three places.
    #[test]
    fn inclusion_frequencies_are_those_of_the_reference() {
        let expected = [
            (0.55, 0.45, (0.285, 0.238), (0.360, 0.213)),
            (0.70, 0.45, (0.327, 0.224), (0.475, 0.175)),
            (0.90, 0.30, (0.456, 0.181), (0.707, 0.098)),
        ];
        for (good, rest, multinomial, uniform) in expected {
            for (sampler, expected) in [(Sampler::Multinomial, multinomial), (Sampler::UniformTopk, uniform)] {
                let found = inclusion(sampler, good, rest);
                assert!((found.0 - expected.0).abs() < 0.003, "{sampler:?} {good}/{rest}: {found:?}, expected {expected:?}");
                assert!((found.1 - expected.1).abs() < 0.003, "{sampler:?} {good}/{rest}: {found:?}, expected {expected:?}");
            }
        }
    }

    #[test]
    fn top_layers_are_the_most_important_and_ties_go_to_the_lower() {
        let mut draws = stream(0, "t");
        assert_eq!(Sampler::Topk.draw(&[0.0, 2.0, 1.0, 1.0], 2, &mut draws), [1, 2]);
        assert_eq!(Sampler::Softmax.draw(&[0.0, 900.0, -900.0], 2, &mut draws), [0, 1]);
    }

    #[test]
    fn every_layer_is_drawn_where_all_are_wanted() {
        for sampler in [Sampler::Multinomial, Sampler::UniformTopk, Sampler::Topk, Sampler::Softmax] {
            assert_eq!(sampler.draw(&[-800.0, 0.0, 800.0], 3, &mut stream(1, "t")), [0, 1, 2], "{sampler:?}");
        }
    }
}
