//! Accuracy: the fraction of items whose chosen option is the answer.

use super::proportion;
use peftbench_spec::event::MetricValue;

/// Its name in results.
pub const NAME: &str = "accuracy";

/// Whether one prediction is right: the same text as the answer.
pub fn is_correct(prediction: &str, answer: &str) -> bool {
    prediction == answer
}

/// Accuracy over pairs of (prediction, answer), with the binomial standard error.
pub fn accuracy<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> MetricValue {
    let (mut hits, mut n) = (0, 0);
    for (prediction, answer) in pairs {
        hits += usize::from(is_correct(prediction, answer));
        n += 1;
    }
    proportion(NAME, hits, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_equal_texts_and_gives_the_binomial_error() {
        let value = accuracy([("a", "a"), ("a", "b"), (" a", "a"), ("b", "b")]);
        assert_eq!((value.value, value.n_items), (0.5, 4));
        assert_eq!(value.stderr, Some(0.25));
        let none = accuracy([]);
        assert_eq!((none.value, none.stderr, none.n_items), (0.0, None, 0));
    }
}
