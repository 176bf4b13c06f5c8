//! Which learning rate is best: the rule of `[select.lr]`.
//!
//! A rate counts by the mean over its probes of the task's primary metric on validation, each at the epoch that was best. Of equal rates
//! the one with the lower mean validation loss wins, then the smaller one. A rate of which a probe failed (the loss was no number, memory
//! ran out) has lost. Nothing is chosen before every probe has ended.
//!
//! A choice is one *among noise* where the best rate's mean is not above that of guessing, or of any other rate, by more than the 95 %
//! quantile of the normal distribution times the standard error of the difference, root of the sum of the squares of both. Scores on the same
//! items go together, so that this says "noise" too often rather than too seldom.

use peftbench_spec::RunId;
use peftbench_spec::event::FailureKind;
use peftbench_spec::lr_selection::{Decision, Edge, Floor};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Two-sided 95 % quantile of the normal distribution: the confidence of every interval of the results.
const NORMAL_95: f64 = 1.959_963_984_540_054;

/// A score and its standard error over the items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub stderr: f64,
}

impl Score {
    /// Whether it is above another by more than noise.
    fn beats(self, other: Self) -> bool {
        self.value - other.value > NORMAL_95 * self.stderr.hypot(other.stderr)
    }
}

/// What a finished run scored on validation, at its best epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Name of the primary metric.
    pub metric: String,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    /// Its value.
    pub value: f64,
    /// Its standard error over the items, where the metric has one.
    pub stderr: Option<f64>,
    /// What answers that look at no prompt score, where there is such a thing.
    pub chance: Option<Score>,
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
    /// Standard error of `merit`.
    stderr: Option<f64>,
    /// Mean metric of guessing, negative where less is better.
    chance: Option<Score>,
    loss: Option<f64>,
}

impl Survivor {
    fn score(&self) -> Option<Score> {
        Some(Score { value: self.merit, stderr: self.stderr? })
    }

    /// What it is no better than by more than noise, of what it should be; nothing where the metric has no standard error.
    fn within_noise_of(&self, survivors: &[Survivor]) -> Option<Floor> {
        let own = self.score()?;
        let mut others = survivors.iter().filter(|other| other.lr != self.lr).peekable();
        match self.chance {
            Some(chance) if !own.beats(chance) => Some(Floor::Chance),
            _ if others.peek().is_none() => None,
            _ => others.all(|other| other.score().is_some_and(|other| !own.beats(other))).then_some(Floor::OtherRates),
        }
    }
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
    let survivors: Vec<Survivor> = tried.iter().filter_map(survivor).collect();
    let Some(best) = survivors.iter().max_by(|a, b| better(a, b)) else {
        return Decision::Failed { problem: all_failed(probes()) };
    };
    let at_end = |rate: Option<&Tried>| rate.is_some_and(|rate| rate.lr == best.lr);
    let at_edge = match (at_end(tried.first()), at_end(tried.last())) {
        (true, _) => Some(Edge::Lowest),
        (_, true) => Some(Edge::Highest),
        _ => None,
    };
    Decision::Chosen { lr: best.lr, at_edge, within_noise_of: best.within_noise_of(&survivors) }
}

fn scored(result: &ProbeResult) -> Option<&Validation> {
    match result {
        ProbeResult::Scored(found) => Some(found),
        _ => None,
    }
}

fn survivor(rate: &Tried) -> Option<Survivor> {
    let found: Vec<&Validation> = rate.probes.iter().map(|(_, result)| scored(result)).collect::<Option<_>>()?;
    let signed = |one: &Validation, value: f64| if one.higher_is_better { value } else { -value };
    let known = |read: &dyn Fn(&Validation) -> Option<f64>| found.iter().map(|one| read(one)).collect::<Option<Vec<f64>>>().and_then(mean);
    let merit = mean(found.iter().map(|one| signed(one, one.value)).collect())?;
    // The error of a mean is at most the mean of the errors, which it is where all probes miss the same items.
    let stderr = known(&|one| one.stderr);
    let chance = known(&|one| Some(signed(one, one.chance?.value))).zip(known(&|one| Some(one.chance?.stderr)));
    let chance = chance.map(|(value, stderr)| Score { value, stderr });
    merit.is_finite().then(|| Survivor { lr: rate.lr, merit, stderr, chance, loss: known(&|one| one.loss) })
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
        ProbeResult::Scored(Validation { metric: "accuracy".into(), higher_is_better: true, value, stderr: None, chance: None, loss })
    }

    fn error(value: f64) -> ProbeResult {
        ProbeResult::Scored(Validation { metric: "mse".into(), higher_is_better: false, value, stderr: None, chance: None, loss: None })
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
            Decision::Chosen { lr, at_edge, .. } => Some((lr, at_edge)),
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

    /// A probe with a standard error of .05, on a task where guessing has .5 with the same.
    fn sure(value: f64, higher_is_better: bool) -> ProbeResult {
        let chance = Some(Score { value: if higher_is_better { 0.5 } else { 2.0 }, stderr: 0.05 });
        ProbeResult::Scored(Validation { metric: "m".into(), higher_is_better, value, stderr: Some(0.05), chance, loss: None })
    }

    #[test]
    fn a_choice_among_noise_is_noticed() {
        let floor = |results: Vec<Vec<ProbeResult>>| match choose(&rates(results)) {
            Decision::Chosen { within_noise_of, .. } => within_noise_of,
            other => panic!("{other:?}"),
        };
        let more = |values: &[f64]| floor(values.iter().map(|value| vec![sure(*value, true)]).collect());
        let less = |values: &[f64]| floor(values.iter().map(|value| vec![sure(*value, false)]).collect());
        // 1.96 times the root of two times .05 is .139.
        assert_eq!((more(&[0.5, 0.63, 0.4]), more(&[0.5, 0.65, 0.4])), (Some(Floor::Chance), None));
        assert_eq!((more(&[0.8, 0.9, 0.85]), more(&[0.75, 0.9, 0.85])), (Some(Floor::OtherRates), None));
        assert_eq!((less(&[2.1, 1.9]), less(&[0.2, 0.1, 0.15]), less(&[0.3, 0.1])), (Some(Floor::Chance), Some(Floor::OtherRates), None));
        assert_eq!(more(&[0.0, 0.0]), Some(Floor::Chance), "below guessing");
        assert_eq!(floor(vec![vec![sure(0.9, true)], vec![DIVERGED]]), None, "there is no other");
        assert_eq!(floor(vec![vec![score(0.5, None)], vec![score(0.5, None)]]), None, "no standard error, no word");
        let seeds = |a, b| vec![sure(a, true), sure(b, true)];
        assert_eq!(floor(vec![seeds(0.9, 0.5), seeds(0.5, 0.5)]), None, "the means over seeds: .7 and .5");
        assert_eq!(floor(vec![seeds(0.7, 0.5), seeds(0.5, 0.5)]), Some(Floor::Chance), "the means over seeds: .6 and .5");
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
