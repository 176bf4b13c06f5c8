//! Writes adapters of every method that Hugging Face peft knows, each with the logits that it has here, for
//! `scripts/check_adapters_in_peft.py`: `adapters_for_peft OUT`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_adapters::export::adapter_files;
use peftbench_adapters::method::{AttachContext, Carried, TrainingStep};
use peftbench_adapters::{Attachment, choose, methods};
use peftbench_models::checkpoint::{Storage, to_safetensors};
use peftbench_models::{Model, Pass, load};
use peftbench_ops::{Device, Param, Tape, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Value, json};
use std::path::Path;

/// Base model, name of the case, method, targets, layers.
type Case = (&'static str, &'static str, Value, Vec<&'static str>, &'static str);

fn cases() -> Vec<Case> {
    let lora = |more: Value| {
        let mut options = json!({"type": "lora", "r": 4, "lora_alpha": 6});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        options
    };
    let lstm = json!({"type": "p_tuning", "num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM"});
    let mut cases: Vec<Case> = vec![
        ("llama", "lora", lora(json!({})), vec!["q_proj", "down_proj"], "all"),
        ("llama", "lora_rs_layer", lora(json!({"use_rslora": true})), vec!["q_proj"], "1"),
        (
            "llama",
            "lora_patterns",
            lora(json!({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}})),
            vec!["q_proj", "down_proj"],
            "all",
        ),
        ("llama", "lora_vocabulary", lora(json!({})), vec!["embed_tokens", "lm_head"], "all"),
        ("llama", "lora_whole_modules", lora(json!({"modules_to_save": ["lm_head", "norm"]})), vec!["v_proj"], "all"),
        ("llama_bias_tied", "lora_bias_all", lora(json!({"bias": "all"})), vec!["q_proj", "up_proj"], "all"),
        ("llama_bias_tied", "lora_bias_only", lora(json!({"bias": "lora_only"})), vec!["q_proj", "up_proj"], "all"),
        ("llama", "lora_glob", lora(json!({})), vec!["model.layers.0.self_attn.*", "model.layers.1.mlp.up_proj"], "all"),
        ("llama", "pissa", lora(json!({"init_lora_weights": "pissa"})), vec!["q_proj", "up_proj"], "all"),
        ("gpt2", "olora", lora(json!({"init_lora_weights": "olora"})), vec!["c_attn", "c_fc"], "all"),
        ("mamba", "lora_parts", lora(json!({})), vec!["in_proj.x", "in_proj.z", "x_proj.B"], "all"),
        ("mamba", "lora_parts_of_different_ranks", lora(json!({"rank_pattern": {"in_proj.x": 2}})), vec!["in_proj.x", "in_proj.z"], "1"),
        ("jamba", "lora_parts", lora(json!({})), vec!["in_proj.z", "q_proj"], "all"),
        ("mamba2", "lora", lora(json!({})), vec!["in_proj", "out_proj"], "all"),
        ("bloom", "lora", lora(json!({})), vec!["query_key_value"], "all"),
        ("mamba", "prompt", json!({"type": "prompt", "num_virtual_tokens": 3}), vec![], "all"),
        ("llama", "prompt", json!({"type": "prompt", "num_virtual_tokens": 3}), vec![], "all"),
        ("llama", "p_tuning", json!({"type": "p_tuning", "num_virtual_tokens": 3}), vec![], "all"),
        ("llama", "p_tuning_lstm", lstm, vec![], "all"),
        ("llama_bias_tied", "road_4", json!({"type": "road", "group_size": 8, "variant": "road_4"}), vec!["q_proj", "up_proj"], "all"),
        ("llama", "prefix", json!({"type": "prefix", "num_virtual_tokens": 3}), vec![], "all"),
        ("llama", "ln_tuning", json!("ln_tuning"), vec![], "all"),
        ("mamba", "ln_tuning", json!("ln_tuning"), vec![], "all"),
        ("llama", "ia3", json!("ia3"), vec![], "all"),
        ("bloom", "ia3", json!("ia3"), vec![], "all"),
        ("mamba", "ia3", json!("ia3"), vec![], "all"),
    ];
    let linear = [
        ("dora", json!({"type": "dora", "r": 4})),
        ("adalora", json!({"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1})),
        ("vera", json!({"type": "vera", "r": 8})),
        ("loha", json!({"type": "loha", "r": 4})),
        ("lokr", json!({"type": "lokr", "r": 2, "decompose_both": true, "decompose_factor": 4})),
        ("oft", json!({"type": "oft", "oft_block_size": 8})),
        // Without its CUDA extension peft takes every factor for 1.
        ("boft", json!({"type": "boft", "boft_n_butterfly_factor": 1})),
        ("hra", json!({"type": "hra", "r": 4})),
        ("fourierft", json!({"type": "fourierft", "n_frequency": 20})),
        ("miss", json!({"type": "miss", "r": 4})),
        ("road", json!({"type": "road", "group_size": 8})),
    ];
    for (name, method) in linear {
        cases.push(("llama", name, method.clone(), vec!["q_proj", "down_proj"], "all"));
        cases.push(("mamba", name, method, vec!["in_proj"], "all"));
    }
    cases
}

/// Moves everything that trains away from where it began.
fn perturb(attachment: &Attachment) {
    let mut stream = seed::stream(7, "perturb");
    for p in &attachment.params {
        let value = p.param.value();
        let noise: Vec<f32> = (0..value.elem_count()).map(|_| StandardNormal.sample(&mut stream)).collect();
        let noise = Tensor::from_vec(noise, value.shape(), &Device::Cpu).unwrap();
        p.param.set((value + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
}

/// Lets a schedule do its work: six steps that change nothing but what follows them.
fn follow(model: &dyn Model, attachment: &Attachment, ids: &Tensor) {
    for step in 1..=6 {
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let hidden = model.forward(&pass, ids, None).unwrap();
        let loss = model.loss(&pass, &hidden, &[2, 3, 8], &[1, 3, 5]).unwrap();
        let grads = tape.backward(&loss).unwrap();
        let made = TrainingStep { step, total: 6, grads: &grads, grad_scale: 1.0 };
        attachment.training.iter().for_each(|training| training.after_step(&made).unwrap());
    }
}

fn main() {
    let out = std::env::args().nth(1).expect("usage: adapters_for_peft OUT");
    let bases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let ids = Tensor::new(&[[3u32, 9, 27, 1, 3, 60], [39, 0, 5, 5, 8, 12]], &Device::Cpu).unwrap();
    for (base, name, options, targets, layers) in cases() {
        let mut model = load(&bases.join(base), &Device::Cpu).unwrap();
        let component = Component::from_value(&options).unwrap();
        let method = methods::build(&component).unwrap();
        let layers: LayerSelection = layers.parse().unwrap();
        let chosen = choose(&mut *model, &component.name, &*method, &TargetExpr::new(targets), &layers, 0).unwrap();
        let init = &mut seed::stream(0, "init");
        let mut context = AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init, loading: false };
        let attachment = method.attach(&mut *model, &mut context).unwrap();
        perturb(&attachment);
        follow(&*model, &attachment, &ids);
        let folder = Path::new(&out).join(format!("{base}__{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        let files = adapter_files(&attachment, base).unwrap();
        std::fs::write(folder.join("adapter_config.json"), files.config).unwrap();
        std::fs::write(folder.join("adapter_model.safetensors"), files.weights).unwrap();
        let logits = Param::frozen("logits", model.all_logits(&ids, None).unwrap());
        let ids = Param::frozen("input_ids", ids.to_dtype(peftbench_ops::DType::F32).unwrap());
        std::fs::write(folder.join("io.safetensors"), to_safetensors(&[ids, logits], Storage::F32).unwrap()).unwrap();
    }
}
