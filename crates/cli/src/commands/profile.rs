//! `peftbench profile`: what a training step costs, part by part.

use crate::args::{InputArgs, SpecArgs, at_least_one};
use crate::exit::{Exit, Problem};
use crate::text_table::{self, number, text};
use crate::worker_command::WorkerCommand;
use crate::{machine, output};
use anyhow::Context;
use clap::Args;
use peftbench_runner::Environment;
use peftbench_runner::profile::{Profile, ProfileOptions, profile};
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::{Component, RunSpec};
use peftbench_sweep::units::{Bytes, Count, Seconds};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Output, Stdio};

/// Times and weighs a few training steps on random tokens for every model, method, target and layer choice of a sweep file
#[derive(Debug, Args)]
pub struct ProfileVerb {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    steps: StepArgs,
    /// Threads
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// The profiles as JSON, an object each, with what the tape keeps by layer and operator
    #[arg(long)]
    json: bool,
}

/// How many tokens, how often.
#[derive(Debug, Clone, Args)]
pub struct StepArgs {
    /// Sequences a step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    batch: usize,
    /// Tokens a sequence
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    length: usize,
    /// Measured steps
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    steps: usize,
    /// Draw the weights instead of reading them; a model then needs no more than its config.json
    #[arg(long)]
    fresh: bool,
}

/// Profiles the run whose spec comes on standard input, for `profile`
#[derive(Debug, Args)]
pub struct ProfileCell {
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    steps: StepArgs,
}

/// A profile and what it is of.
#[derive(Serialize)]
struct Row {
    model: String,
    method: String,
    targets: String,
    layers: String,
    batch: usize,
    length: usize,
    threads: usize,
    #[serde(flatten)]
    profile: Profile,
}

/// Profiles each distinct cell in a process of its own, so that memory is clean.
pub fn run(verb: &ProfileVerb) -> anyhow::Result<Exit> {
    let threads = verb.threads.unwrap_or_else(machine::cores);
    let environment = verb.inputs.environment(threads);
    let cells = cells(verb, &environment)?;
    if cells.is_empty() {
        return Err(Problem::new(Exit::NothingSelected, "no method of this sweep trains anything, so there is no step to profile").into());
    }
    let worker = WorkerCommand::new(environment)?;
    let mut rows = Vec::new();
    for (i, spec) in cells.iter().enumerate() {
        eprintln!("{}/{}  {} · {} · {}", i + 1, cells.len(), spec.model.name, spec.method_label(), spec.targets.label());
        rows.push(Row {
            model: spec.model.name.clone(),
            method: spec.method_label(),
            targets: spec.targets.label(),
            layers: spec.layers.to_string(),
            batch: verb.steps.batch,
            length: verb.steps.length,
            threads,
            profile: in_own_process(spec, &worker, &verb.steps)?,
        });
    }
    if verb.json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
    } else {
        output::print(&table(&rows))?;
    }
    Ok(Exit::Done)
}

/// Profiles one cell and prints JSON.
pub fn run_cell(verb: &ProfileCell) -> anyhow::Result<Exit> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let spec = RunSpec::from_value(serde_json::from_str(&text)?)?;
    let StepArgs { batch, length, steps, fresh } = verb.steps;
    let options = ProfileOptions { batch, length, warmup: 2, steps, fresh };
    let found = profile(&spec, &verb.inputs.environment(0), options)?;
    output::print(&serde_json::to_string(&found)?)?;
    Ok(Exit::Done)
}

/// The sweep's distinct choices of model, method, targets, layers and policy that train something.
fn cells(verb: &ProfileVerb, environment: &Environment) -> anyhow::Result<Vec<RunSpec>> {
    let sweep = verb.spec.read()?;
    let mut seen = BTreeSet::new();
    let mut cells = Vec::new();
    for cell in peftbench_sweep::expand(&sweep)? {
        // The task plays no part in a step on random tokens.
        let spec = RunSpec { task: Component::named("world/choice"), seed: 0, ..cell.spec.clone() };
        let spec = peftbench_runner::resolve(&spec, environment)?;
        let trains = peftbench_runner::resolve::build_methods(&spec)?.iter().any(|method| method.trains());
        if trains && seen.insert(canonical_json(&spec)?) {
            cells.push(spec);
        }
    }
    Ok(cells)
}

fn in_own_process(spec: &RunSpec, worker: &WorkerCommand, steps: &StepArgs) -> anyhow::Result<Profile> {
    let mut command = worker.verb("profile-cell");
    let StepArgs { batch, length, steps, fresh } = steps;
    command.args(["--batch", &batch.to_string(), "--length", &length.to_string(), "--steps", &steps.to_string()]);
    if *fresh {
        command.arg("--fresh");
    }
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().context("could not start the process to profile in")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(canonical_json(spec)?.as_bytes())?;
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    if status.success() {
        return Ok(serde_json::from_slice(&stdout)?);
    }
    let said = String::from_utf8_lossy(&stderr);
    let said = said.trim().strip_prefix("error: ").map_or_else(|| format!("profiling ended with {status}: {said}"), str::to_owned);
    Err(Problem::new(Exit::of_process(status), said).into())
}

/// One line a cell; wall time, processor time and memory beyond the weights relative to the first cell of the same model.
fn table(rows: &[Row]) -> String {
    let columns = [
        text("model"),
        text("method"),
        text("targets"),
        text("layers"),
        number("trainable"),
        number("tok/s"),
        number("forward"),
        number("backward"),
        number("optimizer"),
        number("time"),
        number("cpu"),
        number("activations"),
        number("peak - weights"),
        number("memory"),
    ];
    let extra = |row: &Row| row.profile.bytes.peak.saturating_sub(row.profile.bytes.weights);
    let cells = |row: &Row| {
        let first = rows.iter().find(|other| other.model == row.model).unwrap_or(row);
        let Profile { seconds, bytes, .. } = &row.profile;
        vec![
            row.model.clone(),
            row.method.clone(),
            row.targets.clone(),
            row.layers.clone(),
            Count(row.profile.trainable_params).to_string(),
            Count(row.profile.tokens_per_second as u64).to_string(),
            Seconds(seconds.forward).to_string(),
            Seconds(seconds.backward).to_string(),
            Seconds(seconds.optimizer).to_string(),
            format!("{:.2}x", seconds.step / first.profile.seconds.step),
            row.profile.cpu_seconds.zip(first.profile.cpu_seconds).map_or("-".to_owned(), |(own, first)| format!("{:.2}x", own / first)),
            Bytes(bytes.activations).to_string(),
            Bytes(extra(row)).to_string(),
            format!("{:.2}x", extra(row) as f64 / extra(first).max(1) as f64),
        ]
    };
    text_table::render(&columns, &rows.iter().map(cells).collect::<Vec<_>>())
}
