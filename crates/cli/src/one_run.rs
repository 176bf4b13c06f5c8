//! A single run, outside a sweep of many: as a sweep of one cell, so that it is claimed, supervised and recorded as any other.

use crate::args::ProgressArgs;
use crate::commands::sweep::supervise;
use crate::exit::{self, Exit, Problem};
use crate::worker_command::WorkerCommand;
use peftbench_runner::Environment;
use peftbench_spec::{Manifest, RunId, SpecError, SweepSpec};
use peftbench_sweep::{Claim, PlannedRun, Resolver, Selection, State, Status, Store, Supervisor, prepare};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The run of a manifest as a sweep of one cell. `source` is what is kept as the sweep's file.
pub fn as_sweep(manifest: &Manifest, file: &Path, source: Option<String>) -> anyhow::Result<SweepSpec> {
    let base = match serde_json::to_value(&manifest.spec)? {
        Value::Object(fields) => fields,
        other => return Err(SpecError::at("spec", format!("expected a table, found {other}")).into()),
    };
    let source = match source {
        Some(source) => source,
        None => toml::to_string(&json!({ "name": manifest.sweep, "base": base }))?,
    };
    Ok(SweepSpec {
        name: manifest.sweep.clone(),
        description: String::new(),
        base,
        axes: Vec::new(),
        zip: Vec::new(),
        exclude: Vec::new(),
        seeds: vec![manifest.spec.seed],
        select_lr: None,
        file: file.to_owned(),
        source,
    })
}

/// What was begun is done, or why not.
pub struct Ended {
    /// The run.
    pub id: RunId,
    /// Its state now.
    pub state: State,
}

/// Runs the one cell of `sweep` in `store`, whatever became of it before, unless it is done.
pub fn run(
    sweep: &SweepSpec,
    store: &Store,
    resolver: &dyn Resolver,
    environment: Environment,
    progress: &ProgressArgs,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Ended> {
    run_claimed(&prepare(sweep, store, resolver)?, store, environment, progress, stop)
}

/// The same for a sweep that is claimed.
pub fn run_claimed(
    claim: &Claim,
    store: &Store,
    environment: Environment,
    progress: &ProgressArgs,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Ended> {
    let [run] = claim.plan.runs.as_slice() else {
        return Err(Problem::new(Exit::Usage, format!("expected one run, found {}", claim.plan.runs.len())).into());
    };
    let worker = WorkerCommand::new(environment)?;
    let supervisor = Supervisor {
        workers: 1,
        command: &|_: &PlannedRun, folder: &Path| worker.command(folder),
        fail_fast: false,
        selection: Selection { failed: true, changed: true },
        stop: stop.clone(),
    };
    supervise(&supervisor, claim, &claim.plan.runs, store, progress, stop)?;
    let state = store.state(&run.id)?.unwrap_or_else(State::planned);
    Ok(Ended { id: run.id.clone(), state })
}

impl Ended {
    /// Whether the run is done, and not stopped; an error where it failed.
    pub fn is_done(&self) -> anyhow::Result<bool> {
        match (self.state.status, &self.state.failure) {
            (Status::Done, _) => Ok(true),
            (Status::Failed, Some(failure)) => {
                Err(Problem::new(exit::of_failure(failure.kind), format!("run {} failed: {}", self.id, failure.message)).into())
            }
            (Status::Failed, None) => Err(Problem::new(Exit::Internal, format!("run {} failed", self.id)).into()),
            _ => Ok(false),
        }
    }
}

/// Reads the table `spec` of a manifest that has no id: one that was edited to run a changed spec.
pub fn edited_manifest(path: &Path, text: &str, mut table: Map<String, Value>) -> anyhow::Result<Manifest> {
    let sweep = match table.remove("sweep") {
        Some(Value::String(sweep)) => sweep,
        _ => return Err(SpecError::at("sweep", "expected the name of the sweep to run it in").located(path, text).into()),
    };
    let spec = peftbench_spec::RunSpec::from_value(table.remove("spec").unwrap_or_default());
    let spec = spec.map_err(|error| error.below("spec").located(path, text))?;
    Ok(Manifest::new(sweep, spec)?)
}
