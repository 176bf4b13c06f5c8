//! What each method computes, against something that is not the method: closed forms, other models with the same function, and finite
//! differences. Methods that Hugging Face peft has are also in `parity.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod small;

use peftbench_adapters::methods::{self, METHODS};
use peftbench_models::{Model, Pass};
use peftbench_ops::{DType, Device, Tape, Tensor, Var};
use peftbench_spec::Component;
use serde_json::{Value, json};
use small::{assert_close, attach, base, check_gradients, param, random, stir, with_linear};
use std::collections::BTreeMap;

/// Small options for every method.
fn options(name: &str) -> Value {
    match name {
        "hra" | "miss" | "lora" | "dora" | "loha" | "lokr" | "vera" | "lora_tensor" => json!({"type": name, "r": 2}),
        "adalora" => json!({"type": name, "init_r": 3, "target_r": 2}),
        "oft" => json!({"type": name, "oft_block_size": 4, "use_cayley_neumann": false}),
        "boft" => json!({"type": name, "boft_n_butterfly_factor": 2}),
        "fourierft" => json!({"type": name, "n_frequency": 10}),
        "road" => json!({"type": name, "group_size": 4}),
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
        json!({"type": "road", "group_size": 4, "variant": "road_2"}),
        json!({"type": "road", "group_size": 8, "variant": "road_4"}),
        json!({"type": "p_tuning", "num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 5}),
    ];
    // DoRA takes its norm for a constant in the backward pass, as its paper proposes: its gradient is not that of its loss.
    let all = METHODS.iter().filter(|m| m.name != "dora").map(|m| options(m.name)).chain(extra);
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
        check_gradients(&format!("{method} on {arch}"), &*model, &attachment);
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
        (json!({"type": "road", "group_size": 4}), out),
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
        (json!({"type": "p_tuning", "encoder_num_layers": 3}), "`encoder_num_layers`: is the LSTM's"),
        (
            json!({"type": "p_tuning", "encoder_reparameterization_type": "LSTM", "encoder_dropout": 1.0}),
            "`encoder_dropout`: expected a probability",
        ),
        (json!({"type": "p_tuning", "encoder_reparameterization_type": "GRU"}), "`encoder_reparameterization_type`: "),
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
        let Ok(attachment) = attach(&mut *base(arch), &options(name), &[]) else { continue };
        assert!(attachment.params.iter().all(|p| p.param.value().dtype() == DType::F32), "{name} on {arch}");
    }
}
