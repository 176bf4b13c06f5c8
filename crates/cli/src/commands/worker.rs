//! `peftbench worker`: one run, in the process that a supervisor started for it. Not for people; the protocol is that of
//! `peftbench_sweep::child`.
//!
//! The run's `events.jsonl` is its record: `finished` is its last line, and comes after everything else that the run leaves behind. The
//! Parquet tables of the run are made from that record, so they cannot come before it; the supervisor writes them when this process has
//! ended, and `collect` makes any that are missing or behind. They are a convenience, not a part of the result.

use crate::args::InputArgs;
use crate::event_log::EventLog;
use crate::exit::{self, Exit};
use crate::{interrupt, provenance};
use anyhow::Context;
use clap::Args;
use peftbench_ops::device::kind;
use peftbench_runner::{Job, Outcome, RunError};
use peftbench_spec::event::FailureKind;
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{Event, Manifest, SpecError};
use peftbench_sweep::{State, StoreError, atomic};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs the manifest in a run's folder, for a supervisor
#[derive(Debug, Args)]
pub struct Worker {
    /// Folder of the run, with its manifest
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Threads that the supervisor has set, for the record
    #[arg(long, value_name = "N")]
    threads: usize,
    #[command(flatten)]
    inputs: InputArgs,
}

/// Runs to the end, to a request to stop, or to an error.
pub fn run(verb: &Worker) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    listen_for_stop(stop.clone());
    let record = EventLog::open(&verb.run_dir.join("events.jsonl"));
    let mut voice =
        Voice { record: record.map_err(|error| io::Error::other(format!("{error:#}"))), said_failed: false, stop: stop.clone() };
    let outcome = attempt(verb, &stop, &mut voice);
    match outcome {
        Ok(Outcome::Finished(_)) => Ok(Exit::Done),
        Ok(Outcome::Interrupted { .. }) => Ok(Exit::Interrupted),
        Err(error) => {
            let kind = kind_of(&error);
            if !voice.said_failed {
                // What cannot be recorded is still told: the supervisor writes it down.
                let _ = voice.say(&Event::Failed { kind, message: format!("{error:#}") });
            }
            eprintln!("error: {error:#}");
            Ok(exit::of_failure(kind))
        }
    }
}

fn attempt(verb: &Worker, stop: &AtomicBool, voice: &mut Voice) -> anyhow::Result<Outcome> {
    let manifest_path = verb.run_dir.join("manifest.toml");
    let attempt = attempt_number(&verb.run_dir)?;
    let environment = verb.inputs.environment(verb.threads);
    let manifest = Manifest::read(&manifest_path)?;
    let device = kind(&environment.device()?);
    let manifest = Manifest { provenance: provenance::provenance(verb.threads, device), ..manifest };
    let record_inputs = |inputs: &Inputs| {
        let toml = Manifest { inputs: inputs.clone(), ..manifest.clone() }.to_toml().map_err(io::Error::other)?;
        atomic::write(&manifest_path, toml.as_bytes()).map_err(io::Error::other)
    };
    let job = Job { spec: &manifest.spec, run_dir: &verb.run_dir, environment: &environment, stop, attempt, record_inputs: &record_inputs };
    Ok(peftbench_runner::run(job, &mut |event| voice.say(event))?)
}

/// The supervisor has counted this attempt in the run's state.
fn attempt_number(run_dir: &Path) -> anyhow::Result<u32> {
    let path = run_dir.join("state.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let state: State = serde_json::from_str(&text).with_context(|| format!("could not read {}", path.display()))?;
    Ok(state.attempt)
}

/// Where the run's events go: to its record, and to the supervisor on standard output.
struct Voice {
    record: io::Result<EventLog>,
    said_failed: bool,
    stop: Arc<AtomicBool>,
}

impl Voice {
    fn say(&mut self, event: &Event) -> io::Result<()> {
        self.said_failed |= matches!(event, Event::Failed { .. });
        let recorded = match &mut self.record {
            Ok(record) => record.append(event),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let mut stdout = io::stdout().lock();
        let told = serde_json::to_writer(&mut stdout, event).map_err(io::Error::from);
        if told.and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()).is_err() {
            // Nobody listens any more: the supervisor is gone.
            self.stop.store(true, Ordering::SeqCst);
        }
        recorded
    }
}

/// Sets the flag when the supervisor says `stop`, or is gone and has closed the pipe with its end.
fn listen_for_stop(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            match line {
                Ok(line) if line.trim() != "stop" => {}
                _ => break,
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

fn kind_of(error: &anyhow::Error) -> FailureKind {
    let of_cause = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(error) = cause.downcast_ref::<RunError>() {
            return Some(error.kind());
        }
        if cause.is::<SpecError>() {
            return Some(FailureKind::InvalidSpec);
        }
        (cause.is::<io::Error>() || cause.is::<StoreError>()).then_some(FailureKind::Io)
    };
    error.chain().find_map(of_cause).unwrap_or(FailureKind::Crash)
}
