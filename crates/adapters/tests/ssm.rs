//! Methods on the state space layers of every architecture that has some: each against a model that computes the same without it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod small;

use peftbench_models::cache::{Cache, LayerCache};
use peftbench_models::weights::{Init, Weights};
use peftbench_models::{Model, Pass, model};
use peftbench_ops::{Tape, Tensor, Var};
use serde_json::{Value, json};
use small::{STATES, assert_close, attach, base, check_gradients, config, ids, param, random, stir, two_sequences, with_linear};
use std::collections::BTreeMap;

/// Architectures of state space layers alone.
const SSMS: [&str; 3] = ["mamba", "falcon_mamba", "mamba2"];

#[test]
fn gradients_agree_with_finite_differences() {
    let methods = [
        json!({"type": "initial_state", "conv_state": true}),
        json!({"type": "prefix", "num_virtual_tokens": 2}),
        json!("state_offset"),
        json!({"type": "state_offset", "offset": "output"}),
        json!({"type": "additional_scan", "d_state": 2}),
    ];
    for (method, arch) in methods.iter().flat_map(|method| SSMS.map(|arch| (method, arch))) {
        let mut model = base(arch);
        match attach(&mut *model, method, &[]) {
            Ok(attachment) => check_gradients(&format!("{method} on {arch}"), &*model, &attachment),
            Err(error) => assert!(arch == "mamba2" && error.to_string().contains("no decay of its own for each state"), "{error}"),
        }
    }
}

/// The cache of one sequence, by layer: state [inner, state] and convolution context [context, inner].
fn states_after(model: &dyn Model, ids: &Tensor) -> Vec<(Tensor, Tensor)> {
    let mut cache = Cache::default();
    let tape = Tape::inference();
    model.forward(&Pass::evaluation(&tape), ids, Some(&mut cache)).unwrap();
    let of = |layer: &LayerCache| match layer {
        LayerCache::Ssm { context, state } => (state.get(0).unwrap(), context.get(0).unwrap()),
        LayerCache::Attention(_) => panic!("an SSM has no keys"),
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
    for arch in SSMS {
        let plain = base(arch);
        let expected = logits_behind(&*plain, &before, &own);
        let mut model = base(arch);
        let attachment = attach(&mut *model, &json!({"type": "initial_state", "conv_state": true}), &[]).unwrap();
        for (i, (state, context)) in states_after(&*plain, &before).into_iter().enumerate() {
            param(&attachment, &format!("layers.{i}.mixer.state.initial_state")).set(state.contiguous().unwrap()).unwrap();
            param(&attachment, &format!("layers.{i}.mixer.state.conv_state")).set(context.contiguous().unwrap()).unwrap();
        }
        assert_close(arch, &model.all_logits(&own, None).unwrap(), &expected, 1e-5);
    }
}

/// What the mixer of each layer makes of `ids`, where a virtual input may stand: in Mamba-1 u, in Mamba-2 x, B, C and dt.
fn inputs_of(arch: &str, ids: &Tensor) -> Vec<Tensor> {
    let mut plain = base(arch);
    let states = std::cell::RefCell::new(Vec::new());
    let tape = Tape::inference();
    let pass = Pass { hidden_states: Some(&states), ..Pass::evaluation(&tape) };
    plain.forward(&pass, ids, None).unwrap();
    let norms: Vec<Tensor> =
        (0..2).map(|i| plain.params().iter().find(|p| p.name() == format!("backbone.layers.{i}.norm.weight")).unwrap().value()).collect();
    let of = |(i, norm): (usize, Tensor)| {
        let normed = tape.rms_norm(&states.borrow()[i], &Var::constant(norm), 1e-5).unwrap();
        let projected = with_linear(&mut *plain, &format!("backbone.layers.{i}.mixer.in_proj"), |slot| {
            slot.forward(&Pass::evaluation(&tape), &normed).unwrap().value().get(0).unwrap()
        });
        let width = projected.dim(1).unwrap();
        // Before or behind the gate z, of 32 channels.
        if arch == "mamba2" { projected.narrow(1, 32, width - 32).unwrap() } else { projected.narrow(1, 0, 32).unwrap() }
    };
    norms.into_iter().enumerate().map(of).collect()
}

#[test]
fn virtual_inputs_of_an_ssm_are_a_prompt_s_own() {
    let (before, own) = (ids(&[[4, 8, 15, 16, 23]]), ids(&[[3, 9, 27, 1, 3]]));
    for arch in SSMS {
        let expected = logits_behind(&*base(arch), &before, &own);
        let mut model = base(arch);
        let attachment = attach(&mut *model, &json!({"type": "prefix", "num_virtual_tokens": 5}), &[]).unwrap();
        let inputs = Tensor::cat(&inputs_of(arch, &before), 1).unwrap();
        attachment.params[0].param.set(inputs.contiguous().unwrap()).unwrap();
        assert_close(arch, &model.all_logits(&own, None).unwrap(), &expected, 1e-5);
        // Decoding goes on from the state that they leave.
        let mut cache = Cache::default();
        let step = |cache: &mut Cache, from: usize, len: usize| {
            let tape = Tape::inference();
            let pass = Pass::evaluation(&tape);
            let hidden = model.forward(&pass, &own.narrow(1, from, len).unwrap().contiguous().unwrap(), Some(cache)).unwrap();
            model.logits(&pass, &hidden).unwrap().value().clone()
        };
        let parts = [step(&mut cache, 0, 3), step(&mut cache, 3, 2)];
        assert_close(&format!("{arch}, cached"), &Tensor::cat(&parts, 1).unwrap(), &expected, 1e-5);
    }
}

#[test]
fn a_state_offset_is_an_initial_state_that_never_fades() {
    for arch in SSMS {
        let with = |method: Value| {
            let mut model = base(arch);
            // exp(−100) is no decay at all.
            let decays = model.params().into_iter().filter(|p| p.name().ends_with("A_log"));
            decays.for_each(|p| p.set(p.value().affine(0.0, -100.0).unwrap()).unwrap());
            let attachment = attach(&mut *model, &method, &[]).unwrap();
            for (i, p) in attachment.params.iter().enumerate() {
                p.param.set(random(&[32, STATES], 0.5, &format!("offset {i}"))).unwrap();
            }
            model.all_logits(&two_sequences(), None).unwrap()
        };
        let (offset, initial) = (with(json!("state_offset")), with(json!("initial_state")));
        assert_close(arch, &offset, &initial, 1e-5);
        let plain = base(arch).all_logits(&two_sequences(), None).unwrap();
        let moved = (plain - offset).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(moved > 1e-2, "{arch}: the offset has an effect");
    }
}

/// Where B and C are normalised the added states are not, and the model with more states would normalise them too: what is left to hold is
/// that without C they change nothing, whatever A and B are.
#[test]
fn additional_states_that_are_not_read_change_nothing() {
    for arch in ["mamba", "falcon_mamba"] {
        let mut model = base(arch);
        let expected = model.all_logits(&two_sequences(), None).unwrap();
        let attachment = attach(&mut *model, &json!({"type": "additional_scan", "d_state": 2}), &[]).unwrap();
        stir(&attachment, 0.5);
        let moved = model.all_logits(&two_sequences(), None).unwrap();
        assert!((&moved - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3, "{arch}");
        let read = attachment.params.iter().filter(|p| p.param.name().ends_with("extra_C.weight"));
        read.for_each(|p| p.param.set(p.param.value().zeros_like().unwrap()).unwrap());
        assert_close(arch, &model.all_logits(&two_sequences(), None).unwrap(), &expected, 1e-6);
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
