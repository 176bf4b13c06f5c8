//! Base models of every architecture with fresh weights, and what tests do with adapters on them.

#![allow(dead_code, reason = "each user takes what it needs")]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{AdapterError, Attachment, choose, methods};
use peftbench_models::config::ModelConfig;
use peftbench_models::model::ARCHITECTURES;
use peftbench_models::weights::Fresh;
use peftbench_models::{Model, Pass, model};
use peftbench_ops::{Device, Gradients, Tape, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Value, json};
use std::path::Path;

/// Names of the fixtures' base models: at least one of each architecture.
pub fn all() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.contains("__")).collect();
    names.sort();
    for architecture in ARCHITECTURES {
        let found = names.iter().any(|name| config(name).model_type == architecture.model_type);
        assert!(found, "no fixture is a base model of the architecture {}", architecture.model_type);
    }
    names
}

/// The config of a base model.
pub fn config(name: &str) -> ModelConfig {
    ModelConfig::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)).unwrap()
}

/// A base model with the same fresh weights each time.
pub fn base(name: &str) -> Box<dyn Model> {
    model::build(&config(name), &Fresh { seed: 1 }).unwrap()
}

/// Whether a base model has SSM layers.
pub fn has_ssm(name: &str) -> bool {
    name.contains("mamba") || name == "jamba"
}

/// Attaches a method as its last stage does; no targets are its default.
pub fn attach(model: &mut dyn Model, method: &Component, targets: &[&str], layers: &str, seed: u64) -> Result<Attachment, AdapterError> {
    let built = methods::build(method)?;
    let layers: LayerSelection = layers.parse()?;
    let chosen = choose(model, &method.name, &*built, &TargetExpr::new(targets.iter().copied()), &layers, seed)?;
    let init = &mut seed::stream(seed, "init");
    let stage = built.stages().len() - 1;
    built.attach(model, &mut AttachContext { chosen: &chosen, stage, carried: &Carried::new(), init, loading: false })
}

/// A method from the form that specs have.
pub fn method(value: &Value) -> Component {
    Component::from_value(value).unwrap()
}

/// Two sequences of five tokens.
pub fn ids() -> Tensor {
    Tensor::new(&[[3u32, 9, 27, 1, 3], [39, 0, 5, 5, 8]], &Device::Cpu).unwrap()
}

/// Adds noise to everything that trains, the same for the same order of tensors.
pub fn perturb(attachment: &Attachment) {
    let mut stream = seed::stream(7, "perturb");
    for p in &attachment.params {
        let value = p.param.value();
        let noise: Vec<f32> = (0..value.elem_count()).map(|_| StandardNormal.sample(&mut stream)).collect();
        let noise = Tensor::from_vec(noise, value.shape(), &Device::Cpu).unwrap();
        p.param.set((value + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
}

/// Logits of [`ids`] in evaluation mode.
pub fn logits(model: &dyn Model) -> Tensor {
    model.all_logits(&ids(), None).unwrap()
}

/// Loss and gradients of a few labels, with what the method adds to the loss.
pub fn differentiate(model: &dyn Model, attachment: &Attachment) -> (f32, Gradients) {
    let tape = Tape::new();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &ids(), None).unwrap();
    let mut loss = model.loss(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap();
    for training in &attachment.training {
        if let Some(penalty) = training.penalty(&tape).unwrap() {
            loss = tape.add(&loss, &penalty).unwrap();
        }
    }
    (loss.value().to_scalar().unwrap(), tape.backward(&loss).unwrap())
}

/// All values of a tensor.
pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference of two tensors.
pub fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    flat(a).into_iter().zip(flat(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Small options of a method.
pub fn small(name: &str) -> Component {
    method(&match name {
        "lora" | "dora" | "hra" | "miss" | "lora_tensor" | "loha" | "lokr" => json!({"type": name, "r": 2}),
        "vera" => json!({"type": "vera", "r": 6}),
        "adalora" => json!({"type": "adalora", "init_r": 3, "target_r": 1}),
        "oft" => json!({"type": "oft", "oft_block_size": 4}),
        "boft" => json!({"type": "boft", "boft_n_butterfly_factor": 2}),
        "fourierft" => json!({"type": "fourierft", "n_frequency": 10, "init_weights": true}),
        "road" => json!({"type": "road", "group_size": 4}),
        "prompt" | "p_tuning" | "prefix" => json!({"type": name, "num_virtual_tokens": 3}),
        "series" | "parallel" => json!({"type": name, "bottleneck_size": 4}),
        "additional_scan" => json!({"type": name, "d_state": 2}),
        "sdt" => json!({"type": name, "channel_freeze_ratio": 0.5, "state_freeze_ratio": 0.5}),
        "initial_state" => json!({"type": name, "conv_state": true}),
        "combined" => {
            json!({"type": name, "methods": [{"type": "lora", "r": 2, "layers": "first:1"}, {"type": "selective", "targets": "role:norm"}]})
        }
        name => json!(name),
    })
}
