//! One run, from its spec to its result.
//!
//! * [`run`]: loads, attaches, trains, evaluates, saves; says everything as events.
//! * [`resolve`]: checks a spec against the tables of models, tasks and methods and fills in every default.
//! * [`planner`]: what runs will take and what they would read, before they are run.
//! * [`environment`]: where models and data lie; it is not part of a run's identity. [`hub`]: models by their id
//!   on the Hugging Face hub; [`fetch`]: models and data into folders of one's own.
//! * [`workload`]: what is trained, on what: a language model on a task in words, or a network over numbers.
//! * [`trainer`], [`probe`], [`evaluation`], [`batch`]: the loop; [`optimizer`] and [`schedule`]: its update; [`checkpoint`]: its resumable state;
//!   [`meter`]: time and memory by phase.
//! * [`profile`]: what a training step costs, by part and by kind of memory.
//! * [`pretrain`]: makes the base models that ship.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod account;
pub mod batch;
pub mod checkpoint;
pub mod environment;
pub mod error;
pub mod evaluation;
pub mod fetch;
pub mod files;
pub mod hub;
pub mod init_adapter;
pub mod job;
pub mod meter;
pub mod optimizer;
pub mod planner;
pub mod pretrain;
pub mod probe;
pub mod profile;
#[cfg(feature = "hub")]
mod published;
pub mod resolve;
pub mod schedule;
pub mod trainer;
pub mod workload;

pub use environment::Environment;
pub use error::RunError;
pub use job::{Job, Outcome, run};
pub use planner::{Estimate, Planner};
pub use resolve::resolve;
