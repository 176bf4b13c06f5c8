//! A whole sweep: claim the store, plan, write the manifests, run what is left.

use crate::atomic;
use crate::error::PlanError;
use crate::plan::{self, Plan, Resolver};
use crate::state::State;
use crate::store::{Store, SweepLock};
use crate::supervise::{Observer, Supervisor, SweepOutcome};
use peftbench_spec::{Manifest, SweepSpec};

/// A planned sweep that no other process can run while this lives. What is taken out of `plan.runs` is not run.
#[derive(Debug)]
pub struct Claim {
    /// The plan.
    pub plan: Plan,
    _lock: SweepLock,
}

/// Takes the store for this process, plans the sweep, and writes `sweep.toml` and, for runs that have none, manifest and state.
pub fn prepare(sweep: &SweepSpec, store: &Store, resolver: &dyn Resolver) -> Result<Claim, PlanError> {
    // The lock comes first: only then is what the store says of its runs final.
    let lock = store.lock()?;
    atomic::remove_leftovers(store.folder())?;
    let plan = plan::plan(sweep, store, resolver)?;
    store.write_sweep(sweep)?;
    for run in &plan.runs {
        if store.manifest(&run.id)?.is_none() {
            store.write_manifest(&Manifest::new(&sweep.name, run.spec.clone())?)?;
        }
        if store.state(&run.id)?.is_none() {
            store.write_state(&run.id, &State::planned())?;
        }
    }
    Ok(Claim { plan, _lock: lock })
}

/// [`prepare`]s the sweep and runs what is not done.
pub fn sweep(
    sweep: &SweepSpec,
    store: &Store,
    resolver: &dyn Resolver,
    supervisor: &Supervisor<'_>,
    observer: &mut dyn Observer,
) -> Result<SweepOutcome, PlanError> {
    let claim = prepare(sweep, store, resolver)?;
    Ok(supervisor.run(&claim, store, observer)?)
}
