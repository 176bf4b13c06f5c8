//! What each method computes, against something that is not the method: closed forms, other models with the same function, and finite
//! differences. Methods that Hugging Face peft has are also in `parity.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::methods::{self, METHODS};
use peftbench_adapters::{AdapterError, Attachment, choose};
use peftbench_models::cache::{Cache, LayerCache};
use peftbench_models::config::ModelConfig;
use peftbench_models::slots::{LinearSlot, SlotMut};
use peftbench_models::weights::{Fresh, Init, Weights};
use peftbench_models::{Model, Pass, model};
use peftbench_ops::{DType, Device, Param, Tape, Tensor, Var};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use rand::RngExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const STATES: usize = 4;

fn config(arch: &str, states: usize) -> ModelConfig {
    let values = match arch {
        "llama" => json!({"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": true}),
        _ => {
            json!({"model_type": "mamba", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": states, "time_step_rank": 4})
        }
    };
    let Value::Object(values) = values else { unreachable!() };
    ModelConfig::from_values(values, arch.to_owned()).unwrap()
}

fn base(arch: &str) -> Box<dyn Model> {
    let mut model = model::build(&config(arch, STATES), &Fresh { seed: 1 }).unwrap();
    // Away from the small start, so that every path has something to say.
    model.params().iter().filter(|p| p.value().rank() == 2).for_each(|p| p.set((p.value() * 8.0).unwrap()).unwrap());
    model.params().iter().filter(|p| p.name().ends_with("A_log")).for_each(|p| p.set((p.value() / 8.0).unwrap()).unwrap());
    model
}

fn attach(model: &mut dyn Model, method: &Value, targets: &[&str]) -> Result<Attachment, AdapterError> {
    let component = Component::from_value(method)?;
    let built = methods::build(&component)?;
    let chosen = choose(model, &component.name, &*built, &TargetExpr::new(targets.iter().copied()), &LayerSelection::All, 0)?;
    let init = &mut seed::stream(3, "init");
    built.attach(model, &mut AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init, loading: false })
}

fn random(dims: &[usize], scale: f64, name: &str) -> Tensor {
    let mut stream = seed::stream(5, name);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| (scale * (2.0 * stream.random::<f64>() - 1.0)) as f32).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Moves every trained tensor away from its start.
fn stir(attachment: &Attachment, scale: f64) {
    for p in &attachment.params {
        let value = p.param.value();
        p.param.set((&value + random(value.dims(), scale, p.param.name())).unwrap()).unwrap();
    }
}

fn ids(rows: &[[u32; 5]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), 5), &Device::Cpu).unwrap()
}

fn two_sequences() -> Tensor {
    ids(&[[3, 9, 27, 1, 3], [39, 0, 5, 5, 8]])
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    let off = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let size = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(off <= tolerance * (1.0 + size), "{what}: off by {off} where values reach {size}");
}

fn param<'a>(attachment: &'a Attachment, end: &str) -> &'a Param {
    &attachment.params.iter().find(|p| p.param.name().ends_with(end)).unwrap_or_else(|| panic!("no {end}")).param
}

fn with_linear<R>(model: &mut dyn Model, path: &str, body: impl Fn(&LinearSlot) -> R) -> R {
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

fn loss(model: &dyn Model, tape: &Tape) -> Var {
    let pass = Pass::evaluation(tape);
    let hidden = model.forward(&pass, &two_sequences(), None).unwrap();
    model.loss(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap()
}

/// Small options for every method.
fn small(name: &str) -> Value {
    match name {
        "hra" | "miss" | "lora" | "dora" | "loha" | "lokr" | "vera" | "lora_tensor" => json!({"type": name, "r": 2}),
        "adalora" => json!({"type": name, "init_r": 3, "target_r": 2}),
        "oft" => json!({"type": name, "oft_block_size": 4, "use_cayley_neumann": false}),
        "boft" => json!({"type": name, "boft_n_butterfly_factor": 2}),
        "fourierft" => json!({"type": name, "n_frequency": 10}),
        "prompt" | "p_tuning" => json!({"type": name, "num_virtual_tokens": 3}),
        "prefix" => json!({"type": name, "num_virtual_tokens": 3, "prefix_projection": true, "encoder_hidden_size": 5}),
        "series" | "parallel" => json!({"type": name, "bottleneck_size": 4}),
        "additional_scan" => json!({"type": name, "d_state": 2}),
        "initial_state" => json!({"type": name, "conv_state": true}),
        "combined" => json!({"type": name, "methods": [{"type": "ia3"}, {"type": "lora", "r": 2, "targets": "role:linear"}]}),
        name => json!(name),
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let extra = [
        json!({"type": "oft", "oft_block_size": 4, "block_share": true}),
        json!({"type": "hra", "r": 3, "apply_GS": true}),
        json!({"type": "miss", "r": 4, "init_weights": "bat"}),
        json!({"type": "miss", "r": 4, "mini_r": 4, "init_weights": "mini"}),
        json!({"type": "series", "bottleneck_size": 4, "non_linearity": "gelu", "init_weights": "bert"}),
        json!({"type": "prefix", "num_virtual_tokens": 2}),
        json!({"type": "state_offset", "offset": "output"}),
    ];
    // DoRA takes its norm for a constant in the backward pass, as its paper proposes: its gradient is not that of its loss.
    let all = METHODS.iter().filter(|m| m.name != "dora").map(|m| small(m.name)).chain(extra);
    for (method, arch) in all.flat_map(|m| ["llama", "mamba"].map(|arch| (m.clone(), arch))) {
        let mut model = base(arch);
        let targets: &[&str] = if method["init_weights"] == "bat" { &["role:linear", "!role:x_proj", "!role:dt_proj"] } else { &[] };
        let targets = if arch == "llama" && !targets.is_empty() { &targets[..1] } else { targets };
        let attachment = match attach(&mut *model, &method, targets) {
            Ok(attachment) => attachment,
            // A transformer has no SSM to tune.
            Err(error)
                if arch == "llama" && ["matches nothing", "attaches to state slots"].iter().any(|m| error.to_string().contains(m)) =>
            {
                continue;
            }
            Err(error) => panic!("{method} on {arch}: {error}"),
        };
        if attachment.params.is_empty() {
            continue;
        }
        stir(&attachment, 0.05);
        let tape = Tape::new();
        let value = loss(&*model, &tape);
        let grads = tape.backward(&value).unwrap();
        let directions: Vec<(Param, Tensor)> = attachment
            .params
            .iter()
            .map(|p| (p.param.clone(), random(p.param.value().dims(), 1.0, &format!("to {}", p.param.name()))))
            .collect();
        let slope = |(param, direction): &(Param, Tensor)| {
            let grad = grads.get(param).unwrap_or_else(|| panic!("{method} on {arch}: no gradient of {}", param.name()));
            f64::from((grad * direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap())
        };
        let expected: f64 = directions.iter().map(slope).sum();
        let starts: Vec<Tensor> = attachment.params.iter().map(|p| p.param.value()).collect();
        let at = |step: f64| {
            for ((param, direction), start) in directions.iter().zip(&starts) {
                param.set((start + (direction * step).unwrap()).unwrap()).unwrap();
            }
            f64::from(loss(&*model, &Tape::inference()).value().to_scalar::<f32>().unwrap())
        };
        let size = (expected.abs() / directions.len() as f64).max(1e-2);
        let step = 2e-3 / size.max(1.0);
        // The fourth-order difference, as the loss bends.
        let found = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
        let error = (found - expected).abs() / (expected.abs() + 1.0);
        assert!(error < 1e-2, "{method} on {arch}: the gradient says {expected}, the differences {found}");
    }
}

#[test]
fn bottleneck_adapters_are_their_formulas() {
    for (kind, path, method) in [
        ("parallel", "model.layers.1.mlp.up_proj", json!({"type": "parallel", "bottleneck_size": 3, "scaling": 0.5})),
        ("series", "model.layers.1.mlp.gate_proj", json!({"type": "series", "bottleneck_size": 3, "scaling": 0.5})),
        ("series", "model.layers.1.mlp.down_proj", json!({"type": "series", "bottleneck_size": 3, "scaling": 0.5})),
    ] {
        let mut model = base("llama");
        let attachment = attach(&mut *model, &method, &[path]).unwrap();
        stir(&attachment, 0.5);
        let (down, up) = (param(&attachment, "adapter_down.weight").value(), param(&attachment, "adapter_up.weight").value());
        let bottleneck =
            |h: &Tensor| (h.matmul(&down.t().unwrap()).unwrap().tanh().unwrap().matmul(&up.t().unwrap()).unwrap() * 0.5).unwrap();
        let (found, x, weight) = with_linear(&mut *model, path, |slot| {
            let x = random(&[7, slot.dims().1], 1.0, "x");
            let tape = Tape::inference();
            let y = slot.forward(&Pass::evaluation(&tape), &Var::constant(x.unsqueeze(0).unwrap())).unwrap();
            (y.value().squeeze(0).unwrap(), x, slot.weight.param.value())
        });
        let layer = |x: &Tensor| x.matmul(&weight.t().unwrap()).unwrap();
        let expected = match (kind, path.ends_with("down_proj")) {
            ("parallel", _) => (layer(&x) + bottleneck(&x)).unwrap(),
            (_, false) => layer(&(&x + bottleneck(&x)).unwrap()),
            (_, true) => (layer(&x) + bottleneck(&layer(&x))).unwrap(),
        };
        assert_close(&format!("{kind} on {path}"), &found, &expected, 1e-5);
    }
}

#[test]
fn factors_of_a_row_part_leave_the_other_rows_alone() {
    let mut model = base("mamba");
    let path = "backbone.layers.0.mixer.in_proj";
    let run = |model: &mut dyn Model| {
        with_linear(model, path, |slot| {
            let tape = Tape::inference();
            let x = Var::constant(random(&[1, 7, 16], 1.0, "x"));
            slot.forward(&Pass::evaluation(&tape), &x).unwrap().value().clone()
        })
    };
    let before = run(&mut *model);
    let attachment = attach(&mut *model, &json!("ia3"), &["in_proj.z"]).unwrap();
    stir(&attachment, 0.5);
    let factors = param(&attachment, "layers.0.mixer.in_proj.z.ia3_l").value().flatten_all().unwrap();
    let factors = Tensor::cat(&[&Tensor::ones(32, DType::F32, &Device::Cpu).unwrap(), &factors], 0).unwrap();
    assert_close("output", &run(&mut *model), &before.broadcast_mul(&factors).unwrap(), 1e-6);
}

/// The cache of one sequence, by layer: state [inner, state] and convolution context [context, inner].
fn states_after(model: &dyn Model, ids: &Tensor) -> Vec<(Tensor, Tensor)> {
    let mut cache = Cache::default();
    let tape = Tape::inference();
    model.forward(&Pass::evaluation(&tape), ids, Some(&mut cache)).unwrap();
    let of = |layer: &LayerCache| match layer {
        LayerCache::Ssm { context, state } => (state.get(0).unwrap(), context.get(0).unwrap()),
        LayerCache::Attention { .. } => panic!("an SSM has no keys"),
    };
    cache.layers.iter().map(of).collect()
}

/// Logits of `ids` behind `before`.
fn logits_behind(model: &dyn Model, before: &Tensor, ids: &Tensor) -> Tensor {
    let all = model.all_logits(&Tensor::cat(&[before, ids], 1).unwrap(), None).unwrap();
    all.narrow(1, before.dim(1).unwrap(), ids.dim(1).unwrap()).unwrap().contiguous().unwrap()
}

#[test]
fn an_initial_state_is_what_a_prompt_leaves() {
    let (before, own) = (ids(&[[4, 8, 15, 16, 23]]), ids(&[[3, 9, 27, 1, 3]]));
    let plain = base("mamba");
    let expected = logits_behind(&*plain, &before, &own);
    let mut model = base("mamba");
    let attachment = attach(&mut *model, &json!({"type": "initial_state", "conv_state": true}), &[]).unwrap();
    for (i, (state, context)) in states_after(&*plain, &before).into_iter().enumerate() {
        param(&attachment, &format!("layers.{i}.mixer.state.initial_state")).set(state.contiguous().unwrap()).unwrap();
        param(&attachment, &format!("layers.{i}.mixer.state.conv_state")).set(context.contiguous().unwrap()).unwrap();
    }
    assert_close("logits", &model.all_logits(&own, None).unwrap(), &expected, 1e-5);
}

#[test]
fn virtual_inputs_of_an_ssm_are_a_prompt_s_own() {
    let (before, own) = (ids(&[[4, 8, 15, 16, 23]]), ids(&[[3, 9, 27, 1, 3]]));
    let mut plain = base("mamba");
    let expected = logits_behind(&*plain, &before, &own);
    // What the convolution of each layer reads of the prompt.
    let states = std::cell::RefCell::new(Vec::new());
    let tape = Tape::inference();
    let pass = Pass { hidden_states: Some(&states), ..Pass::evaluation(&tape) };
    plain.forward(&pass, &before, None).unwrap();
    let norms: Vec<Tensor> = plain.params().iter().filter(|p| p.name().ends_with(".norm.weight")).map(Param::value).collect();
    let inputs: Vec<Tensor> = (0..2)
        .map(|i| {
            let normed = tape.rms_norm(&states.borrow()[i], &Var::constant(norms[i].clone()), 1e-5).unwrap();
            let projected = with_linear(&mut *plain, &format!("backbone.layers.{i}.mixer.in_proj"), |slot| {
                slot.forward(&Pass::evaluation(&tape), &normed).unwrap().value().get(0).unwrap()
            });
            projected.narrow(1, 0, 32).unwrap()
        })
        .collect();
    let mut model = base("mamba");
    let attachment = attach(&mut *model, &json!({"type": "prefix", "num_virtual_tokens": 5}), &[]).unwrap();
    attachment.params[0].param.set(Tensor::cat(&inputs, 1).unwrap().contiguous().unwrap()).unwrap();
    assert_close("logits", &model.all_logits(&own, None).unwrap(), &expected, 1e-5);
    // Decoding goes on from the state that they leave.
    let mut cache = Cache::default();
    let step = |cache: &mut Cache, from: usize, len: usize| {
        let tape = Tape::inference();
        let pass = Pass::evaluation(&tape);
        let hidden = model.forward(&pass, &own.narrow(1, from, len).unwrap().contiguous().unwrap(), Some(cache)).unwrap();
        model.logits(&pass, &hidden).unwrap().value().clone()
    };
    let parts = [step(&mut cache, 0, 3), step(&mut cache, 3, 2)];
    assert_close("cached logits", &Tensor::cat(&parts, 1).unwrap(), &expected, 1e-5);
}

#[test]
fn a_state_offset_is_an_initial_state_that_never_fades() {
    let with = |method: Value| {
        let mut model = base("mamba");
        // exp(−100) is no decay at all.
        model.params().iter().filter(|p| p.name().ends_with("A_log")).for_each(|p| p.set(p.value().affine(0.0, -100.0).unwrap()).unwrap());
        let attachment = attach(&mut *model, &method, &[]).unwrap();
        for (i, p) in attachment.params.iter().enumerate() {
            p.param.set(random(&[32, STATES], 0.5, &format!("offset {i}"))).unwrap();
        }
        model.all_logits(&two_sequences(), None).unwrap()
    };
    let (offset, initial) = (with(json!("state_offset")), with(json!("initial_state")));
    assert_close("logits", &offset, &initial, 1e-5);
    let plain = base("mamba").all_logits(&two_sequences(), None).unwrap();
    assert!((plain - offset).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-2, "the offset has an effect");
}

/// Tensors as a model's weights.
struct Tensors(BTreeMap<String, Tensor>);

impl Weights for Tensors {
    fn tensor(&self, name: &str, dims: &[usize], _init: Init) -> peftbench_models::Result<Tensor> {
        assert_eq!(self.0[name].dims(), dims, "{name}");
        Ok(self.0[name].clone())
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[test]
fn additional_states_are_those_of_a_model_with_more_of_them() {
    let (extra, rank) = (2, 4);
    let mut model = base("mamba");
    let mut tensors: BTreeMap<String, Tensor> = model.params().iter().map(|p| (p.name().to_owned(), p.value())).collect();
    let attachment = attach(&mut *model, &json!({"type": "additional_scan", "d_state": extra}), &[]).unwrap();
    stir(&attachment, 0.5);
    for i in 0..2 {
        let mixer = format!("backbone.layers.{i}.mixer");
        let own = |name: &str| param(&attachment, &format!("{mixer}.state.{name}")).value();
        let a_log = &tensors[&format!("{mixer}.A_log")];
        let a_log = Tensor::cat(&[a_log, &own("extra_A_log")], 1).unwrap().contiguous().unwrap();
        let x_proj = &tensors[&format!("{mixer}.x_proj.weight")];
        let rows = |start, len| x_proj.narrow(0, start, len).unwrap();
        let parts = [rows(0, rank + STATES), own("extra_B.weight"), rows(rank + STATES, STATES), own("extra_C.weight")];
        let x_proj = Tensor::cat(&parts, 0).unwrap();
        tensors.extend([(format!("{mixer}.A_log"), a_log), (format!("{mixer}.x_proj.weight"), x_proj)]);
    }
    let larger = model::build(&config("mamba", STATES + extra), &Tensors(tensors)).unwrap();
    let found = model.all_logits(&two_sequences(), None).unwrap();
    assert_close("logits", &found, &larger.all_logits(&two_sequences(), None).unwrap(), 1e-5);
}

#[test]
fn lora_of_a_tensor_adds_the_product_of_its_factors() {
    let mut model = base("mamba");
    let before: BTreeMap<String, Tensor> = model.params().iter().map(|p| (p.name().to_owned(), p.value())).collect();
    let attachment = attach(&mut *model, &json!({"type": "lora_tensor", "r": 2, "lora_alpha": 3}), &["A_log", "conv1d.weight"]).unwrap();
    stir(&attachment, 0.5);
    let merged: BTreeMap<String, Tensor> = model.merged().unwrap().tensors.into_iter().collect();
    for name in ["backbone.layers.1.mixer.A_log", "backbone.layers.0.mixer.conv1d.weight"] {
        let factor = |which: &str| param(&attachment, &format!("{name}.lora_{which}")).value();
        let product = (factor("B").matmul(&factor("A")).unwrap() * 1.5).unwrap().reshape(before[name].dims()).unwrap();
        assert_close(name, &merged[name], &(&before[name] + product).unwrap(), 1e-6);
    }
}

/// Bytes kept for the backward pass by one layer [out, in] behind a constant input of `tokens` rows.
fn kept(method: &Value, path: &str, tokens: usize) -> u64 {
    let mut model = base("llama");
    attach(&mut *model, method, &[path]).unwrap();
    with_linear(&mut *model, path, |slot| {
        let tape = Tape::new();
        let x = Var::constant(random(&[1, tokens, slot.dims().1], 1.0, "x"));
        slot.forward(&Pass::evaluation(&tape), &x).unwrap();
        tape.saved_bytes().values().sum()
    })
}

#[test]
fn a_layer_keeps_no_more_activations_than_its_mathematics_needs() {
    let (out, input) = (24, 16);
    // What a method keeps more for more tokens, in floats a token; the rest is of the adapter's size.
    for (method, expected) in [
        (json!("ia3"), out),
        (json!({"type": "ia3", "feedforward_modules": ["up_proj"]}), input),
        (json!({"type": "oft", "oft_block_size": 4}), input),
        (json!({"type": "oft", "oft_block_size": 4, "use_cayley_neumann": false}), input),
        (json!({"type": "boft", "boft_n_butterfly_factor": 1}), input + out),
        (json!({"type": "hra", "r": 2}), input + 2),
        (json!({"type": "fourierft", "n_frequency": 10}), input),
        (json!({"type": "miss", "r": 4}), 4),
        (json!({"type": "miss", "r": 4, "init_weights": "bat"}), input),
        (json!({"type": "parallel", "bottleneck_size": 3}), input + 3),
        (json!({"type": "series", "bottleneck_size": 3}), input + 3),
    ] {
        let path = "model.layers.1.mlp.up_proj";
        let each = (kept(&method, path, 100) - kept(&method, path, 50)) / (50 * 4);
        assert_eq!(each, expected as u64, "{method} keeps floats a token");
    }
}

#[test]
fn combined_methods_attach_where_each_says_and_not_twice_to_one_place() {
    let combined = |methods: Value| json!({"type": "combined", "methods": methods});
    let mut model = base("mamba");
    let method = combined(json!([
        {"type": "lora", "r": 2, "targets": ["in_proj.x", "out_proj"], "layers": "1"},
        {"type": "selective", "targets": ["A_log"]},
        {"type": "initial_state"},
    ]));
    let attachment = attach(&mut *model, &method, &[]).unwrap();
    let names: Vec<&str> = attachment.params.iter().map(|p| p.param.name()).collect();
    let of = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    assert_eq!((names.len(), of("lora_"), of("layers.1.mixer.in_proj"), of("A_log"), of("initial_state")), (8, 4, 2, 2, 2), "{names:?}");
    let resolved = methods::resolve(&Component::from_value(&method).unwrap()).unwrap();
    assert_eq!(methods::resolve(&resolved).unwrap(), resolved, "a resolved spec means itself");
    assert_eq!(resolved.options["methods"][0]["lora_alpha"], json!(8.0), "{resolved:?}");
    assert_eq!(resolved.options["methods"][1]["layers"], json!("all"));

    let message = |methods: Value| attach(&mut *base("mamba"), &combined(methods), &[]).unwrap_err().to_string();
    for (methods, expected) in [
        (json!([{"type": "lora"}]), "`methods`: expected at least two entries, found 1"),
        (json!([{"type": "none"}, {"type": "lora"}]), "`methods[0]`: `none` trains nothing"),
        (json!([{"type": "lora", "r": 0}, {"type": "ia3"}]), "`methods[0].r`: "),
        (
            json!([{"type": "lora", "targets": "in_proj.x"}, {"type": "lora", "targets": "in_proj"}]),
            "`methods[1].targets`: `lora` and entry 0, `lora`, both change",
        ),
        (
            json!([{"type": "lora", "targets": "in_proj"}, {"type": "selective", "targets": "in_proj.weight"}]),
            "both change `backbone.layers.0.mixer.in_proj.weight`",
        ),
        (json!([{"type": "initial_state"}, {"type": "state_offset"}]), "both change `backbone.layers.0.mixer.state`"),
        (json!([{"type": "prompt"}, {"type": "p_tuning"}]), "both change the input sequence"),
        (json!([{"type": "selective", "targets": "A_lgo"}, {"type": "ia3"}]), "did you mean `A_log`"),
    ] {
        let found = message(methods);
        assert!(found.contains(expected), "{found}, expected {expected}");
    }
}

#[test]
fn wrong_options_name_the_field() {
    let message = |method: Value, targets: &[&str]| attach(&mut *base("mamba"), &method, targets).unwrap_err().to_string();
    for (method, expected) in [
        (json!({"type": "ia3", "feedforward_modules": ["out_proj"]}), "`feedforward_modules`: not among the targets"),
        (json!({"type": "oft", "oft_block_size": 5}), "`oft_block_size`: 5 does not divide the 16 inputs of"),
        (json!({"type": "oft", "r": 4}), "`oft_block_size`: expected one of `r` and `oft_block_size` to be 0"),
        (json!({"type": "oft", "num_cayley_neumann_terms": 1}), "`num_cayley_neumann_terms`: expected at least 2"),
        (json!({"type": "boft", "boft_block_size": 8, "boft_n_butterfly_factor": 3}), "`boft_n_butterfly_factor`: 3 factors need blocks"),
        (json!({"type": "hra", "r": 3}), "`r`: the start in pairs needs an even number"),
        (json!({"type": "hra", "r": 64}), "`r`: 64 reflections are more than the 16 inputs"),
        (json!({"type": "fourierft", "n_frequency": 100_000}), "`n_frequency`: 100000 coefficients are more than"),
        (json!({"type": "fourierft", "scaling": f64::NAN}), "`scaling`"),
        (json!({"type": "miss", "r": 64}), "`r`: 64 is above the inputs of"),
        (json!({"type": "miss", "r": 5, "init_weights": "bat"}), "`r`: the variant `bat` needs blocks of 5 x 5"),
        (json!({"type": "miss", "r": 4, "mini_r": 7, "init_weights": "mini"}), "`mini_r`: 7 does not divide the outputs"),
        (
            json!({"type": "p_tuning", "encoder_reparameterization_type": "LSTM"}),
            "`encoder_reparameterization_type`: only \"MLP\" is available",
        ),
        (json!({"type": "prefix", "num_virtual_tokens": 0}), "`num_virtual_tokens`: expected at least 1"),
        (json!({"type": "series", "bottleneck_size": 0}), "`bottleneck_size`: expected at least 1"),
        (json!({"type": "parallel", "adapter_dropout": 1.5}), "`adapter_dropout`: expected a probability"),
        (json!({"type": "additional_scan", "d_state": 0}), "`d_state`: expected at least 1"),
        (json!({"type": "lora_tensor", "r": 9}), "`r`: rank 9 is above the smaller dimension of `backbone.layers.0.mixer.A_log` [32, 4]"),
        (json!({"type": "lora_tensor", "alpha": "x"}), "`"),
    ] {
        let found = message(method.clone(), &[]);
        assert!(found.contains(expected), "{method}: {found}");
    }
    assert!(message(json!({"type": "hra", "r": 2}), &["in_proj.x"]).contains("cannot act on its rows `x` alone"));
    assert!(message(json!({"type": "lora_tensor", "r": 1}), &["mixer.D"]).contains("which is no matrix"));
    assert!(message(json!("ln_tuning"), &["A_log"]).contains("it attaches to"));
}

#[test]
fn dtype_of_every_added_tensor_is_f32() {
    for (name, arch) in METHODS.iter().flat_map(|m| ["llama", "mamba"].map(|arch| (m.name, arch))) {
        let Ok(attachment) = attach(&mut *base(arch), &small(name), &[]) else { continue };
        assert!(attachment.params.iter().all(|p| p.param.value().dtype() == DType::F32), "{name} on {arch}");
    }
}
