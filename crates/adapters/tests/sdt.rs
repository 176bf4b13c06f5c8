//! SDT: what its warm-up chooses, what trains, and that nothing else changes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bases;

use bases::{base, differentiate, flat, ids, logits, perturb};
use peftbench_adapters::method::{AttachContext, Carried, SelectedDimension, TrainingStep};
use peftbench_adapters::{AdapterError, Attachment, Method, choose, methods};
use peftbench_models::config::ModelConfig;
use peftbench_models::s4d::S4d;
use peftbench_models::slots::SlotMut;
use peftbench_models::weights::{Fresh, Shapes};
use peftbench_models::{Model, Network, Pass, model};
use peftbench_ops::{Gradients, Tape, Tensor};
use peftbench_spec::{Component, LayerSelection, TargetExpr, seed};
use rand::RngExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn sdt(options: Value) -> Component {
    let mut table = json!({"type": "sdt", "channel_freeze_ratio": 0.9, "state_freeze_ratio": 0.5});
    table.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    Component::from_value(&table).unwrap()
}

fn attach_stage(model: &mut dyn Network, method: &Component, stage: usize, carried: &Carried) -> Result<Attachment, AdapterError> {
    let built = methods::build(method)?;
    let chosen = choose(model, &method.name, &*built, &TargetExpr::default(), &LayerSelection::All, 0)?;
    let init = &mut seed::stream(0, "init");
    built.attach(model, &mut AttachContext { chosen: &chosen, stage, carried, init, loading: false })
}

fn built(method: &Component) -> Box<dyn Method> {
    methods::build(method).unwrap()
}

/// No method but the one that ranks by loss asks for one.
fn no_probe() -> Result<f64, AdapterError> {
    panic!("a loss was asked for")
}

/// Changes as a warm-up would leave them, by the tensor's path.
fn warmed_up(name: &str, method: &Component) -> Carried {
    let mut model = base(name);
    let attachment = attach_stage(&mut *model, method, 0, &Carried::new()).unwrap();
    let mut stream = seed::stream(9, name);
    for p in &attachment.params {
        let value = p.param.value();
        let noise: Vec<f32> = (0..value.elem_count()).map(|_| stream.random::<f32>() - 0.5).collect();
        p.param.set(Tensor::from_vec(noise, value.dims(), value.device()).unwrap()).unwrap();
    }
    built(method).carry(0, &attachment, &mut no_probe).unwrap()
}

/// Trained pairs and pruned ones, by layer.
fn chosen(selected: &[SelectedDimension], trained: bool) -> BTreeMap<usize, BTreeSet<(usize, Option<usize>)>> {
    let mut found: BTreeMap<usize, BTreeSet<(usize, Option<usize>)>> = BTreeMap::new();
    selected.iter().filter(|s| s.trained == trained).for_each(|s| {
        found.entry(s.layer).or_default().insert((s.channel, s.state));
    });
    found
}

/// What is worked into the weights of an adapted model, tensor by tensor, against those of the base model: the indices that differ.
fn changed(model: &mut dyn Model, plain: &mut dyn Model) -> BTreeMap<String, Vec<usize>> {
    let merged = model.merged().unwrap();
    let before: BTreeMap<String, Tensor> = plain.params().iter().map(|p| (p.name().to_owned(), p.value())).collect();
    let mut all = BTreeMap::new();
    for (name, value) in merged.tensors {
        let (old, new) = (flat(&before[&name]), flat(&value));
        let differing: Vec<usize> = (0..old.len()).filter(|&i| old[i].to_bits() != new[i].to_bits()).collect();
        if !differing.is_empty() {
            all.insert(name, differing);
        }
    }
    all
}

const BASES: [&str; 4] = ["mamba", "falcon_mamba", "jamba", "mamba2"];

#[test]
fn exactly_the_chosen_scalars_change_and_no_other_of_the_model() {
    for (name, restrict) in BASES.iter().flat_map(|name| [(*name, false), (*name, true)]) {
        let method = sdt(json!({"restrict_states": restrict}));
        let carried = warmed_up(name, &method);
        let mut model = base(name);
        let untouched: Vec<Vec<f32>> = model.params().iter().map(|p| flat(&p.value())).collect();
        let attachment = attach_stage(&mut *model, &method, 1, &carried).unwrap();
        // As training leaves it.
        perturb(&attachment);
        assert_eq!(model.params().iter().map(|p| flat(&p.value())).collect::<Vec<_>>(), untouched, "{name}: a base tensor itself");
        let mut plain = base(name);
        let shapes: BTreeMap<String, Vec<usize>> =
            plain.params().iter().map(|p| (p.name().to_owned(), p.value().dims().to_vec())).collect();
        let found = changed(&mut *model, &mut *plain);
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (layer, pairs) in chosen(&attachment.selected, true) {
            let path = &attachment.selected.iter().find(|s| s.layer == layer).unwrap().path;
            let states = shapes[path].get(1).copied().unwrap_or(1);
            expected.insert(path.clone(), pairs.iter().map(|(channel, state)| channel * states + state.unwrap()).collect());
            let x_proj = path.replace("A_log", "x_proj.weight");
            let Some(dims) = shapes.get(&x_proj) else { continue };
            // Rows dt, then B, then C.
            let rank = dims[0] - 2 * states;
            let trains = |row: usize, channel: usize| {
                let state = (row - rank) % states;
                pairs.iter().any(|&(c, s)| c == channel && (!restrict || s == Some(state)))
            };
            let entries = (rank..dims[0]).flat_map(|row| (0..dims[1]).map(move |channel| (row, channel)));
            expected.insert(
                x_proj,
                entries.filter(|&(row, channel)| trains(row, channel)).map(|(row, channel)| row * dims[1] + channel).collect(),
            );
        }
        assert_eq!(found, expected, "{name}");
        let scalars: usize = expected.values().map(Vec::len).sum();
        assert_eq!(attachment.num_trainable(), scalars as u64, "{name}");
    }
}

#[test]
fn channels_and_states_that_are_named_train_without_a_warm_up() {
    for name in ["mamba", "jamba"] {
        let method = sdt(json!({"channels": [1, 4], "states": [[0, 2], [1, 3]]}));
        assert_eq!(built(&method).stages().len(), 1, "{name}");
        let attachment = attach_stage(&mut *base(name), &method, 0, &Carried::new()).unwrap();
        let expected: BTreeSet<(usize, Option<usize>)> = [(1, 0), (1, 2), (4, 1), (4, 3)].map(|(c, s)| (c, Some(s))).into();
        let found = chosen(&attachment.selected, true);
        assert!(!found.is_empty() && found.values().all(|pairs| *pairs == expected), "{name}: {found:?}");
        let beyond = attach_stage(&mut *base(name), &sdt(json!({"channels": [100_000]})), 0, &Carried::new()).err().unwrap().to_string();
        assert!(beyond.starts_with("`channels`: 100000 is out of range"), "{beyond}");
    }
    // A draw needs no warm-up either, and is another with another seed.
    let draw = |seed: u64| {
        let method = built(&sdt(json!({"ranking": "random"})));
        let mut model = base("mamba");
        let chosen_slots = choose(&mut *model, "sdt", &*method, &TargetExpr::default(), &LayerSelection::All, seed).unwrap();
        let (carried, mut init) = (Carried::new(), seed::stream(seed, "init"));
        let context = &mut AttachContext { chosen: &chosen_slots, stage: 0, carried: &carried, init: &mut init, loading: false };
        chosen(&method.attach(&mut *model, context).unwrap().selected, true)
    };
    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
}

#[test]
fn the_channels_and_states_that_the_warm_up_moved_most_train() {
    for name in BASES {
        let method = sdt(json!({"channel_freeze_ratio": 0.8, "state_freeze_ratio": 0.75}));
        let carried = warmed_up(name, &method);
        let attachment = attach_stage(&mut *base(name), &method, 1, &carried).unwrap();
        for (layer, pairs) in chosen(&attachment.selected, true) {
            let path = &attachment.selected.iter().find(|s| s.layer == layer).unwrap().path;
            let change = carried[path].clone();
            let (channels, states) = (change.dims()[0], change.dims().get(1).copied().unwrap_or(1));
            let squares: Vec<f32> = flat(&change).iter().map(|c| c * c).collect();
            let of_channel = |channel: usize| squares[channel * states..(channel + 1) * states].iter().sum::<f32>();
            let inside: BTreeSet<usize> = pairs.iter().map(|(channel, _)| *channel).collect();
            let worst = inside.iter().map(|&channel| of_channel(channel)).fold(f32::INFINITY, f32::min);
            assert!((0..channels).filter(|c| !inside.contains(c)).all(|c| of_channel(c) <= worst), "{name}, layer {layer}");
            for &channel in &inside {
                let of = |state: usize| squares[channel * states + state];
                let own: BTreeSet<usize> = pairs.iter().filter(|(c, _)| *c == channel).filter_map(|(_, state)| *state).collect();
                let worst = own.iter().map(|&state| of(state)).fold(f32::INFINITY, f32::min);
                assert!((0..states).filter(|s| !own.contains(s)).all(|s| of(s) <= worst), "{name}, layer {layer}, channel {channel}");
            }
        }
    }
}

#[test]
fn without_the_reset_the_warm_up_stays_in_the_adapter() {
    let method = sdt(json!({"reading": "paper", "reset_after_warmup": false}));
    let carried = warmed_up("mamba", &method);
    let mut model = base("mamba");
    let attachment = attach_stage(&mut *model, &method, 1, &carried).unwrap();
    let mut plain = base("mamba");
    for param in plain.params() {
        if let Some(change) = carried.get(param.name()) {
            param.set((param.value() + change).unwrap()).unwrap();
        }
    }
    assert!(carried.keys().any(|path| path.ends_with("conv1d.weight")) && carried.keys().any(|path| path.ends_with("dt_proj.bias")));
    assert!(bases::distance(&logits(&*model), &logits(&*plain)) <= 1e-6);
    let trained: Vec<&str> = attachment.params.iter().map(|p| p.param.name()).collect();
    assert!(trained.iter().all(|name| name.contains("A_log") || name.contains("x_proj.")), "{trained:?}");
}

#[test]
fn what_is_pruned_forgets_at_once() {
    let method = sdt(json!({"channel_zero_ratio": 0.25, "state_zero_ratio": 0.25}));
    let carried = warmed_up("mamba", &method);
    let mut model = base("mamba");
    let attachment = attach_stage(&mut *model, &method, 1, &carried).unwrap();
    let pruned = chosen(&attachment.selected, false);
    let merged: BTreeMap<String, Tensor> = model.merged().unwrap().tensors.into_iter().collect();
    for (layer, pairs) in pruned {
        let path = &attachment.selected.iter().find(|s| s.layer == layer).unwrap().path;
        let (values, states) = (flat(&merged[path]), merged[path].dims()[1]);
        let channels = merged[path].dims()[0];
        let expected: BTreeSet<usize> = pairs
            .iter()
            .flat_map(|&(channel, state)| match state {
                Some(state) => vec![channel * states + state],
                None => (channel * states..(channel + 1) * states).collect(),
            })
            .collect();
        let found: BTreeSet<usize> = (0..values.len()).filter(|&i| (values[i] - 10.0).abs() < 1e-5).collect();
        assert_eq!(found, expected);
        assert!(pairs.iter().filter(|(_, state)| state.is_none()).count() == channels / 4);
    }
}

#[test]
fn the_gradient_rule_sums_squared_gradients_and_moves_nothing() {
    let method = sdt(json!({"ranking": "gradient"}));
    let mut model = base("mamba");
    let attachment = attach_stage(&mut *model, &method, 0, &Carried::new()).unwrap();
    assert!(attachment.params.iter().all(|p| p.lr_factor == 0.0));
    let (_, grads) = differentiate(&*model, &attachment);
    for step in 1..=2 {
        let made = TrainingStep { step, total: 2, grads: &grads, grad_scale: 0.5 };
        attachment.training.iter().for_each(|training| training.after_step(&made).unwrap());
    }
    let carried = built(&method).carry(0, &attachment, &mut no_probe).unwrap();
    let of = |grads: &Gradients, path: &str| {
        let param = &attachment.params.iter().find(|p| p.param.name().ends_with(path)).unwrap().param;
        flat(grads.get(param).unwrap())
    };
    assert_eq!(carried.len(), model.num_layers());
    for (path, sums) in &carried {
        let expected: Vec<f32> = of(&grads, path).iter().map(|g| 2.0 * g * g).collect();
        assert_eq!(flat(sums), expected, "{path}");
    }
    // And the gradient of the change is that of A_log itself.
    let mut plain = base("mamba");
    plain.params().iter().filter(|p| p.name().ends_with("A_log")).for_each(|p| p.set_trainable(true));
    let (_, direct) = differentiate(&*plain, &Attachment::default());
    for param in plain.params().iter().filter(|p| p.name().ends_with("A_log")) {
        assert_eq!(flat(direct.get(param).unwrap()), of(&grads, param.name()), "{}", param.name());
    }
}

/// Mean loss of a few labels.
fn loss(model: &dyn Model) -> f64 {
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &ids(), None).unwrap();
    f64::from(model.loss(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap().value().to_scalar::<f32>().unwrap())
}

#[test]
fn the_loss_rule_prunes_each_channel_in_turn() {
    let method = sdt(json!({"ranking": "loss"}));
    let mut model = base("mamba");
    let attachment = attach_stage(&mut *model, &method, 0, &Carried::new()).unwrap();
    assert!(attachment.params.is_empty());
    let carried = built(&method).carry(0, &attachment, &mut || Ok(loss(&*model))).unwrap();
    let whole = loss(&*base("mamba"));
    let mut plain = base("mamba");
    for param in plain.params().into_iter().filter(|p| p.name().ends_with("A_log")) {
        let found = flat(&carried[&format!("{}/channels", param.name())]);
        let (before, states) = (param.value(), param.value().dims()[1]);
        for (channel, found) in found.iter().enumerate() {
            let mut values = flat(&before);
            values[channel * states..(channel + 1) * states].fill(10.0);
            param.set(Tensor::from_vec(values, before.dims(), before.device()).unwrap()).unwrap();
            assert!((f64::from(*found) - (loss(&*plain) - whole)).abs() < 1e-6, "{} channel {channel}", param.name());
        }
        param.set(before).unwrap();
    }
    assert_eq!(loss(&*model), whole, "the gates are open again");
    let attachment = attach_stage(&mut *base("mamba"), &method, 1, &carried).unwrap();
    for (layer, pairs) in chosen(&attachment.selected, true) {
        let path = &attachment.selected.iter().find(|s| s.layer == layer).unwrap().path;
        let growth = flat(&carried[&format!("{path}/channels")]);
        let worst = pairs.iter().map(|(channel, _)| growth[*channel]).fold(f32::INFINITY, f32::min);
        let outside = (0..growth.len()).filter(|channel| !pairs.iter().any(|(c, _)| c == channel));
        assert!(outside.map(|channel| growth[channel]).all(|growth| growth <= worst), "layer {layer}");
    }
}

/// Mamba-130M, from shapes: the counts of the released configurations (arXiv 2410.09016).
#[test]
fn trainable_counts_on_mamba_130m_are_the_released_codes() {
    let values = json!({"model_type": "mamba", "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16,
        "time_step_rank": 48});
    let Value::Object(values) = values else { unreachable!() };
    let config = ModelConfig::from_values(values, "mamba".to_owned()).unwrap();
    for (state_freeze_ratio, total) in [(0.75f64, 455_328), (0.95, 454_248), (0.9, 454_608)] {
        let lora = json!({"type": "lora", "r": 8, "targets": ["out_proj"]});
        let method = json!({"type": "combined", "methods": [{"type": "sdt", "state_freeze_ratio": state_freeze_ratio}, lora]});
        let method = Component::from_value(&method).unwrap();
        let mut model = model::build(&config, &Shapes).unwrap();
        let stages: Vec<_> = built(&method).stages().into_iter().map(|stage| (stage.name, stage.steps)).collect();
        assert_eq!(stages, [("warmup", Some(500)), ("train", None)]);
        let attachment = attach_stage(&mut *model, &method, 1, &Carried::new()).unwrap();
        assert_eq!(attachment.num_trainable(), total);
        let of_layer = |end: &str| -> u64 {
            let params = attachment.params.iter().filter(|p| p.layer == Some(7) && p.param.name().contains(end));
            params.map(|p| p.param.elem_count() as u64).sum()
        };
        let states = (16.0 * (1.0 - state_freeze_ratio)).round() as u64;
        assert_eq!(["A_log", "x_proj.B", "x_proj.C", "out_proj"].map(of_layer), [15 * states, 240, 240, 18_432]);
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let message = |name: &str, method: Value, targets: &[&str]| {
        let method = Component::from_value(&method).unwrap();
        bases::attach(&mut *base(name), &method, targets, "all", 0).unwrap_err().to_string()
    };
    assert!(
        message("mamba", json!({"type": "sdt", "channel_freeze_ratio": 1.0}), &[]).starts_with("`channel_freeze_ratio`: expected a share")
    );
    assert!(message("mamba", json!({"type": "sdt", "warmup_steps": 0}), &[]).starts_with("`warmup_steps`: expected at least 1"));
    let kept = json!({"type": "sdt", "ranking": "magnitude", "reset_after_warmup": false});
    assert!(message("mamba", kept, &[]).starts_with("`reset_after_warmup`: with this `ranking` nothing is changed"));
    let much = json!({"type": "sdt", "channel_freeze_ratio": 0.2, "channel_zero_ratio": 0.5});
    assert!(message("mamba", much, &[]).starts_with("`channel_zero_ratio`: "));
    assert!(message("llama", json!("sdt"), &[]).contains("`A_log` matches nothing here"));
}

fn s4d() -> S4d {
    let values = json!({"model_type": "s4d", "problem_type": "regression", "hidden_size": 8, "state_size": 4, "num_hidden_layers": 2,
        "initialization": "random"});
    let Value::Object(values) = values else { unreachable!() };
    S4d::new(&ModelConfig::from_values(values, "s4d".to_owned()).unwrap(), &Fresh { seed: 3 }).unwrap()
}

/// Every raw tensor with what is attached.
fn effective(network: &mut dyn Network) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    network.visit_slots(&mut |slot| {
        if let SlotMut::Param(slot) = slot {
            let tape = Tape::inference();
            found.insert(slot.info.path.clone(), flat(slot.forward(&Pass::evaluation(&tape)).unwrap().value()));
        }
    });
    found
}

#[test]
fn on_s4d_four_numbers_of_each_chosen_pair_train() {
    let method = sdt(json!({"reading": "paper", "channel_freeze_ratio": 0.5, "channel_zero_ratio": 0.25}));
    let mut network = s4d();
    let warmup = attach_stage(&mut network, &method, 0, &Carried::new()).unwrap();
    let paths: BTreeSet<&str> = warmup.params.iter().filter_map(|p| p.param.name().rsplit('.').next()).collect();
    assert_eq!(paths, BTreeSet::from(["A_imag", "C", "D", "log_A_real", "log_dt"]));
    perturb(&warmup);
    let carried = built(&method).carry(0, &warmup, &mut no_probe).unwrap();
    let before = effective(&mut s4d());
    let mut network = s4d();
    let attachment = attach_stage(&mut network, &method, 1, &carried).unwrap();
    // Four channels of eight, two states of four, each with log_A_real, A_imag, and C of two parts.
    assert_eq!(attachment.num_trainable(), 2 * 4 * 2 * 4);
    perturb(&attachment);
    let after = effective(&mut network);
    let (trained, pruned) = (chosen(&attachment.selected, true), chosen(&attachment.selected, false));
    for (path, values) in &after {
        let layer: usize = path.split('.').nth(1).unwrap().parse().unwrap();
        let differs: BTreeSet<usize> = (0..values.len()).filter(|&i| values[i] != before[path][i]).collect();
        let pairs = trained[&layer].iter().map(|(channel, state)| channel * 4 + state.unwrap());
        let expected: BTreeSet<usize> = match path.rsplit('.').next().unwrap() {
            "log_A_real" | "A_imag" => pairs.collect(),
            "C" => {
                let gone: Vec<usize> = pruned[&layer].iter().flat_map(|(channel, _)| channel * 8..(channel + 1) * 8).collect();
                assert!(gone.len() == 2 * 8 && gone.iter().all(|&i| values[i] == 0.0), "{path}");
                pairs.flat_map(|pair| [2 * pair, 2 * pair + 1]).chain(gone).collect()
            }
            _ => BTreeSet::new(),
        };
        assert_eq!(differs, expected, "{path}");
    }
    // The projection's columns of the chosen channels, as the released code's SDT trains them.
    let all = TargetExpr::new(["log_A_real", "A_imag", "kernel.C", "output_linear"]);
    let mut network = s4d();
    let sdt = built(&method);
    let chosen = choose(&mut network, "sdt", &*sdt, &all, &LayerSelection::All, 0).unwrap();
    let init = &mut seed::stream(0, "init");
    let context = &mut AttachContext { chosen: &chosen, stage: 1, carried: &carried, init, loading: false };
    assert_eq!(sdt.attach(&mut network, context).unwrap().num_trainable(), 2 * (4 * 2 * 4 + 4 * 8));
}
