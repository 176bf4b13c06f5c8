//! Sweeps that choose learning rates: probes, choices, cells; killed and resumed within and between the stages.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use common::{Playground, Ran, Result, count_events, is_done, signal, state, wait_for};
use peftbench_results::rows::{LrSource, Role, Status};
use peftbench_results::tables;
use peftbench_spec::Manifest;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

const METHODS: &str = "[axes]\nmethod = [\"none\", { type = \"lora\", r = 2 }, { type = \"dora\", r = 2 }]\nseed = [0, 1]\n";

fn select(grid: &str, probe: &str) -> String {
    format!("[select.lr]\ngrid = {grid}\nprobe = {{ {probe} }}\n")
}

fn manifest(run: &Path) -> Manifest {
    Manifest::read(&run.join("manifest.toml")).unwrap()
}

/// Folders of the probes and of the cells that have a manifest.
fn stages(playground: &Playground, results: &str, sweep: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let planned = playground.runs(results, sweep).into_iter().filter(|run| run.join("manifest.toml").is_file());
    planned.partition(|run| !manifest(run).spec.evaluate_test)
}

/// A sweep file of runs whose rate is chosen.
fn sweep_file(playground: &Playground, name: &str, more: &str) {
    playground.sweep_file(name, more);
    let file = playground.path(&format!("{name}.toml"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text.replacen("lr = 1e-3, ", "", 1)).unwrap();
}

#[test]
fn probes_choose_on_validation_and_the_cells_take_the_rates() {
    let playground = Playground::new();
    sweep_file(&playground, "s", &format!("{METHODS}{}", select("[1e-9, 1e-3, 1e-2]", "train.epochs = 1, train.train_samples = 24")));
    let plan = playground.expect(0, &["plan", "s.toml"]).stdout;
    assert!(plan.contains("6 probes: 6 new\n5 runs from 6 cells: 1 new, 4 waiting for probes\n11 to run"), "{plan}");
    assert!(!playground.path("results").exists(), "a plan writes nothing");

    let ran = playground.expect(0, &["sweep", "s.toml", "-j", "2"]);
    assert!(ran.stderr.contains("s: probes of learning rates: 6 done in ") && ran.stderr.contains("\ns: 5 done in "), "{}", ran.stderr);
    let (probes, cells) = stages(&playground, "results", "s");
    assert_eq!((probes.len(), cells.len()), (6, 5));
    for probe in &probes {
        let events = fs::read_to_string(probe.join("events.jsonl")).unwrap();
        assert!(!events.contains("\"split\":\"test\"") && events.contains("\"test_samples\":0,"), "a probe read the test split");
        assert_eq!((count_events(probe, "eval"), count_events(probe, "step")), (1, 6));
    }

    let folder = playground.path("results/s");
    let rows = tables::read_select(&folder).unwrap();
    let runs = tables::read_runs(&folder).unwrap();
    assert_eq!((rows.len(), rows.iter().filter(|row| row.chosen).count()), (6, 2));
    for chosen in rows.iter().filter(|row| row.chosen) {
        let others = rows.iter().filter(|row| row.choice_id == chosen.choice_id && row.run_id != chosen.run_id);
        for other in others {
            let (best, value) = (chosen.valid_value.unwrap(), other.valid_value.unwrap());
            assert!(best > value || best == value && chosen.valid_loss.unwrap() <= other.valid_loss.unwrap());
        }
        let probe = runs.iter().find(|run| run.run_id == chosen.run_id).unwrap();
        let cells: Vec<_> = runs.iter().filter(|run| run.role == Role::Cell && run.method == probe.method).collect();
        assert_eq!(cells.len(), 2);
        assert!(cells.iter().all(|run| (run.lr, run.lr_source, run.epochs) == (chosen.lr, LrSource::Selected, 2)));
    }
    let (of_probes, of_cells): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.role == Role::Probe);
    assert!(of_probes.iter().all(|run| run.status == Status::Done && run.primary_value.is_none() && run.valid_value.is_some()));
    assert_eq!(of_cells.iter().filter(|run| run.lr_source == LrSource::Fixed).map(|run| run.method.as_str()).collect::<Vec<_>>(), ["none"]);
    assert_eq!(tables::read_aggregates(&folder).unwrap().len(), 3);
    assert!(folder.join("figures/learning-rates.png").is_file());

    let status = playground.expect(0, &["status"]).stdout;
    assert!(status.starts_with("s: 11 done\n\nlearning rates:\n    tiny · world/sentiment · lora r=2"), "{status}");
    assert!(status.contains("probe of lr 0.001  validation "), "{status}");
    let collected = playground.expect(0, &["collect"]).stdout;
    assert!(collected.starts_with("s: 5 done; 3 configurations with a result; probes: 6 done\n"), "{collected}");
    let again = playground.expect(0, &["sweep", "s.toml"]);
    assert!(again.stderr.contains("6 done before in") && again.stderr.contains("s: 5 done before in"), "{}", again.stderr);
    assert_eq!(again.stdout, ran.stdout);
    let plan = playground.expect(0, &["plan", "s.toml"]).stdout;
    assert!(plan.contains("6 probes: 6 done\n5 runs from 6 cells: 5 done\nnothing to run\n"), "{plan}");

    // The record of choices is cut off: all else is shown, and the same sweep chooses again from the probes it has.
    let record = folder.join("select.json");
    let choices = fs::read_to_string(&record).unwrap();
    fs::write(&record, &choices[..choices.len() / 2]).unwrap();
    let status = playground.expect(0, &["status"]).stdout;
    assert!(status.starts_with("s: 11 done\n\ncould not be read: ") && status.contains("select.json: EOF"), "{status}");
    let ran = playground.expect(0, &["collect"]);
    assert!(ran.stderr.contains("select.json: EOF") && ran.stdout == collected, "{}{}", ran.stdout, ran.stderr);
    playground.expect(0, &["sweep", "s.toml"]);
    assert_eq!(fs::read_to_string(&record).unwrap(), choices);
    assert_eq!(tables::read_select(&folder).unwrap(), rows);

    // A chosen rate stands in the manifest: the run is made again from that alone.
    let cell = cells.iter().find(|run| manifest(run).spec.method_label() == "lora r=2").unwrap();
    fs::rename(cell, playground.path("alone")).unwrap();
    fs::remove_dir_all(playground.path("results")).unwrap();
    let ran = playground.expect(0, &["rerun", "alone/manifest.toml", "--check"]);
    assert!(ran.stdout.contains("the same to the bit: 24 steps"), "{}", ran.stdout);
}

#[test]
fn a_rate_that_diverges_loses_and_where_all_do_the_cells_fail_and_name_the_probes() {
    let playground = Playground::new();
    let method = "method = { type = \"lora\", r = 2 }\n";
    sweep_file(&playground, "s", &format!("{method}{}", select("[1e-3, 1e38]", "")));
    let ran = playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    assert!(ran.stderr.contains("probes of learning rates: 1 done, 1 failed in"), "{}", ran.stderr);
    // Twelve steps a probe teach it nothing, so that what is chosen is noise, and the record, the table and the report say so.
    assert!(ran.stderr.contains("the best rate, 1e-3, is within noise of guessing"), "{}", ran.stderr);
    assert!(ran.stderr.contains("; it is the lowest of the grid"), "{}", ran.stderr);
    assert!(fs::read_to_string(playground.path("results/s/select.json")).unwrap().contains("\"within_noise_of\": \"chance\""));
    let chosen = tables::read_select(&playground.path("results/s")).unwrap().into_iter().find(|row| row.chosen).unwrap();
    assert_eq!(chosen.within_noise_of.as_deref(), Some("chance"));
    playground.expect(0, &["report", "s"]);
    let figure = fs::read_to_string(playground.path("results/s/figures/learning-rates.svg")).unwrap();
    assert!(figure.contains("Within noise of guessing"), "the note of the figure");
    assert!(ran.stderr.contains("\ns: 1 done in"), "{}", ran.stderr);
    let again = playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    assert!(again.stderr.contains("1 done before, 1 failed before"), "{}", again.stderr);

    sweep_file(&playground, "t", &format!("{method}{}", select("[1e38, 2e38]", "")));
    let ran = playground.expect(5, &["sweep", "t.toml", "--no-report"]);
    assert!(ran.error().contains("1 cell has no learning rate, because its probes failed"), "{}", ran.stderr);
    let (probes, cells) = stages(&playground, "results", "t");
    assert_eq!((probes.len(), cells.len()), (2, 0));
    let status = playground.expect(0, &["status", "t"]).stdout;
    for probe in probes {
        let id = probe.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(status.contains(&format!("{id} (nan_loss)")), "{status}");
    }
}

#[test]
fn probes_count_against_a_limit_of_runs_and_a_single_run_is_not_for_probes() {
    let playground = Playground::new();
    sweep_file(&playground, "s", &format!("{METHODS}{}", select("[1e-3, 1e-2]", "train.epochs = 1")));
    let ran = playground.expect(0, &["sweep", "s.toml", "--no-report", "--max-runs", "3"]);
    assert!(ran.stderr.contains("probes of learning rates: 3 done in") && ran.stderr.contains("s: nothing to run in"), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 of the cells wait for their learning rates"), "{}", ran.stderr);
    let ran = playground.expect(0, &["sweep", "s.toml", "--no-report", "--max-runs", "2"]);
    assert!(
        ran.stderr.contains("probes of learning rates: 1 done, 3 done before in") && ran.stderr.contains("\ns: 1 done in"),
        "{}",
        ran.stderr
    );
    let ran = playground.expect(2, &["run", "s.toml"]);
    assert!(ran.error().contains("chooses learning rates by probes, and this verb runs one run\nhint: "), "{}", ran.stderr);
    let ran = playground.expect(0, &["plan", "s.toml", "--set", "train.lr=1e-3"]);
    assert!(ran.stdout.contains("5 runs from 6 cells"), "{}", ran.stdout);
    let ran = playground.expect(3, &["plan", "s.toml", "--set", "evaluate_test=false"]);
    assert!(ran.error().contains("a cell whose learning rate is chosen is scored on the test split"), "{}", ran.stderr);
}

/// Every run of a sweep by its id, and the record of the choices.
fn everything(playground: &Playground, results: &str) -> (BTreeMap<String, Result>, String) {
    let id = |run: &PathBuf| run.file_name().unwrap().to_str().unwrap().to_owned();
    let runs = playground.runs(results, "long").iter().map(|run| (id(run), Result::of(run))).collect();
    (runs, fs::read_to_string(playground.path(results).join("long/select.json")).unwrap())
}

/// Starts the sweep and waits until a run that is a probe, or a cell, is under way for so many steps.
fn start(playground: &Playground, probe: bool, steps: usize) -> (Child, PathBuf) {
    let sweep = playground.spawn(&["sweep", "long.toml", "--results", "rough", "--no-report", "-j", "1"]);
    let run = wait_for("steps of a run", || {
        let (probes, cells) = stages(playground, "rough", "long");
        let under_way = |run: &PathBuf| state(run).is_some_and(|state| state.process.is_some()) && count_events(run, "step") >= steps;
        if probe { probes } else { cells }.into_iter().find(under_way)
    });
    (sweep, run)
}

fn worker(run: &Path) -> u32 {
    state(run).unwrap().process.unwrap().pid
}

#[test]
fn kills_within_and_between_the_stages_change_nothing() {
    let playground = Playground::new();
    let methods = "[axes]\ntrain.epochs = [30]\nmethod = [{ type = \"lora\", r = 2, lora_dropout = 0.1 }, { type = \"dora\", r = 2 }]\n";
    sweep_file(&playground, "long", &format!("{methods}{}", select("[1e-3, 1e-2]", "train.epochs = 20, train.train_samples = 24")));
    playground.expect(0, &["sweep", "long.toml", "--results", "calm", "--no-report"]);
    let calm = everything(&playground, "calm");
    assert_eq!(calm.0.len(), 4 + 2);

    // Ctrl-C in the first stage: no cell begins.
    let (sweep, probe) = start(&playground, true, 30);
    signal(sweep.id(), "INT");
    let ran = Ran::of(sweep.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("the same command goes on from here") && !is_done(&probe), "{}", ran.stderr);
    assert_eq!(stages(&playground, "rough", "long").1.len(), 0);

    // kill -9 of a probe's process: it is tried again, and the sweep goes on to its end with it; there its supervisor is killed, too.
    let (mut sweep, probe) = start(&playground, true, count_events(&probe, "step") + 20);
    signal(worker(&probe), "KILL");
    wait_for("the probe's next attempt to end", || is_done(&probe).then_some(()));
    let cell = wait_for("a cell", || {
        let cells = stages(&playground, "rough", "long").1;
        cells.into_iter().find(|run| count_events(run, "step") >= 40 && state(run).is_some_and(|state| state.process.is_some()))
    });
    let left = worker(&cell);
    signal(sweep.id(), "KILL");
    signal(left, "KILL");
    sweep.wait().unwrap();
    assert!(!is_done(&cell));

    let ran = playground.expect(0, &["sweep", "long.toml", "--results", "rough", "--no-report"]);
    assert!(ran.stderr.contains("4 done before in"), "{}", ran.stderr);
    let rough = everything(&playground, "rough");
    assert!(rough.0 == calm.0, "the record of a disturbed run differs");
    assert_eq!(rough.1, calm.1, "another choice");
}
