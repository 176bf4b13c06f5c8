//! A made-up sweep, written as real runs leave it: manifests and events through the types of `peftbench-spec`. Its numbers follow a
//! plain rule (method, target and layer effects, seed noise) so that tables and figures made from it have something to show.

#![allow(dead_code)] // Each test binary uses its own part.

use peftbench_spec::event::{
    DimensionRecord, EvalRecord, FailureKind, MetricValue, ParamRecord, PhaseRecord, Prediction, Setup, StepRecord, Summary,
};
use peftbench_spec::lr_selection::{Candidate, Decision, Edge, Floor, LrChoice, SelectionRecord};
use peftbench_spec::manifest::{Inputs, Provenance};
use peftbench_spec::seed::{Stream, stream};
use peftbench_spec::{Event, Manifest, RunSpec};
use rand::RngExt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The sizes of a made-up sweep.
pub struct Size {
    pub models: usize,
    pub tasks: usize,
    pub methods: usize,
    pub targets: usize,
    pub layers: usize,
    pub seeds: u64,
    pub steps: u64,
}

impl Size {
    /// The smallest that has every kind of run.
    pub const SMALL: Self = Self { models: 1, tasks: 1, methods: 2, targets: 2, layers: 2, seeds: 2, steps: 12 };
    /// A whole paper's worth.
    pub const LARGE: Self = Self { models: 2, tasks: 2, methods: 5, targets: 3, layers: 3, seeds: 3, steps: 60 };
}

const MODELS: [(&str, &str, u64, [&[&str]; 3]); 2] = [
    ("tiny-mamba", "mamba", 2_600_000, [&["in_proj", "out_proj"], &["x_proj", "dt_proj"], &["group:ssm", "group:projections"]]),
    ("tiny-llama", "llama", 3_400_000, [&["q_proj", "v_proj"], &["role:linear"], &["group:mlp", "!down_proj"]]),
];
const TASKS: [(&str, f64); 2] = [("world/sentiment", 0.62), ("world/entailment", 0.41)];
const LAYERS: [&str; 3] = ["all", "last:25%", "even:4"];

/// Method, its gain over zero-shot, its trainable parameters, its peak memory over the weights, its speed.
fn methods() -> Vec<(Value, f64, u64, f64, f64)> {
    vec![
        (json!({"type": "lora", "r": 8, "alpha": 16}), 0.22, 73_728, 2.1, 9_500.0),
        (json!({"type": "dora", "r": 8, "alpha": 16}), 0.23, 78_000, 2.6, 6_800.0),
        (json!({"type": "ia3"}), 0.12, 4_608, 1.7, 10_400.0),
        (json!([{"type": "sdt", "channel_ratio": 0.01}, {"type": "lora", "r": 8, "alpha": 16}]), 0.25, 81_000, 2.3, 8_700.0),
        (json!({"type": "parallel_adapter", "r": 256}), 0.2, 210_000, 2.9, 9_000.0),
    ]
}

/// Writes the sweep into `folder`, together with a failed, a killed, an interrupted and a planned run, and gives the run folders.
pub fn write_sweep(folder: &Path, size: &Size) -> Vec<PathBuf> {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(
        folder.join("sweep.toml"),
        "name = \"synthetic\"\ndescription = \"A made-up sweep: which method, on which matrices, in which layers?\"\n[base]\nmodel = \"tiny-mamba\"\n",
    )
    .unwrap();
    let mut written = Vec::new();
    for model in &MODELS[..size.models] {
        for task in &TASKS[..size.tasks] {
            for seed in 0..size.seeds {
                let zero = Cell::new(model, task, json!("none"), seed);
                written.push(write_run(folder, size, &Cell { gain: 0.0, trainable: 0, memory: 1.05, ..zero }));
                let full = Cell::new(model, task, json!("full"), seed);
                let full = Cell { gain: 0.24, trainable: model.2, memory: 4.2, speed: 5_200.0, targets: json!(["*"]), ..full };
                // Full fine-tuning of the larger model runs out of memory.
                let fails = (model.0 == "tiny-llama" && seed == 1).then_some(FailureKind::Oom);
                written.push(write_run(folder, size, &Cell { fails, ..full }));
                for (method, gain, trainable, memory, speed) in methods().into_iter().take(size.methods) {
                    for (t, targets) in model.3[..size.targets].iter().enumerate() {
                        for (l, layers) in LAYERS[..size.layers].iter().enumerate() {
                            let share = [1.0, 0.25, 0.5][l];
                            written.push(write_run(
                                folder,
                                size,
                                &Cell {
                                    targets: json!(targets),
                                    layers,
                                    gain: gain + [0.02, -0.05, 0.0][t] - [0.0, 0.09, 0.03][l],
                                    trainable: (trainable as f64 * share * [1.0, 0.4, 1.6][t]) as u64,
                                    memory: memory - [0.0, 0.5, 0.3][l],
                                    speed: speed * [1.0, 1.5, 1.2][l] * [1.0, 1.1, 0.9][t],
                                    ..Cell::new(model, task, method.clone(), seed)
                                },
                            ));
                        }
                    }
                }
            }
        }
    }
    written.extend(odd_runs(folder, size));
    written
}

/// Adds runs of SDT to a sweep: every choice of one of four channels, and what two rankings choose.
pub fn write_choices(folder: &Path, size: &Size) {
    let (model, task) = (&MODELS[0], &TASKS[0]);
    for seed in 0..size.seeds {
        let run = |method: Value, channel: usize| {
            // Further apart than the noise is wide.
            let gain = 0.12 * channel as f64;
            write_run(folder, size, &Cell { channel: Some(channel), gain, ..Cell::new(model, task, method, seed) })
        };
        (0..4).for_each(|channel| drop(run(json!({"type": "sdt", "channels": [channel]}), channel)));
        run(json!({"type": "sdt", "ranking": "delta_a_log"}), 3);
        run(json!({"type": "sdt", "ranking": "magnitude"}), seed as usize % 2);
    }
}

/// Adds the choices of learning rates that a sweep has made: two methods at four rates, one of which diverged with the one and was the best
/// with the other; and one that could not be made.
pub fn write_probes(folder: &Path, size: &Size) {
    let (model, task) = (&MODELS[0], &TASKS[0]);
    let mut choices = Vec::new();
    for (index, (method, ..)) in methods().into_iter().take(2).enumerate() {
        let (targets, mut candidates) = (model.3[0], Vec::new());
        for (position, lr) in [1e-4, 1e-3, 1e-2, 1e-1].into_iter().enumerate() {
            let fails = (index == 0 && position == 3).then_some(FailureKind::NanLoss);
            let gain = 0.1 * if index == 0 { 2.0 - position.abs_diff(1) as f64 } else { position as f64 };
            let cell = Cell { targets: json!(targets), gain, fails, lr, probe: true, ..Cell::new(model, task, method.clone(), 0) };
            write_run(folder, size, &cell);
            candidates.push(Candidate { lr, probes: vec![cell.manifest().run_id] });
        }
        let chosen = Cell { targets: json!(targets), ..Cell::new(model, task, method.clone(), 0) };
        let (lr, at_edge, within_noise_of) =
            if index == 0 { (1e-3, None, Some(Floor::OtherRates)) } else { (1e-1, Some(Edge::Highest), None) };
        let label = format!("{} · {} · {}", model.0, task.0, chosen.manifest().spec.method_label());
        let decision = Decision::Chosen { lr, at_edge, within_noise_of };
        choices.push(LrChoice {
            label,
            cells_with: json!({ "method": method }),
            candidates,
            decision,
            runs: vec![chosen.manifest().run_id],
        });
    }
    let failed = |lr| Cell { fails: Some(FailureKind::NanLoss), lr, probe: true, ..Cell::new(model, task, json!("bitfit"), 0) };
    let candidates = [10.0, 20.0].map(|lr| {
        write_run(folder, size, &failed(lr));
        Candidate { lr, probes: vec![failed(lr).manifest().run_id] }
    });
    let decision = Decision::Failed { problem: "no rate has a score".into() };
    let (label, cells_with) = ("bitfit".into(), json!({ "method": "bitfit" }));
    choices.push(LrChoice { label, cells_with, candidates: candidates.into(), decision, runs: Vec::new() });
    let record = SelectionRecord { lr: choices };
    std::fs::write(folder.join("select.json"), serde_json::to_string(&record).unwrap()).unwrap();
}

/// One run of each kind that has no result.
fn odd_runs(folder: &Path, size: &Size) -> Vec<PathBuf> {
    let cell = |seed| Cell { gain: 0.1, ..Cell::new(&MODELS[0], &TASKS[0], json!("bitfit"), seed) };
    let nan = Cell { fails: Some(FailureKind::NanLoss), ..cell(0) };
    let interrupted = Cell { fails: Some(FailureKind::Interrupted), ..cell(1) };
    let killed = write_run(folder, size, &Cell { killed: true, ..cell(2) });
    let planned = write_run(folder, size, &cell(3));
    std::fs::remove_file(planned.join("events.jsonl")).unwrap();
    vec![write_run(folder, size, &nan), write_run(folder, size, &interrupted), killed, planned]
}

/// One run to make up.
struct Cell<'a> {
    model: &'a (&'a str, &'a str, u64, [&'a [&'a str]; 3]),
    task: &'a (&'a str, f64),
    method: Value,
    targets: Value,
    layers: &'a str,
    seed: u64,
    /// The only channel that trains, of four in the first layer.
    channel: Option<usize>,
    gain: f64,
    trainable: u64,
    memory: f64,
    speed: f64,
    fails: Option<FailureKind>,
    killed: bool,
    lr: f64,
    /// Whether it is scored on validation only.
    probe: bool,
}

impl<'a> Cell<'a> {
    fn new(model: &'a (&'a str, &'a str, u64, [&'a [&'a str]; 3]), task: &'a (&'a str, f64), method: Value, seed: u64) -> Self {
        let targets = json!("default");
        let (gain, trainable, memory, speed) = (0.0, 9_000, 1.6, 9_900.0);
        Self {
            model,
            task,
            method,
            targets,
            layers: "all",
            seed,
            channel: None,
            gain,
            trainable,
            memory,
            speed,
            fails: None,
            killed: false,
            lr: 0.002,
            probe: false,
        }
    }

    fn manifest(&self) -> Manifest {
        let spec = json!({
            "model": self.model.0, "task": self.task.0, "method": self.method, "targets": self.targets, "layers": self.layers,
            "policy": if self.layers == "last:25%" { "rst" } else { "static" }, "seed": self.seed, "train": {"epochs": 3, "lr": self.lr, "batch_size": 8, "train_samples": 160}, "evaluate_test": !self.probe,
        });
        let mut manifest = Manifest::new("synthetic", RunSpec::from_value(spec).unwrap()).unwrap();
        manifest.inputs = Inputs { model: Some("m".repeat(64)), tokenizer: Some("t".repeat(64)), dataset: Some("d".repeat(64)) };
        manifest.provenance = Provenance {
            version: "0.1.0".into(),
            git: Some("0123456789abcdef".into()),
            rustc: "rustc 1.95.0".into(),
            cargo_lock: "c".repeat(64),
            platform: "linux x86_64".into(),
            cpu: Some("Example CPU".into()),
            device: "cpu".into(),
            threads: 2,
        };
        manifest
    }
}

fn write_run(folder: &Path, size: &Size, cell: &Cell<'_>) -> PathBuf {
    let manifest = cell.manifest();
    let run_dir = folder.join("runs").join(manifest.run_id.as_str());
    std::fs::create_dir_all(&run_dir).unwrap();
    std::fs::write(run_dir.join("manifest.toml"), manifest.to_toml().unwrap()).unwrap();
    let mut random = stream(cell.seed, manifest.run_id.as_str());
    let text: String = events(cell, size.steps, &mut random).iter().map(|e| serde_json::to_string(e).unwrap() + "\n").collect();
    std::fs::write(run_dir.join("events.jsonl"), if cell.killed { text + "{\"event\":\"step\",\"st" } else { text }).unwrap();
    run_dir
}

fn events(cell: &Cell<'_>, steps: u64, random: &mut Stream) -> Vec<Event> {
    let started = |attempt, resumed_from_step| Event::Started {
        schema_version: 1,
        attempt,
        at: format!("2026-03-0{attempt}T08:00:00.25Z"),
        resumed_from_step,
    };
    let mut events = vec![started(1, 0), Event::Setup(Box::new(setup(cell, steps)))];
    events.push(Event::Param(ParamRecord {
        path: "layers.0.lora_A".into(),
        layer: Some(0),
        shape: vec![8, 64],
        trainable: cell.trainable > 0,
        adapter: true,
        matched_by: Some("in_proj".into()),
    }));
    events.extend(dimensions(cell).into_iter().map(Event::Dimension));
    events.push(phase("load", 0.4, 0.0, 0));
    let noise = 0.03 * (random.random_range(-1.0..1.0f64) + random.random_range(-1.0..1.0));
    let reached = (cell.task.1 + cell.gain + if cell.trainable > 0 { noise } else { 0.0 }).clamp(0.0, 1.0);
    for step in 1..=if cell.trainable > 0 { steps } else { 0 } {
        if step == steps / 2 && cell.seed == 1 {
            events.push(started(2, step - 1));
        }
        events.push(Event::Step(step_record(cell, step, steps, random)));
        if step % 10 == 0 {
            let layer =
                |layer| Event::Layer { step, layer, importance: Some(0.1 * layer as f64), probe_loss: None, selected: layer % 2 == 0 };
            events.extend((0..8).map(layer));
        }
        if step % (steps / 3) == 0 {
            let done = step as f64 / steps as f64;
            events.push(eval("valid", step, (step / (steps / 3)) as u32, cell.task.1 + (reached - cell.task.1) * done.sqrt()));
        }
        if step == steps / 2 {
            if let Some(kind) = cell.fails {
                let message = format!("{}: allocation of 1.5 GiB failed at step {step}: the limit is 2 GiB", kind.name());
                events.push(Event::Failed { kind, message });
                return events;
            }
            if cell.killed {
                return events;
            }
        }
    }
    events.extend(ending(cell, steps, reached, random));
    events
}

fn dimensions(cell: &Cell<'_>) -> Vec<DimensionRecord> {
    let record = |layer: usize, channel: usize, state, trained, num_channels| DimensionRecord {
        path: format!("layers.{layer}.A_log"),
        layer,
        channel,
        state: Some(state),
        trained,
        score: Some(1.0 / (1 + channel) as f64),
        num_channels,
        num_states: 4,
    };
    if let Some(channel) = cell.channel {
        return vec![record(0, channel, 0, true, 4)];
    }
    let layers = 0..if cell.trainable > 0 { 8 } else { 0 };
    let places = layers.flat_map(|layer| (0..3).map(move |i| (layer, (7 * layer + 5 * i) % 32, i)));
    places.map(|(layer, channel, state)| record(layer, channel, state, is_trained(channel), 32)).collect()
}

/// Most are trained, some pruned.
fn is_trained(channel: usize) -> bool {
    !channel.is_multiple_of(4)
}

fn setup(cell: &Cell<'_>, steps: u64) -> Setup {
    Setup {
        model_arch: cell.model.1.into(),
        model_num_params: cell.model.2,
        num_layers: 8,
        model_hash: "m".repeat(64),
        num_trainable_params: cell.trainable,
        num_adapter_params: cell.trainable,
        trainable_layers: if cell.trainable > 0 { (0..8).collect() } else { Vec::new() },
        target_modules_matched: 16,
        dataset_id: "world".into(),
        dataset_hash: "d".repeat(64),
        train_samples: 160,
        valid_samples: 64,
        test_samples: 120,
        truncated_fraction: 0.0,
        split_hashes: ["t", "v", "e"].map(|letter| letter.repeat(64)),
        dropped_samples: 0,
        test_overlap_samples: 0,
        test_chance: Some(0.5),
        valid_chance: None,
        dataset_revision: None,
        total_steps: if cell.trainable > 0 { steps } else { 0 },
        device: "cpu".into(),
        threads: 2,
    }
}

fn step_record(cell: &Cell<'_>, step: u64, steps: u64, random: &mut Stream) -> StepRecord {
    let done = step as f64 / steps as f64;
    let peak = (cell.model.2 as f64 * 4.0 * cell.memory) as u64;
    StepRecord {
        step,
        epoch: 3.0 * done,
        stage: "train".into(),
        loss: 0.15 + 1.1 * (-4.0 * done * (0.5 + 3.0 * cell.gain)).exp() + random.random_range(-0.12..0.12),
        lr: 0.002 * (1.0 - done),
        grad_norm: random.random_range(0.2..1.5),
        tokens: 1024,
        padding_tokens: 96,
        seconds: 1024.0 / cell.speed,
        data_seconds: 0.0005,
        activation_bytes: peak / 4,
        peak_bytes: peak,
        active_layers: 8,
    }
}

fn eval(split: &str, step: u64, epoch: u32, value: f64) -> Event {
    let n_items = if split == "test" { 120 } else { 64 };
    let stderr = Some((value * (1.0 - value) / n_items as f64).max(0.0).sqrt());
    let metric = |name: &str, value| MetricValue { name: name.into(), value, stderr, n_items, higher_is_better: true };
    let metrics = vec![metric("accuracy", value), metric("macro_f1", value * 0.97)];
    Event::Eval(EvalRecord { step, epoch, split: split.into(), metrics, loss: Some(1.2 - value), seconds: 0.3, tokens: 9_000 })
}

fn phase(name: &str, seconds: f64, compute_seconds: f64, peak_bytes: u64) -> Event {
    let kinds = [("weights", 0.3), ("adapter", 0.02), ("gradients", 0.05), ("optimizer", 0.1), ("activations", 0.45), ("workspace", 0.08)];
    Event::Phase(PhaseRecord {
        phase: name.into(),
        seconds,
        compute_seconds,
        peak_bytes,
        live_bytes: peak_bytes / 2,
        rss_peak_bytes: Some(peak_bytes + 30_000_000),
        by_kind: kinds
            .iter()
            .filter(|_| name == "train")
            .map(|(kind, share)| ((*kind).into(), (peak_bytes as f64 * share) as u64))
            .collect(),
    })
}

/// The test, the predictions and the summary. The metric is the mean of the items' scores.
fn ending(cell: &Cell<'_>, steps: u64, reached: f64, random: &mut Stream) -> Vec<Event> {
    let right = (reached * 120.0).round() as usize;
    let value = right as f64 / 120.0;
    let shift = random.random_range(0..7);
    let items = (0..120).map(|i| Prediction {
        item_id: format!("test-{i:04}"),
        prediction: "positive".into(),
        target: "positive".into(),
        score: f64::from(u8::from((i * 37 + shift) % 120 < right)),
    });
    let trained = cell.trainable > 0;
    let steps = if trained { steps } else { 0 };
    let speed = cell.speed * random.random_range(0.97..1.03);
    let seconds = steps as f64 * 1024.0 / speed;
    let peak = (cell.model.2 as f64 * 4.0 * cell.memory * random.random_range(0.995..1.005)) as u64;
    let summary = Summary {
        at: "2026-03-01T08:01:00Z".into(),
        primary_metric: "accuracy".into(),
        primary_value: value,
        primary_stderr: Some((value * (1.0 - value) / 120.0).sqrt()),
        n_items: if cell.probe { 0 } else { 120 },
        valid_value: reached,
        best_epoch: if trained { 3 } else { 0 },
        forgetting_loss_before: None,
        forgetting_loss_after: None,
        steps_done: steps,
        train_loss_final: trained.then_some(0.2),
        total_seconds: seconds + 1.6,
        train_tokens_per_second: trained.then_some(speed),
        throughput_warmup_steps: 2,
        eval_tokens_per_second: Some(20_000.0),
        step_seconds_p50: trained.then_some(1024.0 / speed),
        step_seconds_p95: trained.then_some(1100.0 / speed),
        train_peak_bytes: if trained { peak } else { 0 },
        eval_peak_bytes: cell.model.2 * 5,
        adapter_file_bytes: cell.trainable * 4,
    };
    let mut events = Vec::new();
    if trained {
        events.push(phase("train", seconds, seconds * 0.96, peak));
    }
    events.push(phase("eval", 0.9, 0.85, cell.model.2 * 5));
    if !cell.probe {
        events.push(eval("test", steps, summary.best_epoch, value));
        events.push(Event::Predictions { step: steps, split: "test".into(), items: items.collect() });
    }
    events.push(phase("save", 0.05, 0.0, 0));
    events.push(Event::Finished(Box::new(summary)));
    events
}
