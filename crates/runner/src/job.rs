//! One run from its spec to its result: load, attach, train, evaluate, save.

use crate::account::Kinds;
use crate::checkpoint::{self, Progress, Saved};
use crate::environment::Environment;
use crate::error::{Result, RunError};
use crate::evaluation::Evaluation;
use crate::files::write_atomically;
use crate::init_adapter;
use crate::meter::Phase;
use crate::probe::ModelProbe;
use crate::resolve::{attach_all, build_methods, stages_of};
use crate::trainer::{Trainer, TrainingStage, total_steps};
use crate::workload::{self, Split, Workload};
use peftbench_adapters::export::adapter_files;
use peftbench_adapters::method::{Carried, SelectedDimension, joint_carry};
use peftbench_adapters::policies::{self, PolicyContext};
use peftbench_adapters::policy::{Probe, ProbeBatch, ProbeSource};
use peftbench_adapters::{Attachment, Method};
use peftbench_datasets::DataError;
use peftbench_models::Network;
use peftbench_models::slots::SlotMut;
use peftbench_ops::device::kind;
use peftbench_ops::{Param, Tensor};
use peftbench_spec::event::{
    DimensionRecord, EvalRecord, Event, FailureKind, MetricValue, ParamRecord, PhaseRecord, SCHEMA_VERSION, Setup, Summary,
};
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{Component, RunSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Longest time between two checkpoints.
const CHECKPOINT_SECONDS: f64 = 60.0;

/// Training examples on which a method tries out what something is worth.
const CARRY_EXAMPLES: usize = 64;

/// What to run, and where.
pub struct Job<'a> {
    /// The resolved spec.
    pub spec: &'a RunSpec,
    /// The run's own folder, for `adapter/` and `checkpoint/`.
    pub run_dir: &'a Path,
    /// Where models and data lie.
    pub environment: &'a Environment,
    /// Set from outside to save and stop.
    pub stop: &'a AtomicBool,
    /// From 1.
    pub attempt: u32,
    /// Receives the hashes of what the run reads, once it is loaded and before anything is computed; an error ends the run.
    pub record_inputs: &'a dyn Fn(&Inputs) -> std::io::Result<()>,
}

/// How a run ended that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All is done and saved.
    Finished(Box<Summary>),
    /// Stopped on request; a checkpoint holds the state.
    Interrupted {
        /// Optimizer steps done.
        step: u64,
    },
}

/// Receives events; an error of it ends the run.
pub type Sink<'a> = dyn FnMut(&Event) -> std::io::Result<()> + 'a;

/// Runs a job. Every event goes to `sink`: `started` first; `finished` or `failed` last.
pub fn run(job: Job<'_>, sink: &mut Sink<'_>) -> Result<Outcome> {
    let events = job.run_dir.join("events.jsonl");
    let mut send = |event: &Event| sink(event).map_err(|e| RunError::file("write", &events, e));
    let result = Run::execute(&job, &mut send);
    match &result {
        Ok(Outcome::Finished(summary)) => send(&Event::Finished(summary.clone()))?,
        Ok(Outcome::Interrupted { step }) => {
            send(&Event::Failed { kind: FailureKind::Interrupted, message: format!("stopped on request after step {step}") })?
        }
        // The run's own error says more than a failure to record it.
        Err(error) => send(&Event::Failed { kind: error.kind(), message: error.to_string() }).unwrap_or(()),
    }
    result
}

type Send<'a> = dyn FnMut(&Event) -> Result<()> + 'a;

/// What stays the same through a run.
struct Run<'a> {
    job: &'a Job<'a>,
    work: Box<dyn Workload>,
    methods: Vec<Box<dyn Method>>,
    started: Instant,
    /// Seconds of the attempts before this one.
    earlier_seconds: f64,
    phases: BTreeMap<String, PhaseRecord>,
    /// Bytes of the model's and the adapter's tensors.
    resident: Kinds,
    eval_tokens: u64,
}

impl<'a> Run<'a> {
    fn execute(job: &'a Job<'a>, send: &mut Send<'_>) -> Result<Outcome> {
        let saved = checkpoint::load(job.run_dir)?;
        let resumed_from_step = saved.as_ref().map_or(0, |saved| saved.progress.step);
        send(&Event::Started { schema_version: SCHEMA_VERSION, attempt: job.attempt, at: now(), resumed_from_step })?;
        let started = Instant::now();
        let loading = Phase::start("load");
        let mut run = Self::load(job, started)?;
        run.resident.weights = tensor_bytes(&run.work.network().params());
        run.end_phase(loading, send)?;
        let setup = run.work.setup()?;
        let stages = stages_of(&run.methods);
        let whole = total_steps(setup.train_samples, job.spec);
        let budgets: Vec<u64> = stages.iter().map(|stage| stage.steps.unwrap_or(whole)).collect();
        let mut saved = saved.unwrap_or_else(|| Saved { progress: Progress::default(), tensors: BTreeMap::new() });
        run.earlier_seconds = saved.progress.seconds;
        let mut carried: Carried = saved.all("carried");
        for (index, stage) in stages.iter().enumerate().skip(saved.progress.stage) {
            if index > saved.progress.stage {
                saved.progress.begin_stage(index);
                run.work.reload()?;
            }
            let last = index + 1 == stages.len();
            let attaching = Phase::start("attach");
            let (attachment, matched) = attach_all(job.spec, &run.methods, run.work.network(), index, &carried)?;
            if let Some(wanted) = &job.spec.init_adapter {
                let folder = init_adapter::find(wanted, job.environment, Some(job.run_dir))?;
                init_adapter::keep(&folder, job.run_dir)?;
                init_adapter::load(&folder, job.spec, &attachment)?;
            }
            let setup = Setup { target_modules_matched: matched, total_steps: budgets.iter().sum(), ..setup.clone() };
            run.announce(&attachment, last, setup, send)?;
            run.resident.adapter = attachment.num_added() * 4;
            run.end_phase(attaching, send)?;
            if last && saved.progress.forgetting_loss.is_none() {
                saved.progress.forgetting_loss = run.measure_forgetting(&saved.progress, send)?;
            }
            let budget = if attachment.params.is_empty() { 0 } else { budgets[index] };
            let trained = run.train_stage(attachment, stage.name, budget, last, &mut saved, &carried, send)?;
            let Some(attachment) = trained else { return Ok(Outcome::Interrupted { step: saved.progress.step }) };
            if last {
                return run.finish(&attachment, &saved, send);
            }
            carried = run.carry(index, &attachment, send)?;
        }
        Err(RunError::Compute(peftbench_ops::Error::Msg("the run has no stage".to_owned())))
    }

    /// Everything that is read from files.
    fn load(job: &'a Job<'a>, started: Instant) -> Result<Self> {
        let work = workload::open(job.spec, job.environment)?;
        (job.record_inputs)(&work.inputs()?).map_err(|e| RunError::file("write the manifest in", job.run_dir, e))?;
        let methods = build_methods(job.spec)?;
        if work.lengths(ProbeSource::Train).is_empty() && methods.iter().any(|method| method.trains()) {
            return Err(DataError::NothingToTrainOn { task: job.spec.task.name.clone() }.into());
        }
        let (phases, resident) = (BTreeMap::new(), Kinds::default());
        Ok(Self { job, work, methods, started, earlier_seconds: 0.0, phases, resident, eval_tokens: 0 })
    }

    /// What a stage hands to the next: a phase of its own.
    fn carry(&mut self, stage: usize, attachment: &Attachment, send: &mut Send<'_>) -> Result<Carried> {
        let mut phase = Phase::start("select");
        let num_layers = self.work.network().num_layers();
        let mut probe = ModelProbe { work: &*self.work, params: &[], weights: &[], num_layers, seed: self.job.spec.seed, asked: false };
        let batch = ProbeBatch { source: ProbeSource::Train, size: CARRY_EXAMPLES, step: 0 };
        let whole = vec![1.0; num_layers];
        let methods = self.methods.iter().map(AsRef::as_ref);
        let carried = phase.compute(|| joint_carry(methods, stage, attachment, &mut || probe.loss(batch, &whole)))?;
        self.end_phase(phase, send)?;
        Ok(carried)
    }

    /// Says what the run works on; with the tensors and dimensions of it in the last stage.
    fn announce(&mut self, attachment: &Attachment, last: bool, setup: Setup, send: &mut Send<'_>) -> Result<()> {
        let network = self.work.network();
        let params = network.params();
        let trainable = attachment.num_trainable();
        send(&Event::Setup(Box::new(Setup {
            model_arch: network.arch().to_owned(),
            model_num_params: params.iter().map(|p| p.elem_count() as u64).sum(),
            num_layers: network.num_layers(),
            num_trainable_params: trainable,
            num_adapter_params: attachment.num_added(),
            trainable_layers: attachment.layers(),
            total_steps: if last && trainable == 0 { 0 } else { setup.total_steps },
            device: kind(&network.device()).to_owned(),
            threads: self.job.environment.threads,
            ..setup
        })))?;
        if !last {
            return Ok(());
        }
        let trained: BTreeSet<&str> = attachment.params.iter().map(|p| p.param.name()).collect();
        for param in params.iter().filter(|p| !trained.contains(p.name())) {
            let record = ParamRecord {
                path: param.name().to_owned(),
                layer: layer_of(param.name()),
                shape: param.value().dims().to_vec(),
                trainable: false,
                adapter: false,
                matched_by: None,
            };
            send(&Event::Param(record))?;
        }
        for p in &attachment.params {
            let record = ParamRecord {
                path: p.param.name().to_owned(),
                layer: p.layer,
                shape: p.param.value().dims().to_vec(),
                trainable: true,
                adapter: p.added,
                matched_by: Some(p.matched_by.clone()),
            };
            send(&Event::Param(record))?;
        }
        for dimension in &attachment.selected {
            let SelectedDimension { path, layer, channel, state, trained, score, num_channels, num_states } = dimension.clone();
            let record = DimensionRecord { path, layer, channel, state, trained, score, num_channels, num_states };
            send(&Event::Dimension(record))?;
        }
        Ok(())
    }

    /// Trains one stage to its budget; none if it was stopped. In the last stage layers are those of the run's policy, every epoch ends with
    /// an evaluation, and the values of the best epoch are set at the end; before it all attached layers train.
    #[allow(clippy::too_many_arguments)]
    fn train_stage(
        &mut self,
        attachment: Attachment,
        name: &'static str,
        budget: u64,
        last: bool,
        saved: &mut Saved,
        carried: &Carried,
        send: &mut Send<'_>,
    ) -> Result<Option<Attachment>> {
        if budget == 0 {
            return Ok(Some(attachment));
        }
        let network = self.work.network();
        let (num_layers, weights, base_bytes) = (network.num_layers(), matrices(network), tensor_bytes(&network.params()));
        let context = PolicyContext::new(num_layers, &attachment, self.job.spec.seed).with_total_steps(budget);
        let every_layer = Component::named("static");
        let policy = policies::build(if last { &self.job.spec.policy } else { &every_layer }, context)?;
        let (spec, lengths) = (self.job.spec, self.work.lengths(ProbeSource::Train));
        let mut trainer = Trainer::new(TrainingStage { spec, name, budget, lengths, weights, base_bytes, num_layers }, attachment, policy);
        let states = saved.take_optimizer(trainer.optimizer.params())?;
        trainer.optimizer.restore(states);
        for state in trainer.attachment().training.iter().flat_map(|training| training.state()) {
            if let Some(value) = saved.get("method", state.name()) {
                state.set(value.clone())?;
            }
        }
        if !saved.progress.policy.is_null() {
            let state = saved.progress.policy.clone();
            trainer.policy().restore(&state)?;
        }
        let mut best: BTreeMap<String, Tensor> = saved.all("best");
        saved.tensors.clear();
        let mut last_save = Instant::now();
        let mut phase = Phase::start(name);
        while saved.progress.stage_step < budget {
            trainer.step(&*self.work, &mut saved.progress, &mut phase, send)?;
            let step = saved.progress.stage_step;
            let epoch_ends = step.is_multiple_of(trainer.steps_per_epoch()) || step == budget;
            let stopping = self.job.stop.load(Ordering::Relaxed);
            if epoch_ends && last {
                self.end_phase(phase, send)?;
                let epoch = step.div_ceil(trainer.steps_per_epoch()) as u32;
                let metric = self.evaluate(Split::Valid, saved.progress.step, epoch, send)?;
                let value = merit(metric.as_ref());
                if saved.progress.best.is_none_or(|(best, _)| value > best) {
                    saved.progress.best = Some((value, epoch));
                    saved.progress.best_metric = metric;
                    best = trainer.optimizer.params().iter().map(|p| (p.name().to_owned(), p.value())).collect();
                }
                phase = Phase::start(name);
            }
            if stopping || (step < budget && (last_save.elapsed().as_secs_f64() > CHECKPOINT_SECONDS)) {
                self.end_phase(phase, send)?;
                let saving = Phase::start("save");
                saved.progress.seconds = self.total_seconds();
                saved.progress.policy = trainer.policy().state();
                save_checkpoint(self.job.run_dir, saved, &trainer, &best, carried)?;
                last_save = Instant::now();
                self.end_phase(saving, send)?;
                send(&Event::Checkpoint { step: saved.progress.step })?;
                phase = Phase::start(name);
            }
            if stopping {
                return Ok(None);
            }
        }
        self.end_phase(phase, send)?;
        for param in trainer.optimizer.params() {
            if let Some(value) = best.get(param.name()) {
                param.set(value.clone())?;
            }
        }
        Ok(Some(trainer.attachment().clone()))
    }

    /// Measures the loss on the text of `forgetting`, and records it.
    fn measure_forgetting(&mut self, progress: &Progress, send: &mut Send<'_>) -> Result<Option<f64>> {
        if self.job.spec.forgetting.is_none() {
            return Ok(None);
        }
        let mut phase = Phase::start("eval");
        let started = Instant::now();
        let Some(found) = phase.compute(|| self.work.forgetting())? else { return Ok(None) };
        let epoch = progress.best.map_or(0, |(_, epoch)| epoch);
        send(&Event::Eval(eval_record("forgetting", progress.step, epoch, &found, started.elapsed().as_secs_f64())))?;
        self.end_phase(phase, send)?;
        Ok(found.loss)
    }

    /// Evaluates one split, records it, and returns the primary metric.
    ///
    /// # Errors
    /// The metric of a split that is not empty is not finite: the weights diverged.
    fn evaluate(&mut self, split: Split, step: u64, epoch: u32, send: &mut Send<'_>) -> Result<Option<MetricValue>> {
        let mut phase = Phase::start("eval");
        let started = Instant::now();
        let found = phase.compute(|| self.work.evaluate(split))?;
        let seconds = started.elapsed().as_secs_f64();
        self.eval_tokens += found.tokens;
        let record = eval_record(split.name(), step, epoch, &found, seconds);
        send(&Event::Eval(record.clone()))?;
        if split == Split::Test {
            send(&Event::Predictions { step, split: record.split, items: found.predictions })?;
        }
        self.end_phase(phase, send)?;
        let primary = found.metrics.into_iter().next();
        match primary {
            Some(metric) if metric.n_items > 0 && !metric.value.is_finite() => {
                let lr = self.job.spec.train.lr;
                Err(RunError::NanMetric { metric: metric.name, split: split.name(), value: metric.value, step, lr })
            }
            primary => Ok(primary),
        }
    }

    /// Reads the test split, where the run is scored on it, saves the adapter, sums up.
    fn finish(&mut self, attachment: &Attachment, saved: &Saved, send: &mut Send<'_>) -> Result<Outcome> {
        let progress = &saved.progress;
        let best_epoch = progress.best.map_or(0, |(_, epoch)| epoch);
        let valid = match &progress.best_metric {
            Some(metric) => Some(metric.clone()),
            None => self.evaluate(Split::Valid, progress.step, best_epoch, send)?,
        };
        let test = match self.job.spec.evaluate_test {
            true => self.evaluate(Split::Test, progress.step, best_epoch, send)?,
            false => None,
        };
        let forgetting_loss_after = self.measure_forgetting(progress, send)?;
        let saving = Phase::start("save");
        let mut adapter_file_bytes = 0;
        if !attachment.params.is_empty() {
            let files = adapter_files(attachment, &self.job.spec.model.name)?;
            adapter_file_bytes = files.weights.len() as u64;
            write_atomically(&self.job.run_dir.join("adapter/adapter_model.safetensors"), &files.weights)?;
            write_atomically(&self.job.run_dir.join("adapter/adapter_config.json"), files.config.as_bytes())?;
        }
        checkpoint::clear(self.job.run_dir)?;
        self.end_phase(saving, send)?;
        let mut summary = Summary {
            at: now(),
            primary_metric: test.as_ref().or(valid.as_ref()).map_or_else(String::new, |m| m.name.clone()),
            // JSON has no NaN; that no item was scored says that the 0 is none.
            primary_value: test.as_ref().map_or(0.0, |m| m.value),
            primary_stderr: test.as_ref().and_then(|m| m.stderr),
            n_items: self.work.items(Split::Test),
            valid_value: valid.as_ref().map_or(0.0, |m| m.value),
            best_epoch,
            forgetting_loss_before: progress.forgetting_loss,
            forgetting_loss_after,
            steps_done: progress.step,
            total_seconds: self.total_seconds(),
            train_peak_bytes: self.phases.get("train").map_or(0, |p| p.peak_bytes),
            eval_peak_bytes: self.phases.get("eval").map_or(0, |p| p.peak_bytes),
            eval_tokens_per_second: self.phases.get("eval").map(|p| self.eval_tokens as f64 / p.seconds),
            adapter_file_bytes,
            ..Summary::default()
        };
        summarise_steps(&mut summary, progress);
        Ok(Outcome::Finished(Box::new(summary)))
    }

    /// Wall time of all attempts so far.
    fn total_seconds(&self) -> f64 {
        self.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    fn end_phase(&mut self, phase: Phase, send: &mut Send<'_>) -> Result<()> {
        let record = phase.finish(&self.resident);
        let total = self.phases.entry(record.phase.clone()).or_default();
        total.seconds += record.seconds;
        total.compute_seconds += record.compute_seconds;
        total.peak_bytes = total.peak_bytes.max(record.peak_bytes);
        send(&Event::Phase(record))
    }
}

/// How good a metric is: itself, or its negative where less is better.
fn merit(metric: Option<&MetricValue>) -> f64 {
    metric.map_or(f64::NAN, |metric| if metric.higher_is_better { metric.value } else { -metric.value })
}

/// Bytes of f32 tensors.
fn tensor_bytes(params: &[Param]) -> u64 {
    params.iter().map(|param| param.elem_count() as u64 * 4).sum()
}

fn eval_record(split: &str, step: u64, epoch: u32, found: &Evaluation, seconds: f64) -> EvalRecord {
    EvalRecord { step, epoch, split: split.to_owned(), metrics: found.metrics.clone(), loss: found.loss, seconds, tokens: found.tokens }
}

/// The base model's matrices inside its layers.
fn matrices(network: &mut dyn Network) -> Vec<(usize, Param)> {
    let mut found = Vec::new();
    network.visit_slots(&mut |slot| {
        if let SlotMut::Param(slot) = slot
            && let (Some(layer), 2) = (slot.info.layer, slot.param.value().rank())
        {
            found.push((layer, slot.param.clone()));
        }
    });
    found
}

fn save_checkpoint(
    run_dir: &Path,
    saved: &mut Saved,
    trainer: &Trainer<'_>,
    best: &BTreeMap<String, Tensor>,
    carried: &Carried,
) -> Result<()> {
    saved.tensors.clear();
    saved.put_optimizer(trainer.optimizer.params(), trainer.optimizer.states());
    let states = trainer.attachment().training.iter().flat_map(|training| training.state());
    states.for_each(|state| saved.insert("method", state.name(), state.value()));
    best.iter().for_each(|(name, tensor)| saved.insert("best", name, tensor.clone()));
    carried.iter().for_each(|(name, tensor)| saved.insert("carried", name, tensor.clone()));
    checkpoint::save(run_dir, saved)?;
    saved.tensors.clear();
    Ok(())
}

/// Throughput and loss over the steps, the first few left out of the throughput: they fill caches and the allocator's pools.
fn summarise_steps(summary: &mut Summary, progress: &Progress) {
    let steps = &progress.history;
    if steps.is_empty() {
        return;
    }
    let warmup = (steps.len() / 10).min(5);
    let counted = &steps[warmup..];
    let (tokens, seconds) = counted.iter().fold((0, 0.0), |(t, s), step| (t + step.tokens, s + step.seconds));
    let mut times: Vec<f64> = counted.iter().map(|s| s.seconds).collect();
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let tail = &steps[steps.len() - steps.len().div_ceil(10)..];
    summary.train_loss_final = Some(tail.iter().map(|s| s.loss).sum::<f64>() / tail.len() as f64);
    summary.train_tokens_per_second = Some(tokens as f64 / seconds);
    summary.throughput_warmup_steps = warmup as u64;
    summary.step_seconds_p50 = Some(quantile(0.5));
    summary.step_seconds_p95 = Some(quantile(0.95));
}

/// The layer index in a Hugging Face tensor name: the number behind `layers.`.
fn layer_of(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
