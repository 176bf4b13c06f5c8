//! Exact match: the fraction of generated texts that equal one of their references.

use super::proportion;
use peftbench_spec::event::MetricValue;

/// Its name in results.
pub const NAME: &str = "exact_match";

/// Whether `prediction` equals one of `references`, white space at both ends apart.
pub fn is_match(prediction: &str, references: &[String]) -> bool {
    references.iter().any(|reference| reference.trim() == prediction.trim())
}

/// Exact match over pairs of (prediction, references), with the binomial standard error.
pub fn exact_match<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> MetricValue {
    let (mut hits, mut n) = (0, 0);
    for (prediction, references) in pairs {
        hits += usize::from(is_match(prediction, references));
        n += 1;
    }
    proportion(NAME, hits, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_reference_counts_and_case_does() {
        let references = ["the cat sat.".to_owned(), "a cat sat.".to_owned()];
        let value = exact_match([(" a cat sat.\n", &references[..]), ("The cat sat.", &references[..]), ("", &[])]);
        assert_eq!((value.value, value.n_items), (1.0 / 3.0, 3));
    }
}
