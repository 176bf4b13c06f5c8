//! Perplexity: how many tokens a model wavers between on average.

use super::standard_error::bootstrap;
use super::{Item, Likelihood, Metric, MetricEntry, NoOptions, Scores};
use crate::error::{DataError, Result};
use peftbench_spec::event::MetricValue;

/// `perplexity`.
pub const PERPLEXITY: MetricEntry = MetricEntry {
    name: "perplexity",
    summary: "exponential of the mean loss on a token",
    higher_is_better: false,
    range: "1 to infinity",
    definition: "exp(Σ nats / Σ tokens): every token of the corpus counts the same, whatever item it is in. An item's score is that of the \
                 item alone. Standard error by bootstrap over items.",
    reference: "numpy `exp(average(loss, weights=tokens))`",
    options: &[],
    build: |metric| metric.parse_options::<NoOptions>().map(|_| Box::new(Perplexity) as Box<dyn Metric>),
    resolve: |metric| metric.resolved(&metric.parse_options::<NoOptions>()?),
};

struct Perplexity;

fn perplexity<'a>(likelihoods: impl Iterator<Item = &'a Likelihood>) -> f64 {
    let (nats, tokens) = likelihoods.fold((0.0, 0), |(nats, tokens), one| (nats + one.nats, tokens + one.tokens));
    if tokens == 0 { 0.0 } else { (nats / tokens as f64).exp() }
}

impl Metric for Perplexity {
    fn name(&self) -> &'static str {
        PERPLEXITY.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let of = |(item, of): (usize, &Item<'_>)| {
            of.likelihood.ok_or(DataError::ItemLacks { metric: PERPLEXITY.name, item, what: "the log-likelihood of its tokens" })
        };
        let likelihoods = items.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
        let value = perplexity(likelihoods.iter());
        let stderr = bootstrap(PERPLEXITY.name, items.len(), |chosen| perplexity(chosen.iter().map(|&item| &likelihoods[item])));
        let value = MetricValue { name: PERPLEXITY.name.to_owned(), value, stderr, n_items: items.len(), higher_is_better: false };
        Ok(Scores { values: vec![value], items: likelihoods.iter().map(|one| perplexity(std::iter::once(one))).collect() })
    }
}
