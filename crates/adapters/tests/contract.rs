//! What every method must keep on every base model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::methods::{self, METHODS};
use peftbench_adapters::{AdapterError, Attachment, choose};
use peftbench_models::config::ModelConfig;
use peftbench_models::weights::{Fresh, Shapes};
use peftbench_models::{Model, Pass, model};
use peftbench_ops::{Device, Tape, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use serde_json::{Value, json};

fn base(arch: &str) -> Box<dyn Model> {
    model::build(&config(arch), &Fresh { seed: 1 }).unwrap()
}

fn config(arch: &str) -> ModelConfig {
    let values = match arch {
        "llama" => {
            json!({"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "attention_bias": true, "tie_word_embeddings": true})
        }
        _ => {
            json!({"model_type": "mamba", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4, "time_step_rank": 4})
        }
    };
    let Value::Object(values) = values else { unreachable!() };
    ModelConfig::from_values(values, arch.to_owned()).unwrap()
}

fn attach(model: &mut dyn Model, method: &Component, targets: &[&str], layers: &str, seed: u64) -> Result<Attachment, AdapterError> {
    let built = methods::build(method)?;
    let layers: LayerSelection = layers.parse()?;
    let chosen = choose(model, &method.name, &*built, &TargetExpr::new(targets.iter().copied()), &layers, seed)?;
    built.attach(
        model,
        &mut AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init: &mut seed::stream(seed, "init"), loading: false },
    )
}

/// Methods of which a transformer without SSM layers has nothing to adapt.
const SSM_ONLY: [&str; 4] = ["initial_state", "state_offset", "additional_scan", "lora_tensor"];

/// Every method with small options, on every architecture that has something for it.
fn grid() -> Vec<(Component, &'static str)> {
    let small = |name: &str| match name {
        "lora" | "hra" | "miss" | "lora_tensor" => json!({"type": name, "r": 2}),
        "oft" => json!({"type": "oft", "oft_block_size": 4}),
        "boft" => json!({"type": "boft", "boft_n_butterfly_factor": 2}),
        "fourierft" => json!({"type": "fourierft", "n_frequency": 10, "init_weights": true}),
        "prompt" | "p_tuning" | "prefix" => json!({"type": name, "num_virtual_tokens": 3}),
        "series" | "parallel" => json!({"type": name, "bottleneck_size": 4}),
        "additional_scan" => json!({"type": name, "d_state": 2}),
        "initial_state" => json!({"type": name, "conv_state": true}),
        "combined" => {
            json!({"type": name, "methods": [{"type": "lora", "r": 2, "layers": "first:1"}, {"type": "selective", "targets": "role:norm"}]})
        }
        name => json!(name),
    };
    let cells = METHODS.iter().flat_map(|m| ["llama", "mamba"].map(|arch| (Component::from_value(&small(m.name)).unwrap(), arch)));
    cells.filter(|(method, arch)| *arch == "mamba" || !SSM_ONLY.contains(&method.name.as_str())).collect()
}

fn ids() -> Tensor {
    Tensor::new(&[[3u32, 9, 27, 1, 3], [39, 0, 5, 5, 8]], &Device::Cpu).unwrap()
}

fn gradients(model: &dyn Model) -> Vec<String> {
    let tape = Tape::new();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &ids(), None).unwrap();
    let loss = model.loss(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap();
    let mut names: Vec<String> = tape.backward(&loss).unwrap().iter().map(|(p, _)| p.name().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_gradient_store_holds_exactly_the_declared_tensors() {
    for (method, arch) in grid() {
        let mut model = base(arch);
        let attachment = attach(&mut *model, &method, &[], "all", 0).unwrap();
        let mut declared: Vec<String> = attachment.params.iter().map(|p| p.param.name().to_owned()).collect();
        declared.sort();
        assert_eq!(gradients(&*model), declared, "{} on {arch}", method.name);
    }
}

#[test]
fn methods_that_promise_it_start_as_the_base_model() {
    for (method, arch) in grid().into_iter().filter(|(m, _)| methods::build(m).unwrap().starts_as_base()) {
        let plain = base(arch).all_logits(&ids(), None).unwrap();
        let mut model = base(arch);
        attach(&mut *model, &method, &[], "all", 0).unwrap();
        let attached = model.all_logits(&ids(), None).unwrap();
        let off = (plain - attached).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // HRA's pairs of reflections cancel only to rounding.
        let allowed = if method.name == "hra" { 1e-5 } else { 0.0 };
        assert!(off <= allowed, "{} on {arch}: {off}", method.name);
    }
}

#[test]
fn inactive_layers_train_nothing_and_keep_nothing_below_the_lowest_active_one() {
    let mut model = base("llama");
    let attachment = attach(&mut *model, &Component::named("lora"), &["q_proj", "down_proj"], "all", 0).unwrap();
    attachment.params.iter().for_each(|p| p.param.set_active(p.layer == Some(2)));
    let tape = Tape::new();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &ids(), None).unwrap();
    let loss = model.loss(&pass, &hidden, &[2], &[1]).unwrap();
    let kept = tape.saved_bytes();
    assert!(kept.keys().all(|(scope, _)| scope == "layers.2" || scope == "head"), "{kept:?}");
    let names: Vec<String> = tape.backward(&loss).unwrap().iter().map(|(p, _)| p.name().to_owned()).collect();
    assert!(names.len() == 4 && names.iter().all(|name| name.contains("layers.2.")), "{names:?}");
}

#[test]
fn equal_seeds_give_equal_adapters_and_other_seeds_others() {
    for (name, arch) in [("lora", "mamba"), ("prompt", "llama")] {
        let start = |seed| {
            let attachment = attach(&mut *base(arch), &Component::named(name), &[], "all", seed).unwrap();
            attachment.params[0].param.value().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(start(4), start(4));
        assert_ne!(start(4), start(5));
    }
}

/// Trainable scalars on Mamba-130M, from the released configurations of the SSM-PEFT paper (arXiv 2410.09016).
#[test]
fn trainable_counts_on_mamba_130m_are_the_papers() {
    let values = json!({"model_type": "mamba", "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "time_step_rank": 48});
    let Value::Object(values) = values else { unreachable!() };
    let config = ModelConfig::from_values(values, "mamba-130m".to_owned()).unwrap();
    let count = |method: Value, targets: &[&str]| {
        let mut model = model::build(&config, &Shapes).unwrap();
        attach(&mut *model, &Component::from_value(&method).unwrap(), targets, "all", 0).unwrap().num_trainable()
    };
    let lora = json!({"type": "lora", "r": 8});
    assert_eq!(count(json!("full"), &[]), 129_135_360);
    assert_eq!(count(lora.clone(), &["in_proj.x", "in_proj.z", "out_proj"]), 1_327_104);
    assert_eq!(count(lora.clone(), &["in_proj.x"]), 442_368);
    assert_eq!(count(lora.clone(), &["x_proj.dt", "x_proj.B", "x_proj.C", "dt_proj"]), 1_204_224);
    assert_eq!(count(lora, &["in_proj.x", "in_proj.z", "out_proj", "dt_proj", "x_proj.dt", "x_proj.B", "x_proj.C"]), 2_531_328);
    assert_eq!(count(json!("selective"), &["A_log"]), 589_824);
    assert_eq!(count(json!("selective"), &["group:ssm"]), 5_566_464);
    assert_eq!(count(json!("selective"), &["conv1d.weight", "conv1d.bias"]), 184_320);
    assert_eq!(count(json!("selective"), &["mixer.D", "role:norm"]), 56_064);
    assert_eq!(count(json!("bitfit"), &[]), 73_728);
    assert_eq!(count(json!({"type": "initial_state", "conv_state": true}), &[]), 700_416);
    assert_eq!(count(json!("initial_state"), &[]), 589_824);
    assert_eq!(count(json!("additional_scan"), &[]), 884_736);
    assert_eq!(count(json!({"type": "prefix", "num_virtual_tokens": 1}), &[]), 36_864);
    assert_eq!(count(json!({"type": "prompt", "num_virtual_tokens": 16}), &[]), 12_288);
    // The released SDLoRA baseline of LoRA with rank 2 on three places, as two entries.
    let entry = |targets: Value| json!({"type": "lora", "r": 2, "targets": targets});
    let both = json!({"type": "combined", "methods": [entry(json!(["out_proj", "dt_proj"])), entry(json!(["x_proj.dt", "x_proj.B", "x_proj.C"]))]});
    assert_eq!(count(both, &[]), 411_648);
}

#[test]
fn wrong_options_name_the_field() {
    let message = |method: Value, targets: &[&str], layers: &str| {
        let component = Component::from_value(&method).unwrap();
        attach(&mut *base("mamba"), &component, targets, layers, 0).unwrap_err().to_string()
    };
    for (method, expected) in [
        (json!({"type": "lora", "r": 0}), "`r`: expected a rank of at least 1, found 0"),
        (json!({"type": "lora", "r": 99}), "`r`: rank 99 is above the smaller dimension"),
        (json!({"type": "lora", "lora_dropout": 1.0}), "`lora_dropout`: expected a probability"),
        (json!({"type": "lora", "lora_alhpa": 2}), "`lora_alhpa`: unknown key; did you mean `lora_alpha`?"),
        (json!({"type": "prompt", "num_virtual_tokens": 0}), "`num_virtual_tokens`: expected at least 1"),
        (json!({"type": "lroa"}), "`type`: unknown method `lroa`; did you mean `lora`?"),
    ] {
        let found = message(method, &[], "all");
        assert!(found.starts_with(expected), "{found}");
    }
    assert!(message(json!("lora"), &["q_proj"], "all").contains("`q_proj` matches nothing here"));
    assert!(message(json!("lora"), &["A_log"], "all").contains("names slots of another kind; it attaches to linear slots"));
    assert!(message(json!("lora"), &[], "7").contains("layer 7 is out of range"));
    assert!(message(json!("lora"), &["lm_head"], "all").contains("matches nothing"));
}
