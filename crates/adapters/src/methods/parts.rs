//! What many methods share: attaching to linear slots, checking options, drawing initial values.

use super::initializer::Initializer;
use crate::error::{AdapterError, Result};
use crate::export::TargetModules;
use crate::method::{AdapterParam, AttachContext};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearSlot, PromptAdapter, SlotMut, StateSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{Role, SpecError, TargetExpr};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What is attached to one linear layer: from its slot, what was chosen and the initializer to the tensors.
pub(crate) type AttachLinear<'a> = dyn FnMut(&mut LinearSlot, &Chosen, &mut Initializer<'_>) -> Result<Vec<Param>> + 'a;

/// Calls `attach` for every chosen linear slot, or row part of one, in the model's order; it returns the tensors it has added there.
pub(crate) fn attach_linear(
    model: &mut dyn Network,
    context: &mut AttachContext<'_>,
    method: &str,
    attach: &mut AttachLinear<'_>,
) -> Result<Vec<AdapterParam>> {
    let mut found: Result<Vec<AdapterParam>> = Ok(Vec::new());
    let init = &mut Initializer::of(model, context.init);
    model.visit_slots(&mut |slot| {
        let SlotMut::Linear(slot) = slot else { return };
        let path = slot.info.path.clone();
        for chosen in context.chosen.iter().filter(|c| c.slot == path) {
            let Ok(params) = &mut found else { return };
            let added = match slot.info.role {
                Role::LmHead => Err(unsupported(method, "does not adapt the head; take it away with `!lm_head`")),
                _ => attach(slot, chosen, init),
            };
            match added {
                Ok(added) => params.extend(added.into_iter().map(|param| AdapterParam::added(param, chosen))),
                Err(error) => found = Err(error),
            }
        }
    });
    found
}

/// An error of `method`.
pub(crate) fn unsupported(method: &str, problem: impl Into<String>) -> AdapterError {
    AdapterError::Unsupported { method: method.to_owned(), problem: problem.into() }
}

/// Refuses a row part where a method changes what a whole layer reads.
pub(crate) fn refuse_part(method: &str, chosen: &Chosen) -> Result<()> {
    match &chosen.part {
        None => Ok(()),
        Some(part) => {
            let problem = format!("changes the whole input of a layer and cannot act on its rows `{part}` alone; target `{}`", chosen.slot);
            Err(unsupported(method, problem))
        }
    }
}

/// The name in the adapter file of a tensor beside the module at the chosen slot: `base_model.model.….q_proj.hra_u`.
pub(crate) fn tensor_name(chosen: &Chosen, tensor: &str) -> String {
    format!("base_model.model.{}.{tensor}", chosen.path())
}

/// `adapter_config.json` of a method on linear layers that Hugging Face knows: its own `options`, and where it is attached.
pub(crate) fn linear_config(peft_type: &str, options: &impl Serialize, model: &mut dyn Network, chosen: &[Chosen]) -> Value {
    let paths: Vec<String> = chosen.iter().map(Chosen::path).collect();
    let TargetModules { names, layers, fan_in_fan_out } = TargetModules::of(model, &paths);
    let mut config = json!({
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "target_modules": names,
        "layers_to_transform": layers,
        "bias": "none",
        "inference_mode": true,
    });
    if fan_in_fan_out {
        // A key that not every method of Hugging Face has.
        config["fan_in_fan_out"] = true.into();
    }
    if let (Some(config), Ok(Value::Object(options))) = (config.as_object_mut(), serde_json::to_value(options)) {
        config.extend(options);
    }
    config
}

/// The entries of an `adapter_config.json` with these keys, where they say something.
pub(crate) fn entries(config: &Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    let given = keys.iter().filter_map(|key| config.get(*key).map(|value| ((*key).to_owned(), value.clone())));
    given.filter(|(_, value)| !value.is_null()).collect()
}

/// from + scale · (to − from), where scale is what the pass says of the layer's adapters: `to` itself in training.
pub(crate) fn between(pass: &Pass<'_>, layer: Option<usize>, from: &Var, to: Var) -> peftbench_ops::Result<Var> {
    match pass.scale_of(layer) {
        1.0 => Ok(to),
        scale => pass.tape.add(from, &pass.tape.scale(&pass.tape.sub(&to, from)?, scale)?),
    }
}

/// Checks that an option is at least 1.
pub(crate) fn at_least_one(field: &str, value: usize) -> peftbench_spec::error::Result<()> {
    if value == 0 { Err(SpecError::at(field, "expected at least 1, found 0")) } else { Ok(()) }
}

/// Checks that an option is a finite number.
pub(crate) fn finite(field: &str, value: f64) -> peftbench_spec::error::Result<()> {
    if value.is_finite() { Ok(()) } else { Err(SpecError::at(field, format!("expected a finite number, found {value}"))) }
}

/// Checks that an option is a probability below 1.
pub(crate) fn dropout_rate(field: &str, value: f64) -> peftbench_spec::error::Result<()> {
    match (0.0..1.0).contains(&value) {
        true => Ok(()),
        false => Err(SpecError::at(field, format!("expected a probability from 0 up to but not including 1, found {value}"))),
    }
}

/// Puts virtual tokens in front of the input, and lists the tensors that make them.
pub(crate) fn attach_prompt(
    model: &mut dyn Network,
    params: Vec<Param>,
    adapter: impl Fn() -> Box<dyn PromptAdapter>,
) -> Vec<AdapterParam> {
    model.visit_slots(&mut |slot| {
        if let SlotMut::Prompt(slot) = slot {
            slot.attach(adapter());
        }
    });
    let listed = |param| AdapterParam { added: true, ..AdapterParam::own(param, None, "prompt".to_owned()) };
    params.into_iter().map(listed).collect()
}

/// The targets that methods on linear layers have by default: what Hugging Face adapts with LoRA, and the projections of SSMs.
pub(crate) fn projection_targets(arch: &str) -> TargetExpr {
    match arch {
        "mamba" | "mamba2" | "falcon_mamba" => TargetExpr::new(["in_proj", "out_proj"]),
        "jamba" => TargetExpr::new(["in_proj", "out_proj", "q_proj", "v_proj"]),
        "llama" | "qwen2" | "gptj" | "opt" => TargetExpr::new(["q_proj", "v_proj"]),
        "bloom" => TargetExpr::new(["query_key_value"]),
        "gpt2" => TargetExpr::new(["c_attn"]),
        _ => TargetExpr::new(["role:linear"]),
    }
}

/// What is attached to one SSM layer: from its slot, the value of its A_log, what was chosen and the initializer to the tensors.
pub(crate) type AttachState<'a> = dyn FnMut(&mut StateSlot, Option<&Tensor>, &Chosen, &mut Initializer<'_>) -> Result<Vec<Param>> + 'a;

/// Calls `attach` for every chosen SSM layer, in the model's order.
pub(crate) fn attach_state(
    model: &mut dyn Network,
    context: &mut AttachContext<'_>,
    attach: &mut AttachState<'_>,
) -> Result<Vec<AdapterParam>> {
    let mut found: Result<Vec<AdapterParam>> = Ok(Vec::new());
    let init = &mut Initializer::of(model, context.init);
    // A layer's own A_log is visited before its state slot.
    let mut a_log: Option<(Option<usize>, Tensor)> = None;
    model.visit_slots(&mut |slot| match slot {
        SlotMut::Param(slot) if slot.info.role == Role::ALog => a_log = Some((slot.info.layer, slot.param.value())),
        SlotMut::State(slot) => {
            let path = slot.info.path.clone();
            let own = a_log.as_ref().filter(|(layer, _)| *layer == slot.info.layer).map(|(_, value)| value);
            for chosen in context.chosen.iter().filter(|c| c.slot == path) {
                let Ok(params) = &mut found else { return };
                match attach(slot, own, chosen, init) {
                    Ok(added) => params.extend(added.into_iter().map(|param| AdapterParam::added(param, chosen))),
                    Err(error) => found = Err(error),
                }
            }
        }
        _ => {}
    });
    found
}
