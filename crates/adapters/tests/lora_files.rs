//! What the LoRA family writes for Hugging Face where its own tensors lie otherwise: row parts, PiSSA and OLoRA, pruned ranks; and the head.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bases;

use bases::{attach, base, differentiate, distance, flat, ids, logits, method, perturb};
use peftbench_adapters::export::adapter_files;
use peftbench_adapters::method::TrainingStep;
use peftbench_adapters::methods::METHODS;
use peftbench_adapters::{AdapterFolder, Attachment};
use peftbench_models::{Model, Pass};
use peftbench_ops::{Tape, Tensor};
use serde_json::{Value, json};

/// The adapter written and read again.
fn through_files(attachment: &Attachment) -> (AdapterFolder, Value) {
    let folder = tempfile::tempdir().unwrap();
    let files = adapter_files(attachment, "base").unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), &files.config).unwrap();
    std::fs::write(folder.path().join("adapter_model.safetensors"), &files.weights).unwrap();
    (AdapterFolder::open(folder.path()).unwrap(), serde_json::from_str(&files.config).unwrap())
}

fn trained(name: &str, options: &Value, targets: &[&str], layers: &str) -> (Box<dyn Model>, Attachment) {
    let mut model = base(name);
    let attachment = attach(&mut *model, &method(options), targets, layers, 0).unwrap();
    perturb(&attachment);
    (model, attachment)
}

fn columns(tensor: &Tensor, start: usize, len: usize) -> Vec<f32> {
    flat(&tensor.narrow(1, start, len).unwrap().contiguous().unwrap())
}

#[test]
fn row_parts_are_one_lora_with_stacked_ranks() {
    let options = json!({"type": "lora", "r": 2, "lora_alpha": 6});
    let (model, attachment) = trained("mamba", &options, &["in_proj.x", "in_proj.z", "out_proj"], "all");
    let (folder, config) = through_files(&attachment);
    let path = "base_model.model.backbone.layers.0.mixer.in_proj";
    let (a, b) = (&folder.tensors()[&format!("{path}.lora_A.weight")], &folder.tensors()[&format!("{path}.lora_B.weight")]);
    assert_eq!((a.dims(), b.dims()), (&[4, 32][..], &[128, 4][..]));
    // The upper rows are x's, with its ranks; the lower ones z's.
    let upper = b.narrow(0, 0, 64).unwrap();
    assert!(columns(&upper, 2, 2).iter().all(|v| *v == 0.0) && columns(&upper, 0, 2).iter().any(|v| *v != 0.0));
    let lower = b.narrow(0, 64, 64).unwrap();
    assert!(columns(&lower, 0, 2).iter().all(|v| *v == 0.0) && columns(&lower, 2, 2).iter().any(|v| *v != 0.0));
    // alpha / r is 3 for every module, whatever its rank.
    assert_eq!(config["target_modules"], json!(["in_proj", "out_proj"]));
    assert_eq!(config["layers_to_transform"], Value::Null);
    let (r, alpha) = (config["r"].as_u64().unwrap(), config["lora_alpha"].as_f64().unwrap());
    assert_eq!(alpha / r as f64, 3.0);
    let patterned = if r == 2 { "in_proj" } else { "out_proj" };
    for (key, rank) in config["rank_pattern"].as_object().unwrap() {
        assert!(key.ends_with(patterned), "{key}");
        assert_eq!(config["alpha_pattern"][key].as_f64().unwrap() / rank.as_f64().unwrap(), 3.0);
    }
    assert_eq!(config["rank_pattern"].as_object().unwrap().len(), 2);
    // As one LoRA, and as parts again.
    let mut whole = base("mamba");
    assert_eq!(folder.attach(&mut *whole).unwrap().params.len(), 8);
    assert!(distance(&logits(&*model), &logits(&*whole)) < 1e-5);
    let mut parts = base("mamba");
    let again = attach(&mut *parts, &method(&options), &["in_proj.x", "in_proj.z", "out_proj"], "all", 3).unwrap();
    folder.load_into(&again).unwrap();
    assert!(distance(&logits(&*model), &logits(&*parts)) == 0.0);
}

#[test]
fn parts_of_different_ranks_and_of_one_part_alone_keep_their_scales() {
    for (targets, patterns) in
        [(vec!["in_proj.x", "in_proj.z"], json!({"in_proj.x": 3})), (vec!["x_proj.B"], json!({})), (vec!["in_proj.z"], json!({}))]
    {
        let options = json!({"type": "lora", "r": 2, "lora_alpha": 5, "rank_pattern": patterns, "use_rslora": true});
        let (model, attachment) = trained("mamba", &options, &targets, "1");
        let (folder, config) = through_files(&attachment);
        assert_eq!(config["layers_to_transform"], json!([1]));
        let mut whole = base("mamba");
        folder.attach(&mut *whole).unwrap();
        assert!(distance(&logits(&*model), &logits(&*whole)) < 1e-5, "{targets:?}");
    }
}

#[test]
fn a_whole_lora_cannot_be_read_as_a_part() {
    let options = json!({"type": "lora", "r": 2});
    let (folder, _) = through_files(&trained("mamba", &options, &["in_proj"], "all").1);
    let part = attach(&mut *base("mamba"), &method(&options), &["in_proj.x"], "all", 0).unwrap();
    let message = folder.load_into(&part).unwrap_err().to_string();
    assert!(message.contains("changes rows outside the attached parts; attach it to the whole layer"), "{message}");
}

#[test]
fn pissa_and_olora_start_as_the_base_and_are_saved_as_plain_loras_of_it() {
    for (name, targets) in
        [("mamba", vec!["in_proj.x", "x_proj", "out_proj"]), ("llama", vec!["q_proj", "down_proj"]), ("gpt2", vec!["c_attn", "c_fc"])]
    {
        for start in ["pissa", "olora"] {
            let what = format!("{start} on {name}");
            let options = json!({"type": "lora", "r": 4, "lora_alpha": 6, "init_lora_weights": start});
            let mut model = base(name);
            let attachment = attach(&mut *model, &method(&options), &targets, "all", 0).unwrap();
            assert!(distance(&logits(&*base(name)), &logits(&*model)) < 1e-5, "{what}");
            // The adapter itself holds something, and an update of it is one of the base model.
            assert!(attachment.params.iter().all(|p| flat(&p.param.value()).iter().any(|v| *v != 0.0)), "{what}");
            perturb(&attachment);
            let (folder, config) = through_files(&attachment);
            assert_eq!(
                (&config["r"], &config["lora_alpha"], &config["init_lora_weights"]),
                (&json!(8), &json!(12), &json!(true)),
                "{what}"
            );
            let mut plain = base(name);
            folder.attach(&mut *plain).unwrap();
            let (found, expected) = (logits(&*plain), logits(&*model));
            assert!(distance(&found, &expected) < 2e-5, "{what}: {}", distance(&found, &expected));
            // And back into the same decomposition.
            let mut again = base(name);
            let other = attach(&mut *again, &method(&options), &targets, "all", 0).unwrap();
            folder.load_into(&other).unwrap();
            assert!(distance(&logits(&*model), &logits(&*again)) == 0.0, "{what}");
        }
    }
}

/// PiSSA's first singular value is the largest there is: no unit vector makes W longer.
#[test]
fn pissa_takes_the_largest_part_of_a_weight() {
    let norm_of_base = |model: &mut dyn Model| -> f32 {
        let weight = model.params().into_iter().find(|p| p.name().ends_with("layers.0.self_attn.q_proj.weight")).unwrap();
        flat(&weight.value()).iter().map(|v| v * v).sum::<f32>()
    };
    let before = norm_of_base(&mut *base("llama"));
    let after = |start: &str| {
        let mut model = base("llama");
        let options = json!({"type": "lora", "r": 4, "init_lora_weights": start});
        attach(&mut *model, &method(&options), &["q_proj"], "all", 0).unwrap();
        norm_of_base(&mut *model)
    };
    assert!(after("pissa") < after("olora") && after("olora") < before);
}

#[test]
fn a_pruned_adalora_is_saved_with_the_ranks_that_are_left() {
    let options = json!({"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1});
    let (model, attachment) = trained("llama", &options, &["q_proj", "down_proj"], "all");
    for step in 1..=6 {
        let (_, grads) = differentiate(&*model, &attachment);
        let made = TrainingStep { step, total: 6, grads: &grads, grad_scale: 1.0 };
        attachment.training.iter().for_each(|training| training.after_step(&made).unwrap());
    }
    let (folder, config) = through_files(&attachment);
    let pattern = config["rank_pattern"].as_object().unwrap();
    let kept = |list: &Value| list.as_array().unwrap().iter().filter(|v| v.as_bool().unwrap()).count();
    assert_eq!((pattern.len(), pattern.values().map(kept).sum::<usize>()), (4, 8));
    for (name, list) in pattern {
        let path = name.strip_suffix(".lora_E").unwrap();
        assert_eq!(list.as_array().unwrap().len(), 4);
        assert_eq!(folder.tensors()[&format!("base_model.model.{path}.lora_A")].dims()[0], kept(list), "{path}");
        assert_eq!(folder.tensors()[&format!("base_model.model.{path}.lora_B")].dims()[1], kept(list), "{path}");
    }
    let mut again = base("llama");
    folder.attach(&mut *again).unwrap();
    assert!(distance(&logits(&*model), &logits(&*again)) < 1e-6);
}

#[test]
fn a_schedule_longer_than_the_run_is_refused() {
    let options = json!({"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 5, "tfinal": 5});
    let (model, attachment) = trained("llama", &options, &["q_proj"], "all");
    let (_, grads) = differentiate(&*model, &attachment);
    let error = attachment.training[0].after_step(&TrainingStep { step: 1, total: 10, grads: &grads, grad_scale: 1.0 }).unwrap_err();
    assert!(error.to_string().contains("leave none of 10 steps for pruning"), "{error}");
}

#[test]
fn lora_plus_gives_b_its_own_learning_rate() {
    let (_, attachment) = trained("llama", &json!({"type": "lora", "r": 2, "loraplus_lr_ratio": 16}), &["q_proj", "embed_tokens"], "all");
    for p in &attachment.params {
        let expected = if p.param.name().ends_with("lora_B.weight") || p.param.name().ends_with("lora_embedding_B") { 16.0 } else { 1.0 };
        assert_eq!(p.lr_factor, expected, "{}", p.param.name());
    }
}

/// The head's logits are never whole in training, so that what is attached to it takes another way there.
#[test]
fn on_the_head_the_loss_is_that_of_the_logits_or_the_method_refuses() {
    let mut taken = Vec::new();
    for entry in METHODS {
        let options = match entry.name {
            "lora" | "dora" | "hra" | "miss" | "loha" | "lokr" => json!({"type": entry.name, "r": 2}),
            "adalora" => json!({"type": "adalora", "init_r": 2, "target_r": 1}),
            "vera" => json!({"type": "vera", "r": 4}),
            name => json!(name),
        };
        let mut model = base("llama");
        let Ok(attachment) = attach(&mut *model, &method(&options), &["lm_head"], "all", 0) else { continue };
        if attachment.params.iter().all(|p| !p.param.name().contains("lm_head")) {
            continue;
        }
        perturb(&attachment);
        taken.push(entry.name);
        let (loss, grads) = differentiate(&*model, &Attachment { training: Vec::new(), ..attachment.clone() });
        assert_eq!(grads.len(), attachment.params.len(), "{}", entry.name);
        let tape = Tape::inference();
        let pass = Pass::evaluation(&tape);
        let hidden = model.forward(&pass, &ids(), None).unwrap();
        let found = model.log_probs(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap();
        let logits = flat(&logits(&*model));
        let width = logits.len() / 10;
        let mut mean = 0.0;
        for ((row, label), found) in [(2, 1), (3, 3), (7, 5), (8, 8)].into_iter().zip(found) {
            let row: &[f32] = &logits[row * width..(row + 1) * width];
            let expected = f64::from(row[label]) - row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
            assert!((found - expected).abs() < 1e-5, "{}: {found} {expected}", entry.name);
            mean -= expected / 4.0;
        }
        assert!((f64::from(loss) - mean).abs() < 1e-5, "{}: {loss} {mean}", entry.name);
    }
    assert!(["lora", "adalora", "vera", "loha"].iter().all(|name| taken.contains(name)), "{taken:?}");
}

#[test]
fn a_merged_model_is_a_checkpoint() {
    let (mut model, _) = trained("mamba", &json!({"type": "lora", "r": 2}), &["in_proj", "embeddings"], "all");
    let (bytes, untied) = peftbench_adapters::export::merged_file(&mut *model).unwrap();
    assert!(untied);
    let folder = tempfile::tempdir().unwrap();
    let mut config = bases::config("mamba");
    config.values.insert("tie_word_embeddings".to_owned(), false.into());
    std::fs::write(folder.path().join("config.json"), Value::Object(config.values).to_string()).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let merged = peftbench_models::load(folder.path(), &peftbench_ops::Device::Cpu).unwrap();
    assert!(distance(&logits(&*model), &logits(&*merged)) < 1e-5);
}
