//! From comparisons to a verdict.

use super::evidence::Evidence;
use super::measure::Measure;
use super::pairs::{Comparison, Pair};
use super::paper::{Expect, Statement};
use peftbench_results::RunRow;
use peftbench_results::statistics::{CONFIDENCE, Interval, StratifiedMean, Stratum, holm, mean, stratified_mean};
use serde::Serialize;

/// Seeds below which nothing is said, unless the measure is the same with every seed.
pub const SEEDS: usize = 3;

/// More seeds than this are not asked for by number.
const MOST_SEEDS: usize = 100;

/// What the evidence says of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The difference is on the claim's side of its margin.
    Holds,
    /// The difference is on the other side.
    Fails,
    /// The interval holds the margin, or there are too few seeds.
    NotEnoughEvidence,
    /// There are no runs to compare.
    NotComparable,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 4] = [Self::Holds, Self::Fails, Self::NotEnoughEvidence, Self::NotComparable];

    /// The verdict in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::NotEnoughEvidence => "not enough evidence",
            Self::NotComparable => "not comparable",
        }
    }
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A verdict with its numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why there is no verdict, or where it does not hold though the mean says so.
    pub reason: String,
    /// Mean of the left side over cells and seeds, in the measure's unit.
    pub left: Option<Estimate>,
    /// Mean of the right side.
    pub right: Option<Estimate>,
    /// Mean of the paired differences over cells; of a relative measure as a share of the right side (by the mean of logarithms).
    pub difference: Option<Estimate>,
    /// Mean paired difference where there are too few seeds for an interval.
    pub bare_difference: Option<f64>,
    /// Pairs of runs.
    pub n_pairs: usize,
    /// Seeds, of the cell that has the fewest.
    pub n_seeds: usize,
    /// Two-sided p-value of the hypothesis that the difference is the margin.
    pub p_value: Option<f64>,
    /// The same after Holm's correction for all statements of the paper.
    pub p_value_holm: Option<f64>,
    /// Cells that are not counted as they have fewer seeds than [`SEEDS`].
    pub cells_left_out: usize,
    /// How many more seeds it takes: to have the least number, or, roughly, for the interval to leave the margin out.
    pub seeds_missing: Option<u64>,
    /// By model and task.
    pub cells: Vec<CellJudgement>,
    #[serde(skip)]
    test: Option<Test>,
}

/// One model and task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellJudgement {
    /// The model.
    pub model: String,
    /// Its parameters.
    pub model_num_params: Option<u64>,
    /// The task.
    pub task: String,
    /// The metric, where a score is compared.
    pub metric: String,
    /// Training examples.
    pub train_samples: Option<u64>,
    /// Optimizer steps.
    pub steps: Option<u64>,
    /// Learning rates of the left side and of the right.
    pub lr: [Option<f64>; 2],
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Mean of the left side.
    pub left: f64,
    /// Mean of the right side.
    pub right: Option<f64>,
    /// Mean paired difference.
    pub difference: f64,
    /// Test items that were paired; 0 where items were not.
    pub n_items: usize,
    /// The mean difference on the scale on which it is averaged.
    #[serde(skip)]
    step: f64,
}

/// What a verdict is made from, until all statements of a paper are known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Test {
    /// The mean, on the scale of steps.
    estimate: StratifiedMean,
    margin: f64,
    expect: Expect,
}

impl Judgement {
    /// Nothing could be compared.
    pub(super) fn not_comparable(reason: String) -> Self {
        Self {
            verdict: Verdict::NotComparable,
            reason,
            left: None,
            right: None,
            difference: None,
            bare_difference: None,
            n_pairs: 0,
            n_seeds: 0,
            p_value: None,
            p_value_holm: None,
            cells_left_out: 0,
            seeds_missing: None,
            cells: Vec::new(),
            test: None,
        }
    }

    /// The numbers of comparisons. The verdict is not final before [`conclude`] has seen all of a paper.
    pub(super) fn of(statement: &Statement, evidence: &Evidence, comparisons: &[Comparison<'_>]) -> Self {
        let measure = statement.measure;
        let seeds_needed = if measure.exact { 1 } else { SEEDS };
        let paired = || comparisons.iter().filter(|comparison| !comparison.pairs.is_empty());
        let ready: Vec<&Comparison<'_>> = paired().filter(|comparison| comparison.pairs.len() >= seeds_needed).collect();
        // A cell with too few seeds is left out where there are others; where there are none, its numbers are all there is.
        let enough = !ready.is_empty();
        let used = if enough { ready } else { paired().collect() };
        let left_out = paired().count() - used.len();
        let strata: Vec<Stratum> = used.iter().map(|comparison| stratum(measure, evidence, comparison)).collect();
        let mut judgement = Self {
            n_pairs: used.iter().map(|comparison| comparison.pairs.len()).sum(),
            n_seeds: used.iter().map(|comparison| comparison.pairs.len()).min().unwrap_or(0),
            left: side(measure, evidence, &used, |pair| Some(pair.left)),
            right: side(measure, evidence, &used, |pair| pair.right),
            difference: estimate(&strata, |step| measure.undo(step)),
            cells: used.iter().zip(&strata).map(|(comparison, stratum)| cell(measure, evidence, comparison, stratum)).collect(),
            verdict: Verdict::NotEnoughEvidence,
            ..Self::not_comparable(String::new())
        };
        let step = mean(&strata.iter().filter_map(|stratum| mean(&stratum.seeds)).collect::<Vec<_>>());
        judgement.bare_difference = step.map(|step| measure.undo(step));
        let margin = measure.redo(statement.margin);
        match step {
            // One seed says it all, and there is nothing to correct.
            Some(step) if measure.exact => judgement.verdict = side_of(step, margin, statement.expect),
            _ if enough => {
                judgement.test = stratified_mean(&strata).map(|estimate| Test { estimate, margin, expect: statement.expect });
                judgement.p_value = judgement.test.map(|test| test.estimate.p_value(margin));
            }
            _ => {
                let most = used.iter().map(|comparison| comparison.pairs.len()).max().unwrap_or(0);
                judgement.seeds_missing = Some((SEEDS - most) as u64);
                let lone: usize = used.iter().map(|comparison| comparison.unpaired).sum();
                let lone = if lone > 0 { format!("; {lone} runs have no partner of their seed") } else { String::new() };
                judgement.reason = format!("{most} of the {SEEDS} seeds that a verdict takes: {} missing{lone}", SEEDS - most);
            }
        }
        judgement.cells_left_out = left_out;
        judgement
    }
}

/// Corrects the p-values of a paper's judgements for being many (Holm), and gives each its verdict.
pub(super) fn conclude(judgements: &mut [&mut Judgement]) {
    let mut tested: Vec<&mut &mut Judgement> = judgements.iter_mut().filter(|judgement| judgement.test.is_some()).collect();
    let corrected = holm(&tested.iter().filter_map(|judgement| judgement.p_value).collect::<Vec<_>>());
    let count = tested.len();
    for (judgement, p_value) in tested.iter_mut().zip(corrected) {
        let Some(test) = judgement.test else { continue };
        judgement.p_value_holm = Some(p_value);
        if p_value < 1.0 - CONFIDENCE {
            judgement.verdict = side_of(test.estimate.mean, test.margin, test.expect);
            judgement.reason = exceptions(judgement.verdict, &judgement.cells, &test);
            continue;
        }
        let correction = judgement.p_value.filter(|alone| *alone > 0.0).map_or(1.0, |alone| p_value / alone);
        judgement.seeds_missing = seeds_missing(&test, judgement.n_seeds, correction);
        let Interval { low, high } = test.estimate.interval();
        let more = judgement
            .seeds_missing
            .map(|seeds| format!("; at this spread it takes about {seeds} more seed{}", if seeds == 1 { "" } else { "s" }))
            .unwrap_or_default();
        judgement.reason = match low <= test.margin && test.margin <= high {
            true => format!("the interval holds the margin{more}"),
            false => format!("p = {p_value:.2} after correction for {count} statements{more}"),
        };
    }
}

fn side_of(step: f64, margin: f64, expect: Expect) -> Verdict {
    let holds = match expect {
        Expect::Higher => step > margin,
        Expect::Lower => step < margin,
    };
    if holds { Verdict::Holds } else { Verdict::Fails }
}

/// The cells that are on the other side than their mean, in words.
fn exceptions(verdict: Verdict, cells: &[CellJudgement], test: &Test) -> String {
    let other = |cell: &&CellJudgement| side_of(cell.step, test.margin, test.expect) != verdict;
    let places: Vec<String> = cells.iter().filter(other).map(|cell| format!("{} on {}", cell.model, cell.task)).collect();
    if places.is_empty() { String::new() } else { format!("in the mean, and not for {}", places.join(", ")) }
}

/// How many more seeds would bring the corrected p-value down, if mean, spread and correction stayed as they are. `None` where that is more
/// than a sensible number.
fn seeds_missing(test: &Test, seeds: usize, correction: f64) -> Option<u64> {
    let decides = |more: &usize| correction * test.estimate.with_seeds(seeds, seeds + more).p_value(test.margin) < 1.0 - CONFIDENCE;
    (1..=MOST_SEEDS).find(decides).map(|more| more as u64)
}

/// The mean of one side, where there is one.
fn side(
    measure: &Measure,
    evidence: &Evidence,
    comparisons: &[&Comparison<'_>],
    run: for<'a> fn(&Pair<'a>) -> Option<&'a RunRow>,
) -> Option<Estimate> {
    let values = |comparison: &&Comparison<'_>| {
        comparison.pairs.iter().map(|pair| (measure.read)(evidence, run(pair)?)).collect::<Option<Vec<f64>>>()
    };
    let strata: Option<Vec<Stratum>> =
        comparisons.iter().map(|comparison| Some(Stratum { seeds: values(comparison)?, items: Vec::new() })).collect();
    estimate(&strata?, |value| value)
}

/// The differences of a comparison, by seed and, of a score, by item.
fn stratum(measure: &Measure, evidence: &Evidence, comparison: &Comparison<'_>) -> Stratum {
    let value = |run: &RunRow| (measure.read)(evidence, run).unwrap_or(f64::NAN);
    let step = |pair: &Pair<'_>| pair.right.map_or_else(|| value(pair.left), |right| measure.step(value(pair.left), value(right)));
    let of_items = |pair: &Pair<'_>| evidence.item_differences(pair.left, pair.right?);
    let items: Option<Vec<Vec<f64>>> = comparison.pairs.iter().filter(|_| measure.of_items).map(of_items).collect();
    // The same items with every seed: otherwise they cannot be averaged over seeds.
    let items = items.filter(|rows| rows.iter().all(|row| row.len() == rows[0].len()));
    Stratum { seeds: comparison.pairs.iter().map(step).collect(), items: items.unwrap_or_default() }
}

fn estimate(strata: &[Stratum], scale: impl Fn(f64) -> f64) -> Option<Estimate> {
    let found = stratified_mean(strata)?;
    let Interval { low, high } = found.interval();
    Some(Estimate { mean: scale(found.mean), low: scale(low), high: scale(high) })
}

fn cell(measure: &Measure, evidence: &Evidence, comparison: &Comparison<'_>, stratum: &Stratum) -> CellJudgement {
    let pairs = &comparison.pairs;
    let first = pairs[0];
    let value = |run: &RunRow| (measure.read)(evidence, run).unwrap_or(f64::NAN);
    let average = |values: Vec<f64>| mean(&values).unwrap_or(f64::NAN);
    let right: Option<Vec<f64>> = pairs.iter().map(|pair| pair.right.map(value)).collect();
    let step = average(stratum.seeds.clone());
    CellJudgement {
        model: first.left.model.clone(),
        model_num_params: first.left.model_num_params,
        task: first.left.task.clone(),
        metric: first.left.primary_metric.clone().unwrap_or_default(),
        train_samples: first.left.train_samples,
        steps: first.left.total_steps,
        lr: [Some(first.left.lr), first.right.map(|run| run.lr)],
        seeds: pairs.iter().map(|pair| pair.left.seed).collect(),
        left: average(pairs.iter().map(|pair| value(pair.left)).collect()),
        right: right.map(average),
        difference: measure.undo(step),
        step,
        n_items: stratum.items.first().map_or(0, Vec::len),
    }
}
