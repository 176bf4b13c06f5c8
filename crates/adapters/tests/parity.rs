//! Adapters against Hugging Face peft: logits, loss, the gradient of every adapter tensor, merged weights, and three AdamW steps.
//!
//! The cases lie in `tests/fixtures/parity`; `PEFTBENCH_PARITY` names another folder of the same form. Every folder there whose
//! `meta.json` says `adapter` is a case; its adapter is read as any adapter folder is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_adapters::method::{AttachContext, Carried};
use peftbench_adapters::{AdapterFolder, Attachment, choose, methods};
use peftbench_models::checkpoint::Checkpoint;
use peftbench_models::config::ModelConfig;
use peftbench_models::weights::{Init, Weights};
use peftbench_models::{Merged, Model, Pass, load, model};
use peftbench_ops::adamw::{AdamWStep, Moments, adamw};
use peftbench_ops::{DType, Device, Gradients, Tape, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Transformers' Mamba reads `dt_proj.weight` instead of calling the module, so that peft's adapter on it has no effect until it is
/// merged. Here it has: the logits are those that peft has after the merge, and what peft trains without it is no measure.
const DT_PROJ_WITHOUT_EFFECT: &str = "mamba__lora_x_dt";

/// peft adapts the look-up of a tied embedding but merges into the matrix that is the head too, which changes the logits. Here the merge
/// parts the two, and the logits stay.
const TIED_EMBEDDING: &str = "mamba__lora_all";

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    std::env::var_os("PEFTBENCH_PARITY").map_or(own, PathBuf::from)
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))).unwrap()
}

/// Names of all cases.
fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let adapters = folders.filter(|path| json(&path.join("meta.json"))["kind"] == "adapter");
    let mut names: Vec<String> = adapters.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    // The copies here must not dwindle; how many cases another folder holds is its own affair.
    let least = if std::env::var_os("PEFTBENCH_PARITY").is_some() { 1 } else { 74 };
    assert!(names.len() >= least, "only {} cases in {}", names.len(), root().display());
    names
}

fn open(file: &Path) -> Checkpoint {
    Checkpoint::open_files(&[file.to_owned()], file.display().to_string(), &Device::Cpu).unwrap()
}

/// A case with its adapter attached.
struct Attached {
    model: Box<dyn Model>,
    attachment: Attachment,
    ids: Tensor,
    rows: Vec<u32>,
    labels: Vec<u32>,
    meta: Value,
    folder: PathBuf,
}

/// Cases that train tensors of the model's own have no adapter folder: method and targets.
fn whole_tensors(name: &str) -> Option<(&'static str, &'static [&'static str])> {
    match name.split_once("__")?.1 {
        "full" => Some(("full", &[])),
        "bitfit" => Some(("bitfit", &[])),
        "a_log" => Some(("selective", &["A_log"])),
        _ => None,
    }
}

fn attach(name: &str) -> Attached {
    let folder = root().join(name);
    let meta = json(&folder.join("meta.json"));
    let mut model = load(&root().join(meta["model"].as_str().unwrap()), &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e}"));
    let encoder = folder.join("encoder.safetensors");
    let attachment = match whole_tensors(name) {
        None if encoder.is_file() => attach_network(&mut *model, &folder, &open(&encoder)),
        None => AdapterFolder::open(&folder).and_then(|adapter| adapter.attach(&mut *model)).unwrap_or_else(|e| panic!("{name}: {e}")),
        Some((method, targets)) => {
            let built = methods::build(&Component::named(method)).unwrap();
            let targets = TargetExpr::new(targets.iter().copied());
            let chosen = choose(&mut *model, method, &*built, &targets, &LayerSelection::All, 0).unwrap();
            let init = &mut seed::stream(0, "init");
            let mut context = AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init, loading: false };
            built.attach(&mut *model, &mut context).unwrap()
        }
    };
    let io = peftbench_ops::safetensors::load(folder.join("io.safetensors"), &Device::Cpu).unwrap();
    let all = io["labels"].to_vec2::<i64>().unwrap();
    let length = all[0].len();
    let labelled = (0..all.len()).flat_map(|b| (1..length).map(move |t| (b, t))).filter(|&(b, t)| all[b][t] >= 0);
    let (rows, labels) = labelled.map(|(b, t)| ((b * length + t - 1) as u32, all[b][t] as u32)).unzip();
    Attached { model, attachment, ids: io["input_ids"].to_dtype(DType::U32).unwrap(), rows, labels, meta, folder }
}

/// peft saves only what a prompt's network has made; the fixtures have the network beside it.
fn attach_network(model: &mut dyn Model, folder: &Path, network: &Checkpoint) -> Attachment {
    let Value::Object(mut config) = json(&folder.join("adapter_config.json")) else { panic!("no table in {}", folder.display()) };
    config.insert("network".to_owned(), true.into());
    let component = methods::import(&config, &BTreeMap::new()).unwrap();
    let method = methods::build(&component).unwrap();
    let chosen = choose(model, &component.name, &*method, &TargetExpr::default(), &LayerSelection::All, 0).unwrap();
    let init = &mut seed::stream(0, "init");
    let mut context = AttachContext { chosen: &chosen, stage: 0, carried: &Carried::new(), init, loading: true };
    let attachment = method.attach(model, &mut context).unwrap();
    attachment.params.iter().for_each(|p| p.param.set(network.read(p.param.name()).unwrap()).unwrap());
    attachment
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

impl Attached {
    fn differentiate(&self) -> (f64, Gradients) {
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let hidden = self.model.forward(&pass, &self.ids, None).unwrap();
        let mut loss = self.model.loss(&pass, &hidden, &self.rows, &self.labels).unwrap();
        for training in &self.attachment.training {
            if let Some(penalty) = training.penalty(&tape).unwrap() {
                loss = tape.add(&loss, &penalty).unwrap();
            }
        }
        (f64::from(loss.value().to_scalar::<f32>().unwrap()), tape.backward(&loss).unwrap())
    }

    fn logits(&self) -> Tensor {
        self.model.all_logits(&self.ids, None).unwrap()
    }

    /// Logits from the fixture. peft leaves those of virtual tokens in front.
    fn expected(&self, name: &str) -> Option<Tensor> {
        let io = open(&self.folder.join("io.safetensors"));
        let length = self.ids.dims()[1];
        io.names().any(|n| n == name).then(|| {
            let logits = io.read(name).unwrap();
            logits.narrow(1, logits.dims()[1] - length, length).unwrap().contiguous().unwrap()
        })
    }
}

#[test]
fn logits_loss_and_gradients_agree() {
    for name in cases() {
        let attached = attach(&name);
        let without_effect = name == DT_PROJ_WITHOUT_EFFECT;
        let expected = attached.expected(if without_effect { "merged_logits" } else { "logits" }).unwrap();
        assert_close(&format!("{name} logits"), &attached.logits(), &expected, 2e-5);
        let (loss, grads) = attached.differentiate();
        assert_eq!(grads.len(), attached.attachment.params.len(), "{name}: every trained tensor has a gradient");
        if without_effect {
            continue;
        }
        assert!((loss - attached.meta["loss"].as_f64().unwrap()).abs() < 1e-5, "{name} loss {loss}");
        let expected = open(&attached.folder.join("grads.safetensors"));
        assert_eq!(grads.len(), expected.names().count(), "{name}: exactly peft's tensors have a gradient");
        for p in &attached.attachment.params {
            let tensor = p.name_in_file();
            let what = format!("{name} gradient of {tensor}");
            assert_close(&what, grads.get(&p.param).unwrap(), &expected.read(peft_name(tensor)).unwrap(), 2e-5);
        }
    }
}

#[test]
fn three_adamw_steps_agree() {
    for name in cases().into_iter().filter(|name| name != DT_PROJ_WITHOUT_EFFECT) {
        let attached = attach(&name);
        let start = |p: &peftbench_adapters::AdapterParam| {
            let value = p.param.value();
            Moments { first: value.zeros_like().unwrap(), second: value.zeros_like().unwrap(), value }
        };
        let mut moments: Vec<Moments> = attached.attachment.params.iter().map(start).collect();
        let losses = attached.meta["losses_at_steps_0_to_3"].as_array().unwrap();
        for step in 0..=3u64 {
            let (loss, grads) = attached.differentiate();
            let expected = losses[step as usize].as_f64().unwrap();
            assert!((loss - expected).abs() < 2e-5, "{name} loss {loss} at step {step}, peft has {expected}");
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
            let (found, expected) = (p.param.value(), expected.read(peft_name(p.name_in_file())).unwrap());
            let off = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mean = off.iter().sum::<f32>() / off.len() as f32;
            assert!(mean < 2e-5, "{name} {}: mean difference {mean}", p.name_in_file());
        }
    }
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
fn merged_weights_and_their_logits_agree() {
    for name in cases() {
        let mut attached = attach(&name);
        let Some(mut expected_logits) = attached.expected("merged_logits") else { continue };
        let base = root().join(attached.meta["model"].as_str().unwrap());
        let Merged { tensors, untied } = attached.model.merged().unwrap();
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let (plain, changed) = (Checkpoint::open(&base, &Device::Cpu).unwrap(), open(&attached.folder.join("merged_changed.safetensors")));
        assert_eq!(untied, name == TIED_EMBEDDING, "{name}");
        for (tensor, found) in &tensors {
            // The head that the merge has parted from the embedding is the embedding as it was.
            let source = if untied && tensor == "lm_head.weight" { "backbone.embeddings.weight" } else { tensor.as_str() };
            let is_changed = source == tensor && changed.names().any(|n| n == tensor);
            let expected = if is_changed { changed.read(source).unwrap() } else { plain.read(source).unwrap() };
            assert_close(&format!("{name} merged {tensor}"), found, &expected, if is_changed { 1e-5 } else { 0.0 });
        }
        let mut config = ModelConfig::read(&base).unwrap();
        if untied {
            config.values.insert("tie_word_embeddings".to_owned(), false.into());
            expected_logits = attached.expected("logits").unwrap();
        }
        let merged = model::build(&config, &Tensors(tensors)).unwrap().all_logits(&attached.ids, None).unwrap();
        assert_close(&format!("{name} merged logits"), &merged, &expected_logits, 4e-5);
        assert_close(&format!("{name} merged against unmerged"), &merged, &attached.logits(), 4e-5);
    }
}
