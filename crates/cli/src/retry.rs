//! Failures that say nothing about the run: its process was killed, or the disk was full.
//!
//! The same command takes such a run up again without being asked to, so that a sweep ends the same whoever was killed on the way. A run
//! that fails by itself (a loss that is no number, a damaged model) would only fail again, and waits for `--retry failed`. A panic is taken
//! up too: by its kind it cannot be told from a kill.

use peftbench_spec::event::FailureKind;
use peftbench_sweep::{Plan, PlanStatus, Store, StoreError};

/// Marks such runs of `plan` as interrupted, which they are.
pub fn take_up_again(plan: &mut Plan, store: &Store) -> Result<(), StoreError> {
    for run in &mut plan.runs {
        if matches!(run.status, PlanStatus::Failed(FailureKind::Crash | FailureKind::Io)) {
            let step = store.state(&run.id)?.map_or(0, |state| state.step);
            run.status = PlanStatus::Interrupted(step);
        }
    }
    Ok(())
}
