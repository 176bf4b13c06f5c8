//! Which runs a statement compares: pairs that agree in everything but what it is about.

use super::evidence::Evidence;
use super::fields::Fields;
use super::measure::Measure;
use super::paper::{Paper, Statement};
use super::selection::Selection;
use peftbench_results::RunRow;
use peftbench_results::statistics::mean;
use std::collections::BTreeMap;

/// Two configurations on one model and task, seed by seed.
pub(crate) struct Comparison<'a> {
    /// The pairs, by seed.
    pub pairs: Vec<Pair<'a>>,
    /// Seeds that only one side has.
    pub unpaired: usize,
}

/// Two runs that are compared, or one that stands for itself.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub left: &'a RunRow,
    pub right: Option<&'a RunRow>,
}

/// On what terms two runs are compared.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// By what.
    pub measure: &'static Measure,
    /// Fields that must be equal on both sides, though they belong to what differs.
    pub equal: &'a [String],
    /// Neither side may train more than so many times the parameters of the other.
    pub max_parameter_ratio: Option<f64>,
}

impl Statement {
    /// The statement's terms.
    pub(super) fn terms(&self) -> Terms<'_> {
        Terms { measure: self.measure, equal: &self.equal, max_parameter_ratio: self.max_parameter_ratio }
    }
}

/// The sides of a statement: what each selects, within the runs that the statement speaks of.
pub(crate) struct Sides {
    left: Selection,
    right: Option<Selection>,
}

/// A configuration: a run a seed.
type Configuration<'a> = BTreeMap<u64, &'a RunRow>;

impl Sides {
    /// What the rows of a statement select.
    pub(super) fn of(paper: &Paper, statement: &Statement) -> Self {
        let family = statement.family.as_ref().unwrap_or(&paper.paper.family);
        let side = |row: &String| paper.rows.get(row).and_then(|row| row.select.as_ref()).map(|select| family.and(select));
        Self { left: side(&statement.left).unwrap_or_default(), right: statement.right.as_ref().and_then(side) }
    }

    /// What two selections select.
    pub fn new(left: Selection, right: Selection) -> Self {
        Self { left, right: Some(right) }
    }

    /// Whether there are runs of the left side, and of the right, that have the statement's measure.
    pub fn are_there(&self, measure: &Measure, evidence: &Evidence) -> [bool; 2] {
        let measured = || evidence.with_fields().filter(|(_, run)| (measure.read)(evidence, run).is_some());
        let any = |side: &Selection| measured().any(|(fields, _)| side.selects(fields));
        [any(&self.left), self.right.as_ref().is_none_or(any)]
    }

    /// Whether a field may differ within a pair: where the two sides ask for different values of it, or of what it belongs to, as options
    /// and targets belong to a method, and the architecture to a model. The learning rate may, as every method needs one of its own.
    fn is_free(&self, field: &str) -> bool {
        let Some(right) = &self.right else { return true };
        let belongs = |asked: &str| {
            let below = field.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            below || matches!((asked, field), ("method", "targets") | ("model", "arch"))
        };
        let differs = |asked: &str| belongs(asked) && self.left.asked(asked) != right.asked(asked);
        field == "train.lr" || self.left.fields().chain(right.fields()).any(differs)
    }

    /// Whether a run agrees with a zero-shot run in all that this has and that is not free: model, task, and which items of it are read how.
    fn agree(&self, zero_shot: &Fields, other: &Fields) -> bool {
        const READING: [&str; 3] = ["train.max_length", "train.valid_samples", "train.test_samples"];
        let belongs = |field: &str| {
            let head = field.split_once('.').map_or(field, |(head, _)| head);
            matches!(head, "model" | "arch" | "task" | "method") || READING.contains(&field)
        };
        let held = |fields: &Fields| {
            let held = fields.iter().filter(|(field, _)| belongs(field) && !self.is_free(field));
            held.map(|(field, value)| (field.to_owned(), value.clone())).collect::<BTreeMap<_, _>>()
        };
        held(zero_shot) == held(other)
    }

    /// What both runs of a pair have in common.
    fn key(&self, terms: Terms<'_>, fields: &Fields, run: &RunRow) -> BTreeMap<String, String> {
        let held = |field: &str| terms.equal.iter().any(|equal| equal == field) || !self.is_free(field);
        let shared = fields.iter().filter(|(field, _)| held(field));
        let mut key: BTreeMap<String, String> = shared.map(|(field, value)| (field.to_owned(), value.to_string())).collect();
        if terms.measure.of_machine {
            key.insert("machine".to_owned(), format!("{:?} {:?} {:?}", run.cpu, run.device, run.threads));
        }
        key
    }
}

/// The comparisons of two sides among the runs for which `admits` is true.
pub(crate) fn comparisons<'a>(
    sides: &Sides,
    terms: Terms<'_>,
    evidence: &'a Evidence,
    admits: &dyn Fn(&Fields) -> bool,
) -> Vec<Comparison<'a>> {
    let runs = || evidence.with_fields().filter(|(fields, run)| admits(fields) && (terms.measure.read)(evidence, run).is_some());
    let Some(right) = &sides.right else {
        let configurations = configurations(runs().filter(|(fields, _)| sides.left.selects(fields)).map(|(_, run)| run));
        return configurations.into_values().map(|configuration| alone(&configuration)).collect();
    };
    let mut groups: BTreeMap<BTreeMap<String, String>, [Vec<&RunRow>; 2]> = BTreeMap::new();
    for (fields, run) in runs() {
        for (side, selection) in [&sides.left, right].into_iter().enumerate() {
            if selection.selects(fields) {
                groups.entry(sides.key(terms, fields, run)).or_default()[side].push(run);
            }
        }
    }
    groups.into_values().filter_map(|[left, right]| best_pair(terms, left, right)).collect()
}

/// The comparisons of zero-shot runs on one side with what the other side has. A zero-shot run has no seed: it is paired with every seed of
/// the other, of which of several configurations that differ in what is free the best on validation counts.
pub(crate) fn zero_shot_comparisons<'a>(sides: &Sides, terms: Terms<'_>, evidence: &'a Evidence) -> Vec<Comparison<'a>> {
    let Some(right) = &sides.right else { return Vec::new() };
    let is_measured = |(_, run): &(&Fields, &RunRow)| (terms.measure.read)(evidence, run).is_some();
    let zero_shot =
        |side: &Selection| evidence.zero_shot().filter(is_measured).filter(|(fields, _)| side.selects(fields)).collect::<Vec<_>>();
    let mut found = Vec::new();
    for (own, other, is_left) in [(&sides.left, right, true), (right, &sides.left, false)] {
        for (fields, run) in zero_shot(own) {
            let trained = evidence.with_fields().filter(is_measured).filter(|(fields, _)| other.selects(fields));
            // Two zero-shot runs are one pair.
            let others = trained.chain(if is_left { zero_shot(other) } else { Vec::new() });
            let mut groups: BTreeMap<BTreeMap<String, String>, Vec<&RunRow>> = BTreeMap::new();
            for (others, other) in others.filter(|(others, other)| other.group_id != run.group_id && sides.agree(fields, others)) {
                groups.entry(sides.key(terms, others, other)).or_default().push(other);
            }
            for runs in groups.into_values() {
                let best = configurations(runs.into_iter()).into_values().max_by(|a, b| validation(a).total_cmp(&validation(b)));
                let pair = |other| if is_left { Pair { left: run, right: Some(other) } } else { Pair { left: other, right: Some(run) } };
                let pairs = best.unwrap_or_default().into_values().map(pair).collect();
                found.push(Comparison { pairs, unpaired: 0 });
            }
        }
    }
    found
}

/// The runs by configuration and seed.
fn configurations<'a>(runs: impl Iterator<Item = &'a RunRow>) -> BTreeMap<&'a str, Configuration<'a>> {
    let mut configurations: BTreeMap<&str, Configuration<'_>> = BTreeMap::new();
    for run in runs {
        configurations.entry(&run.group_id).or_default().insert(run.seed, run);
    }
    configurations
}

fn alone<'a>(configuration: &Configuration<'a>) -> Comparison<'a> {
    Comparison { pairs: configuration.values().map(|&left| Pair { left, right: None }).collect(), unpaired: 0 }
}

/// Of several configurations a side (learning rates, ranks) the two best on validation that may be compared: the test chooses nothing.
fn best_pair<'a>(terms: Terms<'_>, left: Vec<&'a RunRow>, right: Vec<&'a RunRow>) -> Option<Comparison<'a>> {
    let (left, right) = (configurations(left.into_iter()), configurations(right.into_iter()));
    let pairs = left.iter().flat_map(|l| right.iter().map(move |r| (l, r)));
    let admitted = pairs.filter(|((a, left), (b, right))| a != b && within_budget(terms, left, right));
    let merit = |((_, left), (_, right)): &((_, &Configuration<'a>), (_, &Configuration<'a>))| {
        let seeds = left.keys().filter(|seed| right.contains_key(seed)).count();
        (seeds, validation(left) + validation(right))
    };
    let ((_, left), (_, right)) = admitted.max_by(|a, b| {
        let (a, b) = (merit(a), merit(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    })?;
    let pairs: Vec<Pair<'_>> = left.iter().filter_map(|(seed, &left)| Some(Pair { left, right: Some(right.get(seed)?) })).collect();
    let unpaired = left.len() + right.len() - 2 * pairs.len();
    Some(Comparison { pairs, unpaired })
}

/// Mean score on validation, more is better.
fn validation(configuration: &Configuration<'_>) -> f64 {
    let signed = |run: &&RunRow| run.valid_value.map(|value| if run.primary_higher_is_better == Some(false) { -value } else { value });
    mean(&configuration.values().filter_map(signed).collect::<Vec<_>>()).unwrap_or(0.0)
}

/// Whether neither side trains more parameters than the terms allow in terms of the other.
fn within_budget(terms: Terms<'_>, left: &Configuration<'_>, right: &Configuration<'_>) -> bool {
    let parameters = |configuration: &Configuration<'_>| configuration.values().filter_map(|run| run.num_trainable_params).max();
    terms.max_parameter_ratio.is_none_or(|ratio| match (parameters(left), parameters(right)) {
        (Some(left), Some(right)) => left.max(right) as f64 <= ratio * left.min(right) as f64,
        _ => false,
    })
}
