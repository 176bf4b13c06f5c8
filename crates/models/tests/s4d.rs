//! Deep S4D against a statement of it in PyTorch: outputs, loss, and the gradient of every parameter and of the input; and that methods
//! reach it through its slots.
//!
//! The cases lie in `tests/fixtures/s4d`, beside the script that made them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::checkpoint::Checkpoint;
use peftbench_models::config::ModelConfig;
use peftbench_models::s4d::{S4d, Target};
use peftbench_models::slots::{LinearAdapter, ParamAdapter, PromptAdapter, SlotMut, StateAdapter, SublayerAdapter};
use peftbench_models::weights::{Fresh, Shapes};
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::LowRank;
use peftbench_ops::{Device, Param, Result, Tape, Tensor, Var};
use serde_json::json;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

const CASES: [&str; 5] = ["regression", "regression_real", "classifier", "classifier_glu", "classifier_post"];

struct Case {
    folder: PathBuf,
    network: S4d,
    io: Checkpoint,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/s4d").join(name);
        let io = Checkpoint::open_files(&[folder.join("io.safetensors")], "io".into(), &Device::Cpu).unwrap();
        Self { network: S4d::load(&folder, &Device::Cpu).unwrap(), io, folder }
    }

    fn input(&self) -> Tensor {
        self.io.read("input").unwrap()
    }

    fn loss(&self, pass: &Pass<'_>, output: &Var) -> Var {
        let goals = peftbench_ops::safetensors::load(self.folder.join("io.safetensors"), &Device::Cpu).unwrap();
        match goals.get("labels") {
            Some(labels) => {
                let labels: Vec<u32> = labels.to_vec1::<i64>().unwrap().into_iter().map(|label| label as u32).collect();
                self.network.loss(pass, output, Target::Labels(&labels)).unwrap()
            }
            None => self.network.loss(pass, output, Target::Sequence(&goals["target"])).unwrap(),
        }
    }

    fn output(&self) -> Vec<f32> {
        let tape = Tape::inference();
        flat(self.network.forward(&Pass::evaluation(&tape), &Var::constant(self.input())).unwrap().value())
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.elem_count(), expected.elem_count(), "{what}");
    for (i, (a, b)) in flat(found).into_iter().zip(flat(expected)).enumerate() {
        assert!((a - b).abs() <= 2e-6 + 2e-5 * b.abs(), "{what}[{i}]: {a}, PyTorch has {b}");
    }
}

#[test]
fn output_loss_and_every_gradient_agree() {
    for name in CASES {
        let mut case = Case::open(name);
        let params = case.network.params();
        params.iter().for_each(|p| p.set_trainable(true));
        let input = Param::trainable("input", case.input());
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let output = case.network.forward(&pass, &tape.param(&input)).unwrap();
        assert_close(&format!("{name} output"), output.value(), &case.io.read("output").unwrap());
        let loss = case.loss(&pass, &output);
        let meta: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(case.folder.join("meta.json")).unwrap()).unwrap();
        let found = f64::from(loss.value().to_scalar::<f32>().unwrap());
        assert!((found - meta["loss"].as_f64().unwrap()).abs() < 1e-6, "{name} loss {found}");
        let grads = tape.backward(&loss).unwrap();
        let expected = Checkpoint::open_files(&[case.folder.join("grads.safetensors")], "grads".into(), &Device::Cpu).unwrap();
        for param in params.iter().chain([&input]) {
            let found = grads.get(param).unwrap_or_else(|| panic!("{name}: no gradient for {}", param.name()));
            assert_close(&format!("{name} gradient of {}", param.name()), found, &expected.read(param.name()).unwrap());
        }
        assert_eq!(expected.names().count(), grads.len());
    }
}

fn random(name: &str, dims: &[usize]) -> Param {
    let count = dims.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 + name.len()) % 101) as f32 / 101.0 - 0.5).collect();
    Param::trainable(name, Tensor::from_vec(values, dims, &Device::Cpu).unwrap())
}

/// One trained tensor, for whichever slot.
struct Trained(Param);

impl ParamAdapter for Trained {
    fn transform(&self, pass: &Pass<'_>, value: Var) -> Result<Var> {
        pass.tape.add(&value, &pass.tape.param(&self.0))
    }
}

impl SublayerAdapter for Trained {
    fn output(&self, pass: &Pass<'_>, _x: &Var, y: Var) -> Result<Var> {
        pass.tape.mul(&y, &pass.tape.param(&self.0))
    }
}

impl StateAdapter for Trained {
    fn initial_state(&self, pass: &Pass<'_>) -> Result<Option<Var>> {
        Ok(Some(pass.tape.param(&self.0)))
    }
}

impl PromptAdapter for Trained {
    fn virtual_tokens(&self) -> usize {
        self.0.value().dims()[0]
    }

    fn embeddings(&self, pass: &Pass<'_>) -> Result<Var> {
        Ok(pass.tape.param(&self.0))
    }
}

struct Lora(Param, Param);

impl LinearAdapter for Lora {
    fn updates(&self, pass: &Pass<'_>, _x: &Var) -> Result<Vec<LowRank>> {
        let (a, b) = (pass.tape.param(&self.0), pass.tape.param(&self.1));
        let rows = b.dims()[0];
        Ok(vec![LowRank { a, b, scale: 1.0, rows: (0..rows).into(), input: None }])
    }
}

/// Attaches something that trains to every slot, and returns it.
fn attach_everywhere(network: &mut S4d) -> Vec<Param> {
    let mut all = Vec::new();
    network.visit_slots(&mut |slot| {
        let path = slot.info().path.clone();
        let mut trained = |what: &str, dims: &[usize]| {
            all.push(random(&format!("{path} {what}"), dims));
            all[all.len() - 1].clone()
        };
        match slot {
            SlotMut::Linear(slot) => {
                let (out, input) = slot.dims();
                slot.attach(Box::new(Lora(trained("A", &[2, input]), trained("B", &[out, 2]))));
            }
            SlotMut::Param(slot) => slot.attach(Box::new(Trained(trained("delta", slot.param.value().dims())))),
            SlotMut::Sublayer(slot) => slot.attach(Box::new(Trained(trained("gate", &[6])))),
            SlotMut::Prompt(slot) => slot.attach(Box::new(Trained(trained("prompt", &[3, slot.hidden])))),
            SlotMut::State(slot) => slot.attach(Box::new(Trained(trained("start", &[slot.inner, slot.state])))),
            SlotMut::Prefix(_) => panic!("a state space has no keys and values"),
        }
    });
    all
}

#[test]
fn what_is_attached_to_any_slot_trains_and_nothing_else_does() {
    for name in CASES {
        let mut case = Case::open(name);
        let base = case.output();
        let attached = attach_everywhere(&mut case.network);
        assert_ne!(case.output(), base);
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let output = case.network.forward(&pass, &Var::constant(case.input())).unwrap();
        let loss = case.loss(&pass, &output);
        let grads = tape.backward(&loss).unwrap();
        assert_eq!(grads.len(), attached.len(), "{name}");
        for param in &attached {
            let grad = grads.get(param).unwrap_or_else(|| panic!("{name}: no gradient for {}", param.name()));
            assert!(flat(grad).iter().all(|g| g.is_finite()) && flat(grad).iter().any(|g| *g != 0.0), "{name}: {}", param.name());
        }
    }
}

#[test]
fn a_step_in_front_is_an_initial_state() {
    // The first layer's state after one step of input p is B̄ p; here B = 1, and Ā and B̄ follow from the parameters by hand.
    let network = || {
        let config = config(json!({"problem_type": "regression", "diagonal": "real", "num_hidden_layers": 1}));
        S4d::new(&config, &Fresh { seed: 3 }).unwrap()
    };
    let prompt = random("prompt", &[1, 6]);
    let (mut prompted, mut started) = (network(), network());
    let mut parameters = std::collections::BTreeMap::new();
    prompted.visit_slots(&mut |slot| match slot {
        SlotMut::Prompt(slot) => slot.attach(Box::new(Trained(prompt.clone()))),
        SlotMut::Param(slot) => drop(parameters.insert(slot.info.path.clone(), flat(&slot.param.value()))),
        _ => {}
    });
    let prompt = flat(&prompt.value());
    let state: Vec<f32> = (0..18)
        .map(|i| {
            let a = -parameters["layers.0.kernel.log_A_real"][i].exp();
            let dt = parameters["layers.0.kernel.log_dt"][i / 3].exp();
            (dt * a).exp_m1() / a * prompt[i / 3]
        })
        .collect();
    started.visit_slots(&mut |slot| {
        if let SlotMut::State(slot) = slot {
            let start = Tensor::from_vec(state.clone(), (6, 3), &Device::Cpu).unwrap();
            slot.attach(Box::new(Trained(Param::trainable("start", start))));
        }
    });
    let x = Var::constant(random("x", &[2, 9, 6]).value());
    let tape = Tape::inference();
    let [prompted, started] = [prompted, started].map(|n| n.forward(&Pass::evaluation(&tape), &x).unwrap().value().clone());
    assert_eq!(prompted.dims(), [2, 9, 6]);
    assert_close("output", &prompted, &started);
}

fn config(keys: serde_json::Value) -> ModelConfig {
    let mut values = json!({"model_type": "s4d", "hidden_size": 6, "state_size": 3, "num_hidden_layers": 2});
    let (Some(values), Some(keys)) = (values.as_object_mut(), keys.as_object()) else { unreachable!() };
    values.extend(keys.clone());
    ModelConfig::from_values(values.clone(), "config".to_owned()).unwrap()
}

#[test]
fn the_published_networks_have_the_published_sizes() {
    // 4 layers of width 64 with 16 complex states: D 64, C 2048, log_dt 64, log_A_real 1024, A_imag 1024, W and bias 4160 each.
    let count = |keys| -> usize {
        let mut network = S4d::new(&config(keys), &Shapes).unwrap();
        network.params().iter().map(Param::elem_count).sum()
    };
    let sizes =
        json!({"problem_type": "regression", "hidden_size": 64, "state_size": 16, "num_hidden_layers": 4, "initialization": "random"});
    assert_eq!(count(sizes), 4 * 8384);
    let sizes = json!({"problem_type": "single_label_classification", "hidden_size": 64, "state_size": 16, "num_hidden_layers": 4,
        "input_size": 3, "num_labels": 10});
    assert_eq!(count(sizes), 4 * 8384 + (3 * 64 + 64) + (64 * 10 + 10));
}

#[test]
fn fresh_values_are_the_published_ones() {
    let values = |keys| {
        let mut network = S4d::new(&config(keys), &Fresh { seed: 1 }).unwrap();
        let named: Vec<(String, Vec<f32>)> = network.params().iter().map(|p| (p.name().to_owned(), flat(&p.value()))).collect();
        move |name: &str| named.iter().find(|(n, _)| n == name).unwrap().1.clone()
    };
    let lin = values(json!({"problem_type": "regression"}));
    assert!(lin("layers.0.kernel.log_A_real").iter().all(|a| (a.exp() - 0.5).abs() < 1e-6));
    let pi = std::f32::consts::PI;
    assert_eq!(lin("layers.1.kernel.A_imag")[..6], [0.0, pi, 2.0 * pi, 0.0, pi, 2.0 * pi]);
    assert!(lin("layers.0.kernel.log_dt").iter().all(|dt| (0.001..0.1).contains(&dt.exp())));
    let random = values(json!({"problem_type": "regression", "initialization": "random"}));
    let (a, frequencies) = (random("layers.0.kernel.log_A_real"), random("layers.0.kernel.A_imag"));
    assert!(a.iter().all(|a| *a <= 0.0) && a.iter().any(|x| *x != a[0]));
    assert!(frequencies.iter().all(|f| [0.0, pi, 2.0 * pi].contains(f)) && frequencies.iter().any(|x| *x != frequencies[0]));
    let real = values(json!({"problem_type": "regression", "diagonal": "real"}));
    let expected = [1.0f32, 2.0, 3.0];
    assert!(real("layers.0.kernel.log_A_real").iter().enumerate().all(|(i, a)| (a.exp() - expected[i % 3]).abs() < 1e-5));
}

#[test]
fn dropout_takes_whole_channels_and_only_in_training() {
    let keys = json!({"problem_type": "regression", "num_hidden_layers": 1, "dropout": 0.5});
    let network = S4d::new(&config(keys), &Fresh { seed: 1 }).unwrap();
    let x = Var::constant(random("x", &[4, 5, 6]).value());
    let tape = Tape::inference();
    let whole = network.forward(&Pass::evaluation(&tape), &x).unwrap();
    let stream = RefCell::new(peftbench_spec::seed::stream(1, "dropout"));
    let dropped = network.forward(&Pass { dropout: Some(&stream), ..Pass::evaluation(&tape) }, &x).unwrap();
    let (whole, dropped) = (whole.value().to_vec3::<f32>().unwrap(), dropped.value().to_vec3::<f32>().unwrap());
    let mut kept = 0;
    for b in 0..4 {
        for channel in 0..6 {
            let pairs: Vec<(f32, f32)> = (0..5).map(|t| (whole[b][t][channel], dropped[b][t][channel])).collect();
            let stays = pairs.iter().all(|(w, d)| (2.0 * w - d).abs() < 1e-5);
            assert!(stays || pairs.iter().all(|(_, d)| *d == 0.0), "{pairs:?}");
            kept += usize::from(stays);
        }
    }
    assert!((4..22).contains(&kept), "{kept} of 24 channels kept");
}

#[test]
fn what_does_not_go_together_is_an_error_that_names_it() {
    let message = |keys| S4d::new(&config(keys), &Shapes).err().unwrap().to_string();
    assert_eq!(
        message(json!({"problem_type": "single_label_classification", "input_size": 1})),
        "config: `num_labels` is missing for `problem_type` \"single_label_classification\""
    );
    assert_eq!(
        message(json!({"problem_type": "regression", "input_size": 1})),
        "config: `input_size` has no meaning with `problem_type` \"regression\""
    );
    assert!(message(json!({"problem_type": "regression", "dropuot": 0.1})).contains("unknown field `dropuot`"));
    assert!(message(json!({"problem_type": "regression", "dropout": 1.0})).contains("below 1"));
    assert!(message(json!({"problem_type": "regression", "output": "glu", "residual": "weighted"})).contains("output = \"relu\""));
    let case = Case::open("regression");
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let output = case.network.forward(&pass, &Var::constant(case.input())).unwrap();
    assert!(case.network.loss(&pass, &output, Target::Labels(&[1, 2])).is_err());
}
