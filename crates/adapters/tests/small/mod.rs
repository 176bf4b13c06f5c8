//! Models of a few small layers, and what tests of a method's mathematics do with them.

#![allow(dead_code, reason = "each user takes what it needs")]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{AdapterError, Attachment, choose, methods};
use peftbench_models::config::ModelConfig;
use peftbench_models::slots::{LinearSlot, SlotMut};
use peftbench_models::weights::Fresh;
use peftbench_models::{Model, Pass, model};
use peftbench_ops::{Device, Param, Tape, Tensor, Var};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use rand::RngExt;
use serde_json::{Value, json};

/// States of a channel.
pub const STATES: usize = 4;

/// The config of two layers, with so many states a channel.
pub fn config(arch: &str, states: usize) -> ModelConfig {
    let values = match arch {
        "llama" => json!({"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": true}),
        "mamba2" => json!({"model_type": "mamba2", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": states,
            "num_heads": 4, "head_dim": 8, "n_groups": 2}),
        _ => {
            json!({"model_type": arch, "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": states, "time_step_rank": 4})
        }
    };
    let Value::Object(values) = values else { unreachable!() };
    ModelConfig::from_values(values, arch.to_owned()).unwrap()
}

/// A model with the same weights each time.
pub fn base(arch: &str) -> Box<dyn Model> {
    let mut model = model::build(&config(arch, STATES), &Fresh { seed: 1 }).unwrap();
    // Away from the small start, so that every path has something to say.
    model.params().iter().filter(|p| p.value().rank() == 2).for_each(|p| p.set((p.value() * 8.0).unwrap()).unwrap());
    model.params().iter().filter(|p| p.name().ends_with("A_log")).for_each(|p| p.set((p.value() / 8.0).unwrap()).unwrap());
    model
}

/// Attaches a method; no targets are its default.
pub fn attach(model: &mut dyn Model, method: &Value, targets: &[&str]) -> Result<Attachment, AdapterError> {
    let component = Component::from_value(method)?;
    let built = methods::build(&component)?;
    let chosen = choose(model, &component.name, &*built, &TargetExpr::new(targets.iter().copied()), &LayerSelection::All, 0)?;
    let init = &mut seed::stream(3, "init");
    let stage = built.stages().len() - 1;
    built.attach(model, &mut AttachContext { chosen: &chosen, stage, carried: &Carried::new(), init, loading: false })
}

/// Values uniform within ± scale, the same for one name.
pub fn random(dims: &[usize], scale: f64, name: &str) -> Tensor {
    let mut stream = seed::stream(5, name);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| (scale * (2.0 * stream.random::<f64>() - 1.0)) as f32).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Moves every trained tensor away from its start.
pub fn stir(attachment: &Attachment, scale: f64) {
    for p in &attachment.params {
        let value = p.param.value();
        p.param.set((&value + random(value.dims(), scale, p.param.name())).unwrap()).unwrap();
    }
}

/// Sequences of five tokens.
pub fn ids(rows: &[[u32; 5]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), 5), &Device::Cpu).unwrap()
}

/// Two of them.
pub fn two_sequences() -> Tensor {
    ids(&[[3, 9, 27, 1, 3], [39, 0, 5, 5, 8]])
}

/// Compares to a tolerance relative to the largest value.
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    let off = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let size = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(off <= tolerance * (1.0 + size), "{what}: off by {off} where values reach {size}");
}

/// The trained tensor whose name ends so.
pub fn param<'a>(attachment: &'a Attachment, end: &str) -> &'a Param {
    &attachment.params.iter().find(|p| p.param.name().ends_with(end)).unwrap_or_else(|| panic!("no {end}")).param
}

/// Shows one linear layer.
pub fn with_linear<R>(model: &mut dyn Model, path: &str, body: impl Fn(&LinearSlot) -> R) -> R {
    let mut found = None;
    model.visit_slots(&mut |slot| {
        if let SlotMut::Linear(slot) = slot
            && slot.info.path == path
        {
            found = Some(body(slot));
        }
    });
    found.unwrap_or_else(|| panic!("no {path}"))
}

/// The loss of a few labels.
pub fn loss(model: &dyn Model, tape: &Tape) -> Var {
    let pass = Pass::evaluation(tape);
    let hidden = model.forward(&pass, &two_sequences(), None).unwrap();
    model.loss(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap()
}

/// Compares the gradient of the loss, along one direction in all trained tensors, with finite differences.
pub fn check_gradients(what: &str, model: &dyn Model, attachment: &Attachment) {
    stir(attachment, 0.05);
    let tape = Tape::new();
    let value = loss(model, &tape);
    let grads = tape.backward(&value).unwrap();
    let directions: Vec<(Param, Tensor)> = attachment
        .params
        .iter()
        .map(|p| (p.param.clone(), random(p.param.value().dims(), 1.0, &format!("to {}", p.param.name()))))
        .collect();
    let slope = |(param, direction): &(Param, Tensor)| {
        let grad = grads.get(param).unwrap_or_else(|| panic!("{what}: no gradient of {}", param.name()));
        f64::from((grad * direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap())
    };
    let expected: f64 = directions.iter().map(slope).sum();
    let starts: Vec<Tensor> = attachment.params.iter().map(|p| p.param.value()).collect();
    let at = |step: f64| {
        for ((param, direction), start) in directions.iter().zip(&starts) {
            param.set((start + (direction * step).unwrap()).unwrap()).unwrap();
        }
        f64::from(loss(model, &Tape::inference()).value().to_scalar::<f32>().unwrap())
    };
    let size = (expected.abs() / directions.len() as f64).max(1e-2);
    let step = 2e-3 / size.max(1.0);
    // The fourth-order difference, as the loss bends.
    let found = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
    let error = (found - expected).abs() / (expected.abs() + 1.0);
    assert!(error < 1e-2, "{what}: the gradient says {expected}, the differences {found}");
}
