//! Adapters against Hugging Face peft: logits, loss, the gradient of every adapter tensor, and three AdamW steps.
//!
//! The cases lie in `tests/fixtures/parity`; `PEFTBENCH_PARITY` names another folder of the same form.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{Attachment, choose, methods};
use peftbench_models::checkpoint::Checkpoint;
use peftbench_models::{Model, Pass, load};
use peftbench_ops::adamw::{AdamWStep, Moments, adamw};
use peftbench_ops::{DType, Device, Gradients, Tape, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A case of the fixtures in our own terms.
struct Case {
    folder: &'static str,
    base: &'static str,
    method: Value,
    targets: &'static [&'static str],
    layers: &'static str,
}

fn cases() -> Vec<Case> {
    let lora = |r: usize, rs: bool| json!({"type": "lora", "r": r, "lora_alpha": 8, "use_rslora": rs});
    let llama: &[&str] = &["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"];
    let case = |folder, base, method, targets, layers| Case { folder, base, method, targets, layers };
    vec![
        case("llama__lora", "llama", lora(4, false), llama, "all"),
        case("llama__rslora", "llama", lora(4, true), llama, "all"),
        case("llama__lora_layers", "llama", lora(4, false), llama, "1"),
        case("llama__prompt", "llama", json!({"type": "prompt", "num_virtual_tokens": 5}), &[], "all"),
        case("llama__full", "llama", json!("full"), &[], "all"),
        case("llama_bias_tied__bitfit", "llama_bias_tied", json!("bitfit"), &[], "all"),
        case("mamba__lora_in_out", "mamba", lora(4, false), &["in_proj", "out_proj"], "all"),
        case("mamba__bitfit", "mamba", json!("bitfit"), &[], "all"),
        case("mamba__a_log", "mamba", json!("selective"), &["A_log"], "all"),
        case("mamba__prompt", "mamba", json!({"type": "prompt", "num_virtual_tokens": 5}), &[], "all"),
    ]
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    std::env::var_os("PEFTBENCH_PARITY").map_or(own, PathBuf::from)
}

fn open(file: &Path) -> Checkpoint {
    Checkpoint::open_files(&[file.to_owned()], file.display().to_string(), &Device::Cpu).unwrap()
}

/// peft's name for a tensor that it keeps under another one than the adapter file's.
fn peft_name(ours: &str) -> &str {
    if ours == "prompt_embeddings" { "prompt_encoder.default.embedding.weight" } else { ours }
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor, absolute: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (i, (a, b)) in flat(found).into_iter().zip(flat(expected)).enumerate() {
        assert!((a - b).abs() <= absolute + 1e-4 * b.abs(), "{what}[{i}]: {a}, peft has {b}");
    }
}

struct Attached {
    model: Box<dyn Model>,
    attachment: Attachment,
    ids: Tensor,
    rows: Vec<u32>,
    labels: Vec<u32>,
    meta: Value,
    folder: PathBuf,
}

fn attach(case: &Case) -> Attached {
    let (root, folder) = (root(), root().join(case.folder));
    let mut model = load(&root.join(case.base), &Device::Cpu).unwrap();
    let component = Component::from_value(&case.method).unwrap();
    let method = methods::build(&component).unwrap();
    let layers: LayerSelection = case.layers.parse().unwrap();
    let chosen = choose(&mut *model, &component.name, &*method, &TargetExpr::new(case.targets.iter().copied()), &layers, 0).unwrap();
    let mut context = AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init: &mut seed::stream(0, "init") };
    let attachment = method.attach(&mut *model, &mut context).unwrap();
    let adapter = folder.join("adapter_model.safetensors");
    if adapter.is_file() {
        let adapter = open(&adapter);
        assert_eq!(adapter.names().count(), attachment.params.len(), "{}: the same tensors as peft", case.folder);
        for p in &attachment.params {
            p.param.set(adapter.read(p.param.name()).unwrap()).unwrap();
        }
    }
    let io = peftbench_ops::safetensors::load(folder.join("io.safetensors"), &Device::Cpu).unwrap();
    let all = io["labels"].to_vec2::<i64>().unwrap();
    let length = all[0].len();
    let labelled = (0..all.len()).flat_map(|b| (1..length).map(move |t| (b, t))).filter(|&(b, t)| all[b][t] >= 0);
    let (rows, labels) = labelled.map(|(b, t)| ((b * length + t - 1) as u32, all[b][t] as u32)).unzip();
    let meta = serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).unwrap()).unwrap();
    Attached { model, attachment, ids: io["input_ids"].to_dtype(DType::U32).unwrap(), rows, labels, meta, folder }
}

impl Attached {
    fn differentiate(&self) -> (f64, Gradients) {
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let hidden = self.model.forward(&pass, &self.ids, None).unwrap();
        let loss = self.model.loss(&pass, &hidden, &self.rows, &self.labels).unwrap();
        (f64::from(loss.value().to_scalar::<f32>().unwrap()), tape.backward(&loss).unwrap())
    }
}

#[test]
fn logits_loss_and_gradients_agree() {
    for case in cases() {
        let attached = attach(&case);
        let expected = open(&attached.folder.join("io.safetensors")).read("logits").unwrap();
        let length = attached.ids.dims()[1];
        // peft leaves the virtual tokens' logits in front.
        let expected = expected.narrow(1, expected.dims()[1] - length, length).unwrap().contiguous().unwrap();
        assert_close(&format!("{} logits", case.folder), &attached.model.all_logits(&attached.ids, None).unwrap(), &expected, 2e-5);
        let (loss, grads) = attached.differentiate();
        assert!((loss - attached.meta["loss"].as_f64().unwrap()).abs() < 1e-5, "{} loss {loss}", case.folder);
        let expected = open(&attached.folder.join("grads.safetensors"));
        assert_eq!(grads.len(), expected.names().count(), "{}: exactly peft's tensors have a gradient", case.folder);
        for p in &attached.attachment.params {
            let name = p.param.name();
            assert_close(
                &format!("{} gradient of {name}", case.folder),
                grads.get(&p.param).unwrap(),
                &expected.read(peft_name(name)).unwrap(),
                2e-5,
            );
        }
    }
}

#[test]
fn three_adamw_steps_agree() {
    for case in cases() {
        let attached = attach(&case);
        let mut moments: Vec<Moments> = attached
            .attachment
            .params
            .iter()
            .map(|p| {
                let value = p.param.value();
                Moments { first: value.zeros_like().unwrap(), second: value.zeros_like().unwrap(), value }
            })
            .collect();
        let losses = attached.meta["losses_at_steps_0_to_3"].as_array().unwrap();
        for step in 0..=3u64 {
            let (loss, grads) = attached.differentiate();
            let expected = losses[step as usize].as_f64().unwrap();
            assert!((loss - expected).abs() < 2e-4, "{} loss {loss} at step {step}, peft has {expected}", case.folder);
            if step == 3 {
                break;
            }
            for (p, old) in attached.attachment.params.iter().zip(&mut moments) {
                let s = AdamWStep { lr: 1e-2, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, step: step + 1, grad_scale: 1.0 };
                *old = adamw(old, grads.get(&p.param).unwrap(), s).unwrap();
                p.param.set(old.value.clone()).unwrap();
            }
        }
        let expected = open(&attached.folder.join("after3.safetensors"));
        for p in &attached.attachment.params {
            // A gradient of about 0 has no sign to agree on: one such element may be a whole learning rate off a step.
            let (found, expected) = (p.param.value(), expected.read(peft_name(p.param.name())).unwrap());
            let off = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mean = off.iter().sum::<f32>() / off.len() as f32;
            assert!(mean < 2e-4, "{} {}: mean difference {mean}", case.folder, p.param.name());
        }
    }
}
