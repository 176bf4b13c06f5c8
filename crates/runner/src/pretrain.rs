//! Pre-training of the small base models that ship, on text of the invented world.

use crate::error::{Result, RunError};
use crate::files::write_atomically;
use crate::optimizer::{AdamW, AdamWConfig};
use crate::schedule::Schedule;
use peftbench_datasets::{TextTokenizer, world};
use peftbench_models::checkpoint::{Storage, to_safetensors};
use peftbench_models::config::ModelConfig;
use peftbench_models::weights::Fresh;
use peftbench_models::{Model, Pass, model};
use peftbench_ops::device::host;
use peftbench_ops::{Tape, Tensor};
use peftbench_spec::seed;
use peftbench_spec::{LrScheduler, SpecError};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The spec of a base model: `experiments/bases/*.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSpec {
    /// Name of the model and of its folder.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// `config.json`, by Hugging Face's keys; the vocabulary's size is the tokenizer's.
    pub model: Map<String, Value>,
    /// The text.
    pub corpus: Corpus,
    /// The optimisation.
    pub train: PretrainTrain,
}

/// Text of the invented world.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// Which world.
    pub world_seed: u64,
    /// Sentences of training text.
    pub sentences: usize,
    /// Tokens of the byte-level BPE that is trained on it.
    pub vocab_size: usize,
}

/// The optimisation of a base model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainTrain {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences a step.
    pub batch_size: usize,
    /// Tokens a sequence.
    pub length: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Shape of the learning rate.
    pub lr_scheduler: LrScheduler,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Seed of initialisation and data order.
    pub seed: u64,
}

/// A step of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PretrainProgress {
    /// From 1.
    pub step: u64,
    /// All steps.
    pub total: u64,
    /// Mean loss, nats a token.
    pub loss: f64,
    /// Tokens in the step.
    pub tokens: u64,
}

impl PretrainSpec {
    /// Reads a spec file.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = |e: std::io::Error| SpecError::Unreadable { path: path.to_owned(), problem: e.to_string() };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let value = peftbench_spec::sweep_spec::parse_toml(path, &text)?;
        Ok(peftbench_spec::locate::deserialize(value).map_err(|e| e.located(path, &text))?)
    }
}

/// Steps whose losses are written beside the weights, so that anybody can check that the spec made them.
pub const RECORDED_STEPS: usize = 20;

/// Pre-trains from nothing and writes the model's folder: `config.json`, `model.safetensors` (f16), `tokenizer.json`, `pretrain.toml`
/// and the losses of the first steps. Returns false if it was stopped, and writes nothing then.
pub fn pretrain(spec: &PretrainSpec, out: &Path, stop: &AtomicBool, progress: &mut dyn FnMut(PretrainProgress)) -> Result<bool> {
    let mut trainer = Pretrainer::new(spec, None)?;
    let mut losses = Vec::new();
    while !trainer.is_done() {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let step = trainer.step()?;
        losses.push(step.loss);
        progress(step);
    }
    trainer.save(out)?;
    write_atomically(&out.join("pretrain.toml"), toml_text(spec)?.as_bytes())?;
    let record = FirstLosses { processor: processor(), losses: losses.into_iter().take(RECORDED_STEPS).collect() };
    let text = serde_json::to_string_pretty(&record).map_err(|e| RunError::file("write", out.join(FIRST_LOSSES), e))?;
    write_atomically(&out.join(FIRST_LOSSES), (text + "\n").as_bytes())?;
    Ok(true)
}

/// The file with the first losses, beside the weights.
pub const FIRST_LOSSES: &str = "first_losses.json";

/// The losses of the first steps, and the processor they were computed on: another one may block its matrix products otherwise, and then
/// sums in another order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirstLosses {
    /// As [`processor`] names it.
    pub processor: String,
    /// Mean losses, nats a token.
    pub losses: Vec<f64>,
}

/// The processor's name with its family and model number, where the system tells; else the architecture.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()))
    };
    match (field("model name"), field("cpu family"), field("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name} family {family} model {model}"),
        _ => std::env::consts::ARCH.to_owned(),
    }
}

/// The losses of the first `steps` steps of `spec`, with the tokenizer that ships.
pub fn first_losses(spec: &PretrainSpec, tokenizer: &Path, steps: usize) -> Result<Vec<f64>> {
    let mut trainer = Pretrainer::new(spec, Some(TextTokenizer::from_file(tokenizer)?))?;
    (0..steps).map(|_| trainer.step().map(|step| step.loss)).collect()
}

fn toml_text(spec: &PretrainSpec) -> Result<String> {
    toml::to_string_pretty(spec).map_err(|e| SpecError::at("", format!("the spec cannot be written as TOML: {e}")).into())
}

struct Pretrainer<'a> {
    spec: &'a PretrainSpec,
    tokenizer: TextTokenizer,
    config: ModelConfig,
    model: Box<dyn Model>,
    optimizer: AdamW,
    schedule: Schedule,
    windows: Vec<Vec<u32>>,
    step: u64,
}

impl<'a> Pretrainer<'a> {
    fn new(spec: &'a PretrainSpec, tokenizer: Option<TextTokenizer>) -> Result<Self> {
        let train = &spec.train;
        let corpus = || world::corpus(spec.corpus.world_seed, spec.corpus.sentences);
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer,
            None => TextTokenizer::train_byte_bpe(corpus(), spec.corpus.vocab_size)?,
        };
        let needed = train.steps as usize * train.batch_size;
        let windows = windows(&tokenizer, corpus(), train.length + 1, needed, train.seed)?;
        let mut values = spec.model.clone();
        values.insert("vocab_size".to_owned(), tokenizer.vocab_size().into());
        let config = ModelConfig::from_values(values, spec.name.clone())?;
        let mut model = model::build(&config, &Fresh { seed: train.seed })?;
        let params = model.params();
        params.iter().for_each(|param| param.set_trainable(true));
        let adamw = AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: train.weight_decay, max_grad_norm: 1.0 };
        let schedule = Schedule { scheduler: train.lr_scheduler, lr: train.lr, warmup: train.warmup_steps, total: train.steps };
        Ok(Self { spec, tokenizer, config, model, optimizer: AdamW::new(params, adamw), schedule, windows, step: 0 })
    }

    fn is_done(&self) -> bool {
        self.step >= self.spec.train.steps
    }

    fn step(&mut self) -> Result<PretrainProgress> {
        let (batch, length) = (self.spec.train.batch_size, self.spec.train.length);
        let start = self.step as usize * batch;
        let chosen: Vec<&Vec<u32>> = (start..start + batch).map(|i| &self.windows[i % self.windows.len()]).collect();
        let ids: Vec<u32> = chosen.iter().flat_map(|window| &window[..length]).copied().collect();
        let labels: Vec<u32> = chosen.iter().flat_map(|window| &window[1..]).copied().collect();
        let rows: Vec<u32> = (0..labels.len() as u32).collect();
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let hidden = self.model.forward(&pass, &Tensor::from_vec(ids, (batch, length), &host())?, None)?;
        let loss = self.model.loss(&pass, &hidden, &rows, &labels)?;
        let value = f64::from(loss.value().to_scalar::<f32>()?);
        self.step += 1;
        if !value.is_finite() {
            return Err(RunError::NanLoss { step: self.step, loss: value, lr: self.spec.train.lr });
        }
        let grads = tape.backward(&loss)?;
        self.optimizer.step(&grads, self.schedule.lr(self.step))?;
        Ok(PretrainProgress { step: self.step, total: self.spec.train.steps, loss: value, tokens: labels.len() as u64 })
    }

    fn save(&mut self, out: &Path) -> Result<()> {
        let params = self.model.params();
        write_atomically(&out.join("model.safetensors"), &to_safetensors(&params, Storage::F16)?)?;
        let config = format!("{:#}\n", Value::Object(self.config.values.clone()));
        write_atomically(&out.join("config.json"), config.as_bytes())?;
        Ok(self.tokenizer.save(&out.join("tokenizer.json"))?)
    }
}

/// The corpus as one stream of tokens, cut into windows and shuffled; no more than are `needed`.
fn windows(
    tokenizer: &TextTokenizer,
    corpus: impl Iterator<Item = String>,
    length: usize,
    needed: usize,
    run_seed: u64,
) -> Result<Vec<Vec<u32>>> {
    let mut stream: Vec<u32> = Vec::new();
    for document in corpus {
        stream.extend(tokenizer.encode(&document, false)?);
        stream.extend(tokenizer.eos_id());
    }
    let mut windows: Vec<Vec<u32>> = stream.chunks_exact(length).map(<[u32]>::to_vec).collect();
    if windows.is_empty() {
        let problem = format!("the corpus has {} tokens, fewer than one sequence of {length}", stream.len());
        return Err(SpecError::at("corpus.sentences", problem).into());
    }
    windows.shuffle(&mut seed::stream(run_seed, "data"));
    windows.truncate(needed);
    Ok(windows)
}
