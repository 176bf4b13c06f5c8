//! What the plan asks of the crates that know models, tasks and methods.

use crate::exit::{Exit, Problem};
use crate::layer_importance;
use peftbench_runner::{Environment, Planner, RunError};
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::event::FailureKind;
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{RunSpec, SpecError};
use peftbench_sweep::{Estimate, PlanError, Resolver};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

/// Answers from the runner, each asked for once.
pub struct RunnerResolver {
    planner: Planner,
    /// Where runs are that layers are chosen by.
    results: PathBuf,
    /// Whether planning ended because a model or a dataset is missing.
    missing: RefCell<bool>,
    estimates: RefCell<HashMap<String, Estimate>>,
}

impl RunnerResolver {
    /// Answers for runs that read from `environment`, and may choose layers by the runs below `results`.
    pub fn new(environment: Environment, results: PathBuf) -> Self {
        Self { planner: Planner::new(environment), results, missing: RefCell::default(), estimates: RefCell::default() }
    }

    /// The error that ended planning, with the exit code of what was wrong. A plan knows only errors of the spec: an input that is missing
    /// went through as one, to get its place in the sweep file and its cell.
    pub fn explain(&self, error: PlanError) -> anyhow::Error {
        match error {
            PlanError::Spec(error) if *self.missing.borrow() => Problem::new(Exit::MissingInput, error.to_string())
                .hint("`peftbench doctor` shows which models and data are found; nothing was run")
                .into(),
            error => error.into(),
        }
    }

    fn to_spec_error(&self, error: RunError) -> SpecError {
        if let RunError::Spec(error) = error {
            return error;
        }
        *self.missing.borrow_mut() |= error.kind() == FailureKind::MissingInput;
        let field = match error {
            RunError::Data(_) => "task",
            RunError::Adapter(_) => "method",
            RunError::InitAdapter(_) | RunError::NoInitAdapter { .. } => "init_adapter",
            _ => "model",
        };
        SpecError::at(field, error.to_string())
    }
}

impl Resolver for RunnerResolver {
    fn resolve(&self, spec: &RunSpec) -> Result<RunSpec, SpecError> {
        let spec = layer_importance::resolve(spec, &self.results)?;
        peftbench_runner::resolve(&spec, self.planner.environment()).map_err(|error| self.to_spec_error(error))
    }

    fn estimate(&self, spec: &RunSpec) -> Result<Estimate, SpecError> {
        // Runs that differ only in their seed take the same.
        let key = canonical_json(&RunSpec { seed: 0, ..spec.clone() })?;
        if let Some(known) = self.estimates.borrow().get(&key) {
            return Ok(*known);
        }
        let found = self.planner.estimate(spec).map_err(|error| self.to_spec_error(error))?;
        let estimate = Estimate {
            total_params: Some(found.total_params),
            trainable_params: Some(found.trainable_params),
            memory_bytes: Some(found.memory_bytes),
            seconds: found.seconds,
        };
        self.estimates.borrow_mut().insert(key, estimate);
        Ok(estimate)
    }

    fn fingerprint(&self, spec: &RunSpec) -> Option<Inputs> {
        self.planner.inputs(spec).ok()
    }
}

/// Takes a resolved run as it is: for a run that is made again from its manifest.
pub struct AsRecorded;

impl Resolver for AsRecorded {
    fn resolve(&self, spec: &RunSpec) -> Result<RunSpec, SpecError> {
        Ok(spec.clone())
    }

    fn estimate(&self, _spec: &RunSpec) -> Result<Estimate, SpecError> {
        Ok(Estimate::default())
    }

    fn fingerprint(&self, _spec: &RunSpec) -> Option<Inputs> {
        None
    }
}
