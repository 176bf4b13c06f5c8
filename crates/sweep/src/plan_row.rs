//! A plan as a table for programs: `plan.parquet` and `peftbench plan --json`.

use crate::plan::{Estimate, Plan, PlannedRun, WaitingCell};
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::{RunSpec, SpecError};
use serde::Serialize;

/// One row of `plan.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanRow {
    /// `probe` for a run that tries out a learning rate, else `cell`.
    pub role: &'static str,
    /// 16 hex digits; none for a cell whose learning rate is not chosen yet.
    pub run_id: Option<String>,
    /// `new`, `done`, `interrupted`, `failed`, `running` or `changed`, when the plan was made; `waiting` for a cell without a learning rate.
    pub status: String,
    /// The base model's name.
    pub model: String,
    /// The task's name.
    pub task: String,
    /// The methods with their rank, e.g. `sdt + lora r=8`.
    pub method: String,
    /// The target expression.
    pub targets: String,
    /// The layer selection.
    pub layers: String,
    /// The layer policy's name.
    pub policy: String,
    /// The seed.
    pub seed: u64,
    /// The peak learning rate, where it is known.
    pub lr: Option<f64>,
    /// Estimated scalars of the model with its adapters.
    pub total_params: Option<u64>,
    /// Estimated scalars that train.
    pub trainable_params: Option<u64>,
    /// Estimated highest live bytes.
    pub memory_bytes: Option<u64>,
    /// Estimated wall time.
    pub seconds: Option<f64>,
    /// The resolved run as canonical JSON: what `run_id` is the hash of.
    pub spec: Option<String>,
}

impl Plan {
    /// The rows of `plan.parquet`: probes, runs, and cells that wait, each in the plan's order.
    pub fn rows(&self) -> Result<Vec<PlanRow>, SpecError> {
        let runs = self.probes.iter().chain(&self.runs).map(PlannedRun::row);
        runs.chain(self.waiting.iter().map(|cell| Ok(cell.row()))).collect()
    }
}

impl PlannedRun {
    fn row(&self) -> Result<PlanRow, SpecError> {
        let row = row(&self.spec, &self.estimate);
        let spec = Some(canonical_json(&self.spec)?);
        Ok(PlanRow { run_id: Some(self.id.to_string()), status: self.status.name().to_owned(), lr: Some(self.spec.train.lr), spec, ..row })
    }
}

impl WaitingCell {
    fn row(&self) -> PlanRow {
        PlanRow { status: "waiting".to_owned(), ..row(&self.spec, &self.estimate) }
    }
}

/// What a run that is not there yet has in common with one that is.
fn row(spec: &RunSpec, estimate: &Estimate) -> PlanRow {
    PlanRow {
        role: if spec.evaluate_test { "cell" } else { "probe" },
        run_id: None,
        status: String::new(),
        model: spec.model.name.clone(),
        task: spec.task.name.clone(),
        method: spec.method_label(),
        targets: spec.targets.label(),
        layers: spec.layers.to_string(),
        policy: spec.policy.name.clone(),
        seed: spec.seed,
        lr: None,
        total_params: estimate.total_params,
        trainable_params: estimate.trainable_params,
        memory_bytes: estimate.memory_bytes,
        seconds: estimate.seconds,
        spec: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use crate::testing::{TestResolver, store, sweep_spec};
    use peftbench_spec::RunId;

    #[test]
    fn rows_hold_what_the_id_is_the_hash_of() {
        let (_root, store) = store();
        let plan = plan(&sweep_spec("seeds = [5]"), &store, &TestResolver::default()).unwrap();
        let row = plan.rows().unwrap().remove(0);
        let spec = RunSpec::from_value(serde_json::from_str(row.spec.as_deref().unwrap()).unwrap()).unwrap();
        assert_eq!(Some(RunId::of(&spec).unwrap().to_string()), row.run_id);
        assert_eq!((row.status.as_str(), row.seed, row.seconds, row.method.as_str()), ("new", 5, Some(65.0), "full"));
    }
}
