//! One run from its spec to its result: load, attach, train, evaluate, save.

use crate::account::Kinds;
use crate::checkpoint::{self, Progress, Saved};
use crate::environment::{Environment, ModelFiles};
use crate::error::{Result, RunError};
use crate::evaluation::{EvalSplit, Evaluation};
use crate::files::write_atomically;
use crate::init_adapter;
use crate::meter::Phase;
use crate::planner::{Examples, load_examples};
use crate::probe::ProbeData;
use crate::resolve::{attach_all, build_methods};
use crate::trainer::{Trainer, TrainingStage, total_steps};
use peftbench_adapters::export::adapter_files;
use peftbench_adapters::method::Carried;
use peftbench_adapters::policies::{self, PolicyContext};
use peftbench_adapters::{Attachment, Method};
use peftbench_datasets::example::split_hash;
use peftbench_datasets::{DataError, Encoded, Example, Task, TextTokenizer, encode_training, tasks};
use peftbench_models::Model;
use peftbench_models::slots::SlotMut;
use peftbench_ops::device::kind;
use peftbench_ops::{Device, Param, Tensor};
use peftbench_spec::RunSpec;
use peftbench_spec::event::{EvalRecord, Event, FailureKind, ParamRecord, PhaseRecord, SCHEMA_VERSION, Setup, Summary};
use peftbench_spec::manifest::Inputs;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Longest time between two checkpoints.
const CHECKPOINT_SECONDS: f64 = 60.0;

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
    device: Device,
    files: ModelFiles,
    task: Box<dyn Task>,
    tokenizer: TextTokenizer,
    train: Vec<Encoded>,
    /// The validation split as training would see it, for policies that probe.
    valid_answers: Vec<Encoded>,
    valid: EvalSplit,
    test: EvalSplit,
    /// The text on which it is measured what training makes the model forget.
    forgetting: Option<(Box<dyn Task>, EvalSplit)>,
    methods: Vec<Box<dyn Method>>,
    started: Instant,
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
        let (mut run, mut model, setup) = Self::load(job, started)?;
        run.resident.weights = tensor_bytes(&model.params());
        run.end_phase(loading, send)?;
        let stages = run.methods.first().map_or_else(Vec::new, |method| method.stages());
        let mut saved = saved.unwrap_or_else(|| Saved { progress: Progress::default(), tensors: BTreeMap::new() });
        let mut carried: Carried = saved.all("carried");
        for (index, stage) in stages.iter().enumerate().skip(saved.progress.stage) {
            if index > saved.progress.stage {
                saved.progress.stage = index;
                saved.progress.stage_step = 0;
                saved.progress.updates.clear();
                model = run.files.model(&run.device)?;
            }
            let last = index + 1 == stages.len();
            let attaching = Phase::start("attach");
            let (attachment, matched) = attach_all(job.spec, &run.methods, &mut *model, index, &carried)?;
            if let Some(wanted) = &job.spec.init_adapter {
                let folder = init_adapter::find(wanted, job.environment, Some(job.run_dir))?;
                init_adapter::keep(&folder, job.run_dir)?;
                init_adapter::load(&folder, job.spec, &attachment)?;
            }
            if last {
                run.announce(&mut *model, &attachment, matched, &setup, send)?;
            }
            run.resident.adapter = attachment.num_added() * 4;
            run.end_phase(attaching, send)?;
            if last && saved.progress.forgetting_loss.is_none() {
                saved.progress.forgetting_loss = run.measure_forgetting(&*model, &saved.progress, send)?;
            }
            let budget = stage.steps.unwrap_or_else(|| total_steps(run.train.len(), job.spec));
            let budget = if attachment.params.is_empty() { 0 } else { budget };
            let trained = run.train_stage(&mut *model, attachment, stage.name, budget, last, &mut saved, &carried, send)?;
            let Some(attachment) = trained else { return Ok(Outcome::Interrupted { step: saved.progress.step }) };
            if last {
                return run.finish(&*model, &attachment, &saved, send);
            }
            carried = run.methods[0].carry(index, &attachment)?;
        }
        Err(RunError::Compute(peftbench_ops::Error::Msg("the run has no stage".to_owned())))
    }

    /// Everything that is read from files.
    fn load(job: &'a Job<'a>, started: Instant) -> Result<(Self, Box<dyn Model>, Setup)> {
        let spec = job.spec;
        let device = job.environment.device()?;
        let files = job.environment.find_model(&spec.model.name)?;
        let model = files.model(&device)?;
        let tokenizer = files.tokenizer_for(&*model)?;
        let Examples { task, splits, overlap } = load_examples(spec, job.environment)?;
        let (model_hash, dataset_hash) = (files.hash()?, splits.hash());
        let inputs = Inputs { model: Some(model_hash.clone()), tokenizer: Some(tokenizer.hash()), dataset: Some(dataset_hash.clone()) };
        (job.record_inputs)(&inputs).map_err(|e| RunError::file("write the manifest in", job.run_dir, e))?;
        let setup = Setup {
            model_hash,
            dataset_id: splits.dataset_id.clone(),
            dataset_revision: splits.revision.clone(),
            dataset_hash,
            split_hashes: [&splits.train, &splits.valid, &splits.test].map(|split| split_hash(split).to_hex().to_string()),
            test_overlap_samples: overlap.test,
            ..Setup::default()
        };
        let all = splits.train.len() + splits.valid.len() + splits.test.len();
        let train = encode_all(&splits.train, &*task, &tokenizer, spec)?;
        let valid_answers = encode_all(&splits.valid, &*task, &tokenizer, spec)?;
        let eval = |examples| EvalSplit::new(examples, &*task, &tokenizer, spec.train.max_length, spec.train.eval_batch_size);
        let (valid, test) = (eval(splits.valid)?, eval(splits.test)?);
        let setup = Setup {
            train_samples: train.len(),
            valid_samples: valid.len(),
            test_samples: test.len(),
            dropped_samples: all - train.len() - valid.len() - test.len(),
            ..setup
        };
        let forgetting = load_forgetting(spec, job.environment, &tokenizer)?;
        let methods = build_methods(spec)?;
        if train.is_empty() && methods.iter().any(|method| method.trains()) {
            return Err(DataError::NothingToTrainOn { task: spec.task.name.clone() }.into());
        }
        let run = Self {
            job,
            device,
            files,
            task,
            tokenizer,
            train,
            valid_answers,
            valid,
            test,
            forgetting,
            methods,
            started,
            phases: BTreeMap::new(),
            resident: Kinds::default(),
            eval_tokens: 0,
        };
        Ok((run, model, setup))
    }

    /// Says what the run works on.
    fn announce(&self, model: &mut dyn Model, attachment: &Attachment, matched: usize, setup: &Setup, send: &mut Send<'_>) -> Result<()> {
        let params = model.params();
        let truncated = self.train.iter().filter(|e| e.truncated).count();
        let trainable = attachment.num_trainable();
        send(&Event::Setup(Box::new(Setup {
            model_arch: model.arch().to_owned(),
            model_num_params: params.iter().map(|p| p.elem_count() as u64).sum(),
            num_layers: model.num_layers(),
            num_trainable_params: trainable,
            num_adapter_params: attachment.num_added(),
            trainable_layers: attachment.layers(),
            target_modules_matched: matched,
            truncated_fraction: truncated as f64 / self.train.len().max(1) as f64,
            total_steps: if trainable > 0 { total_steps(self.train.len(), self.job.spec) } else { 0 },
            device: kind(&self.device).to_owned(),
            threads: self.job.environment.threads,
            ..setup.clone()
        })))?;
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
        Ok(())
    }

    /// Trains one stage to its budget; none if it was stopped. In the last stage every epoch ends with an evaluation, and the values of
    /// the best epoch are set at the end.
    #[allow(clippy::too_many_arguments)]
    fn train_stage(
        &mut self,
        model: &mut dyn Model,
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
        let base_bytes = tensor_bytes(&model.params());
        let context = PolicyContext::new(model.num_layers(), &attachment, self.job.spec.seed);
        let policy = policies::build(&self.job.spec.policy, context)?;
        let (train, valid) = (std::mem::take(&mut self.train), std::mem::take(&mut self.valid_answers));
        let weights = matrices(model);
        let data = ProbeData { train: &train, valid: &valid, weights: &weights };
        let (spec, device, num_layers) = (self.job.spec, self.device.clone(), model.num_layers());
        let mut trainer = Trainer::new(TrainingStage { spec, name, data, device, base_bytes, num_layers }, attachment, policy);
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
        let before = saved.progress.seconds;
        let mut last_save = Instant::now();
        let mut phase = Phase::start("train");
        while saved.progress.stage_step < budget {
            trainer.step(model, &mut saved.progress, &mut phase, send)?;
            let step = saved.progress.stage_step;
            let epoch_ends = step.is_multiple_of(trainer.steps_per_epoch()) || step == budget;
            let stopping = self.job.stop.load(Ordering::Relaxed);
            if epoch_ends && last {
                self.end_phase(phase, send)?;
                let epoch = step.div_ceil(trainer.steps_per_epoch()) as u32;
                let value = self.evaluate(model, Split::Valid, saved.progress.step, epoch, send)?;
                if saved.progress.best.is_none_or(|(best, _)| value > best) {
                    saved.progress.best = Some((value, epoch));
                    best = trainer.optimizer.params().iter().map(|p| (p.name().to_owned(), p.value())).collect();
                }
                phase = Phase::start("train");
            }
            if stopping || (step < budget && (last_save.elapsed().as_secs_f64() > CHECKPOINT_SECONDS)) {
                self.end_phase(phase, send)?;
                let saving = Phase::start("save");
                saved.progress.seconds = before + self.started.elapsed().as_secs_f64();
                saved.progress.policy = trainer.policy().state();
                save_checkpoint(self.job.run_dir, saved, &trainer, &best, carried)?;
                last_save = Instant::now();
                self.end_phase(saving, send)?;
                send(&Event::Checkpoint { step: saved.progress.step })?;
                phase = Phase::start("train");
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
        let attachment = trainer.attachment().clone();
        (self.train, self.valid_answers) = (train, valid);
        Ok(Some(attachment))
    }

    /// Measures the loss on the text of `forgetting`, and records it.
    fn measure_forgetting(&mut self, model: &dyn Model, progress: &Progress, send: &mut Send<'_>) -> Result<Option<f64>> {
        let Some((task, text)) = &self.forgetting else { return Ok(None) };
        let mut phase = Phase::start("eval");
        let started = Instant::now();
        let found = phase.compute(|| text.evaluate(model, &**task, &self.tokenizer, &self.device))?;
        let epoch = progress.best.map_or(0, |(_, epoch)| epoch);
        send(&Event::Eval(eval_record("forgetting", progress.step, epoch, &found, started.elapsed().as_secs_f64())))?;
        self.end_phase(phase, send)?;
        Ok(found.loss)
    }

    /// Evaluates one split, records it, and returns the primary metric.
    fn evaluate(&mut self, model: &dyn Model, split: Split, step: u64, epoch: u32, send: &mut Send<'_>) -> Result<f64> {
        let mut phase = Phase::start("eval");
        let started = Instant::now();
        let examples = match split {
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        };
        let found: Evaluation = phase.compute(|| examples.evaluate(model, &*self.task, &self.tokenizer, &self.device))?;
        let seconds = started.elapsed().as_secs_f64();
        let primary = found.metrics.first().map_or(f64::NAN, |metric| if metric.higher_is_better { metric.value } else { -metric.value });
        self.eval_tokens += found.tokens;
        let record = eval_record(split.name(), step, epoch, &found, seconds);
        send(&Event::Eval(record.clone()))?;
        if split == Split::Test {
            send(&Event::Predictions { step, split: record.split, items: found.predictions })?;
        }
        self.end_phase(phase, send)?;
        Ok(primary)
    }

    /// Reads the test split, saves the adapter, sums up.
    fn finish(&mut self, model: &dyn Model, attachment: &Attachment, saved: &Saved, send: &mut Send<'_>) -> Result<Outcome> {
        let progress = &saved.progress;
        let (mut valid_value, mut best_epoch) = progress.best.unwrap_or((f64::NAN, 0));
        if progress.best.is_none() {
            valid_value = self.evaluate(model, Split::Valid, progress.step, 0, send)?;
            best_epoch = 0;
        }
        let mut test_record = None;
        self.evaluate(model, Split::Test, progress.step, best_epoch, &mut |event| {
            if let Event::Eval(record) = event {
                test_record = Some(record.clone());
            }
            send(event)
        })?;
        let forgetting_loss_after = self.measure_forgetting(model, progress, send)?;
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
        let primary = test_record.and_then(|record| record.metrics.into_iter().next());
        let mut summary = Summary {
            at: now(),
            primary_metric: primary.as_ref().map_or_else(String::new, |m| m.name.clone()),
            primary_value: primary.as_ref().map_or(f64::NAN, |m| m.value),
            primary_stderr: primary.as_ref().and_then(|m| m.stderr),
            n_items: self.test.len(),
            valid_value,
            best_epoch,
            forgetting_loss_before: progress.forgetting_loss,
            forgetting_loss_after,
            steps_done: progress.step,
            total_seconds: progress.seconds + self.started.elapsed().as_secs_f64(),
            train_peak_bytes: self.phases.get("train").map_or(0, |p| p.peak_bytes),
            eval_peak_bytes: self.phases.get("eval").map_or(0, |p| p.peak_bytes),
            eval_tokens_per_second: self.phases.get("eval").map(|p| self.eval_tokens as f64 / p.seconds),
            adapter_file_bytes,
            ..Summary::default()
        };
        summarise_steps(&mut summary, progress);
        Ok(Outcome::Finished(Box::new(summary)))
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

/// Bytes of f32 tensors.
fn tensor_bytes(params: &[Param]) -> u64 {
    params.iter().map(|param| param.elem_count() as u64 * 4).sum()
}

/// The splits that are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    Valid,
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

fn eval_record(split: &str, step: u64, epoch: u32, found: &Evaluation, seconds: f64) -> EvalRecord {
    EvalRecord { step, epoch, split: split.to_owned(), metrics: found.metrics.clone(), loss: found.loss, seconds, tokens: found.tokens }
}

/// The test split of the text on which forgetting is measured, where the spec names one.
fn load_forgetting(spec: &RunSpec, environment: &Environment, tokenizer: &TextTokenizer) -> Result<Option<(Box<dyn Task>, EvalSplit)>> {
    let Some(component) = &spec.forgetting else { return Ok(None) };
    let task = tasks::build(component).map_err(|e| e.below("forgetting"))?;
    let mut splits = task.load(&environment.data_source())?;
    splits.limit(0, 0, spec.train.test_samples);
    let text = EvalSplit::new(splits.test, &*task, tokenizer, spec.train.max_length, spec.train.eval_batch_size)?;
    Ok(Some((task, text)))
}

/// The examples as training reads them, without those that the task's format drops.
fn encode_all(examples: &[Example], task: &dyn Task, tokenizer: &TextTokenizer, spec: &RunSpec) -> Result<Vec<Encoded>> {
    let encode = |example| encode_training(tokenizer, task.format(), example, spec.train.max_length).transpose();
    Ok(examples.iter().filter_map(encode).collect::<std::result::Result<_, _>>()?)
}

/// The base model's matrices inside its layers.
fn matrices(model: &mut dyn Model) -> Vec<(usize, Param)> {
    let mut found = Vec::new();
    model.visit_slots(&mut |slot| {
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
