//! `peftbench show`: one run, as its record has it.

use crate::args::ResultsArgs;
use crate::exit::Exit;
use crate::output;
use crate::slot_table::{self, Line};
use crate::text_table::{self, number, text};
use clap::Args;
use peftbench_results::events::{Outcome, RunEvents};
use peftbench_spec::event::{PhaseRecord, Setup, Summary};
use peftbench_spec::{Manifest, RunId, SpecError};
use peftbench_sweep::units::{Bytes, Count, Seconds};
use peftbench_sweep::{PlanStatus, Store, ids, status};
use std::collections::BTreeMap;

/// Shows one run: its spec, its result, the tensors it trained, and its time and memory by phase
#[derive(Debug, Args)]
pub struct Show {
    /// The beginning of a run's id, or SWEEP/ID
    #[arg(value_name = "RUN")]
    run: String,
    #[command(flatten)]
    results: ResultsArgs,
}

/// Finds the run and prints it.
pub fn run(verb: &Show) -> anyhow::Result<Exit> {
    let (store, id) = ids::find_run(&verb.results.results, &verb.run)?;
    output::print(&describe(&store, &id)?)?;
    Ok(Exit::Done)
}

/// Everything about a run, for people.
pub fn describe(store: &Store, id: &RunId) -> anyhow::Result<String> {
    let folder = store.run_dir(id);
    let manifest = Manifest::read(&folder.join("manifest.toml"))?;
    let path = folder.join("events.jsonl");
    let events = if path.exists() { RunEvents::read(&path)? } else { RunEvents::default() };
    let stored = status::status(store)?.runs.into_iter().find(|run| run.id == *id);
    let (label, stands) = stored.map_or((String::new(), PlanStatus::New), |run| (run.label, run.status));
    let mut parts = vec![format!("run {id} of sweep {}: {label}\n{stands}, in {}\n", store.sweep(), folder.display())];
    parts.push(match &events.outcome {
        Some(Outcome::Finished(summary)) => result(summary),
        Some(Outcome::Failed { kind, message }) => format!("{}: {message}\n", kind.name()),
        None => String::new(),
    });
    parts.push(spec(&manifest)?);
    parts.extend(events.setup.as_ref().map(|setup| inputs(setup, &manifest)));
    parts.push(trained(&events));
    parts.push(phases(&events));
    parts.retain(|part| !part.is_empty());
    Ok(parts.join("\n"))
}

fn result(summary: &Summary) -> String {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rate = |rate: Option<f64>| known(rate.map(|rate| format!("{} tok/s", Count(rate as u64))));
    let error = summary.primary_stderr.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
    let test = match summary.n_items {
        0 => "not read".to_owned(),
        items => format!("{} {:.4}{error} (standard error over {items} items)", summary.primary_metric, summary.primary_value),
    };
    let lines = [
        ("test", test),
        ("validation", format!("{} {:.4} at epoch {}", summary.primary_metric, summary.valid_value, summary.best_epoch)),
        ("steps", format!("{}, final loss {}", summary.steps_done, known(summary.train_loss_final.map(|loss| format!("{loss:.4}"))))),
        ("training", format!("{}, peak {}", rate(summary.train_tokens_per_second), Bytes(summary.train_peak_bytes))),
        ("evaluation", format!("{}, peak {}", rate(summary.eval_tokens_per_second), Bytes(summary.eval_peak_bytes))),
        ("adapter", Bytes(summary.adapter_file_bytes).to_string()),
        ("time", Seconds(summary.total_seconds).to_string()),
    ];
    pairs(&lines)
}

fn spec(manifest: &Manifest) -> anyhow::Result<String> {
    // Under its key, as in a manifest: what is shown can be edited and given to `peftbench run`.
    let table = serde_json::json!({ "sweep": manifest.sweep, "spec": manifest.spec });
    Ok(toml::to_string(&table).map_err(|error| SpecError::at("spec", error.to_string()))?)
}

fn inputs(setup: &Setup, manifest: &Manifest) -> String {
    let short = |hash: &str| hash.get(..16).unwrap_or(hash).to_owned();
    let provenance = &manifest.provenance;
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let samples = format!("{} train, {} validation, {} test", setup.train_samples, setup.valid_samples, setup.test_samples);
    let lines = [
        (
            "model",
            format!(
                "{}, {} layers, {} parameters, {}",
                setup.model_arch,
                setup.num_layers,
                Count(setup.model_num_params),
                short(&setup.model_hash)
            ),
        ),
        ("data", format!("{}: {samples}, {}", setup.dataset_id, short(&setup.dataset_hash))),
        ("program", format!("{} at {}, {}", provenance.version, shown(&provenance.git), provenance.rustc)),
        ("machine", format!("{}, {}, {} threads", provenance.platform, shown(&provenance.cpu), provenance.threads)),
    ];
    pairs(&lines)
}

/// The trained tensors, those that differ only in their layer together.
fn trained(events: &RunEvents) -> String {
    let params: Vec<_> = events.params.iter().map(|entry| &entry.record).filter(|param| param.trainable).collect();
    let Some(setup) = &events.setup else { return String::new() };
    let lines: Vec<Line> = params
        .iter()
        .map(|param| {
            let origin = if param.adapter { "added" } else { "model's" };
            let details = vec![format!("{:?}", param.shape), origin.to_owned(), param.matched_by.clone().unwrap_or_else(|| "-".to_owned())];
            let scalars = param.shape.iter().product::<usize>() as u64;
            Line { path: param.path.clone(), layer: param.layer, details, scalars }
        })
        .collect();
    let share = 100.0 * setup.num_trainable_params as f64 / setup.model_num_params.max(1) as f64;
    let title = format!(
        "{} of {} parameters train ({share:.2} %), in {} selected slots and {} tensors\n",
        Count(setup.num_trainable_params),
        Count(setup.model_num_params),
        setup.target_modules_matched,
        params.len()
    );
    if params.is_empty() {
        return title;
    }
    let columns = [text("tensor"), text("layers"), text("shape"), text("origin"), text("matched by"), number("tensors"), number("scalars")];
    let rows: Vec<Vec<String>> = slot_table::group(&lines)
        .into_iter()
        .map(|group| {
            let mut row = vec![group.pattern, group.layers];
            row.extend(group.details);
            row.extend([group.count.to_string(), Count(group.scalars).to_string()]);
            row
        })
        .collect();
    title + &text_table::render(&columns, &rows)
}

/// Time and memory, phases of one name together: their times add up, of their memory the highest counts.
fn phases(events: &RunEvents) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut sums: BTreeMap<&str, PhaseRecord> = BTreeMap::new();
    for record in events.phases.iter().map(|entry| &entry.record) {
        if !names.contains(&record.phase.as_str()) {
            names.push(&record.phase);
        }
        let sum = sums.entry(&record.phase).or_default();
        sum.seconds += record.seconds;
        sum.compute_seconds += record.compute_seconds;
        if record.peak_bytes >= sum.peak_bytes {
            sum.peak_bytes = record.peak_bytes;
            sum.by_kind.clone_from(&record.by_kind);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let row = |name: &&str| {
        let sum = &sums[name];
        let kinds: Vec<String> =
            sum.by_kind.iter().filter(|(_, bytes)| **bytes > 0).map(|(kind, bytes)| format!("{kind} {}", Bytes(*bytes))).collect();
        vec![
            (*name).to_owned(),
            Seconds(sum.seconds).to_string(),
            Seconds(sum.compute_seconds).to_string(),
            Bytes(sum.peak_bytes).to_string(),
            kinds.join(", "),
        ]
    };
    let columns = [text("phase"), number("time"), number("computing"), number("peak memory"), text("by kind")];
    text_table::render(&columns, &names.iter().map(row).collect::<Vec<_>>())
}

/// Names and values, aligned.
fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}
