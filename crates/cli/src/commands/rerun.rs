//! `peftbench rerun`: a run once more, in a folder of its own, and whether it comes to the same.

use crate::args::{InputArgs, ProgressArgs, ResultsArgs, at_least_one};
use crate::exit::{Exit, Problem};
use crate::resolver::AsRecorded;
use crate::same_run::{self, Compared, Difference, Record};
use crate::{interrupt, machine, one_run, output};
use anyhow::Context;
use clap::Args;
use peftbench_runner::init_adapter;
use peftbench_spec::manifest::Provenance;
use peftbench_spec::{Manifest, SweepSpec};
use peftbench_sweep::{Store, ids};
use std::path::{Path, PathBuf};

/// Runs the manifest of a run again, in a scratch folder; its record stays as it is
#[derive(Debug, Args)]
pub struct Rerun {
    /// The beginning of a run's id, SWEEP/ID, or the path of a manifest.toml
    #[arg(value_name = "RUN|MANIFEST")]
    run: String,
    /// Compare with the record, bit for bit: every step's loss, gradient norm and learning rate, every metric, every prediction, and the
    /// adapter's bytes. Ends with exit code 6 at the first difference
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    inputs: InputArgs,
    /// Threads of the run [default: as many as the record says]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Runs, and compares if asked to.
pub fn run(verb: &Rerun) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    let manifest_path = find_manifest(verb)?;
    let manifest = read_manifest(&manifest_path)?;
    let recorded = manifest_path.parent().unwrap_or(Path::new("."));
    // Before anything is computed.
    let record = if verb.check { Some(read_record(&manifest, recorded)?) } else { None };
    let scratch = std::env::temp_dir().join(format!("peftbench-rerun-{}-{}", manifest.run_id, std::process::id()));
    let sweep = one_run::as_sweep(&manifest, &manifest_path, None)?;
    let store = Store::open(&scratch, &manifest.sweep)?;
    let threads = verb.threads.unwrap_or(match manifest.provenance.threads {
        0 => machine::cores(),
        recorded => recorded,
    });
    let mut environment = verb.inputs.environment(threads);
    environment.adapters.push(init_adapter::kept_in(recorded));
    let ended = one_run::run(&sweep, &store, &AsRecorded, environment, &verb.progress, stop)?;
    if !ended.is_done().with_context(|| format!("could not make the run again in {}", scratch.display()))? {
        eprintln!("stopped");
        remove(&scratch)?;
        return Ok(Exit::Interrupted);
    }
    let folder = store.run_dir(&ended.id);
    let Some(record) = record else {
        output::print(&format!("{}\n", folder.display()))?;
        return Ok(Exit::Done);
    };
    let now = Manifest::read(&folder.join("manifest.toml"))?;
    let found = match inputs_differ(&manifest, &now) {
        Some(difference) => Err(difference),
        None => same_run::compare(&record, &Record::read(&folder)?)?,
    };
    match found {
        Ok(compared) => {
            remove(&scratch)?;
            output::print(&format!("run {}: the same to the bit: {}\n", ended.id, describe(&compared)))?;
            Ok(Exit::Done)
        }
        Err(difference) => {
            let problem = Problem::new(Exit::Differs, format!("run {} differs from its record: {difference}", ended.id));
            Err(problem.hint(reason(&manifest.provenance, &now.provenance, &folder)).into())
        }
    }
}

fn remove(scratch: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(scratch).with_context(|| format!("could not remove {}", scratch.display()))
}

/// The manifest at `path`, which people take sweep files for.
fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    Manifest::read(path).map_err(|error| match SweepSpec::read(path) {
        Ok(_) => Problem::new(Exit::Usage, format!("{} is a sweep file, no manifest of a run", path.display()))
            .hint("`peftbench sweep` and `peftbench run` take it")
            .into(),
        Err(_) => error.into(),
    })
}

fn read_record(manifest: &Manifest, folder: &Path) -> Result<Record, Problem> {
    let problem = |reason: String| {
        let problem = format!("run {} has no whole record to compare with in {}: {reason}", manifest.run_id, folder.display());
        Problem::new(Exit::NothingSelected, problem).hint("without `--check` it is only run")
    };
    match folder.join("events.jsonl").is_file() {
        true => Record::read(folder).map_err(|error| problem(format!("{error:#}"))),
        false => Err(problem("there is no events.jsonl".to_owned())),
    }
}

fn find_manifest(verb: &Rerun) -> anyhow::Result<PathBuf> {
    let path = Path::new(&verb.run);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let (store, id) = ids::find_run(&verb.results.results, &verb.run)?;
    Ok(store.run_dir(&id).join("manifest.toml"))
}

/// A model or dataset that is not what the record says; nothing after that could be compared.
fn inputs_differ(recorded: &Manifest, now: &Manifest) -> Option<Difference> {
    let (old, new) = (&recorded.inputs, &now.inputs);
    let pairs = [("model", &old.model, &new.model), ("tokenizer", &old.tokenizer, &new.tokenizer), ("dataset", &old.dataset, &new.dataset)];
    pairs.into_iter().find_map(|(name, old, new)| match (old, new) {
        (Some(old), Some(new)) if old != new => {
            Some(Difference { name: format!("hash of the {name}"), recorded: old.clone(), now: new.clone() })
        }
        _ => None,
    })
}

fn describe(compared: &Compared) -> String {
    format!(
        "{} steps, {} metric values, {} predictions, {} bytes of adapter",
        compared.steps, compared.metrics, compared.predictions, compared.adapter_bytes
    )
}

/// What may explain a difference, and where the new run is.
fn reason(recorded: &Provenance, now: &Provenance, folder: &Path) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let pairs = [
        ("commit", text(&recorded.git), text(&now.git)),
        ("compiler", recorded.rustc.clone(), now.rustc.clone()),
        ("dependencies", recorded.cargo_lock.clone(), now.cargo_lock.clone()),
        ("platform", recorded.platform.clone(), now.platform.clone()),
        ("processor", text(&recorded.cpu), text(&now.cpu)),
        ("threads", recorded.threads.to_string(), now.threads.to_string()),
    ];
    let changed: Vec<&str> = pairs.iter().filter(|(_, old, new)| old != new).map(|(name, ..)| *name).collect();
    let same = match changed.is_empty() {
        true => "program and machine are the same".to_owned(),
        false => format!("not the same either: {}", changed.join(", ")),
    };
    format!("{same}; the new run is kept in {}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_changed_is_said() {
        let recorded = Provenance { git: Some("a".into()), threads: 1, ..Provenance::default() };
        let now = Provenance { git: Some("b".into()), threads: 2, ..Provenance::default() };
        let text = reason(&recorded, &now, Path::new("scratch"));
        assert_eq!(text, "not the same either: commit, threads; the new run is kept in scratch");
        assert!(reason(&now, &now, Path::new("scratch")).starts_with("program and machine are the same"));
    }
}
