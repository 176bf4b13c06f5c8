//! Which learning rate is best: the rule of `[select.lr]`.
//!
//! A rate counts by the mean over its probes of the task's primary metric on validation, each at the epoch that was best. Of equal rates
//! the one with the lower mean validation loss wins, then the smaller one. A rate of which a probe failed (the loss was no number, memory
//! ran out) has lost. Nothing is chosen before every probe has ended.

use peftbench_spec::RunId;
use peftbench_spec::event::FailureKind;
use peftbench_spec::lr_selection::{Decision, Edge};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// What a finished run scored on validation, at its best epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Name of the primary metric.
    pub metric: String,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    /// Its value.
    pub value: f64,
    /// Mean loss, in nats a token, where the task's evaluation has one.
    pub loss: Option<f64>,
}

/// How far a probe has come.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeResult {
    /// It has not ended.
    Waiting,
    /// It ended without a score.
    Failed(FailureKind),
    /// It has a score.
    Scored(Validation),
}

/// A rate and what its probes came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// The rate.
    pub lr: f64,
    /// Its probes.
    pub probes: Vec<(RunId, ProbeResult)>,
}

/// A rate all of whose probes have a score.
struct Survivor {
    lr: f64,
    /// The mean metric, negative where less is better.
    merit: f64,
    loss: Option<f64>,
}

/// Chooses one of the rates, which ascend.
pub fn choose(tried: &[Tried]) -> Decision {
    let probes = || tried.iter().flat_map(|rate| &rate.probes);
    if probes().any(|(_, result)| *result == ProbeResult::Waiting) {
        return Decision::Waiting;
    }
    let metrics: BTreeSet<&str> = probes().filter_map(|(_, result)| scored(result)).map(|found| found.metric.as_str()).collect();
    if metrics.len() > 1 {
        let metrics = metrics.into_iter().collect::<Vec<_>>().join(", ");
        let problem =
            format!("the probes have different primary metrics ({metrics}), whose mean says nothing: let `select.lr.per` name `task`");
        return Decision::Failed { problem };
    }
    let Some(best) = tried.iter().filter_map(survivor).max_by(better) else {
        return Decision::Failed { problem: all_failed(probes()) };
    };
    let at_end = |rate: Option<&Tried>| rate.is_some_and(|rate| rate.lr == best.lr);
    let at_edge = match (at_end(tried.first()), at_end(tried.last())) {
        (true, _) => Some(Edge::Lowest),
        (_, true) => Some(Edge::Highest),
        _ => None,
    };
    Decision::Chosen { lr: best.lr, at_edge }
}

fn scored(result: &ProbeResult) -> Option<&Validation> {
    match result {
        ProbeResult::Scored(found) => Some(found),
        _ => None,
    }
}

fn survivor(rate: &Tried) -> Option<Survivor> {
    let found: Vec<&Validation> = rate.probes.iter().map(|(_, result)| scored(result)).collect::<Option<_>>()?;
    let merit = mean(found.iter().map(|one| if one.higher_is_better { one.value } else { -one.value }).collect())?;
    let losses: Option<Vec<f64>> = found.iter().map(|one| one.loss).collect();
    merit.is_finite().then(|| Survivor { lr: rate.lr, merit, loss: losses.and_then(mean) })
}

/// The mean, which does not depend on the order.
fn mean(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    (count > 0).then(|| values.into_iter().sum::<f64>() / count as f64)
}

/// Greater is better.
fn better(a: &Survivor, b: &Survivor) -> Ordering {
    let loss = |rate: &Survivor| rate.loss.unwrap_or(f64::INFINITY);
    a.merit.total_cmp(&b.merit).then_with(|| loss(b).total_cmp(&loss(a))).then_with(|| b.lr.total_cmp(&a.lr))
}

fn all_failed<'a>(probes: impl Iterator<Item = &'a (RunId, ProbeResult)>) -> String {
    let why = |result: &ProbeResult| match result {
        ProbeResult::Failed(kind) => kind.name().to_owned(),
        _ => "no validation score".to_owned(),
    };
    let runs: Vec<String> = probes.map(|(id, result)| format!("{id} ({})", why(result))).collect();
    format!("no rate has a score from all of its probes: {}", runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(digit: u64) -> RunId {
        RunId::parse(&format!("{digit:016x}")).unwrap()
    }

    fn score(value: f64, loss: Option<f64>) -> ProbeResult {
        ProbeResult::Scored(Validation { metric: "accuracy".into(), higher_is_better: true, value, loss })
    }

    fn error(value: f64) -> ProbeResult {
        ProbeResult::Scored(Validation { metric: "mse".into(), higher_is_better: false, value, loss: None })
    }

    /// Rates 1, 2, 3, … with these probes.
    fn rates(results: Vec<Vec<ProbeResult>>) -> Vec<Tried> {
        let rate = |(index, probes): (usize, Vec<ProbeResult>)| {
            let lr = (index + 1) as f64;
            Tried { lr, probes: probes.into_iter().zip(10 * index as u64..).map(|(result, digit)| (id(digit), result)).collect() }
        };
        results.into_iter().enumerate().map(rate).collect()
    }

    fn chosen(results: Vec<Vec<ProbeResult>>) -> Option<(f64, Option<Edge>)> {
        match choose(&rates(results)) {
            Decision::Chosen { lr, at_edge } => Some((lr, at_edge)),
            _ => None,
        }
    }

    const DIVERGED: ProbeResult = ProbeResult::Failed(FailureKind::NanLoss);

    #[test]
    fn the_best_metric_wins_then_the_lower_loss_then_the_smaller_rate() {
        let one = |value, loss| vec![score(value, loss)];
        assert_eq!(chosen(vec![one(0.5, None), one(0.9, None), one(0.7, None)]), Some((2.0, None)));
        assert_eq!(chosen(vec![one(0.9, Some(0.4)), one(0.9, Some(0.2)), one(0.9, Some(0.3))]), Some((2.0, None)));
        assert_eq!(chosen(vec![one(0.8, Some(0.1)), one(0.9, Some(0.2)), one(0.9, Some(0.2))]), Some((2.0, None)));
        assert_eq!(chosen(vec![one(0.9, None), one(0.9, Some(0.5)), one(0.9, None)]), Some((2.0, None)), "an unknown loss is no low one");
        assert_eq!(chosen(vec![vec![error(0.3)], vec![error(0.1)], vec![error(0.2)]]), Some((2.0, None)), "less is better");
        let seeds = |a, b| vec![score(a, None), score(b, None)];
        assert_eq!(chosen(vec![seeds(0.9, 0.1), seeds(0.6, 0.6), seeds(0.1, 0.9)]), Some((2.0, None)), "the mean over seeds");
    }

    #[test]
    fn an_end_of_the_grid_is_noticed() {
        let one = |value| vec![score(value, None)];
        assert_eq!(chosen(vec![one(0.9), one(0.5), one(0.4)]), Some((1.0, Some(Edge::Lowest))));
        assert_eq!(chosen(vec![one(0.4), one(0.5), one(0.9)]), Some((3.0, Some(Edge::Highest))));
        assert_eq!(chosen(vec![one(0.4), one(0.5), vec![DIVERGED]]), Some((2.0, None)), "beyond it training diverges");
    }

    #[test]
    fn a_probe_that_fails_loses_and_one_that_runs_is_waited_for() {
        let good = || score(0.5, None);
        assert_eq!(chosen(vec![vec![good()], vec![DIVERGED]]), Some((1.0, Some(Edge::Lowest))));
        assert_eq!(chosen(vec![vec![good(), good()], vec![score(0.9, None), DIVERGED]]), Some((1.0, Some(Edge::Lowest))));
        assert_eq!(choose(&rates(vec![vec![good()], vec![ProbeResult::Waiting]])), Decision::Waiting);
        let Decision::Failed { problem } = choose(&rates(vec![vec![DIVERGED], vec![ProbeResult::Failed(FailureKind::Oom)]])) else {
            panic!("a rate was chosen")
        };
        assert_eq!(problem, "no rate has a score from all of its probes: 0000000000000000 (nan_loss), 000000000000000a (oom)");
        let Decision::Failed { problem } = choose(&rates(vec![vec![good(), error(0.1)], vec![good(), error(0.2)]])) else {
            panic!("metrics were mixed")
        };
        assert!(problem.contains("(accuracy, mse)"), "{problem}");
    }

    fn results() -> impl Strategy<Value = Vec<Vec<ProbeResult>>> {
        // Few values, so that ties are frequent.
        let scored = (0u8..4, prop::option::of(0u8..3)).prop_map(|(value, loss)| score(f64::from(value) / 4.0, loss.map(f64::from)));
        let probe = prop_oneof![5 => scored, 1 => Just(DIVERGED)];
        (1usize..4).prop_flat_map(move |seeds| prop::collection::vec(prop::collection::vec(probe.clone(), seeds), 2..7))
    }

    proptest! {
        /// The rule by its words, checked against every other rate.
        #[test]
        fn no_rate_beats_the_chosen_one(results in results()) {
            let tried = rates(results);
            let summary = |rate: &Tried| -> Option<(f64, f64)> {
                let found: Option<Vec<&Validation>> = rate.probes.iter().map(|(_, result)| scored(result)).collect();
                let found = found?;
                let count = found.len() as f64;
                let loss = found.iter().map(|one| one.loss.unwrap_or(f64::INFINITY)).sum::<f64>() / count;
                Some((found.iter().map(|one| one.value).sum::<f64>() / count, loss))
            };
            let Decision::Chosen { lr, .. } = choose(&tried) else {
                prop_assert!(tried.iter().all(|rate| summary(rate).is_none()));
                return Ok(());
            };
            let (value, loss) = summary(tried.iter().find(|rate| rate.lr == lr).unwrap()).unwrap();
            for other in tried.iter().filter(|rate| rate.lr != lr) {
                let Some((other_value, other_loss)) = summary(other) else { continue };
                let beaten = value > other_value || value == other_value && (loss < other_loss || loss == other_loss && lr < other.lr);
                prop_assert!(beaten, "{} with {value}, {loss} against {} with {other_value}, {other_loss}", lr, other.lr);
            }
        }

        /// The order of seeds within a rate does not matter.
        #[test]
        fn the_order_of_probes_does_not_matter(results in results()) {
            let turned: Vec<Vec<ProbeResult>> = results.iter().map(|probes| probes.iter().rev().cloned().collect()).collect();
            prop_assert_eq!(chosen(results), chosen(turned));
        }
    }
}
