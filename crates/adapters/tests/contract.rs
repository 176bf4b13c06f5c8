//! What every method must keep on every base model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bases;

use bases::{attach, base, differentiate, distance, flat, has_ssm, ids, logits, perturb, small};
use peftbench_adapters::export::adapter_files;
use peftbench_adapters::methods::{self, METHODS};
use peftbench_adapters::{AdapterFolder, Attachment};
use peftbench_models::config::ModelConfig;
use peftbench_models::weights::{Init, Shapes, Weights};
use peftbench_models::{Merged, Model, Pass, model};
use peftbench_ops::{Tape, Tensor};
use peftbench_spec::{Component, seed};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Methods of which a model without SSM layers has nothing to adapt.
const SSM_ONLY: [&str; 5] = ["initial_state", "state_offset", "additional_scan", "lora_tensor", "sdt"];

/// What a base model has nothing for: `llama` has no bias, and a head of Mamba-2 has one decay for all of its states, so that its decays are
/// no matrix and no state can be added.
const ABSENT: [(&str, &str); 3] = [("bitfit", "llama"), ("lora_tensor", "mamba2"), ("additional_scan", "mamba2")];

/// Methods that are no function of a weight: virtual tokens, states, adapters with an activation.
const NOT_MERGED: [&str; 8] = ["prompt", "p_tuning", "prefix", "series", "parallel", "initial_state", "state_offset", "additional_scan"];

fn applies(method: &str, base: &str) -> bool {
    !ABSENT.contains(&(method, base)) && (has_ssm(base) || !SSM_ONLY.contains(&method))
}

/// Every method on every base model that has something for it.
fn grid() -> Vec<(Component, String)> {
    let cells = METHODS.iter().flat_map(|m| bases::all().into_iter().map(|base| (small(m.name), base)));
    cells.filter(|(method, base)| applies(&method.name, base)).collect()
}

/// A cell of the grid with everything that trains moved away from where it began.
fn moved(method: &Component, name: &str) -> (Box<dyn Model>, Attachment) {
    let mut model = base(name);
    let attachment = attach(&mut *model, method, &[], "all", 0).unwrap_or_else(|e| panic!("{} on {name}: {e}", method.name));
    perturb(&attachment);
    (model, attachment)
}

fn values(attachment: &Attachment) -> Vec<Vec<f32>> {
    attachment.params.iter().map(|p| &p.param).chain(&attachment.buffers).map(|param| flat(&param.value())).collect()
}

#[test]
fn a_method_attaches_to_every_base_model_but_those_that_have_nothing_for_it() {
    let mut wrong = Vec::new();
    for (method, name) in METHODS.iter().flat_map(|m| bases::all().into_iter().map(|base| (m.name, base))) {
        let attached = attach(&mut *base(&name), &small(method), &[], "all", 0);
        if attached.is_ok() != applies(method, &name) {
            wrong.push(format!("{method} on {name}: {:?}", attached.err().map(|e| e.to_string())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_gradient_store_holds_exactly_the_declared_tensors() {
    for (method, name) in grid() {
        let mut model = base(&name);
        let attachment = attach(&mut *model, &method, &[], "all", 0).unwrap_or_else(|e| panic!("{} on {name}: {e}", method.name));
        let mut declared: Vec<String> = attachment.params.iter().map(|p| p.param.name().to_owned()).collect();
        declared.sort();
        let mut found: Vec<String> = differentiate(&*model, &attachment).1.iter().map(|(param, _)| param.name().to_owned()).collect();
        found.sort();
        assert_eq!(found, declared, "{} on {name}", method.name);
        declared.dedup();
        assert_eq!(found.len(), declared.len(), "{} on {name}: two tensors of one name", method.name);
    }
}

#[test]
fn methods_that_promise_it_start_as_the_base_model() {
    for (method, name) in grid().into_iter().filter(|(m, _)| methods::build(m).unwrap().starts_as_base()) {
        let plain = logits(&*base(&name));
        let mut model = base(&name);
        attach(&mut *model, &method, &[], "all", 0).unwrap();
        let off = distance(&plain, &logits(&*model));
        // HRA's pairs of reflections cancel only to rounding, and DoRA's m · (1 / ‖W‖) is 1 only to rounding.
        let allowed = if ["hra", "dora"].contains(&method.name.as_str()) { 1e-5 } else { 0.0 };
        assert!(off <= allowed, "{} on {name}: {off}", method.name);
    }
}

/// IST suppresses layers by a factor on what a method has added there. A virtual key of zeros still draws attention.
#[test]
fn what_is_added_to_a_layer_vanishes_with_a_factor_of_zero() {
    for (method, name) in grid().into_iter().filter(|(m, _)| m.name != "prefix") {
        let (model, attachment) = moved(&method, &name);
        if attachment.params.is_empty() || !attachment.params.iter().all(|p| p.added && p.layer.is_some()) {
            continue;
        }
        let zeros = vec![0.0; model.num_layers()];
        let tape = Tape::inference();
        let pass = Pass { adapter_scale: Some(&zeros), ..Pass::evaluation(&tape) };
        let hidden = model.forward(&pass, &ids(), None).unwrap();
        let suppressed = model.logits(&pass, &hidden).unwrap().value().clone();
        let (plain, adapted) = (logits(&*base(&name)), logits(&*model));
        let (off, moved) = (distance(&plain, &suppressed), distance(&plain, &adapted));
        assert!(
            off <= 2e-5 && moved > 10.0 * off && moved > 0.0,
            "{} on {name}: {off} from the base with a factor of 0, {moved} with 1",
            method.name
        );
    }
}

#[test]
fn a_saved_adapter_is_read_back_bit_for_bit() {
    for (method, name) in grid().into_iter().filter(|(m, _)| m.name != "none") {
        let what = format!("{} on {name}", method.name);
        let (model, attachment) = moved(&method, &name);
        let folder = tempfile::tempdir().unwrap();
        let files = adapter_files(&attachment, &name).unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), &files.config).unwrap();
        std::fs::write(folder.path().join("adapter_model.safetensors"), &files.weights).unwrap();
        let read = AdapterFolder::open(folder.path()).unwrap();
        assert_eq!(read.base_model(), Some(name.as_str()));
        // Into the same method, begun otherwise.
        let mut again = base(&name);
        let other = attach(&mut *again, &method, &[], "all", 1).unwrap();
        read.load_into(&other).unwrap_or_else(|e| panic!("{what}: {e}"));
        let trained_alone = !["prefix", "p_tuning"].contains(&method.name.as_str());
        if trained_alone {
            assert_eq!(values(&attachment), values(&other), "{what}");
        }
        assert!(distance(&logits(&*model), &logits(&*again)) == 0.0, "{what}");
        // With nothing but the folder.
        let mut alone = base(&name);
        read.attach(&mut *alone).unwrap_or_else(|e| panic!("{what}: {e}"));
        let off = distance(&logits(&*model), &logits(&*alone));
        assert!(off <= 1e-6, "{what}: {off}");
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
fn merged_weights_compute_what_the_adapted_model_does_or_the_merge_is_refused() {
    for (method, name) in grid() {
        let what = format!("{} on {name}", method.name);
        let (mut model, _) = moved(&method, &name);
        let merged = model.merged();
        if NOT_MERGED.contains(&method.name.as_str()) {
            let message = merged.err().unwrap_or_else(|| panic!("{what} was merged")).to_string();
            assert!(message.contains("cannot be merged"), "{message}");
            continue;
        }
        let Merged { tensors, untied } = merged.unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut config = bases::config(&name);
        if untied {
            config.values.insert("tie_word_embeddings".to_owned(), false.into());
        }
        let plain = model::build(&config, &Tensors(tensors.into_iter().collect())).unwrap();
        let (found, expected) = (logits(&*plain), logits(&*model));
        let size = flat(&expected).into_iter().map(f32::abs).fold(1.0, f32::max);
        let off = distance(&found, &expected);
        assert!(off <= 2e-5 * size, "{what}: {off} of {size}");
    }
}

#[test]
fn equal_seeds_give_equal_adapters() {
    for (method, name) in grid() {
        let start = |seed| values(&attach(&mut *base(&name), &method, &[], "all", seed).unwrap());
        assert_eq!(start(4), start(4), "{} on {name}", method.name);
    }
    for name in ["lora", "prompt", "dora", "adalora", "loha", "lokr"] {
        let start = |seed| values(&attach(&mut *base("llama"), &small(name), &[], "all", seed).unwrap());
        assert_ne!(start(4), start(5), "{name}");
    }
}

/// Options of a method that are probabilities of dropout.
fn dropouts(method: &Component) -> Vec<String> {
    let resolved = methods::resolve(method).unwrap();
    resolved.options.keys().filter(|key| key.contains("dropout")).cloned().collect()
}

#[test]
fn dropout_acts_in_training_and_not_in_evaluation() {
    let mut tried = 0;
    for (method, name) in grid().into_iter().filter(|(_, name)| ["llama", "mamba"].contains(&name.as_str())) {
        for key in dropouts(&method) {
            let what = format!("{key} of {} on {name}", method.name);
            let mut dropping = method.clone();
            dropping.options.insert(key, 0.5.into());
            let ((plain, _), (model, _)) = (moved(&method, &name), moved(&dropping, &name));
            assert!(distance(&logits(&*plain), &logits(&*model)) == 0.0, "{what}");
            let train = |model: &dyn Model| {
                let (tape, stream) = (Tape::new(), RefCell::new(seed::stream(1, "dropout")));
                let pass = Pass { dropout: Some(&stream), ..Pass::evaluation(&tape) };
                model.forward(&pass, &ids(), None).unwrap().value().clone()
            };
            assert!(distance(&train(&*plain), &train(&*model)) > 0.0, "{what}");
            tried += 1;
        }
    }
    assert!(tried >= 10, "only {tried} dropouts");
}

/// Loss and gradients of a step in training, in their order and to the bit, with the last sequence padded on the left.
fn trained_bits(model: &dyn Model, gradient_checkpointing: bool) -> Vec<(String, Vec<u32>)> {
    let (tape, stream) = (Tape::new(), RefCell::new(seed::stream(1, "dropout")));
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1], [0, 0, 1, 1, 1]], ids().device()).unwrap();
    let pass = Pass { dropout: Some(&stream), gradient_checkpointing, ..Pass::evaluation(&tape) }.with_mask(Some(&mask));
    let hidden = model.forward(&pass, &ids(), None).unwrap();
    let loss = model.loss(&pass, &hidden, &[2, 3, 7, 8], &[1, 3, 5, 8]).unwrap();
    drop(hidden);
    let bits = |tensor: &Tensor| flat(tensor).into_iter().map(f32::to_bits).collect();
    let loss_bits = ("loss".to_owned(), vec![loss.value().to_scalar::<f32>().unwrap().to_bits()]);
    let grads = tape.backward(&loss).unwrap();
    std::iter::once(loss_bits).chain(grads.iter().map(|(param, grad)| (param.name().to_owned(), bits(grad)))).collect()
}

#[test]
fn gradient_checkpointing_changes_no_bit_of_a_step_with_any_method_on_any_base() {
    for (method, name) in grid() {
        let mut dropping = method.clone();
        dropouts(&method).into_iter().for_each(|key| drop(dropping.options.insert(key, 0.3.into())));
        let (model, attachment) = moved(&dropping, &name);
        let check = |which: &str| {
            let (plain, checkpointed) = (trained_bits(&*model, false), trained_bits(&*model, true));
            assert!(plain == checkpointed, "{} on {name}, {which}", method.name);
        };
        check("all layers");
        // A layer policy that has picked the last one.
        attachment.params.iter().for_each(|p| p.param.set_active(p.layer.is_none_or(|layer| layer + 1 == model.num_layers())));
        check("the last layer");
    }
}

#[test]
fn options_round_trip_through_toml_with_every_default() {
    for entry in METHODS {
        let resolved = methods::resolve(&small(entry.name)).unwrap();
        let text = toml::to_string(&resolved.to_value()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        let read: Value = toml::from_str(&text).unwrap();
        let again = Component::from_value(&read).unwrap();
        assert_eq!(again, resolved, "{}", entry.name);
        assert_eq!(methods::resolve(&again).unwrap(), resolved, "{}", entry.name);
    }
}

#[test]
fn inactive_layers_train_nothing_and_keep_nothing_below_the_lowest_active_one() {
    let mut model = base("llama");
    let attachment = attach(&mut *model, &small("lora"), &["q_proj", "down_proj"], "all", 0).unwrap();
    attachment.params.iter().for_each(|p| p.param.set_active(p.layer == Some(1)));
    let tape = Tape::new();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &ids(), None).unwrap();
    let loss = model.loss(&pass, &hidden, &[2], &[1]).unwrap();
    let kept = tape.saved_bytes();
    assert!(kept.keys().all(|(scope, _)| scope == "layers.1" || scope == "head"), "{kept:?}");
    let names: Vec<String> = tape.backward(&loss).unwrap().iter().map(|(p, _)| p.name().to_owned()).collect();
    assert!(names.len() == 4 && names.iter().all(|name| name.contains("layers.1.")), "{names:?}");
}

fn mamba(hidden: usize, layers: usize) -> ModelConfig {
    let values = json!({"model_type": "mamba", "vocab_size": 50280, "hidden_size": hidden, "num_hidden_layers": layers, "state_size": 16,
        "time_step_rank": hidden / 16});
    let Value::Object(values) = values else { unreachable!() };
    ModelConfig::from_values(values, "mamba".to_owned()).unwrap()
}

fn count(config: &ModelConfig, method: &Value, targets: &[&str]) -> u64 {
    let mut model = model::build(config, &Shapes).unwrap();
    attach(&mut *model, &bases::method(method), targets, "all", 0).unwrap().num_trainable()
}

/// Every method's count with its default options, written out for Mamba-130M: 24 layers with in_proj [3072, 768] and out_proj [768, 1536].
#[test]
fn trainable_counts_are_the_closed_forms() {
    let config = mamba(768, 24);
    // Rows and columns of both projections, added up; channels and states of the scan.
    let (rows, columns, inner, states, hidden) = (3072 + 768, 768 + 1536, 1536, 16, 768);
    let layers = [
        ("lora", 8 * (rows + columns)),
        ("dora", 8 * (rows + columns) + rows),
        ("adalora", 12 * (rows + columns) + 2 * 12),
        ("vera", rows + 2 * 256),
        ("loha", 2 * 8 * (rows + columns)),
        // 3072 = 48 · 64, 768 = 24 · 32, 1536 = 32 · 48: w1 whole, w2 of rank 8.
        ("lokr", 48 * 24 + 8 * (64 + 32) + 24 * 32 + 8 * (32 + 48)),
        // in_proj and x_proj [80, 1536] by default.
        ("ia3", 3072 + 80),
        ("oft", columns / 32 * (32 * 31 / 2)),
        ("boft", columns / 4 * 4 * 4 + rows),
        ("hra", 8 * columns),
        ("fourierft", 2 * 1000),
        ("miss", 64 * rows),
        ("road", rows),
        ("series", 2 * 256 * hidden),
        ("parallel", 256 * (rows + columns)),
        ("bitfit", 2 * inner),
        ("prefix", 16 * inner),
        ("initial_state", inner * states),
        ("state_offset", inner * states),
        ("additional_scan", 3 * 8 * inner),
        ("lora_tensor", 8 * (inner + states)),
        // 15 of 1536 channels, 4 of 16 states of each; columns of B and C in all rows.
        ("sdt", 15 * 4 + 2 * states * 15),
    ];
    let whole = [
        ("none", 0),
        ("ln_tuning", 25 * hidden),
        ("selective", 25 * hidden),
        ("prompt", 16 * hidden),
        ("p_tuning", 16 * hidden + 3 * (hidden * hidden + hidden)),
    ];
    for (name, expected) in layers.map(|(name, count)| (name, 24 * count)).into_iter().chain(whole) {
        assert_eq!(count(&config, &json!(name), &[]), expected, "{name}");
    }
}

/// Trainable scalars on Mamba-130M, from the released configurations of the SSM-PEFT paper (arXiv 2410.09016).
#[test]
fn trainable_counts_on_mamba_130m_are_the_papers() {
    let config = mamba(768, 24);
    let count = |method: Value, targets: &[&str]| count(&config, &method, targets);
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

/// Trainable shares on Mamba-1.4B and 2.8B in percent of all parameters, adapter included, as peft prints them for the paper's configurations.
#[test]
fn trainable_shares_on_larger_mambas_are_the_papers() {
    let lora = json!({"type": "lora", "r": 8});
    let all: &[&str] = &["in_proj.x", "in_proj.z", "out_proj", "dt_proj", "x_proj.dt", "x_proj.B", "x_proj.C"];
    let rows: [(&Value, &[&str], [f64; 2]); 12] = [
        (&lora, all, [0.9728, 0.8049]),
        (&lora, &["in_proj.x", "in_proj.z", "out_proj"], [0.5132, 0.4243]),
        (&lora, &["in_proj.x"], [0.1716, 0.1418]),
        (&lora, &["in_proj.x", "in_proj.z"], [0.3427, 0.2833]),
        (&lora, &["x_proj.dt", "x_proj.B", "x_proj.C", "dt_proj"], [0.4644, 0.3838]),
        (&lora, &["x_proj.dt", "x_proj.B", "x_proj.C"], [0.3471, 0.2868]),
        (&lora, &["dt_proj"], [0.1181, 0.0976]),
        (&json!("selective"), &["A_log"], [0.2293, 0.1894]),
        (&json!("selective"), &["group:ssm"], [4.4561, 4.4388]),
        (&json!("selective"), &["conv1d.weight", "conv1d.bias"], [0.0716, 0.0592]),
        (&json!({"type": "initial_state", "conv_state": true}), &[], [0.2715, 0.2244]),
        (&json!("bitfit"), &[], [0.0287, 0.0237]),
    ];
    for (i, (hidden, layers, total)) in [(2048, 48, 1_372_178_432u64), (2560, 64, 2_768_345_600)].into_iter().enumerate() {
        let config = mamba(hidden, layers);
        assert_eq!(count(&config, &json!("full"), &[]), total);
        for (method, targets, percent) in rows {
            let found = count(&config, method, targets);
            let added = if ["lora", "initial_state"].contains(&bases::method(method).name.as_str()) { found } else { 0 };
            let share = 100.0 * found as f64 / (total + added) as f64;
            assert!((share - percent[i]).abs() < 6e-5, "{method} on {targets:?}, hidden {hidden}: {share}, the paper's is {}", percent[i]);
        }
    }
}

/// Numbers that may be 0.
const MAY_BE_ZERO: [&str; 3] = ["random_loc_seed", "encoder_hidden_size", "projection_prng_key"];

#[test]
fn a_number_of_zero_or_a_wrong_type_or_an_unknown_key_names_the_option() {
    for entry in METHODS {
        let resolved = methods::resolve(&small(entry.name)).unwrap();
        for (key, value) in &resolved.options {
            let with = |value: Value| {
                let mut component = resolved.clone();
                component.options.insert(key.clone(), value);
                methods::build(&component).err().map(|error| error.to_string())
            };
            let message = with(json!([[1]])).unwrap_or_else(|| panic!("{} takes a list for {key}", entry.name));
            assert!(message.contains(key.as_str()), "{}: {message}", entry.name);
            if value.as_u64().is_some_and(|value| value > 0) && !MAY_BE_ZERO.contains(&key.as_str()) {
                let message = with(0.into()).unwrap_or_else(|| panic!("{} takes 0 for {key}", entry.name));
                assert!(message.contains(key.as_str()), "{}: {message}", entry.name);
            }
            let mut component = resolved.clone();
            component.options.insert(format!("{key}x"), value.clone());
            let message = methods::build(&component).err().unwrap().to_string();
            assert!(message.contains(&format!("`{key}x`: unknown key")), "{}: {message}", entry.name);
        }
    }
}

#[test]
fn wrong_options_name_the_field() {
    let message = |method: Value, targets: &[&str], layers: &str| {
        attach(&mut *base("mamba"), &bases::method(&method), targets, layers, 0).unwrap_err().to_string()
    };
    for (method, expected) in [
        (json!({"type": "lora", "r": 0}), "`r`: expected at least 1, found 0"),
        (json!({"type": "lora", "r": 99}), "`r`: rank 99 is above the smaller dimension"),
        (json!({"type": "adalora", "init_r": 99}), "`init_r`: rank 99 is above the smaller dimension"),
        (json!({"type": "lora", "lora_alpha": null}), "`lora_alpha`: invalid type"),
        (json!({"type": "lora", "lora_dropout": 1.0}), "`lora_dropout`: expected a probability"),
        (json!({"type": "lora", "lora_alhpa": 2}), "`lora_alhpa`: unknown key; did you mean `lora_alpha`?"),
        (json!({"type": "lora", "init_lora_weights": "pisa"}), "`init_lora_weights`: expected true, `gaussian`, `pissa` or `olora`"),
        (json!({"type": "lora", "modules_to_save": ["lm_haed"]}), "`modules_to_save`: the model has no module `lm_haed`"),
        (json!({"type": "lora", "rank_pattern": {"in_proj": 0}}), "`rank_pattern.in_proj`: expected at least 1"),
        (json!({"type": "adalora", "init_r": 4, "target_r": 5}), "`target_r`: expected at most init_r = 4"),
        (json!({"type": "adalora", "tinit": 5, "tfinal": 5, "total_step": 10}), "`tinit`: tinit 5 and tfinal 5 leave none of 10"),
        (json!({"type": "vera", "save_projection": false}), "`save_projection`: expected true"),
        (json!({"type": "lokr", "decompose_factor": 0}), "`decompose_factor`: expected -1"),
        (json!({"type": "prompt", "num_virtual_tokens": 0}), "`num_virtual_tokens`: expected at least 1"),
        (json!({"type": "road", "group_size": 3}), "`group_size`: expected an even number"),
        (json!({"type": "road", "group_size": 48}), "`group_size`: groups of 48 do not fill the 128 outputs"),
        (json!({"type": "lroa"}), "`type`: unknown method `lroa`; did you mean `lora`?"),
    ] {
        let found = message(method, &[], "all");
        assert!(found.starts_with(expected), "{found}");
    }
    assert!(message(json!("lora"), &["q_proj"], "all").contains("`q_proj` matches nothing here"));
    assert!(message(json!("lora"), &["A_log"], "all").contains("names slots of another kind; it attaches to linear and param slots"));
    assert!(message(json!("lora"), &[], "7").contains("layer 7 is out of range"));
    assert!(message(json!("lora"), &["lm_head"], "all").contains("matches nothing"));
}
