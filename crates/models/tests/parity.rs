//! Logits, hidden loss, the gradient of every parameter and greedy decoding against Hugging Face transformers.
//!
//! The cases lie in `tests/fixtures/parity` and, less usual configurations, in `tests/fixtures/variants`; `PEFTBENCH_PARITY` names
//! another folder of the former's form (see its README for how the files were made).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::checkpoint::Checkpoint;
use peftbench_models::decoding::{DecodeLimits, greedy};
use peftbench_models::{Cache, Model, Pass, load};
use peftbench_ops::{DType, Device, Tape, Tensor};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folder = std::env::var_os("PEFTBENCH_PARITY").map_or(fixtures.join("parity"), PathBuf::from);
    let within = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let mut cases = [within(&folder), within(&fixtures.join("variants"))].concat();
    cases.retain(|path| path.is_dir() && !path.file_name().unwrap().to_string_lossy().contains("__"));
    cases.sort();
    assert!(cases.len() >= 4, "expected the four base cases in {}", folder.display());
    cases
}

struct Case {
    folder: PathBuf,
    model: Box<dyn Model>,
    io: Checkpoint,
    ids: Tensor,
}

impl Case {
    fn open(folder: &Path) -> Self {
        let model = load(folder, &Device::Cpu).unwrap();
        let io = Checkpoint::open_files(&[folder.join("io.safetensors")], "io".into(), &Device::Cpu).unwrap();
        let ids = integers(&folder.join("io.safetensors"), "input_ids");
        Self { folder: folder.to_owned(), model, io, ids: ids.to_dtype(DType::U32).unwrap() }
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// An i64 tensor of a safetensors file.
fn integers(file: &Path, name: &str) -> Tensor {
    peftbench_ops::safetensors::load(file, &Device::Cpu).unwrap()[name].clone()
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let pairs =
        found.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().zip(expected.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    for (i, (a, b)) in pairs.enumerate() {
        assert!((a - b).abs() <= 2e-5 + 1e-4 * b.abs(), "{what}[{i}]: {a}, Hugging Face has {b}");
    }
}

#[test]
fn logits_agree_with_and_without_a_mask() {
    for folder in cases() {
        let case = Case::open(&folder);
        assert_close(
            &format!("{} logits", case.name()),
            &case.model.all_logits(&case.ids, None).unwrap(),
            &case.io.read("logits").unwrap(),
        );
        let mask = integers(&folder.join("io.safetensors"), "attention_mask").to_dtype(DType::U8).unwrap();
        let masked = case.model.all_logits(&case.ids, Some(&mask)).unwrap();
        let expected = case.io.read("logits_masked").unwrap();
        // What stands at a padding position is nobody's business; Hugging Face's attention leaves noise there.
        let keep = mask.to_dtype(DType::F32).unwrap().unsqueeze(2).unwrap();
        let on_kept = |t: &Tensor| t.broadcast_mul(&keep).unwrap();
        assert_close(&format!("{} masked logits", case.name()), &on_kept(&masked), &on_kept(&expected));
    }
}

#[test]
fn hidden_states_agree() {
    for folder in cases() {
        let case = Case::open(&folder);
        let states = RefCell::new(Vec::new());
        let tape = Tape::inference();
        let pass = Pass { hidden_states: Some(&states), ..Pass::evaluation(&tape) };
        case.model.forward(&pass, &case.ids, None).unwrap();
        // Of the stream before, between and behind the layers Hugging Face leaves out one: Mamba's the first, the others the last.
        let mut states = states.into_inner();
        let left_out = if case.model.arch().contains("mamba") { 0 } else { case.model.num_layers() };
        states.remove(left_out);
        assert_eq!(states.len(), case.io.names().filter(|name| name.starts_with("hidden_states.")).count(), "{}", case.name());
        for (i, state) in states.iter().enumerate() {
            assert_close(
                &format!("{} hidden states {i}", case.name()),
                state.value(),
                &case.io.read(&format!("hidden_states.{i}")).unwrap(),
            );
        }
    }
}

/// The gradient of `name` and the tensor that it is in: transformers holds all experts of a layer in two tensors, `gate_up_proj`
/// [experts, 2 · inner, hidden] and `down_proj`, though its checkpoints name each expert.
fn gradient(all: &Checkpoint, name: &str) -> (String, Tensor) {
    let Some((layer, expert)) = name.split_once(".experts.") else { return (name.to_owned(), all.read(name).unwrap()) };
    let mut segments = expert.split('.');
    let (index, module) = (segments.next().unwrap().parse().unwrap(), segments.next().unwrap());
    let fused = format!("{layer}.experts.{}", if module == "down_proj" { "down_proj" } else { "gate_up_proj" });
    let gradient = all.read(&fused).unwrap().get(index).unwrap();
    let half = gradient.dim(0).unwrap() / 2;
    let gradient = match module {
        "gate_proj" => gradient.narrow(0, 0, half).unwrap(),
        "up_proj" => gradient.narrow(0, half, half).unwrap(),
        _ => gradient,
    };
    (fused, gradient)
}

#[test]
fn loss_and_the_gradient_of_every_parameter_agree() {
    for folder in cases() {
        let mut case = Case::open(&folder);
        let labels = integers(&folder.join("io.safetensors"), "labels").to_vec2::<i64>().unwrap();
        let length = labels[0].len();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (b, row) in labels.iter().enumerate() {
            for (t, &label) in row.iter().enumerate().skip(1).filter(|(_, label)| **label >= 0) {
                rows.push((b * length + t - 1) as u32);
                targets.push(label as u32);
            }
        }
        let params = case.model.params();
        params.iter().for_each(|p| p.set_trainable(true));
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let hidden = case.model.forward(&pass, &case.ids, None).unwrap();
        let loss = case.model.loss(&pass, &hidden, &rows, &targets).unwrap();
        let meta: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).unwrap()).unwrap();
        let found = f64::from(loss.value().to_scalar::<f32>().unwrap());
        assert!((found - meta["loss"].as_f64().unwrap()).abs() < 1e-5, "{} loss {found}", case.name());
        let grads = tape.backward(&loss).unwrap();
        assert_eq!(grads.len(), params.len(), "{}: every parameter has a gradient", case.name());
        let expected = Checkpoint::open_files(&[folder.join("grads.safetensors")], "grads".into(), &Device::Cpu).unwrap();
        let mut seen = BTreeSet::new();
        for param in &params {
            let (name, gradient) = gradient(&expected, param.name());
            assert_close(&format!("{} gradient of {}", case.name(), param.name()), grads.get(param).unwrap(), &gradient);
            seen.insert(name);
        }
        assert_eq!(expected.names().count(), seen.len());
    }
}

#[test]
fn decoding_with_the_cache_gives_hugging_faces_tokens() {
    for folder in cases() {
        let case = Case::open(&folder);
        let expected = integers(&folder.join("io.safetensors"), "greedy_ids").to_vec2::<i64>().unwrap();
        let prompts: Vec<Vec<u32>> = expected.iter().map(|row| row[..5].iter().map(|&id| id as u32).collect()).collect();
        let found = greedy(&*case.model, &prompts, &DecodeLimits { max_new_tokens: 8, ..DecodeLimits::default() }).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), expected[5..], "{}", case.name());
        }
    }
}

/// Hugging Face's logits, whether the sequence comes at once, in two parts, or token by token.
#[test]
fn the_cache_gives_the_logits_of_the_whole() {
    for folder in cases() {
        let case = Case::open(&folder);
        let length = case.ids.dims()[1];
        for first in [1, 4, length - 1] {
            let (mut cache, mut logits, mut start) = (Cache::default(), Vec::new(), 0);
            let sizes = std::iter::once(first).chain(if first == 1 { vec![1; length - 1] } else { vec![length - first] });
            for size in sizes {
                let tape = Tape::inference();
                let pass = Pass::evaluation(&tape);
                let ids = case.ids.narrow(1, start, size).unwrap().contiguous().unwrap();
                let hidden = case.model.forward(&pass, &ids, Some(&mut cache)).unwrap();
                logits.push(case.model.logits(&pass, &hidden).unwrap().value().clone());
                start += size;
            }
            let whole = Tensor::cat(&logits, 1).unwrap();
            assert_close(&format!("{} logits behind {first} tokens", case.name()), &whole, &case.io.read("logits").unwrap());
        }
    }
}
