//! Results of runs: from what a run says while it goes to tables that can be compared.
//!
//! * [`events`]: reads `events.jsonl` of a run folder; [`fragments`]: the run's own Parquet files made from it.
//! * [`rows`]: what each table holds, one struct a table; [`tables`]: typed reading of the merged tables.
//! * [`mod@collect`]: merges the runs of a sweep into `tables/*.parquet`.
//! * [`statistics`] and [`aggregates`]: intervals and tests, and one row per configuration over its seeds.
//! * [`mod@plan_table`] writes `plan.parquet`.
//!
//! polars lives in this crate only, behind the private module `store`; no type of it leaks out. Reading results needs no tensor library.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod aggregates;
pub mod collect;
pub mod error;
pub mod events;
pub mod files;
pub mod fragments;
pub mod plan_table;
pub mod rows;
pub mod statistics;
mod store;
pub mod tables;

pub use aggregates::AggregateRow;
pub use collect::{Collected, collect};
pub use error::ResultsError;
pub use fragments::write_fragments;
pub use rows::{DimensionRow, EvalRow, LayerRow, MemoryRow, ParamRow, PredictionRow, RunRow, SelectRow, StepRow};
