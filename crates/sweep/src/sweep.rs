//! A whole sweep: claim the store, plan, write the manifests, run what is left.

use crate::atomic;
use crate::error::PlanError;
use crate::plan::{self, Crashes, Plan, PlannedRun, Resolver};
use crate::state::State;
use crate::store::{FolderLock, Store};
use crate::supervise::{Observer, Supervisor, SweepOutcome};
use peftbench_spec::{Manifest, SweepSpec};

/// A planned sweep that no other process can run while this lives, or one run of it. What is taken out of its plan is not run.
#[derive(Debug)]
pub struct Claim {
    /// The plan.
    pub plan: Plan,
    /// Of the sweep; a single run has a lock of its own while it is worked on.
    _lock: Option<FolderLock>,
}

/// Takes the store for this process, plans the sweep, and writes `sweep.toml` and, for runs that have none, manifest and state.
pub fn prepare(sweep: &SweepSpec, store: &Store, resolver: &dyn Resolver) -> Result<Claim, PlanError> {
    // The lock comes first: only then is what the store says of its runs final.
    let lock = store.lock()?;
    atomic::remove_leftovers(store.folder())?;
    let plan = plan::plan(sweep, store, resolver)?;
    store.write_sweep(sweep)?;
    record(&plan, sweep, store)?;
    Ok(Claim { plan, _lock: Some(lock) })
}

/// Plans the one run of `sweep`, which the sweep that it belongs to has recorded before. The sweep is left to whoever holds it: several runs
/// of one sweep can be under way in as many processes, on as many machines.
pub fn prepare_run(sweep: &SweepSpec, store: &Store, resolver: &dyn Resolver) -> Result<Claim, PlanError> {
    Ok(Claim { plan: plan::plan(sweep, store, resolver)?, _lock: None })
}

/// Writes what was chosen, and manifest and state of runs that have none.
fn record(plan: &Plan, sweep: &SweepSpec, store: &Store) -> Result<(), PlanError> {
    if sweep.select_lr.is_some() {
        store.write_selection(&plan.selection)?;
    }
    for run in plan.probes.iter().chain(&plan.runs) {
        if store.manifest(&run.id)?.is_none() {
            store.write_manifest(&Manifest::new(&sweep.name, run.spec.clone())?)?;
        }
        if store.state(&run.id)?.is_none() {
            store.write_state(&run.id, &State::planned())?;
        }
    }
    Ok(())
}

impl Claim {
    /// The first stage of a sweep that chooses learning rates: runs the probes by `run`, and plans the cells with what they chose. A probe
    /// that crashed (its process was killed, the disk was full) is tried once more; one that failed by itself has lost and stops nothing.
    ///
    /// What comes back are the outcomes of the probes; the plan then holds the cells' runs.
    pub fn probe<E: From<PlanError>>(
        &mut self,
        sweep: &SweepSpec,
        store: &Store,
        resolver: &dyn Resolver,
        mut run: impl FnMut(&Self, &[PlannedRun]) -> Result<SweepOutcome, E>,
    ) -> Result<SweepOutcome, E> {
        let mut outcome = run(self, &self.plan.probes)?;
        let mut crashes = Crashes::TriedAgain;
        if outcome.is_complete() && outcome.failed > 0 {
            self.plan = plan::plan_with(sweep, store, resolver, crashes)?;
            let crashed: Vec<PlannedRun> = self.plan.probes.iter().filter(|probe| probe.status.is_crash()).cloned().collect();
            if !crashed.is_empty() {
                outcome = outcome.then_again(&run(self, &crashed)?);
            }
            if outcome.is_complete() {
                crashes = Crashes::Lost;
            }
        }
        self.plan = plan::plan_with(sweep, store, resolver, crashes)?;
        record(&self.plan, sweep, store)?;
        Ok(outcome)
    }
}

/// [`prepare`]s the sweep and runs what is not done: probes first, where there are any.
pub fn sweep(
    sweep: &SweepSpec,
    store: &Store,
    resolver: &dyn Resolver,
    supervisor: &Supervisor<'_>,
    observer: &mut dyn Observer,
) -> Result<SweepOutcome, PlanError> {
    let mut claim = prepare(sweep, store, resolver)?;
    if !claim.plan.probes.is_empty() {
        claim.probe(sweep, store, resolver, |claim, probes| supervisor.run(claim, probes, store, observer).map_err(PlanError::from))?;
    }
    Ok(supervisor.run(&claim, &claim.plan.runs, store, observer)?)
}
