//! From a sweep file to finished runs: expand, plan, claim, supervise, resume.
//!
//! * [`mod@expand`] multiplies the axes of a sweep file into cells; [`mod@plan`] resolves them into runs and looks up what is already done.
//! * With `[select.lr]`, probes run before the cells; [`choose`] is the rule by which they choose learning rates.
//! * [`store`] is the folder `results/<sweep>/`, [`state`] the word of a run's state in it, [`atomic`] how every file gets there.
//! * [`mod@sweep`] claims a store; [`supervise`] runs one process a run, [`child`] is one such process.
//! * [`status`] and [`ids`] answer questions about a store; [`units`] writes counts, bytes and times for people.
//!
//! Invariants: a finished run is never run twice; one process at a time holds a sweep; every file appears whole or not at all; a failing
//! run leaves the others unharmed.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod atomic;
pub mod child;
pub mod choose;
pub mod error;
mod exclude;
pub mod expand;
mod fields;
pub mod ids;
pub mod plan;
pub mod plan_row;
mod probes;
pub mod process;
pub mod schedule;
mod selection;
pub mod slurm;
pub mod state;
pub mod status;
pub mod store;
pub mod supervise;
pub mod sweep;
pub mod table;
pub mod units;

pub use error::{PlanError, StoreError};
pub use expand::{Cell, expand};
pub use plan::{Estimate, Plan, PlanStatus, PlannedRun, Resolver, Selection, WaitingCell, plan};
pub use plan_row::PlanRow;
pub use probes::cells_and_probes;
pub use state::{Failure, State, Status};
pub use store::Store;
pub use supervise::{Observer, Outcome, Supervisor, SweepOutcome};
pub use sweep::{Claim, prepare, prepare_run, sweep};

#[cfg(test)]
mod testing;
