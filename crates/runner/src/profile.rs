//! What a training step of a method costs: a few steps on random tokens, timed and weighed part by part.
//!
//! Every kind of memory is counted twice: by what the tensors say of themselves, and by the allocator, which saw them come. The two are
//! recorded side by side; a test holds them together. For each part of a step there is a breakdown by kind at its highest moment, beside
//! the allocator's peak.

use crate::account::{Account, Kinds};
use crate::environment::Environment;
use crate::error::Result;
use crate::optimizer::{AdamW, AdamWConfig};
use crate::resolve::{attach_all, build_methods, fresh_model, stages_of};
use peftbench_adapters::Attachment;
use peftbench_adapters::method::{Carried, TrainingStep};
use peftbench_models::{Model, Pass};
use peftbench_ops::clock::process_cpu_time;
use peftbench_ops::{Device, Tape, Tensor, memory};
use peftbench_spec::{RunSpec, SpecError, seed};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::time::Instant;

/// How to profile.
#[derive(Debug, Clone, Copy)]
pub struct ProfileOptions {
    /// Sequences a step.
    pub batch: usize,
    /// Tokens a sequence.
    pub length: usize,
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
    /// Draw the weights instead of reading them: the model's folder then needs no more than a `config.json`.
    pub fresh: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Hugging Face's `model_type`.
    pub arch: String,
    /// Scalars of the base model.
    pub total_params: u64,
    /// Scalars that train.
    pub trainable_params: u64,
    /// Tokens a step.
    pub tokens: usize,
    /// Median wall times.
    pub seconds: Seconds,
    /// Tokens a second of whole steps.
    pub tokens_per_second: f64,
    /// Median processor time of a step, all threads together, which other programs' work does not add to; where the system tells.
    pub cpu_seconds: Option<f64>,
    /// Bytes by kind, as the tensors say.
    pub bytes: Bytes,
    /// The same as the allocator saw it; all 0 in a program without the counting allocator.
    pub allocated: Bytes,
    /// Bytes by kind in each part of a step, at its highest moment.
    pub parts: Vec<Part>,
    /// What the tape kept for the backward pass.
    pub saved: Vec<Saved>,
}

/// Memory in one part of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `forward`, `backward`, `optimizer`.
    pub part: String,
    /// Bytes by kind at the highest moment.
    pub kinds: Kinds,
    /// The allocator's peak.
    pub peak: u64,
}

/// Wall time of the parts of a step, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Forward pass and loss.
    pub forward: f64,
    /// Backward pass.
    pub backward: f64,
    /// AdamW, and what the method does behind it.
    pub optimizer: f64,
    /// All of it.
    pub step: f64,
}

/// Bytes by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// The base model.
    pub weights: u64,
    /// Tensors that the method added.
    pub adapter: u64,
    /// Gradients of trained tensors.
    pub gradients: u64,
    /// Moments.
    pub optimizer: u64,
    /// Kept for the backward pass.
    pub activations: u64,
    /// Highest sum in a step, temporary buffers included.
    pub peak: u64,
    /// What of the peak is none of the above: buffers of the operator at work, and gradients of activations.
    pub workspace: u64,
}

/// Bytes that one operator keeps in one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// `layers.3`, `head`.
    pub scope: String,
    /// Operator.
    pub operator: String,
    /// Bytes.
    pub bytes: u64,
}

/// Profiles the training step of a resolved spec, of its last stage.
///
/// # Errors
/// As a run's; and if the method trains nothing.
pub fn profile(spec: &RunSpec, environment: &Environment, options: ProfileOptions) -> Result<Profile> {
    let (methods, device) = (build_methods(spec)?, environment.device()?);
    let before = memory::live_bytes();
    let mut model = match options.fresh {
        true => fresh_model(spec, environment, &device)?,
        false => environment.find_model(&spec.model.name)?.model(&device)?,
    };
    let weights = memory::live_bytes() - before;
    let last = stages_of(&methods).len().saturating_sub(1);
    let (attachment, _) = attach_all(spec, &methods, &mut *model, last, &Carried::new())?;
    if attachment.params.is_empty() {
        return Err(SpecError::at("method", "nothing trains, so there is no training step to profile").into());
    }
    let adapter = memory::live_bytes() - before - weights;
    let mut steps = Steps::new(&mut *model, attachment, spec, options, device)?;
    steps.allocated = Bytes { weights, adapter, ..Bytes::default() };
    steps.measure(options)
}

/// The steps under measurement.
struct Steps<'a> {
    model: &'a dyn Model,
    attachment: Attachment,
    optimizer: AdamW,
    lr: f64,
    total_params: u64,
    seed: u64,
    gradient_checkpointing: bool,
    /// All of them, and one more: a schedule that ends with the run has not ended.
    steps: u64,
    ids: Tensor,
    rows: Vec<u32>,
    labels: Vec<u32>,
    bytes: Bytes,
    allocated: Bytes,
    parts: Vec<Part>,
    saved: Vec<Saved>,
}

impl<'a> Steps<'a> {
    fn new(model: &'a mut dyn Model, attachment: Attachment, spec: &RunSpec, options: ProfileOptions, device: Device) -> Result<Self> {
        let ProfileOptions { batch, length, .. } = options;
        let t = &spec.train;
        let config = AdamWConfig { betas: t.betas, eps: t.eps, weight_decay: t.weight_decay, max_grad_norm: t.max_grad_norm };
        let mut stream = seed::stream(spec.seed, "profile/tokens");
        let tokens: Vec<u32> = (0..batch * (length + 1)).map(|_| stream.random_range(0..model.vocab_size() as u32)).collect();
        let ids: Vec<u32> = tokens.chunks(length + 1).flat_map(|row| &row[..length]).copied().collect();
        let params = model.params();
        let base: u64 = params.iter().map(|p| p.elem_count() as u64).sum();
        Ok(Self {
            optimizer: AdamW::new(attachment.params.iter().map(|p| p.param.clone()).collect(), config),
            lr: t.lr,
            total_params: base,
            seed: spec.seed,
            gradient_checkpointing: t.gradient_checkpointing,
            steps: (options.warmup.max(1) + options.steps.max(1)) as u64 + 1,
            ids: Tensor::from_vec(ids, (batch, length), &device)?,
            rows: (0..(batch * length) as u32).collect(),
            labels: tokens.chunks(length + 1).flat_map(|row| &row[1..]).copied().collect(),
            bytes: Bytes { weights: base * 4, adapter: attachment.num_added() * 4, ..Bytes::default() },
            allocated: Bytes::default(),
            parts: Vec::new(),
            saved: Vec::new(),
            model,
            attachment,
        })
    }

    /// One optimizer step; times of forward, backward and optimizer.
    fn step(&mut self, index: usize) -> Result<[f64; 3]> {
        let start = memory::reset_peak();
        let clock = Instant::now();
        let dropout = RefCell::new(seed::stream(self.seed, &format!("profile/dropout/{index}")));
        let account = Account::begin(self.bytes.weights, self.bytes.adapter, self.optimizer.bytes());
        self.parts.clear();
        let tape = Tape::metered(account.meter());
        let gradient_checkpointing = self.gradient_checkpointing;
        let pass = Pass { dropout: Some(&dropout), gradient_checkpointing, ..Pass::evaluation(&tape) };
        let hidden = self.model.forward(&pass, &self.ids, None)?;
        let mut loss = self.model.loss(&pass, &hidden, &self.rows, &self.labels)?;
        drop(hidden);
        for training in &self.attachment.training {
            if let Some(penalty) = training.penalty(&tape)? {
                loss = tape.add(&loss, &penalty)?;
            }
        }
        let forward = clock.elapsed().as_secs_f64();
        self.end_part("forward", &account);
        let saved = tape.saved_bytes();
        self.bytes.activations = saved.values().sum();
        self.allocated.activations = memory::live_bytes() - start;
        let clock = Instant::now();
        let grads = tape.backward(&loss)?;
        drop(loss);
        let backward = clock.elapsed().as_secs_f64();
        self.end_part("backward", &account);
        self.bytes.gradients = grads.iter().map(|(_, grad)| grad.elem_count() as u64 * 4).sum();
        self.allocated.gradients = memory::live_bytes() - start;
        let before = memory::live_bytes();
        let clock = Instant::now();
        self.optimizer.step(&grads, self.lr)?;
        let made = TrainingStep { step: index as u64 + 1, total: self.steps, grads: &grads, grad_scale: 1.0 };
        self.attachment.training.iter().try_for_each(|training| training.after_step(&made))?;
        let optimizer = clock.elapsed().as_secs_f64();
        self.end_part("optimizer", &account);
        // Moments come to be in the first step and are replaced, not added to, in later ones.
        self.allocated.optimizer = self.allocated.optimizer.max(memory::live_bytes().saturating_sub(before));
        self.bytes.optimizer = self.optimizer.bytes();
        drop(grads);
        self.allocated.peak = self.parts.iter().map(|part| part.peak).fold(self.allocated.peak, u64::max);
        self.saved = saved.into_iter().map(|((scope, op), bytes)| Saved { scope, operator: op.to_owned(), bytes }).collect();
        Ok([forward, backward, optimizer])
    }

    /// Ends a part of the step.
    fn end_part(&mut self, part: &str, account: &Account) {
        self.parts.push(Part { part: part.to_owned(), kinds: account.end_part(), peak: memory::peak_bytes() });
        memory::reset_peak();
    }

    fn measure(mut self, options: ProfileOptions) -> Result<Profile> {
        (0..options.warmup.max(1)).try_for_each(|i| self.step(i).map(|_| ()))?;
        self.allocated.peak = 0;
        let (mut times, mut cpu) = (Vec::new(), Vec::new());
        for i in 0..options.steps.max(1) {
            let before = process_cpu_time();
            times.push(self.step(options.warmup + i)?);
            cpu.extend(process_cpu_time().zip(before).map(|(now, before)| (now - before).as_secs_f64()));
        }
        let of = |part: &dyn Fn(&[f64; 3]) -> f64| median(times.iter().map(part).collect());
        let seconds = Seconds { forward: of(&|t| t[0]), backward: of(&|t| t[1]), optimizer: of(&|t| t[2]), step: of(&|t| t.iter().sum()) };
        let known = |b: Bytes| b.weights + b.adapter + b.gradients + b.optimizer + b.activations;
        self.bytes.peak = self.allocated.peak;
        self.bytes.workspace = self.bytes.peak.saturating_sub(known(self.bytes));
        self.allocated.workspace = self.allocated.peak.saturating_sub(known(self.allocated));
        let tokens = self.labels.len();
        Ok(Profile {
            arch: self.model.arch().to_owned(),
            total_params: self.total_params,
            trainable_params: self.attachment.num_trainable(),
            tokens,
            tokens_per_second: tokens as f64 / seconds.step,
            cpu_seconds: (!cpu.is_empty()).then(|| median(cpu)),
            seconds,
            bytes: self.bytes,
            allocated: self.allocated,
            parts: self.parts,
            saved: self.saved,
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
