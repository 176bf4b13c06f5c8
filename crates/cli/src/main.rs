//! The command line of peftbench.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod adapter_choice;
mod args;
mod claim_files;
mod cluster;
mod commands;
mod event_log;
mod exit;
mod interrupt;
mod layer_importance;
mod machine;
mod model_files;
mod one_run;
mod output;
mod progress;
mod provenance;
mod resolver;
mod results_table;
mod same_run;
mod slot_table;
mod sweep_choice;
mod text_table;
mod worker_command;

use clap::Parser;
use peftbench_ops::memory::{CountingAllocator, keep_freed_memory};
use std::process::ExitCode;

/// Counts every byte a run holds.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    // Before the first large buffer is freed.
    keep_freed_memory();
    let outcome = commands::run(args::Cli::parse());
    exit::end(outcome)
}
