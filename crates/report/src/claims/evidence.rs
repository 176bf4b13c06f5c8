//! What claims are judged by: the finished runs of one or several sweeps.

use super::fields::Fields;
use super::measure::Measure;
use super::selection::Selection;
use peftbench_results::aggregates::{ItemScores, item_scores};
use peftbench_results::rows::{LayerRow, Role, Status};
use peftbench_results::{PredictionRow, ResultsError, RunRow, tables};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Finished runs, each once, with what was kept of their test items and layers. Those that trained nothing stand apart: no paper's row
/// means them.
#[derive(Default)]
pub struct Evidence {
    runs: Vec<(Fields, RunRow)>,
    zero_shot: Vec<(Fields, RunRow)>,
    scores: ItemScores,
    importance: BTreeMap<String, BTreeMap<u64, f64>>,
}

impl Evidence {
    /// Reads the merged tables of sweeps. A run that several of them have counts once.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn read<P: AsRef<Path>>(sweeps: &[P]) -> Result<Self, ResultsError> {
        let mut evidence = Self::default();
        for sweep in sweeps {
            let sweep = sweep.as_ref();
            evidence.add(tables::read_runs(sweep)?, &tables::read_predictions(sweep)?, &tables::read_layers(sweep)?);
        }
        Ok(evidence)
    }

    /// Adds what a sweep has.
    pub fn add(&mut self, runs: Vec<RunRow>, predictions: &[PredictionRow], layers: &[LayerRow]) {
        let known: BTreeSet<String> = self.all_runs().map(|run| run.run_id.clone()).collect();
        let news = runs.into_iter().filter(|run| run.status == Status::Done && run.role == Role::Cell && !known.contains(&run.run_id));
        let (zero_shot, trained): (Vec<_>, Vec<_>) = news.map(|run| (Fields::of(&run), run)).partition(|(_, run)| run.is_zero_shot());
        self.runs.extend(trained);
        self.zero_shot.extend(zero_shot);
        self.scores.extend(item_scores(predictions));
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for row in layers.iter().filter(|row| row.importance.is_some()) {
            let step = last.entry(&row.run_id).or_default();
            *step = row.step.max(*step);
        }
        for row in layers.iter().filter(|row| last.get(row.run_id.as_str()) == Some(&row.step)) {
            if let Some(importance) = row.importance {
                self.importance.entry(row.run_id.clone()).or_default().insert(row.layer, importance);
            }
        }
    }

    /// The runs that trained.
    pub fn runs(&self) -> impl Iterator<Item = &RunRow> {
        self.runs.iter().map(|(_, run)| run)
    }

    /// The runs, zero-shot ones behind the others.
    pub(crate) fn all_runs(&self) -> impl Iterator<Item = &RunRow> {
        self.runs.iter().chain(&self.zero_shot).map(|(_, run)| run)
    }

    /// Whether there is a run of a selection that has the measure.
    pub(crate) fn has(&self, selection: &Selection, measure: &Measure) -> bool {
        let mut runs = self.with_fields().chain(self.zero_shot());
        runs.any(|(fields, run)| selection.selects(fields) && (measure.read)(self, run).is_some())
    }

    /// The runs that trained nothing, with their fields.
    pub(super) fn zero_shot(&self) -> impl Iterator<Item = (&Fields, &RunRow)> {
        self.zero_shot.iter().map(|(fields, run)| (fields, run))
    }

    /// The runs that trained, with their fields.
    pub(super) fn with_fields(&self) -> impl Iterator<Item = (&Fields, &RunRow)> {
        self.runs.iter().map(|(fields, run)| (fields, run))
    }

    /// The importance of each layer at the last step at which it was recorded.
    pub(super) fn importance(&self, run_id: &str) -> Option<&BTreeMap<u64, f64>> {
        self.importance.get(run_id)
    }

    /// The difference of two runs on each test item, where both kept the same items and have the mean of their scores as their metric.
    pub(super) fn item_differences(&self, left: &RunRow, right: &RunRow) -> Option<Vec<f64>> {
        let (a, b) = (self.items(left)?, self.items(right)?);
        a.keys().eq(b.keys()).then(|| a.values().zip(b.values()).map(|(a, b)| a - b).collect())
    }

    /// The score of each test item, where they are kept and their mean is the run's metric.
    pub(crate) fn items(&self, run: &RunRow) -> Option<&BTreeMap<String, f64>> {
        let items = self.scores.get(&run.run_id)?;
        let mean = items.values().sum::<f64>() / items.len() as f64;
        run.primary_value.filter(|value| (mean - value).abs() < 1e-6).map(|_| items)
    }
}
