//! `select`: the choices of learning rates, a row a probe.

use super::columns::{count, flag, number, text};
use super::{Column, Row, RunRow, Status};
use crate::error::Result;
use peftbench_spec::RunId;
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::lr_selection::{Decision, Edge, LrChoice};
use serde::{Deserialize, Serialize};

/// A probe in the choice of a learning rate. Its configuration stands in its row of `runs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelectRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// The probe.
    pub run_id: String,
    /// Its last attempt; 0 for one that has not begun.
    pub attempt: u64,
    /// Hash of what the cells agree in that the choice is made for: the same in all rows of a choice.
    pub choice_id: String,
    /// What it is made for, for people.
    pub chosen_for: String,
    /// The fields in which these cells agree, and their values, canonical JSON.
    pub cells_with_json: String,
    /// `waiting`, `chosen` or `failed`: what has become of the choice.
    pub decision: String,
    /// Why it failed.
    pub problem: Option<String>,
    /// The rate that is tried.
    pub lr: f64,
    /// Seed of the probe.
    pub seed: u64,
    /// How far the probe came.
    pub status: Status,
    /// Kind of failure of a probe without a score.
    pub failure_kind: Option<String>,
    /// The primary metric.
    pub metric: Option<String>,
    /// Whether more of it is better.
    pub higher_is_better: Option<bool>,
    /// Its value on validation at the best epoch.
    pub valid_value: Option<f64>,
    /// Mean loss on validation at that epoch, nats a token.
    pub valid_loss: Option<f64>,
    /// Whether this is the rate that was chosen.
    pub chosen: bool,
    /// Whether it was chosen and lies at the end of the grid: `lowest` or `highest`.
    pub at_edge: Option<String>,
    /// Whether it was chosen and is no better, by more than noise, than `chance` or all `other_rates`.
    pub within_noise_of: Option<String>,
}

impl SelectRow {
    /// The rows of a choice; `runs` are all runs of the sweep. A probe that is not among them has no row.
    pub(crate) fn of_choice(choice: &LrChoice, runs: &[RunRow]) -> Result<Vec<Self>> {
        let (decision, problem, edge, floor) = match &choice.decision {
            Decision::Waiting => ("waiting", None, None, None),
            Decision::Chosen { at_edge, within_noise_of, .. } => ("chosen", None, *at_edge, *within_noise_of),
            Decision::Failed { problem } => ("failed", Some(problem.clone()), None, None),
        };
        let edge = edge.map(|edge| match edge {
            Edge::Lowest => "lowest",
            Edge::Highest => "highest",
        });
        let base = Self {
            choice_id: RunId::of(&choice.cells_with)?.to_string(),
            chosen_for: choice.label.clone(),
            cells_with_json: canonical_json(&choice.cells_with)?,
            decision: decision.to_owned(),
            problem,
            ..Self::default()
        };
        let mut rows = Vec::new();
        for candidate in &choice.candidates {
            let chosen = choice.lr() == Some(candidate.lr);
            let found = candidate.probes.iter().filter_map(|id| runs.iter().find(|run| run.run_id == id.as_str()));
            rows.extend(found.map(|run| Self {
                schema_version: run.schema_version,
                run_id: run.run_id.clone(),
                attempt: run.attempt,
                lr: candidate.lr,
                seed: run.seed,
                status: run.status,
                failure_kind: run.failure_kind.clone(),
                metric: run.primary_metric.clone(),
                higher_is_better: run.primary_higher_is_better,
                valid_value: run.valid_value,
                valid_loss: run.valid_loss,
                chosen,
                at_edge: edge.filter(|_| chosen).map(str::to_owned),
                within_noise_of: floor.filter(|_| chosen).map(|floor| floor.name().to_owned()),
                ..base.clone()
            }));
        }
        Ok(rows)
    }
}

impl Row for SelectRow {
    const TABLE: &'static str = "select";
    const COLUMNS: &'static [Column] = &[
        count("schema_version"),
        text("run_id"),
        count("attempt"),
        text("choice_id"),
        text("chosen_for"),
        text("cells_with_json"),
        text("decision"),
        text("problem"),
        number("lr"),
        count("seed"),
        text("status"),
        text("failure_kind"),
        text("metric"),
        flag("higher_is_better"),
        number("valid_value"),
        number("valid_loss"),
        flag("chosen"),
        text("at_edge"),
        text("within_noise_of"),
    ];
}
