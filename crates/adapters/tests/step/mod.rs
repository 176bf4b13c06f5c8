//! A LoRA training step on random weights and tokens: forward, backward, AdamW. The benches time it, the tests weigh it.

#![allow(dead_code, reason = "each user takes what it needs")]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{choose, methods};
use peftbench_models::config::ModelConfig;
use peftbench_models::model::ARCHITECTURES;
use peftbench_models::slots::SlotMut;
use peftbench_models::weights::Fresh;
use peftbench_models::{Model, Pass, model};
use peftbench_ops::adamw::{AdamWStep, Moments, adamw, sum_of_squares};
use peftbench_ops::tape::SavedBytes;
use peftbench_ops::{Device, Gradients, Param, Tape, Tensor, Var};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use rand::RngExt;
use serde_json::{Value, json};
use std::path::Path;

/// A model's shape, a batch, and where LoRA (r = 8) goes.
#[derive(Clone)]
pub struct Shape {
    /// Name in tables.
    pub name: String,
    /// `config.json`.
    pub config: Value,
    /// Sequences in a batch.
    pub batch: usize,
    /// Tokens in a sequence.
    pub length: usize,
    /// Target modules; none for the method's default.
    pub targets: &'static [&'static str],
    /// Layers that train.
    pub layers: &'static str,
}

impl Shape {
    /// Tokens in a batch.
    pub fn tokens(&self) -> usize {
        self.batch * self.length
    }

    fn key(&self, name: &str) -> usize {
        self.config[name].as_u64().unwrap() as usize
    }

    /// FLOPs a token and layer beyond the linear layers: attention 4 · length · hidden; or scan 9 · d_inner · state and convolution
    /// 8 · d_inner.
    fn mixer_flops(&self) -> usize {
        match self.config["model_type"].as_str().unwrap() {
            "llama" => 4 * self.length * self.key("hidden_size"),
            _ => 2 * self.key("hidden_size") * (9 * self.key("state_size") + 8),
        }
    }
}

/// LLaMA, hidden 768, 12 layers, about 110 million parameters; batch 1 × 256, LoRA on q and v.
pub fn llama_110m() -> Shape {
    llama("llama-110m", 768, 12, 12, 2048, 32_000, 1)
}

/// LLaMA, hidden 256, 8 layers; batch 4 × 256, LoRA on q and v.
pub fn llama_small() -> Shape {
    llama("llama-small", 256, 8, 8, 688, 4096, 4)
}

fn llama(name: &str, hidden: usize, layers: usize, heads: usize, inner: usize, vocab: usize, batch: usize) -> Shape {
    let config = json!({"model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner, "vocab_size": vocab, "tie_word_embeddings": true});
    Shape { name: name.to_owned(), config, batch, length: 256, targets: &["q_proj", "v_proj"], layers: "all" }
}

/// Mamba, d_model 768, 24 layers, about 130 million parameters; batch 1 × 256, LoRA on the in and out projections.
pub fn mamba_130m() -> Shape {
    let config = json!({"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "vocab_size": 50_280});
    Shape { name: "mamba-130m".to_owned(), config, batch: 1, length: 256, targets: &["in_proj", "out_proj"], layers: "all" }
}

/// Every base model of the parity fixtures, at least one of each architecture, four times as wide and with eight layers; batch 2 × 128, LoRA
/// where it goes by default.
pub fn every_model() -> Vec<Shape> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let names = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.contains("__")).collect();
    names.sort();
    let shape = |name: String| {
        let mut config = ModelConfig::read(&root.join(&name)).unwrap().values;
        for key in ["hidden_size", "n_embd", "intermediate_size", "n_inner", "ffn_dim", "head_dim", "word_embed_proj_dim"] {
            config.entry(key).and_modify(|value| *value = (4 * value.as_u64().unwrap()).into());
        }
        for (key, size) in
            [("num_hidden_layers", 8), ("n_layer", 8), ("vocab_size", 1000), ("n_positions", 128), ("max_position_embeddings", 128)]
        {
            config.entry(key).and_modify(|value| *value = size.into());
        }
        Shape { name, config: Value::Object(config), batch: 2, length: 128, targets: &[], layers: "all" }
    };
    let shapes: Vec<Shape> = names.into_iter().map(shape).collect();
    for architecture in ARCHITECTURES {
        let is_it = |shape: &Shape| shape.config["model_type"] == architecture.model_type;
        assert!(shapes.iter().any(is_it), "no fixture is a base model of the architecture {}", architecture.model_type);
    }
    shapes
}

/// A model with LoRA attached, a batch, and the optimizer's state.
pub struct Step {
    /// The model.
    pub model: Box<dyn Model>,
    /// What trains.
    pub params: Vec<Param>,
    moments: Vec<[Tensor; 2]>,
    ids: Tensor,
    labels: Vec<u32>,
    steps: u64,
}

impl Step {
    /// Random weights and tokens from fixed seeds; every position is labelled.
    pub fn new(shape: &Shape) -> Self {
        let Value::Object(values) = shape.config.clone() else { unreachable!() };
        let config = ModelConfig::from_values(values, shape.name.clone()).unwrap();
        let mut model = model::build(&config, &Fresh { seed: 1 }).unwrap();
        let method = methods::build(&Component::from_value(&json!({"type": "lora", "r": 8, "lora_alpha": 16})).unwrap()).unwrap();
        let layers: LayerSelection = shape.layers.parse().unwrap();
        let chosen = choose(&mut *model, "lora", &*method, &TargetExpr::new(shape.targets.iter().copied()), &layers, 0).unwrap();
        let mut context =
            AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init: &mut seed::stream(1, "init"), loading: false };
        let params: Vec<Param> = method.attach(&mut *model, &mut context).unwrap().params.into_iter().map(|p| p.param).collect();
        let moments = params.iter().map(|p| [p.value().zeros_like().unwrap(), p.value().zeros_like().unwrap()]).collect();
        let mut stream = seed::stream(1, "tokens");
        let mut draw = || (0..shape.tokens()).map(|_| stream.random_range(0..model.vocab_size() as u32)).collect::<Vec<u32>>();
        let (ids, labels) = (draw(), draw());
        let ids = Tensor::from_vec(ids, (shape.batch, shape.length), &Device::Cpu).unwrap();
        Self { model, params, moments, ids, labels, steps: 0 }
    }

    /// The forward pass: its tape and the loss.
    pub fn forward(&self) -> (Tape, Var) {
        self.forward_on(Tape::new(), false)
    }

    /// The forward pass on a given tape, with or without gradient checkpointing.
    pub fn forward_on(&self, tape: Tape, gradient_checkpointing: bool) -> (Tape, Var) {
        let pass = Pass { gradient_checkpointing, ..Pass::evaluation(&tape) };
        let hidden = self.model.forward(&pass, &self.ids, None).unwrap();
        let rows: Vec<u32> = (0..self.labels.len() as u32).collect();
        let loss = self.model.loss(&pass, &hidden, &rows, &self.labels).unwrap();
        (tape, loss)
    }

    /// Loss, gradients, and what the tape held between the passes.
    pub fn differentiate(&self) -> (f32, Gradients, SavedBytes) {
        let (tape, loss) = self.forward();
        let saved = tape.saved_bytes();
        (loss.value().to_scalar().unwrap(), tape.backward(&loss).unwrap(), saved)
    }

    /// One whole step; returns the loss and what the tape held.
    pub fn run(&mut self) -> (f32, SavedBytes) {
        let (loss, grads, saved) = self.differentiate();
        self.update(&grads);
        (loss, saved)
    }

    /// AdamW's update.
    pub fn update(&mut self, grads: &Gradients) {
        let norm = grads.iter().map(|(_, grad)| sum_of_squares(grad).unwrap()).sum::<f64>().sqrt();
        self.steps += 1;
        let s = AdamWStep {
            lr: 1e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            step: self.steps,
            grad_scale: (1.0 / (norm + 1e-6)).min(1.0),
        };
        for (param, moments) in self.params.iter().zip(&mut self.moments) {
            let [first, second] = moments.clone();
            let new = adamw(&Moments { value: param.value(), first, second }, grads.get(param).unwrap(), s).unwrap();
            param.set(new.value).unwrap();
            *moments = [new.first, new.second];
        }
    }

    /// Bytes of the base's tensors, and of what trains with its moments.
    pub fn held_bytes(&mut self) -> (u64, u64) {
        let bytes = |params: &[Param]| params.iter().map(|p| p.elem_count() as u64 * 4).sum::<u64>();
        (bytes(&self.model.params()), 3 * bytes(&self.params))
    }

    /// [out, in] of the linear layers of layer `layer`.
    pub fn layer_products(&mut self, layer: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        self.model.visit_slots(&mut |slot| {
            if let SlotMut::Linear(slot) = slot
                && slot.info.layer == Some(layer)
            {
                found.push(slot.dims());
            }
        });
        found
    }

    /// FLOPs of a step that counts as useful: two a multiply-add; the forward pass, the same again for the gradients of the inputs, and
    /// six an added element. Nothing for frozen weights' gradients, norms, activations, recomputation and the optimizer. Every layer
    /// must train.
    pub fn flops(&mut self, shape: &Shape) -> f64 {
        let (mut linear, layers) = (0, self.model.num_layers());
        self.model.visit_slots(&mut |slot| {
            if let SlotMut::Linear(slot) = slot
                && slot.info.layer.is_some()
            {
                linear += slot.dims().0 * slot.dims().1;
            }
        });
        let head = self.model.vocab_size() * self.model.hidden_size();
        let added: usize = self.params.iter().map(Param::elem_count).sum();
        let forward = 2 * (linear + head) + layers * shape.mixer_flops();
        (shape.tokens() * (2 * forward + 6 * added)) as f64
    }
}
