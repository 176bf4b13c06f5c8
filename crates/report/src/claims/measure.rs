//! What a statement compares: one number a run.

use super::evidence::Evidence;
use peftbench_results::RunRow;
use peftbench_results::statistics::{mean, spearman};
use peftbench_spec::suggest;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// A number that every run has, or may have.
pub struct Measure {
    /// Its name in a claims file.
    pub name: &'static str,
    /// What it is, for people.
    pub label: &'static str,
    /// How numbers of it are written.
    pub style: Style,
    /// Whether two sides are compared by their ratio: the difference is then a share of the right side.
    pub relative: bool,
    /// Whether it may be the mean of scores of test items, so that these are paired.
    pub of_items: bool,
    /// Whether it is the same with every seed, so that one is enough.
    pub exact: bool,
    /// Whether it depends on the machine, so that only runs of one processor and number of threads are paired.
    pub of_machine: bool,
    /// The value of a run; `None` where it has none.
    pub(crate) read: fn(&Evidence, &RunRow) -> Option<f64>,
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Three decimals.
    Plain,
    /// A count.
    Count,
    /// Bytes as MiB.
    Bytes,
    /// Seconds.
    Seconds,
}

/// Every measure. A new one is a line here.
pub static MEASURES: [Measure; 9] = [
    Measure {
        name: "score",
        label: "test score, by a metric of which more is better",
        style: Style::Plain,
        relative: false,
        of_items: true,
        exact: false,
        of_machine: false,
        read: |_, run| run.primary_value.filter(|_| run.primary_higher_is_better == Some(true)),
    },
    Measure {
        name: "error",
        label: "test error, by a metric of which less is better",
        style: Style::Plain,
        relative: true,
        of_items: false,
        exact: false,
        of_machine: false,
        read: |_, run| run.primary_value.filter(|_| run.primary_higher_is_better == Some(false)),
    },
    Measure {
        name: "peak_memory",
        label: "peak of live bytes while training",
        style: Style::Bytes,
        relative: true,
        of_items: false,
        exact: false,
        of_machine: false,
        read: |_, run| above_zero(run.train_peak_bytes.map(|bytes| bytes as f64)),
    },
    Measure {
        name: "activation_memory",
        label: "bytes kept for the backward pass, at their highest",
        style: Style::Bytes,
        relative: true,
        of_items: false,
        exact: false,
        of_machine: false,
        read: |_, run| above_zero(run.activations_bytes.map(|bytes| bytes as f64)),
    },
    Measure {
        name: "trainable_parameters",
        label: "numbers that get an update in at least one step",
        style: Style::Count,
        relative: true,
        of_items: false,
        exact: true,
        of_machine: false,
        read: |_, run| above_zero(run.num_trainable_params.map(|count| count as f64)),
    },
    Measure {
        name: "tokens_per_second",
        label: "training tokens a second",
        style: Style::Count,
        relative: true,
        of_items: false,
        exact: false,
        of_machine: true,
        read: |_, run| above_zero(run.train_tokens_per_second),
    },
    Measure {
        name: "train_seconds",
        label: "time of training, warm-up stages and evaluation left out",
        style: Style::Seconds,
        relative: true,
        of_items: false,
        exact: false,
        of_machine: true,
        read: |_, run| above_zero(run.train_seconds),
    },
    Measure {
        name: "learning_rate",
        label: "peak learning rate",
        style: Style::Plain,
        relative: true,
        of_items: false,
        exact: false,
        of_machine: false,
        read: |_, run| above_zero(Some(run.lr).filter(|_| !run.is_zero_shot())),
    },
    Measure {
        name: "importance_agreement",
        label: "rank correlation of a run's final importance of layers with the mean of its other seeds'",
        style: Style::Plain,
        relative: false,
        of_items: false,
        exact: false,
        of_machine: false,
        read: importance_agreement,
    },
];

/// Reads the name of a measure.
pub(super) fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static Measure, D::Error> {
    by_name(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The measure of this name.
///
/// # Errors
/// There is none; the error has the nearest.
pub fn by_name(name: &str) -> Result<&'static Measure, String> {
    let unknown = || {
        let names: Vec<&str> = MEASURES.iter().map(|measure| measure.name).collect();
        format!("there is no measure `{name}`; {}", suggest::hint(name, names))
    };
    MEASURES.iter().find(|measure| measure.name == name).ok_or_else(unknown)
}

/// The same where there may be none.
pub(super) fn named_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'static Measure>, D::Error> {
    named(deserializer).map(Some)
}

impl PartialEq for Measure {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Measure {
    /// How far left is from right: the difference, or the ratio less one.
    pub fn difference(&self, left: f64, right: f64) -> f64 {
        if self.relative { left / right - 1.0 } else { left - right }
    }

    /// The difference on the scale on which differences of pairs are averaged: that of logarithms for a relative measure.
    pub(crate) fn step(&self, left: f64, right: f64) -> f64 {
        if self.relative { (left / right).ln() } else { left - right }
    }

    /// From the scale of [`step`](Self::step) back to that of [`difference`](Self::difference).
    pub(crate) fn undo(&self, step: f64) -> f64 {
        if self.relative { step.exp_m1() } else { step }
    }

    /// The reverse of [`undo`](Self::undo).
    pub(super) fn redo(&self, difference: f64) -> f64 {
        if self.relative { difference.ln_1p() } else { difference }
    }

    /// A value for people.
    pub fn write(&self, value: f64) -> String {
        match self.style {
            Style::Plain => format!("{value:.3}"),
            Style::Count => format!("{value:.0}"),
            Style::Bytes => format!("{:.1} MiB", value / 1_048_576.0),
            Style::Seconds => format!("{value:.1} s"),
        }
    }

    /// A difference for people, with its sign.
    pub fn write_difference(&self, difference: f64) -> String {
        if self.relative { format!("{:+.1} %", 100.0 * difference) } else { format!("{difference:+.3}") }
    }
}

fn above_zero(value: Option<f64>) -> Option<f64> {
    value.filter(|value| *value > 0.0)
}

/// Spearman's correlation, over the layers, of a run's importance with the mean importance over the runs that differ in their seed only.
fn importance_agreement(evidence: &Evidence, run: &RunRow) -> Option<f64> {
    let own = evidence.importance(&run.run_id)?;
    let others: Vec<&BTreeMap<u64, f64>> = evidence
        .runs()
        .filter(|other| other.group_id == run.group_id && other.run_id != run.run_id)
        .filter_map(|other| evidence.importance(&other.run_id))
        .collect();
    let of_others = |layer: &u64| mean(&others.iter().map(|other| other.get(layer).copied()).collect::<Option<Vec<_>>>()?);
    let expected: Vec<f64> = own.keys().map(of_others).collect::<Option<_>>()?;
    spearman(&own.values().copied().collect::<Vec<_>>(), &expected)
}
