//! The training loop: policy, batch, forward, loss, backward, optimizer, one step after the other.
//!
//! Every draw comes from a stream named by epoch or step, so that a resumed run needs no generator's state to go on exactly as it
//! would have.

use crate::account::{Account, Kinds};
use crate::checkpoint::{Progress, StepSummary};
use crate::error::{Result, RunError};
use crate::meter::Phase;
use crate::optimizer::{AdamW, AdamWConfig};
use crate::probe::ModelProbe;
use crate::schedule::Schedule;
use crate::workload::{Batch, Workload};
use peftbench_adapters::method::TrainingStep;
use peftbench_adapters::policy::{InactiveMoments, ProbeSource};
use peftbench_adapters::{Activity, Attachment, LayerPolicy};
use peftbench_datasets::batching;
use peftbench_models::Pass;
use peftbench_ops::{Gradients, Meter, Param, Tape};
use peftbench_spec::RunSpec;
use peftbench_spec::event::{Event, StepRecord};
use peftbench_spec::seed;
use std::cell::RefCell;
use std::time::Instant;

/// What stays the same through one stage of a run.
pub struct TrainingStage<'a> {
    /// The run.
    pub spec: &'a RunSpec,
    /// Name in records.
    pub name: &'static str,
    /// Its optimizer steps.
    pub budget: u64,
    /// Tokens of each training example.
    pub lengths: Vec<usize>,
    /// The base model's matrices and their layers, for policies that look at them.
    pub weights: Vec<(usize, Param)>,
    /// Bytes of the base model.
    pub base_bytes: u64,
    /// Its layers.
    pub num_layers: usize,
}

/// What a step is made with.
pub struct Trainer<'a> {
    stage: TrainingStage<'a>,
    attachment: Attachment,
    policy: Box<dyn LayerPolicy>,
    /// The optimizer, with its moments.
    pub optimizer: AdamW,
    schedule: Schedule,
    steps_per_epoch: u64,
    /// The batches of the epoch under way.
    order: (u64, Vec<Vec<usize>>),
}

/// Optimizer steps an epoch: the last one may hold fewer micro-batches.
pub fn steps_per_epoch(examples: usize, spec: &RunSpec) -> u64 {
    examples.div_ceil(spec.train.batch_size).div_ceil(spec.train.gradient_accumulation) as u64
}

/// Optimizer steps of the whole budget.
pub fn total_steps(examples: usize, spec: &RunSpec) -> u64 {
    let all = steps_per_epoch(examples, spec) * u64::from(spec.train.epochs);
    if spec.train.max_steps > 0 { all.min(spec.train.max_steps) } else { all }
}

impl<'a> Trainer<'a> {
    /// A trainer of one stage.
    pub fn new(stage: TrainingStage<'a>, attachment: Attachment, policy: Box<dyn LayerPolicy>) -> Self {
        let (spec, examples) = (stage.spec, stage.lengths.len());
        // The learning rate of a stage that ends before the run's budget is that of the run so far.
        let total = total_steps(examples, spec).max(stage.budget);
        let t = &spec.train;
        let adamw = AdamWConfig { betas: t.betas, eps: t.eps, weight_decay: t.weight_decay, max_grad_norm: t.max_grad_norm };
        let schedule = Schedule { scheduler: t.lr_scheduler, lr: t.lr, warmup: (t.warmup_ratio * total as f64).round() as u64, total };
        let params = attachment.params.iter().map(|p| p.param.clone()).collect();
        let lr_factors = attachment.params.iter().map(|p| p.lr_factor).collect();
        Self {
            stage,
            attachment,
            policy,
            optimizer: AdamW::new(params, adamw).with_lr_factors(lr_factors),
            schedule,
            steps_per_epoch: steps_per_epoch(examples, spec),
            order: (u64::MAX, Vec::new()),
        }
    }

    /// Steps in each epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// What the method has attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// The layer policy.
    pub fn policy(&mut self) -> &mut dyn LayerPolicy {
        &mut *self.policy
    }

    /// One optimizer step; `progress` is brought forward.
    pub fn step(
        &mut self,
        work: &dyn Workload,
        progress: &mut Progress,
        phase: &mut Phase,
        sink: &mut dyn FnMut(&Event) -> Result<()>,
    ) -> Result<()> {
        let stage_step = progress.stage_step + 1;
        let step = progress.step + 1;
        let activity = self.activate(work, stage_step, phase, sink)?;
        let started = Instant::now();
        let batches = self.batches(work, stage_step)?;
        let data_seconds = started.elapsed().as_secs_f64();
        phase.part_peak();
        let lr = self.schedule.lr(stage_step);
        let account = Account::begin(self.stage.base_bytes, self.attachment.num_added() * 4, self.optimizer.bytes());
        let (loss, grads, activation_bytes) = phase.compute(|| self.differentiate(work, &batches, step, account.meter()))?;
        let differentiating = account.end_part();
        if !loss.is_finite() {
            return Err(RunError::NanLoss { step, loss, lr: self.stage.spec.train.lr });
        }
        let grad_norm = phase.compute(|| self.optimizer.step(&grads, lr))?;
        if !grad_norm.is_finite() {
            return Err(RunError::NanLoss { step, loss: grad_norm, lr: self.stage.spec.train.lr });
        }
        let grad_scale = self.optimizer.grad_scale(grad_norm);
        let made = TrainingStep { step: stage_step, total: self.stage.budget, grads: &grads, grad_scale };
        phase.compute(|| self.attachment.training.iter().try_for_each(|training| training.after_step(&made)))?;
        drop(grads);
        let peak_bytes = phase.part_peak();
        let updating = account.end_part();
        let highest: Kinds = if updating.total() > differentiating.total() { updating } else { differentiating };
        phase.reached(&highest);
        let (tokens, padding) = batches.iter().fold((0, 0), |(t, p), b| (t + b.tokens(), p + b.padding()));
        let seconds = started.elapsed().as_secs_f64();
        progress.step = step;
        progress.stage_step = stage_step;
        progress.history.push(StepSummary { loss, seconds, tokens });
        self.report_layers(step, &activity, sink)?;
        sink(&Event::Step(StepRecord {
            step,
            epoch: stage_step as f64 / self.steps_per_epoch as f64,
            stage: self.stage.name.to_owned(),
            loss,
            lr,
            grad_norm,
            tokens,
            padding_tokens: padding,
            seconds,
            data_seconds,
            activation_bytes,
            peak_bytes,
            active_layers: activity.active.len(),
        }))
    }

    /// The micro-batches of a step.
    fn batches(&mut self, work: &dyn Workload, stage_step: u64) -> Result<Vec<Batch>> {
        let (epoch, within) = ((stage_step - 1) / self.steps_per_epoch, (stage_step - 1) % self.steps_per_epoch);
        if self.order.0 != epoch {
            let mut stream = seed::stream(self.stage.spec.seed, &format!("data/{}/{epoch}", self.stage.name));
            self.order = (epoch, batching::train_batches(&self.stage.lengths, self.stage.spec.train.batch_size, &mut stream));
        }
        let count = self.stage.spec.train.gradient_accumulation;
        let start = within as usize * count;
        let chosen = &self.order.1[start..(start + count).min(self.order.1.len())];
        chosen.iter().map(|indices| work.batch(ProbeSource::Train, indices)).collect()
    }

    /// Asks the policy and sets each tensor active or not. What the policy probes is a phase of its own.
    fn activate(
        &mut self,
        work: &dyn Workload,
        stage_step: u64,
        phase: &mut Phase,
        sink: &mut dyn FnMut(&Event) -> Result<()>,
    ) -> Result<Activity> {
        let params = &self.attachment.params;
        let (weights, num_layers, seed) = (&self.stage.weights, self.stage.num_layers, self.stage.spec.seed);
        let mut probe = ModelProbe { work, params, weights, num_layers, seed, asked: false };
        let (activity, record) = phase.apart("probe", || self.policy.begin_step(stage_step, &mut probe));
        let activity = activity?;
        if probe.asked {
            sink(&Event::Phase(record))?;
        }
        for param in params {
            param.param.set_active(param.layer.is_none_or(|layer| activity.active.contains(&layer)));
        }
        match self.policy.inactive_moments() {
            InactiveMoments::Keep => {}
            InactiveMoments::Evict => self.optimizer.forget(|param| !param.is_active()),
            InactiveMoments::Reset if activity.decided => self.optimizer.forget(|_| true),
            InactiveMoments::Reset => {}
        }
        Ok(activity)
    }

    /// Loss, gradients and the bytes that the tape kept. The loss is the mean over the label tokens of all micro-batches; what methods add to
    /// it is differentiated with it, but not reported: losses stay comparable.
    fn differentiate(&self, work: &dyn Workload, batches: &[Batch], step: u64, meter: &Meter) -> Result<(f64, Gradients, u64)> {
        let dropout = RefCell::new(seed::stream(self.stage.spec.seed, &format!("dropout/{step}")));
        let labels: usize = batches.iter().map(Batch::weight).sum();
        let (mut total, mut kept, mut sum) = (0.0, 0, None);
        for batch in batches {
            let tape = Tape::metered(meter);
            let gradient_checkpointing = self.stage.spec.train.gradient_checkpointing;
            let pass = Pass { dropout: Some(&dropout), gradient_checkpointing, ..Pass::evaluation(&tape) };
            let mut loss = work.loss(&pass, batch)?;
            let share = batch.weight() as f64 / labels.max(1) as f64;
            total += f64::from(loss.value().to_scalar::<f32>()?) * share;
            for training in &self.attachment.training {
                if let Some(penalty) = training.penalty(&tape)? {
                    loss = tape.add(&loss, &penalty)?;
                }
            }
            if batches.len() > 1 {
                loss = tape.scale(&loss, share)?;
            }
            kept = kept.max(tape.saved_bytes().values().sum());
            let grads = tape.backward(&loss)?;
            sum = Some(match sum {
                None => grads,
                Some(sum) => Gradients::plus(sum, grads)?,
            });
        }
        let Some(grads) = sum else { return Err(peftbench_ops::Error::Msg("a step without a batch".to_owned()).into()) };
        Ok((total, grads, kept))
    }

    fn report_layers(&self, step: u64, activity: &Activity, sink: &mut dyn FnMut(&Event) -> Result<()>) -> Result<()> {
        let layers = if activity.decided { self.stage.num_layers } else { 0 };
        for layer in 0..layers {
            sink(&Event::Layer {
                step,
                layer,
                importance: activity.importance.as_ref().map(|importance| importance[layer]),
                probe_loss: activity.probe_loss.as_ref().and_then(|losses| losses[layer]),
                selected: activity.active.contains(&layer),
            })?;
        }
        Ok(())
    }
}
