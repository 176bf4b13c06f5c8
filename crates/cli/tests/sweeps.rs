//! Sweeps from end to end: finished, repeated, interrupted, killed, resumed.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use common::{Playground, Ran, Result, TINY_MAMBA, count_events, is_done, signal, state, wait_for};
use peftbench_results::{RunRow, rows::Status, tables};
use peftbench_spec::event::{Event, PhaseRecord};
use std::fs;
use std::process::Child;

const METHODS: &str = "[axes]\nmethod = [\"none\", { type = \"lora\", r = 2 }, \"full\"]";

/// Long enough to be interrupted several times.
const LONG: &str = "method = { type = \"lora\", r = 2, lora_dropout = 0.1 }\n[axes]\ntrain.epochs = [40]";

#[test]
fn a_sweep_leaves_tables_and_a_report_and_never_repeats_a_run() {
    let playground = Playground::new();
    playground.sweep_file("s", &format!("{METHODS}\nseed = [0, 1]"));
    let ran = playground.expect(0, &["sweep", "s.toml", "-j", "2"]);
    // Zero-shot evaluation has no seed: two of the six cells are one run.
    assert!(ran.stderr.contains("\ns: 5 done in "), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("model  task") && ran.stdout.contains("lora r=2"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nreport: results/s/report/index.html\n"), "{}", ran.stdout);
    let folder = playground.path("results/s");
    for file in ["sweep.toml", "plan.parquet", "report/index.html", "tables/runs.parquet", "tables/results.md", "figures/accuracy.svg"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let runs = tables::read_runs(&folder).unwrap();
    assert_eq!(runs.len(), 5);
    for run in &runs {
        assert_eq!(run.status, Status::Done);
        assert!(run.primary_value.is_some() && run.version == env!("CARGO_PKG_VERSION") && run.rustc.starts_with("rustc"));
        assert_eq!((run.attempt, run.threads, run.tokenizer_hash.is_some()), (1, Some(1), true));
    }
    let (zero_shot, trained): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.num_trainable_params == Some(0));
    assert_eq!(zero_shot.len(), 1);
    // What trains nothing reads no training example, and has the same tests as the others.
    let examples = |run: &RunRow| (run.train_samples, run.valid_samples, run.test_samples, run.dropped_samples);
    assert_eq!(examples(zero_shot[0]), (Some(0), Some(16), Some(16), Some(0)));
    assert!(trained.iter().all(|run| examples(run) == (Some(48), Some(16), Some(16), Some(0))));
    let events = || playground.runs("results", "s").iter().map(|run| fs::read(run.join("events.jsonl")).unwrap()).collect::<Vec<_>>();
    let before = events();
    let again = playground.expect(0, &["sweep", "s.toml"]);
    assert!(again.stderr.contains("s: 5 done before in"), "{}", again.stderr);
    assert_eq!(again.stdout, ran.stdout);
    assert!(events() == before, "a finished run was touched");
    let plan = playground.expect(0, &["plan", "s.toml"]).stdout;
    assert!(plan.contains("5 runs from 6 cells: 5 done\nnothing to run\n"), "{plan}");
}

#[test]
fn forgetting_is_the_loss_on_a_text_before_and_after_and_stands_in_the_tables() {
    let playground = Playground::new();
    let text = "forgetting = { type = \"world/text\", train = 4, valid = 4, test = 8 }\n";
    let methods = "[axes]\nmethod = [\"none\", { type = \"lora\", r = 2 }]";
    playground.sweep_file("s", &format!("{text}{methods}"));
    playground.expect(0, &["sweep", "s.toml"]);
    let folder = playground.path("results/s");
    let runs = tables::read_runs(&folder).unwrap();
    let loss = |trained: bool| {
        let run = runs.iter().find(|run| (run.num_trainable_params != Some(0)) == trained).unwrap();
        (run.forgetting_loss_before.unwrap(), run.forgetting_loss_after.unwrap())
    };
    let ((untouched, same), (before, after)) = (loss(false), loss(true));
    // The base alone forgets nothing, and every run begins from it.
    assert_eq!((untouched, before), (same, untouched));
    assert!(before > 1.0 && after != before && after.is_finite(), "{before} {after}");
    for run in playground.runs("results", "s") {
        assert_eq!(fs::read_to_string(run.join("events.jsonl")).unwrap().matches("\"split\":\"forgetting\"").count(), 2);
    }
    let table = fs::read_to_string(folder.join("tables/results.md")).unwrap();
    assert!(table.contains("forgetting (rise of loss)") && table.contains("+0.000"), "{table}");
    assert!(table.contains(&format!("{:+.3}", after - before)), "{table}");
}

#[test]
fn the_verbs_that_look_at_results() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    let plan = playground.expect(0, &["plan", "s.toml", "--json"]).stdout;
    let plan: Vec<serde_json::Value> = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan.iter().map(|run| run["status"].as_str().unwrap()).collect::<Vec<_>>(), ["new"; 3]);
    assert!(!playground.path("results").exists(), "a plan writes nothing");
    let ran = playground.expect(0, &["sweep", "s.toml", "--max-runs", "1", "--no-report"]);
    assert!(ran.stderr.contains("s: 1 done in"), "{}", ran.stderr);
    let ran = playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    assert!(ran.stderr.contains("s: 2 done, 1 done before in"), "{}", ran.stderr);
    assert!(!playground.path("results/s/report").exists());
    assert!(playground.expect(0, &["status"]).stdout.starts_with("s: 3 done\n"));
    assert!(playground.expect(0, &["collect"]).stdout.starts_with("s: 3 done; 3 configurations with a result\n"));
    assert!(playground.expect(0, &["report", "s"]).stdout.contains("results/s/report/index.html"));
    assert_eq!(playground.expect(0, &["report", "--only", "accuracy"]).stdout.lines().count(), 3);
    let ran = playground.expect(2, &["report", "--only", "acuracy"]);
    assert!(ran.error().contains("did you mean `accuracy`?"), "{}", ran.stderr);
    let exported =
        playground.expect(0, &["export", "--table", "aggregates", "--columns", "method,n_seeds,mean", "--format", "jsonl"]).stdout;
    let rows: Vec<serde_json::Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() == 3 && rows.iter().all(|row| row["n_seeds"] == 1 && row["mean"].is_f64()), "{exported}");
    assert!(exported.starts_with("{\"method\":"), "{exported}");
    assert!(playground.expect(0, &["export", "--format", "md", "--out", "t.md"]).stdout.is_empty());
    let written = fs::read_to_string(playground.path("t.md")).unwrap();
    assert_eq!(written, fs::read_to_string(playground.path("results/s/tables/results.md")).unwrap());
    let ran = playground.expect(2, &["export", "--table", "agregates"]);
    assert!(ran.error().contains("did you mean `aggregates`?"), "{}", ran.stderr);
    let ran = playground.expect(2, &["export", "--table", "runs", "--columns", "methd"]);
    assert!(ran.error().contains("table `runs` has no column `methd`; did you mean `method`?"), "{}", ran.stderr);
    let compared = playground.expect(0, &["compare", "lora", "full"]).stdout;
    let row: Vec<&str> = compared.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(compared.starts_with("model  task ") && row[..2] == ["tiny", "world/sentiment"], "{compared}");
    assert!(compared.contains("lora r=2 · q_proj,v_proj") && compared.contains("McNemar, items"), "{compared}");
    assert!(!compared.contains("zero-shot"), "{compared}");
    let zero_shot = playground.expect(0, &["compare", "lora", "none"]).stdout;
    assert!(
        zero_shot.contains("McNemar, items") && zero_shot.contains("a zero-shot run has no seed, so that seeds are not paired"),
        "{zero_shot}"
    );
    let ids: Vec<&str> = plan.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    let json = playground.expect(0, &["compare", ids[1], ids[2], "--measure", "peak_memory", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["rows"][0]["difference"].as_f64().unwrap() < 0.0, "LoRA takes less memory: {json}");
    let same = playground.expect(0, &["compare", "method = { type = \"lora\", r = 2 }", "method = \"full\"", "--sweep", "s"]).stdout;
    assert_eq!(same, compared);
    assert!(playground.expect(0, &["compare", "s", "s"]).stdout.contains("+0.000"));
    for (code, words, problem) in [
        (2, ["lora", "s"], "are of different kinds"),
        (4, ["lora", "dora"], "no finished run of `dora` has the measure `score`"),
        (4, ["method = \"lora\"", "lora"], "agree in all else"),
        (2, ["method = \"lroa\"", "full"], "did you mean `lora`?"),
        (4, ["lroa", "full"], "`lroa` is no method, sweep or run; did you mean `lora`?"),
        (2, ["metod = \"lora\"", "full"], "did you mean `method`?"),
        (2, ["method = lora", "full"], "write it as in TOML"),
        (4, ["lora", "ffff"], "no run `ffff`"),
    ] {
        let ran = playground.expect(code, &["compare", words[0], words[1]]);
        assert!(ran.error().contains(problem), "{}", ran.stderr);
    }
    let id = plan[1]["run_id"].as_str().unwrap();
    let shown = playground.expect(0, &["show", &id[..8]]).stdout;
    for part in ["tiny · world/sentiment · lora r=2", "[spec.train]", "parameters train", "q_proj", "train ", "weights "] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let ran = playground.expect(4, &["status", "t"]);
    assert!(ran.error().contains("no sweep `t` in results"), "{}", ran.stderr);
}

#[test]
fn a_single_run_is_run_and_shown_and_belongs_to_its_sweep() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    let ran = playground.expect(2, &["run", "s.toml"]);
    assert!(ran.error().contains("s.toml has 3 runs, and this verb runs one\nhint: narrow it"), "{}", ran.stderr);
    assert!(!playground.path("results").exists());
    let ran = playground.expect(0, &["run", "s.toml", "--set", "method=none"]);
    assert!(ran.stdout.contains("\ntest "), "{}", ran.stdout);
    let ran = playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    assert!(ran.stderr.contains("s: 2 done, 1 done before in"), "{}", ran.stderr);
    let manifest = playground.runs("results", "s")[0].join("manifest.toml");
    playground.expect(0, &["run", manifest.to_str().unwrap(), "--results", "elsewhere"]);
    assert!(is_done(&playground.only_run("elsewhere", "s")));
}

#[test]
fn a_rerun_is_the_same_to_the_bit_and_a_changed_record_is_found_out() {
    let playground = Playground::new();
    playground.sweep_file("s", "method = { type = \"lora\", r = 2, lora_dropout = 0.1 }");
    playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    let run = playground.only_run("results", "s");
    let id = run.file_name().unwrap().to_str().unwrap().to_owned();
    let ran = playground.expect(0, &["rerun", &id[..6], "--check"]);
    assert!(ran.stdout.contains("the same to the bit: 24 steps"), "{}", ran.stdout);
    playground.expect(0, &["rerun", run.join("manifest.toml").to_str().unwrap(), "--check"]);
    let events = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let line = events.lines().find(|line| line.contains("\"event\":\"step\",\"step\":3,")).unwrap();
    let loss = line.split("\"loss\":").nth(1).unwrap().split(',').next().unwrap();
    let flipped = f64::from_bits(loss.parse::<f64>().unwrap().to_bits() ^ 1);
    let edited = line.replace(&format!("\"loss\":{loss}"), &format!("\"loss\":{flipped:?}"));
    fs::write(run.join("events.jsonl"), events.replace(line, &edited)).unwrap();
    let ran = playground.expect(6, &["rerun", &id, "--check"]);
    assert!(
        ran.error().contains(&format!(
            "differs from its record: step 3: loss: recorded {flipped:?}, now {loss}\nhint: program and machine are the same"
        )),
        "{}",
        ran.stderr
    );
    fs::write(run.join("events.jsonl"), events).unwrap();
    let adapter = run.join("adapter/adapter_model.safetensors");
    let mut bytes = fs::read(&adapter).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&adapter, bytes).unwrap();
    let ran = playground.expect(6, &["rerun", &id, "--check"]);
    assert!(ran.error().contains("differs from its record: adapter tensor base_model.model."), "{}", ran.stderr);
}

/// Starts the long sweep and waits until its run is at step `step` at least, in its attempt `attempt`.
fn start(playground: &Playground, results: &str, attempt: usize, steps: usize) -> Child {
    let sweep = playground.spawn(&["sweep", "long.toml", "--results", results, "--no-report"]);
    wait_for("steps of the run", || {
        let run = playground.runs(results, "long").pop()?;
        let begun = count_events(&run, "started") >= attempt && state(&run)?.process.is_some();
        (begun && count_events(&run, "step") >= steps).then_some(())
    });
    sweep
}

#[test]
fn killed_and_interrupted_sweeps_end_with_the_same_bytes_as_an_undisturbed_one() {
    let playground = Playground::new();
    playground.sweep_file("long", LONG);
    playground.expect(0, &["sweep", "long.toml", "--results", "calm", "--no-report"]);
    let calm = Result::of(&playground.only_run("calm", "long"));
    assert_eq!(calm.steps.len(), 480);

    // Ctrl-C: the run is saved, and the next attempt goes on from there.
    let sweep = start(&playground, "rough", 1, 50);
    signal(sweep.id(), "INT");
    let ran = Ran::of(sweep.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("saving and stopping") && ran.stderr.contains("the same command goes on from here"), "{}", ran.stderr);
    let run = playground.only_run("rough", "long");
    let saved = state(&run).unwrap().step;
    assert!(saved >= 50 && !is_done(&run), "{saved}");
    let plan = playground.expect(0, &["plan", "long.toml", "--results", "rough"]).stdout;
    assert!(plan.contains(&format!("interrupted at step {saved}")), "{plan}");

    // kill -9 of the worker: its run has no result, and the next sweep takes it up from the checkpoint.
    let steps = count_events(&run, "step");
    let sweep = start(&playground, "rough", 2, steps + 30);
    signal(state(&run).unwrap().process.unwrap().pid, "KILL");
    let ran = Ran::of(sweep.wait_with_output().unwrap());
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("killed by signal 9"), "{}", ran.stderr);

    // kill -9 of the supervisor, then of the worker that it leaves.
    let steps = count_events(&run, "step");
    let mut sweep = playground.spawn(&["sweep", "long.toml", "--results", "rough", "--no-report"]);
    wait_for("the third attempt", || (count_events(&run, "started") >= 3 && count_events(&run, "step") >= steps + 30).then_some(()));
    let worker = wait_for("the worker", || state(&run)?.process).pid;
    signal(sweep.id(), "KILL");
    signal(worker, "KILL");
    sweep.wait().unwrap();
    assert!(!is_done(&run));

    let ran = playground.expect(0, &["sweep", "long.toml", "--results", "rough", "--no-report"]);
    assert!(ran.stderr.contains("long: 1 done in"), "{}", ran.stderr);
    assert_eq!(count_events(&run, "started"), 4);
    let rough = Result::of(&run);
    assert!(rough == calm, "the record of the disturbed run differs");
    assert_eq!(tables::read_runs(&playground.path("rough/long")).unwrap()[0].attempt, 4);
    let rerun = playground.expect(0, &["rerun", run.join("manifest.toml").to_str().unwrap(), "--check"]);
    assert!(rerun.stdout.contains("the same to the bit: 480 steps"), "{}", rerun.stdout);
}

/// Kills the worker of the running attempt and waits for its supervisor to say so.
fn kill_worker(run: &std::path::Path, sweep: Child) {
    signal(state(run).unwrap().process.unwrap().pid, "KILL");
    let ran = Ran::of(sweep.wait_with_output().unwrap());
    assert_eq!(ran.code, 5, "{}", ran.stderr);
}

#[test]
fn sdt_warms_up_chooses_and_trains_and_kills_in_either_stage_change_nothing() {
    let playground = Playground::new();
    playground.make_model_of("tiny-mamba", TINY_MAMBA);
    let sdt = r#"{ type = "sdt", warmup_steps = 200, channel_freeze_ratio = 0.9, state_freeze_ratio = 0.5 }"#;
    let lora = r#"{ type = "lora", r = 2, lora_dropout = 0.1, targets = ["out_proj"] }"#;
    let method = format!(r#"method = {{ type = "combined", methods = [{sdt}, {lora}] }}"#);
    playground.sweep_file("long", &format!("{method}\n[axes]\nmodel = [\"tiny-mamba\"]\ntrain.epochs = [25]"));
    playground.expect(0, &["sweep", "long.toml", "--results", "calm", "--no-report"]);
    let folder = playground.only_run("calm", "long");
    let calm = Result::of(&folder);
    assert_eq!(calm.steps.len(), 200 + 300);

    // Stopped and saved in the warm-up, killed in it, and killed in training behind a save.
    let sweep = start(&playground, "rough", 1, 60);
    signal(sweep.id(), "INT");
    assert_eq!(Ran::of(sweep.wait_with_output().unwrap()).code, 130);
    let run = playground.only_run("rough", "long");
    let saved = state(&run).unwrap().step;
    assert!((60..200).contains(&saved), "{saved}");
    let steps = count_events(&run, "step");
    let sweep = start(&playground, "rough", 2, steps + 20);
    kill_worker(&run, sweep);
    assert!(fs::read_to_string(run.join("events.jsonl")).unwrap().lines().last().is_some_and(|line| !line.contains("\"train\"")));
    let sweep = start(&playground, "rough", 3, count_events(&run, "step") + 250);
    signal(sweep.id(), "INT");
    assert_eq!(Ran::of(sweep.wait_with_output().unwrap()).code, 130);
    assert!(state(&run).unwrap().step > 200);
    let sweep = start(&playground, "rough", 4, count_events(&run, "step") + 20);
    kill_worker(&run, sweep);
    playground.expect(0, &["sweep", "long.toml", "--results", "rough", "--no-report"]);
    assert!(Result::of(&run) == calm, "the record of the disturbed run differs");

    let dimensions = |results: &str| tables::read_dimensions(&playground.path(results).join("long")).unwrap();
    let chosen = |results: &str| dimensions(results).iter().map(|d| (d.layer, d.channel, d.state, d.score)).collect::<Vec<_>>();
    // Two layers of 64 channels with 4 states: 6 channels, 2 states of each.
    assert_eq!(chosen("calm").len(), 2 * 6 * 2);
    assert_eq!(chosen("calm"), chosen("rough"));
    assert!(dimensions("calm").iter().all(|d| d.trained && d.score.is_some_and(|score| score > 0.0)));
    let memory = tables::read_memory(&playground.path("calm/long")).unwrap();
    let phases: Vec<&str> = memory.iter().map(|phase| phase.phase.as_str()).collect();
    assert!(phases.contains(&"warmup") && phases.contains(&"select") && phases.contains(&"train"), "{phases:?}");
    let row = &tables::read_runs(&playground.path("calm/long")).unwrap()[0];
    assert!(row.warmup_seconds.is_some_and(|seconds| seconds > 0.0) && row.steps_done == Some(500));
    // Channels times states, columns of B and C, and LoRA on [32, 64] with rank 2.
    assert_eq!(row.num_trainable_params, Some(2 * (6 * 2 + 2 * 4 * 6 + 2 * (32 + 64))));
    let rerun = playground.expect(0, &["rerun", folder.join("manifest.toml").to_str().unwrap(), "--check"]);
    assert!(rerun.stdout.contains("the same to the bit: 500 steps"), "{}", rerun.stdout);
}

#[test]
fn a_worker_whose_supervisor_was_killed_saves_and_ends_and_the_next_sweep_goes_on() {
    let playground = Playground::new();
    playground.sweep_file("long", LONG);
    let mut sweep = start(&playground, "results", 1, 30);
    signal(sweep.id(), "KILL");
    sweep.wait().unwrap();
    let run = playground.only_run("results", "long");
    wait_for("the worker to end", || (!state(&run)?.is_alive()).then_some(()));
    assert_eq!(count_events(&run, "checkpoint"), 1);
    playground.expect(0, &["sweep", "long.toml", "--no-report"]);
    let text = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let resumed = text.lines().filter(|line| line.contains("\"event\":\"started\"")).nth(1).unwrap();
    assert!(!resumed.contains("\"resumed_from_step\":0}"), "{resumed}");
}

#[test]
fn a_second_sweep_on_the_same_results_is_refused_and_the_first_unharmed() {
    let playground = Playground::new();
    playground.sweep_file("long", LONG);
    let first = start(&playground, "results", 1, 10);
    let second = playground.expect(8, &["sweep", "long.toml"]);
    let message = format!("error: sweep `long` is held by another process (pid {}, since 2", first.id());
    assert!(second.error().starts_with(&message), "{}", second.stderr);
    playground.expect(0, &["status"]);
    playground.expect(0, &["plan", "long.toml"]);
    let ran = Ran::of(first.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn folders_come_from_the_environment_and_options_go_before_them() {
    let playground = Playground::new();
    playground.sweep_file("s", "method = \"none\"");
    fs::rename(playground.path("bases"), playground.path("moved")).unwrap();
    let sweep = |more: &[&str]| {
        let mut command = playground.command(&[&["sweep", "s.toml", "--no-report"], more].concat());
        let models = std::env::join_paths([playground.path("nowhere"), playground.path("moved")]).unwrap();
        Ran::of(command.env("PEFTBENCH_MODELS", models).env("PEFTBENCH_RESULTS", "from_environment").output().unwrap())
    };
    assert_eq!(sweep(&[]).code, 0);
    assert!(is_done(&playground.only_run("from_environment", "s")));
    assert_eq!(sweep(&["--results", "from_option"]).code, 0);
    assert!(is_done(&playground.only_run("from_option", "s")));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    let mut sweep = playground.spawn(&["sweep", "s.toml"]);
    drop(sweep.stdout.take());
    let ran = Ran::of(sweep.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(playground.path("results/s/report/index.html").exists());
}

#[test]
fn results_of_a_newer_version_are_left_alone() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    playground.write("results/s/store.json", "{\"store_version\": 7}");
    let ran = playground.expect(8, &["sweep", "s.toml"]);
    assert!(ran.error().contains("store version 7 is newer than this program's 1"), "{}", ran.stderr);
}

#[test]
fn changed_data_are_noticed_and_a_run_over_them_starts_afresh_when_asked_to() {
    let playground = Playground::new();
    let rows = |word: &str| (0..40).map(|i| format!("{{\"sentence\": \"{word} {i}\", \"label\": {}}}\n", i % 2)).collect::<String>();
    playground.write("data/glue/sst2/train.jsonl", &rows("good"));
    playground.write("data/glue/sst2/dev.jsonl", &rows("fine"));
    playground.sweep_file("s", "method = \"lora\"\n[axes]\ntask = [\"glue/sst2\"]");
    let sweep = |more: &[&str]| playground.expect(0, &[&["sweep", "s.toml", "--data", "data", "--no-report"], more].concat());
    sweep(&[]);
    playground.write("data/glue/sst2/dev.jsonl", &rows("bad"));
    let ran = sweep(&[]);
    assert!(ran.stderr.contains("s: 1 done before with other inputs (`--retry changed` runs them again)"), "{}", ran.stderr);
    let ran = sweep(&["--retry", "changed"]);
    assert!(ran.stderr.contains("s: 1 done in"), "{}", ran.stderr);
    assert!(sweep(&[]).stderr.contains("s: 1 done before in"));
}

/// Two threads, and layers that are run again in the backward pass, change memory and time and not a bit of the result.
#[test]
fn a_run_gives_the_same_bits_on_two_threads_and_with_gradient_checkpointing() {
    let playground = Playground::new();
    let spec = r#"name = "bits"
seeds = [0]
[base]
task = { type = "world/choice", train = 32, valid = 8, test = 8 }
method = { type = "lora", r = 4, lora_dropout = 0.1 }
train = { max_steps = 3, batch_size = 8 }
[axes]
model = ["tiny-llama", "tiny-mamba"]
train.gradient_checkpointing = [false, true]
"#;
    playground.write("bits.toml", spec);
    let bases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bases");
    let models = ["--models", bases.to_str().unwrap()];
    playground.expect(0, &[&["sweep", "bits.toml", "-j", "1", "--threads", "1", "--no-report"], &models[..]].concat());
    let runs = playground.runs("results", "bits");
    assert_eq!(runs.len(), 4);
    let adapter = |run: &std::path::PathBuf| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    let mut adapters: Vec<Vec<u8>> = runs.iter().map(adapter).collect();
    adapters.sort();
    adapters.dedup();
    assert_eq!(adapters.len(), 2, "one adapter a model, checkpointed or not");
    for run in &runs {
        let events = fs::read_to_string(run.join("events.jsonl")).unwrap();
        let events = events.lines().map(|line| serde_json::from_str::<Event>(line).unwrap());
        let phases: Vec<PhaseRecord> =
            events.filter_map(|event| if let Event::Phase(record) = event { Some(record) } else { None }).collect();
        assert!(phases.iter().any(|phase| phase.phase == "train" && phase.by_kind["activations"] > 0));
        for PhaseRecord { phase, by_kind, peak_bytes, .. } in phases {
            let off = by_kind.values().sum::<u64>() as f64 / peak_bytes as f64 - 1.0;
            assert!(off.abs() < 0.03, "{phase}: {by_kind:?}, the allocator's peak is {peak_bytes}");
        }
    }
    for run in runs {
        playground.expect(0, &[&["rerun", run.join("manifest.toml").to_str().unwrap(), "--check", "--threads", "2"], &models[..]].concat());
    }
}
