//! Learning-rate selection: the table `[select.lr]` of a sweep file, and the record of what was chosen.
//!
//! A *probe* is an ordinary run with one of the grid's rates, trained as the table says and scored on validation only. Cells that agree in
//! the fields of `per` share one *choice* of a rate.

use crate::canonical::RunId;
use crate::error::{Result, SpecError};
use crate::sweep_spec::flatten;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The table `[select.lr]`: cells take the learning rate that is best on validation, by probes of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct LrSelection {
    /// The rates to try, ascending, at least two.
    pub grid: Vec<f64>,
    /// Dotted field → value of what probes set otherwise than their cell.
    pub probe: Vec<(String, Value)>,
    /// Seeds of the probes; where none are given, the first seed of the sweep.
    pub seeds: Option<Vec<u64>>,
    /// Dotted fields in which cells agree that share a choice; where none are given, all but the seed and the rate.
    pub per: Option<Vec<String>>,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLrSelection {
    grid: Vec<f64>,
    #[serde(default)]
    probe: Map<String, Value>,
    seeds: Option<Vec<u64>>,
    per: Option<Vec<String>>,
}

impl TryFrom<RawLrSelection> for LrSelection {
    type Error = SpecError;

    fn try_from(raw: RawLrSelection) -> Result<Self> {
        let mut grid = raw.grid;
        if let Some(rate) = grid.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
            return Err(SpecError::at("grid", format!("expected numbers above 0, found {rate}")));
        }
        grid.sort_by(f64::total_cmp);
        grid.dedup();
        if grid.len() < 2 {
            return Err(SpecError::at(
                "grid",
                "expected at least two different rates to choose from; a single one is `train.lr` in [base]",
            ));
        }
        let empty = |key: &str, problem: &str| Err(SpecError::at(key, problem));
        match (&raw.seeds, &raw.per) {
            (Some(seeds), _) if seeds.is_empty() => return empty("seeds", "expected at least one seed, found an empty list"),
            (_, Some(fields)) if fields.is_empty() => {
                return empty("per", "expected at least one field, e.g. \"method\": cells that agree in it share a rate");
            }
            _ => {}
        }
        Ok(Self { grid, probe: flatten(raw.probe), seeds: raw.seeds, per: raw.per })
    }
}

/// What `select.json` in the folder of a sweep holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectionRecord {
    /// The choices of learning rates, in the order of the cells they are made for.
    pub lr: Vec<LrChoice>,
}

/// One choice of a learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LrChoice {
    /// What it is made for, for people: `tiny-mamba · world/sentiment · lora r=8`.
    pub label: String,
    /// The fields in which its cells agree, and their values.
    pub cells_with: Value,
    /// The rates, ascending, each with its probes.
    pub candidates: Vec<Candidate>,
    /// What has become of it.
    pub decision: Decision,
    /// The runs that take the rate; none before it is chosen.
    pub runs: Vec<RunId>,
}

/// A learning rate and the runs that try it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The rate.
    pub lr: f64,
    /// The probes, one a seed and, where cells share a choice, one a kind of cell.
    pub probes: Vec<RunId>,
}

/// What has become of a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Decision {
    /// Probes have yet to end.
    Waiting,
    /// Made.
    Chosen {
        /// The rate.
        lr: f64,
        /// The end of the grid at which it lies: beyond it there may be a better one.
        at_edge: Option<Edge>,
        /// What the score of the rate is no better than by more than noise: the choice is then one of chance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_noise_of: Option<Floor>,
    },
    /// It cannot be made.
    Failed {
        /// Why, naming the runs.
        problem: String,
    },
}

/// An end of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// The rate is the lowest of the grid.
    Lowest,
    /// The rate is the highest.
    Highest,
}

/// What probes that have learnt nothing, or all the same, cannot be told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Floor {
    /// Answers that look at no prompt.
    Chance,
    /// The probes of every other rate that have a score.
    OtherRates,
}

impl Floor {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chance => "chance",
            Self::OtherRates => "other_rates",
        }
    }
}

impl LrChoice {
    /// The rate, once it is chosen.
    pub fn lr(&self) -> Option<f64> {
        match self.decision {
            Decision::Chosen { lr, .. } => Some(lr),
            _ => None,
        }
    }

    /// Whether it cannot be made.
    pub fn is_failed(&self) -> bool {
        matches!(self.decision, Decision::Failed { .. })
    }

    /// What has become of it, on one line.
    pub fn describe(&self) -> String {
        self.warning().unwrap_or_else(|| {
            let rate = self.lr().map_or_else(|| "its probes have yet to end".to_owned(), |lr| format!("{lr:e}"));
            format!("{}: {rate}", self.label)
        })
    }

    /// What should be known of it, on one line: that it is a choice among noise, that it lies at an end of the grid, or that it cannot be
    /// made.
    pub fn warning(&self) -> Option<String> {
        let remarks = match &self.decision {
            Decision::Waiting => return None,
            Decision::Failed { problem } => format!("no learning rate: {problem}"),
            Decision::Chosen { lr, at_edge, within_noise_of } => {
                let floor = within_noise_of.map(among_noise);
                let edge = at_edge.map(at_end);
                let remarks: Vec<&str> = floor.into_iter().chain(edge).collect();
                if remarks.is_empty() {
                    return None;
                }
                format!("the best rate, {lr:e}, {}", remarks.join("; it "))
            }
        };
        Some(format!("{}: {remarks}", self.label))
    }
}

fn among_noise(floor: Floor) -> &'static str {
    match floor {
        Floor::Chance => {
            "is within noise of guessing: its probes have learnt too little to choose by, let them train longer (`select.lr.probe`)"
        }
        Floor::OtherRates => {
            "is within noise of every other: the choice says little, give the probes longer training, more validation items or more seeds \
             (`select.lr.probe`, `select.lr.seeds`)"
        }
    }
}

fn at_end(edge: Edge) -> &'static str {
    match edge {
        Edge::Lowest => "is the lowest of the grid; a lower one may be better: extend `select.lr.grid`",
        Edge::Highest => "is the highest of the grid; a higher one may be better: extend `select.lr.grid`",
    }
}
