//! A run's own Parquet files, made from its manifest and its events: `run`, `steps`, `evals`, `memory`, `layers`, `dimensions`, `params`,
//! `predictions`.

use crate::error::{Result, ResultsError};
use crate::events::{Attributed, Outcome, RunEvents};
use crate::rows::{DimensionRow, EvalRow, LayerRow, MemoryRow, ParamRow, PredictionRow, Role, Row, RunRow, Status, StepRow};
use crate::store::Table;
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::event::{EvalRecord, FailureKind, PhaseRecord, SCHEMA_VERSION, Setup, Summary};
use peftbench_spec::{LrScheduler, Manifest, RunId};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file of table `R` in a run's folder.
pub(crate) fn fragment_path<R: Row>(run_dir: &Path) -> PathBuf {
    // One run, one row: the fragment is `run.parquet`, the merged table `runs.parquet`.
    let name = if R::TABLE == RunRow::TABLE { "run" } else { R::TABLE };
    run_dir.join(format!("{name}.parquet"))
}

/// All rows that one run gives.
pub(crate) struct RunRows {
    pub(crate) run: RunRow,
    pub(crate) steps: Vec<StepRow>,
    pub(crate) evals: Vec<EvalRow>,
    pub(crate) memory: Vec<MemoryRow>,
    pub(crate) layers: Vec<LayerRow>,
    pub(crate) dimensions: Vec<DimensionRow>,
    pub(crate) params: Vec<ParamRow>,
    pub(crate) predictions: Vec<PredictionRow>,
}

/// Makes the Parquet files of the run in `run_dir` from its `manifest.toml` and `events.jsonl` (none for a run that has not begun).
/// Each is written whole or not at all; `run.parquet` comes last and so vouches for the others.
///
/// # Errors
/// The manifest or the events cannot be read, or a file cannot be written.
pub fn write_fragments(run_dir: &Path) -> Result<()> {
    let rows = RunRows::read(run_dir)?;
    Table::of(&rows.steps)?.write(&fragment_path::<StepRow>(run_dir))?;
    Table::of(&rows.evals)?.write(&fragment_path::<EvalRow>(run_dir))?;
    Table::of(&rows.memory)?.write(&fragment_path::<MemoryRow>(run_dir))?;
    Table::of(&rows.layers)?.write(&fragment_path::<LayerRow>(run_dir))?;
    Table::of(&rows.dimensions)?.write(&fragment_path::<DimensionRow>(run_dir))?;
    Table::of(&rows.params)?.write(&fragment_path::<ParamRow>(run_dir))?;
    Table::of(&rows.predictions)?.write(&fragment_path::<PredictionRow>(run_dir))?;
    Table::of(std::slice::from_ref(&rows.run))?.write(&fragment_path::<RunRow>(run_dir))
}

impl RunRows {
    /// Reads a run's folder.
    pub(crate) fn read(run_dir: &Path) -> Result<Self> {
        let manifest = Manifest::read(&run_dir.join("manifest.toml"))?;
        let path = run_dir.join("events.jsonl");
        let events = match RunEvents::read(&path) {
            Err(ResultsError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => RunEvents::default(),
            other => other?,
        };
        Self::of(&manifest, &events, LastWord::read(run_dir))
    }

    fn of(manifest: &Manifest, events: &RunEvents, last_word: LastWord) -> Result<Self> {
        let id = manifest.run_id.as_str();
        let mut run = run_row(manifest, events)?;
        last_word.apply(&mut run, events);
        Ok(Self {
            run,
            steps: events.steps.iter().map(|entry| step_row(id, entry)).collect(),
            evals: events.evals.iter().flat_map(|entry| eval_rows(id, entry)).collect(),
            memory: events.phases.iter().enumerate().map(|(position, entry)| memory_row(id, position, entry)).collect(),
            layers: events.layers.iter().map(|entry| layer_row(id, entry)).collect(),
            dimensions: events.dimensions.iter().map(|entry| dimension_row(id, entry)).collect(),
            params: events.params.iter().map(|entry| param_row(id, entry)).collect(),
            predictions: events.predictions.iter().flat_map(|entry| prediction_rows(id, entry)).collect(),
        })
    }
}

/// What the supervisor noted in `state.json`: of a process that died without a word (a signal, a panic) it alone knows the end.
#[derive(Default, Deserialize)]
#[serde(default)]
struct LastWord {
    status: String,
    attempt: u64,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    kind: FailureKind,
    message: String,
}

impl LastWord {
    /// Reads the state of a run; a missing or torn one says nothing.
    fn read(run_dir: &Path) -> Self {
        let text = std::fs::read(run_dir.join("state.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Ends the row with it, where the attempt said no last word itself.
    fn apply(self, row: &mut RunRow, events: &RunEvents) {
        if events.outcome.is_some() && self.attempt <= events.attempt() {
            return;
        }
        let (status, kind) = match self.status.as_str() {
            "failed" => (Status::Failed, FailureKind::Crash),
            "interrupted" => (Status::Interrupted, FailureKind::Interrupted),
            _ => return,
        };
        row.status = status;
        row.attempt = row.attempt.max(self.attempt);
        row.failure_kind = Some(self.failure.as_ref().map_or(kind, |failure| failure.kind).name().to_owned());
        row.failure_message = self.failure.map(|failure| failure.message);
    }
}

/// The row of a run before anything is known but its manifest, filled up step by step.
fn run_row(manifest: &Manifest, events: &RunEvents) -> Result<RunRow> {
    let mut row = spec_columns(manifest)?;
    row.attempt = events.attempt();
    row.events_bytes = events.bytes;
    row.created_at = events.attempts.first().map(|attempt| attempt.at.clone());
    if let Some(setup) = &events.setup {
        setup_columns(&mut row, setup);
    }
    step_columns(&mut row, events);
    phase_columns(&mut row, events);
    row.status = match &events.outcome {
        Some(Outcome::Finished(summary)) => {
            summary_columns(&mut row, summary, events);
            Status::Done
        }
        Some(Outcome::Failed { kind, message }) => {
            row.failure_kind = Some(kind.name().to_owned());
            row.failure_message = Some(message.clone());
            if kind.name() == "interrupted" { Status::Interrupted } else { Status::Failed }
        }
        None if events.attempts.is_empty() => Status::Planned,
        None => Status::Unfinished,
    };
    Ok(row)
}

/// The spec and the provenance as columns.
fn spec_columns(manifest: &Manifest) -> Result<RunRow> {
    let spec = &manifest.spec;
    let train = &spec.train;
    let mut without_seed =
        serde_json::to_value(spec).map_err(|e| ResultsError::Value { column: "spec".into(), expected: "a spec", found: e.to_string() })?;
    if let Some(object) = without_seed.as_object_mut() {
        object.remove("seed");
    }
    let bound = |limit: u64| Some(limit).filter(|&limit| limit > 0);
    let provenance = &manifest.provenance;
    Ok(RunRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: manifest.run_id.to_string(),
        group_id: RunId::of(&without_seed)?.to_string(),
        sweep: manifest.sweep.clone(),
        role: if spec.evaluate_test { Role::Cell } else { Role::Probe },
        model: spec.model.name.clone(),
        model_json: canonical_json(&spec.model)?,
        task: spec.task.name.clone(),
        task_json: canonical_json(&spec.task)?,
        method: spec.method_label(),
        method_json: canonical_json(&spec.method)?,
        targets: spec.targets.label(),
        layers: spec.layers.to_string(),
        policy: spec.policy.name.clone(),
        policy_json: canonical_json(&spec.policy)?,
        seed: spec.seed,
        epochs: u64::from(train.epochs),
        max_steps: bound(train.max_steps),
        batch_size: train.batch_size as u64,
        gradient_accumulation: train.gradient_accumulation as u64,
        eval_batch_size: train.eval_batch_size as u64,
        lr: train.lr,
        lr_scheduler: scheduler_name(train.lr_scheduler).to_owned(),
        warmup_ratio: train.warmup_ratio,
        weight_decay: train.weight_decay,
        beta1: train.betas[0],
        beta2: train.betas[1],
        eps: train.eps,
        max_grad_norm: Some(train.max_grad_norm).filter(|&bound| bound > 0.0),
        gradient_checkpointing: train.gradient_checkpointing,
        max_length: train.max_length as u64,
        train_samples_limit: bound(train.train_samples as u64),
        valid_samples_limit: bound(train.valid_samples as u64),
        test_samples_limit: bound(train.test_samples as u64),
        model_hash: manifest.inputs.model.clone(),
        tokenizer_hash: manifest.inputs.tokenizer.clone(),
        dataset_hash: manifest.inputs.dataset.clone(),
        version: provenance.version.clone(),
        git: provenance.git.clone(),
        rustc: provenance.rustc.clone(),
        cargo_lock_hash: provenance.cargo_lock.clone(),
        platform: provenance.platform.clone(),
        cpu: provenance.cpu.clone(),
        ..RunRow::default()
    })
}

fn scheduler_name(scheduler: LrScheduler) -> &'static str {
    match scheduler {
        LrScheduler::Linear => "linear",
        LrScheduler::Cosine => "cosine",
        LrScheduler::Constant => "constant",
    }
}

fn setup_columns(row: &mut RunRow, setup: &Setup) {
    let named = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    row.model_arch = named(&setup.model_arch);
    row.model_num_params = Some(setup.model_num_params);
    row.num_layers = Some(setup.num_layers as u64);
    row.model_hash = named(&setup.model_hash).or(row.model_hash.take());
    row.num_trainable_params = Some(setup.num_trainable_params);
    row.trainable_fraction = Some(setup.num_trainable_params as f64 / setup.model_num_params as f64).filter(|f| f.is_finite());
    row.num_adapter_params = Some(setup.num_adapter_params);
    row.trainable_layers = Some(ranges(&setup.trainable_layers));
    row.num_trainable_layers = Some(setup.trainable_layers.len() as u64);
    row.target_modules_matched = Some(setup.target_modules_matched as u64);
    row.dataset_id = named(&setup.dataset_id);
    row.dataset_revision = setup.dataset_revision.clone();
    row.dataset_hash = named(&setup.dataset_hash).or(row.dataset_hash.take());
    [row.train_hash, row.valid_hash, row.test_hash] = setup.split_hashes.each_ref().map(|hash| named(hash));
    row.train_samples = Some(setup.train_samples as u64);
    row.valid_samples = Some(setup.valid_samples as u64);
    row.test_samples = Some(setup.test_samples as u64);
    row.dropped_samples = Some(setup.dropped_samples as u64);
    row.test_overlap_samples = Some(setup.test_overlap_samples as u64);
    row.test_chance = setup.test_chance;
    row.truncated_fraction = Some(setup.truncated_fraction);
    row.total_steps = Some(setup.total_steps);
    row.device = named(&setup.device);
    row.threads = Some(setup.threads as u64);
}

/// Ascending indices as ranges: `0-3,7`.
fn ranges(layers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match parts.last_mut() {
            Some((_, high)) if *high + 1 == layer => *high = layer,
            _ => parts.push((layer, layer)),
        }
    }
    let text = |&(low, high): &(usize, usize)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

fn step_columns(row: &mut RunRow, events: &RunEvents) {
    if events.steps.is_empty() {
        return;
    }
    let tokens: u64 = events.steps.iter().map(|s| s.record.tokens).sum();
    let padding: u64 = events.steps.iter().map(|s| s.record.padding_tokens).sum();
    let active: usize = events.steps.iter().map(|s| s.record.active_layers).sum();
    row.steps_done = events.steps.last().map(|s| s.record.step);
    row.train_tokens = Some(tokens);
    row.padding_fraction = Some(padding as f64 / tokens as f64).filter(|f| f.is_finite());
    row.layers_active_mean = Some(active as f64 / events.steps.len() as f64);
}

/// Phase totals over all attempts, and memory by kind while training.
fn phase_columns(row: &mut RunRow, events: &RunEvents) {
    let seconds = |name: &str| {
        let mut phases = events.phases.iter().filter(|p| p.record.phase == name).map(|p| p.record.seconds).peekable();
        phases.peek().is_some().then(|| phases.sum())
    };
    row.load_seconds = seconds("load");
    row.attach_seconds = seconds("attach");
    row.train_seconds = seconds("train");
    row.warmup_seconds = [seconds("warmup"), seconds("select")].into_iter().flatten().reduce(|a: f64, b| a + b);
    row.eval_seconds = seconds("eval");
    row.save_seconds = seconds("save");
    if !events.phases.is_empty() {
        row.compute_seconds = Some(events.phases.iter().map(|p| p.record.compute_seconds).sum());
    }
    row.rss_peak_bytes = events.phases.iter().filter_map(|p| p.record.rss_peak_bytes).max();
    let training = |phase: &&Attributed<PhaseRecord>| phase.record.phase == "train";
    // The kinds of one moment, which add up: those of the phase with the highest peak.
    let highest = events.phases.iter().filter(training).map(|p| &p.record).max_by_key(|record| record.peak_bytes);
    let kind = |name: &str| highest.and_then(|record| record.by_kind.get(name).copied());
    row.weights_bytes = kind("weights");
    row.adapter_bytes = kind("adapter");
    row.gradients_bytes = kind("gradients");
    row.optimizer_bytes = kind("optimizer");
    row.activations_bytes = kind("activations");
    row.workspace_bytes = kind("workspace");
    // Known also for a run that failed after training began.
    row.train_peak_bytes = highest.map(|record| record.peak_bytes);
}

fn summary_columns(row: &mut RunRow, summary: &Summary, events: &RunEvents) {
    let scored = summary.n_items > 0;
    let is_primary = |metric: &&peftbench_spec::event::MetricValue| metric.name == summary.primary_metric;
    row.finished_at = Some(summary.at.clone());
    row.primary_metric = Some(summary.primary_metric.clone());
    // A run that scored no test item (a probe of a selection) has no test result, not the result 0.
    row.primary_value = Some(summary.primary_value).filter(|_| scored);
    row.primary_stderr = summary.primary_stderr.filter(|_| scored);
    row.primary_higher_is_better =
        events.evals.iter().flat_map(|e| &e.record.metrics).find(is_primary).map(|metric| metric.higher_is_better);
    row.n_items = Some(summary.n_items as u64);
    row.valid_value = Some(summary.valid_value);
    let is_best = |eval: &&EvalRecord| eval.split == "valid" && eval.epoch == summary.best_epoch;
    row.valid_loss = events.evals.iter().map(|entry| &entry.record).rfind(is_best).and_then(|eval| eval.loss);
    row.best_epoch = Some(u64::from(summary.best_epoch));
    row.forgetting_loss_before = summary.forgetting_loss_before;
    row.forgetting_loss_after = summary.forgetting_loss_after;
    row.steps_done = Some(summary.steps_done);
    row.train_loss_final = summary.train_loss_final;
    row.total_seconds = Some(summary.total_seconds);
    row.harness_seconds = row.compute_seconds.map(|compute| summary.total_seconds - compute);
    row.train_tokens_per_second = summary.train_tokens_per_second;
    row.throughput_warmup_steps = Some(summary.throughput_warmup_steps);
    row.eval_tokens_per_second = summary.eval_tokens_per_second;
    row.step_seconds_p50 = summary.step_seconds_p50;
    row.step_seconds_p95 = summary.step_seconds_p95;
    row.train_peak_bytes = Some(summary.train_peak_bytes);
    row.eval_peak_bytes = Some(summary.eval_peak_bytes);
    row.adapter_file_bytes = Some(summary.adapter_file_bytes);
}

fn step_row(run_id: &str, entry: &Attributed<peftbench_spec::event::StepRecord>) -> StepRow {
    let step = &entry.record;
    StepRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        step: step.step,
        epoch: step.epoch,
        stage: step.stage.clone(),
        loss: Some(step.loss).filter(|v| v.is_finite()),
        lr: step.lr,
        grad_norm: Some(step.grad_norm).filter(|v| v.is_finite()),
        tokens: step.tokens,
        padding_tokens: step.padding_tokens,
        step_seconds: step.seconds,
        data_seconds: step.data_seconds,
        activation_bytes: step.activation_bytes,
        peak_bytes: step.peak_bytes,
        layers_active: step.active_layers as u64,
    }
}

fn eval_rows(run_id: &str, entry: &Attributed<peftbench_spec::event::EvalRecord>) -> Vec<EvalRow> {
    let eval = &entry.record;
    let base = EvalRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        step: eval.step,
        epoch: u64::from(eval.epoch),
        split: eval.split.clone(),
        eval_seconds: eval.seconds,
        eval_tokens: eval.tokens,
        ..EvalRow::default()
    };
    let metrics = eval.metrics.iter().enumerate().map(|(position, metric)| EvalRow {
        metric: metric.name.clone(),
        primary: position == 0,
        value: Some(metric.value).filter(|v| v.is_finite()),
        stderr: metric.stderr,
        n_items: Some(metric.n_items as u64),
        higher_is_better: metric.higher_is_better,
        ..base.clone()
    });
    let loss = eval.loss.map(|loss| EvalRow { metric: "loss".to_owned(), value: Some(loss).filter(|v| v.is_finite()), ..base.clone() });
    metrics.chain(loss).collect()
}

fn memory_row(run_id: &str, position: usize, entry: &Attributed<PhaseRecord>) -> MemoryRow {
    const KINDS: [&str; 6] = ["weights", "adapter", "gradients", "optimizer", "activations", "workspace"];
    let phase = &entry.record;
    let kind = |name: &str| phase.by_kind.get(name).copied();
    let mut others = phase.by_kind.iter().filter(|(name, _)| !KINDS.contains(&name.as_str())).map(|(_, bytes)| *bytes).peekable();
    MemoryRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        position: position as u64,
        phase: phase.phase.clone(),
        seconds: phase.seconds,
        compute_seconds: phase.compute_seconds,
        peak_bytes: phase.peak_bytes,
        live_bytes: phase.live_bytes,
        rss_peak_bytes: phase.rss_peak_bytes,
        weights_bytes: kind("weights"),
        adapter_bytes: kind("adapter"),
        gradients_bytes: kind("gradients"),
        optimizer_bytes: kind("optimizer"),
        activations_bytes: kind("activations"),
        workspace_bytes: kind("workspace"),
        other_bytes: others.peek().is_some().then(|| others.sum()),
    }
}

fn layer_row(run_id: &str, entry: &Attributed<crate::events::LayerRecord>) -> LayerRow {
    LayerRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        step: entry.record.step,
        layer: entry.record.layer as u64,
        importance: entry.record.importance,
        probe_loss_nats: entry.record.probe_loss,
        selected: entry.record.selected,
    }
}

fn dimension_row(run_id: &str, entry: &Attributed<peftbench_spec::event::DimensionRecord>) -> DimensionRow {
    let dimension = &entry.record;
    DimensionRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        path: dimension.path.clone(),
        layer: dimension.layer as u64,
        channel: dimension.channel as u64,
        state: dimension.state.map(|state| state as u64),
        trained: dimension.trained,
        score: dimension.score,
        num_channels: dimension.num_channels as u64,
        num_states: dimension.num_states as u64,
    }
}

fn param_row(run_id: &str, entry: &Attributed<peftbench_spec::event::ParamRecord>) -> ParamRow {
    let param = &entry.record;
    ParamRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        path: param.path.clone(),
        layer: param.layer.map(|layer| layer as u64),
        shape: serde_json::Value::from(param.shape.clone()).to_string(),
        num_params: param.shape.iter().product::<usize>() as u64,
        trainable: param.trainable,
        adapter: param.adapter,
        matched_by: param.matched_by.clone(),
    }
}

fn prediction_rows(run_id: &str, entry: &Attributed<crate::events::Predictions>) -> Vec<PredictionRow> {
    let row = |item: &peftbench_spec::event::Prediction| PredictionRow {
        schema_version: u64::from(SCHEMA_VERSION),
        run_id: run_id.to_owned(),
        attempt: entry.attempt,
        step: entry.record.step,
        split: entry.record.split.clone(),
        item_id: item.item_id.clone(),
        prediction: item.prediction.clone(),
        target: item.target.clone(),
        score: Some(item.score).filter(|v| v.is_finite()),
    };
    entry.record.items.iter().map(row).collect()
}
