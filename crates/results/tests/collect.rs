//! From events to merged tables, with runs that went wrong in every way a run can.

#![allow(clippy::unwrap_used)]

mod synthetic;

use peftbench_results::rows::{LrSource, Role, Status};
use peftbench_results::statistics::IntervalKind;
use peftbench_results::{Collected, ResultsError, collect, tables, write_fragments};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use synthetic::{Size, write_probes, write_sweep};

struct Sweep {
    _folder: tempfile::TempDir,
    path: PathBuf,
    runs: Vec<PathBuf>,
}

fn sweep() -> Sweep {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("synthetic");
    let runs = write_sweep(&path, &Size::SMALL);
    Sweep { _folder: folder, path, runs }
}

fn bytes_of_tables(sweep: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(sweep.join("tables")).unwrap().map(|e| e.unwrap().path()).map(|p| (p.clone(), fs::read(&p).unwrap())).collect()
}

#[test]
fn every_run_is_in_the_tables_with_its_status() {
    let sweep = sweep();
    let collected = collect(&sweep.path).unwrap();
    assert_eq!(collected.damaged, []);
    assert_eq!(collected.rebuilt.len(), sweep.runs.len());
    let counts = [Status::Failed, Status::Interrupted, Status::Unfinished, Status::Planned].map(|s| collected.count(s));
    assert_eq!((counts, collected.count(Status::Done)), ([1; 4], sweep.runs.len() - 4));
    let runs = tables::read_runs(&sweep.path).unwrap();
    assert!(runs.is_sorted_by_key(|run| &run.run_id));
    let failed = runs.iter().find(|run| run.status == Status::Failed).unwrap();
    assert_eq!(failed.failure_kind.as_deref(), Some("nan_loss"));
    assert!(failed.failure_message.as_deref().unwrap().contains("at step 6"));
    assert_eq!((failed.primary_value, failed.total_seconds), (None, None));
    let done = runs.iter().find(|run| run.status == Status::Done && !run.is_zero_shot()).unwrap();
    assert_eq!(done.created_at.as_deref(), Some("2026-03-01T08:00:00.25Z"));
    let parts = done.compute_seconds.unwrap() + done.harness_seconds.unwrap();
    assert!((parts - done.total_seconds.unwrap()).abs() < 1e-9);
    assert_eq!(done.primary_higher_is_better, Some(true));
}

#[test]
fn a_resumed_run_has_each_step_once() {
    let sweep = sweep();
    collect(&sweep.path).unwrap();
    let runs = tables::read_runs(&sweep.path).unwrap();
    let steps = tables::read_steps(&sweep.path).unwrap();
    let resumed = runs.iter().find(|run| run.attempt == 2 && run.status == Status::Done).unwrap();
    let of_run: Vec<_> = steps.iter().filter(|step| step.run_id == resumed.run_id).map(|step| (step.step, step.attempt)).collect();
    let layers = tables::read_layers(&sweep.path).unwrap();
    assert_eq!(layers.iter().filter(|row| row.run_id == resumed.run_id && row.step == 10).count(), 8);
    assert_eq!(of_run, (1..=12).map(|step| (step, if step < 6 { 1 } else { 2 })).collect::<Vec<_>>());
}

#[test]
fn collecting_again_gives_the_same_bytes_and_rebuilds_nothing() {
    let sweep = sweep();
    collect(&sweep.path).unwrap();
    let once = bytes_of_tables(&sweep.path);
    let again = collect(&sweep.path).unwrap();
    assert_eq!(again.rebuilt, [""; 0]);
    assert_eq!(once, bytes_of_tables(&sweep.path));
    // From nothing but the events too.
    for run in &sweep.runs {
        for entry in fs::read_dir(run).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "parquet") {
                fs::remove_file(path).unwrap();
            }
        }
    }
    collect(&sweep.path).unwrap();
    assert_eq!(once, bytes_of_tables(&sweep.path));
}

#[test]
fn a_damaged_fragment_is_made_again_and_a_damaged_run_is_named() {
    let sweep = sweep();
    collect(&sweep.path).unwrap();
    let once = bytes_of_tables(&sweep.path);
    fs::write(sweep.runs[0].join("steps.parquet"), b"not parquet").unwrap();
    let whole = fs::read(sweep.runs[1].join("evals.parquet")).unwrap();
    fs::write(sweep.runs[1].join("evals.parquet"), &whole[..whole.len() / 2]).unwrap();
    let collected = collect(&sweep.path).unwrap();
    assert_eq!((collected.rebuilt.len(), collected.damaged.len()), (2, 0));
    assert_eq!(once, bytes_of_tables(&sweep.path));

    fs::write(sweep.runs[0].join("run.parquet"), b"").unwrap();
    fs::write(sweep.runs[0].join("events.jsonl"), b"{}\n{}\n").unwrap();
    let Collected { damaged, runs, .. } = collect(&sweep.path).unwrap();
    assert_eq!(damaged.len(), 1);
    assert!(sweep.runs[0].ends_with(&damaged[0].run_id) && damaged[0].problem.contains("events.jsonl:1"), "{damaged:?}");
    assert_eq!(runs.values().sum::<usize>(), sweep.runs.len() - 1);
}

#[test]
fn fragments_behind_their_events_are_made_again() {
    let sweep = sweep();
    let killed = &sweep.runs[sweep.runs.len() - 2];
    write_fragments(killed).unwrap();
    let mut events = fs::read_to_string(killed.join("events.jsonl")).unwrap();
    events
        .push_str("\n{\"event\":\"started\",\"schema_version\":1,\"attempt\":2,\"at\":\"2026-03-02T00:00:00Z\",\"resumed_from_step\":0}\n");
    events.push_str("{\"event\":\"failed\",\"kind\":\"crash\",\"message\":\"signal 9\"}\n");
    fs::write(killed.join("events.jsonl"), events).unwrap();
    collect(&sweep.path).unwrap();
    let runs = tables::read_runs(&sweep.path).unwrap();
    let row = runs.iter().find(|run| killed.ends_with(&run.run_id)).unwrap();
    assert_eq!((row.status, row.attempt, row.failure_kind.as_deref()), (Status::Failed, 2, Some("crash")));
}

#[test]
fn the_end_of_a_process_that_said_nothing_is_taken_from_its_state() {
    let sweep = sweep();
    collect(&sweep.path).unwrap();
    let killed = &sweep.runs[sweep.runs.len() - 2];
    let state = r#"{"status": "failed", "attempt": 1, "failure": {"kind": "crash", "message": "signal 11"}, "step": 3}"#;
    fs::write(killed.join("state.json"), state).unwrap();
    let done = &sweep.runs[0];
    fs::write(done.join("state.json"), state).unwrap();
    collect(&sweep.path).unwrap();
    let runs = tables::read_runs(&sweep.path).unwrap();
    let row = |folder: &Path| runs.iter().find(|run| folder.ends_with(&run.run_id)).unwrap();
    assert_eq!((row(killed).status, row(killed).failure_message.as_deref()), (Status::Failed, Some("signal 11")));
    assert_eq!(row(done).status, Status::Done);
}

#[test]
fn aggregates_have_one_row_a_configuration_with_an_interval() {
    let sweep = sweep();
    collect(&sweep.path).unwrap();
    let rows = tables::read_aggregates(&sweep.path).unwrap();
    // Zero-shot, full, and 2 methods on 2 targets in 2 layer subsets.
    assert_eq!(rows.len(), 10);
    for row in &rows {
        assert_eq!((row.n_seeds, row.seeds.as_str()), (2, "0,1"));
        let interval = row.interval().unwrap();
        assert!(interval.low <= row.mean && row.mean <= interval.high, "{row:?}");
        let kind = if row.is_zero_shot() { IntervalKind::ItemsBootstrap } else { IntervalKind::SeedsT };
        assert!(row.interval_kind == Some(kind) || row.sd == Some(0.0), "{row:?}");
        assert!(row.seeds_items_ci95_low.is_some());
    }
}

#[test]
fn folders_without_runs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = collect(folder.path()).unwrap_err();
    assert!(matches!(error, ResultsError::NoRuns { .. }), "{error}");
    assert!(error.to_string().contains("no runs here"));
    assert!(matches!(tables::read_runs(folder.path()).unwrap_err(), ResultsError::NoRuns { .. }));
}

#[test]
fn choices_of_learning_rates_are_a_table_and_probes_no_configuration() {
    let sweep = sweep();
    let before = collect(&sweep.path).unwrap();
    assert_eq!(tables::read_select(&sweep.path).unwrap(), []);
    let configurations = tables::read_aggregates(&sweep.path).unwrap();
    write_probes(&sweep.path, &Size::SMALL);
    let after = collect(&sweep.path).unwrap();
    assert_eq!((&after.runs, after.configurations), (&before.runs, before.configurations));
    assert_eq!(tables::read_aggregates(&sweep.path).unwrap(), configurations);
    assert_eq!(after.probes, BTreeMap::from([(Status::Done, 7), (Status::Failed, 3)]));
    let rows = tables::read_select(&sweep.path).unwrap();
    let chosen: Vec<_> =
        rows.iter().filter(|row| row.chosen).map(|row| (row.lr, row.at_edge.as_deref(), row.within_noise_of.as_deref())).collect();
    assert_eq!((rows.len(), chosen), (10, vec![(1e-3, None, Some("other_rates")), (1e-1, Some("highest"), None)]));
    assert!(rows.iter().filter(|row| row.chosen).all(|row| row.valid_loss.is_some()));
    assert!(rows.iter().filter(|row| !row.chosen).all(|row| row.within_noise_of.is_none()));
    let lost = rows.iter().find(|row| row.status == Status::Failed).unwrap();
    assert_eq!((lost.failure_kind.as_deref(), lost.valid_value, lost.chosen), (Some("nan_loss"), None, false));
    let runs = tables::read_runs(&sweep.path).unwrap();
    let probes: Vec<_> = runs.iter().filter(|run| run.role == Role::Probe).collect();
    assert_eq!((probes.len(), runs.iter().filter(|run| run.lr_source == LrSource::Selected).count()), (10, 2));
    assert!(probes.iter().all(|run| run.primary_value.is_none() && run.lr_source == LrSource::Fixed));
}

#[test]
fn a_damaged_record_of_choices_is_named_and_the_runs_are_collected() {
    let sweep = sweep();
    write_probes(&sweep.path, &Size::SMALL);
    let whole = collect(&sweep.path).unwrap();
    assert_eq!(whole.choices_problem, None);
    fs::write(sweep.path.join("select.json"), "{\"lr\": [").unwrap();
    let collected = collect(&sweep.path).unwrap();
    assert_eq!((&collected.runs, &collected.probes, collected.configurations), (&whole.runs, &whole.probes, whole.configurations));
    let problem = collected.choices_problem.unwrap();
    assert!(problem.contains("select.json: EOF while parsing") && problem.contains("give the same `peftbench sweep` again"), "{problem}");
    assert_eq!(tables::read_select(&sweep.path).unwrap(), []);
    let runs = tables::read_runs(&sweep.path).unwrap();
    assert!(runs.iter().all(|run| (run.role == Role::Cell) == (run.lr_source == LrSource::Unknown)));
}

#[cfg(unix)]
#[test]
fn a_run_that_cannot_be_looked_into_is_named() {
    let sweep = sweep();
    let manifest = sweep.runs[0].join("manifest.toml");
    fs::remove_file(&manifest).unwrap();
    std::os::unix::fs::symlink(&manifest, &manifest).unwrap();
    let damaged = collect(&sweep.path).unwrap().damaged;
    assert!(damaged.len() == 1 && damaged[0].problem.contains("manifest.toml"), "{damaged:?}");
}
