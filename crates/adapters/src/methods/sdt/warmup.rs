//! The stage before training that tells which channels and states matter.

use super::Sdt;
use super::options::{Ranking, WarmupScope};
use super::ranking::{CHANNEL_SCORES, Layers, STATE_SCORES, descending};
use super::selection::{Gate, Shift};
use crate::error::Result;
use crate::method::{AdapterParam, Attachment, Carried, LossProbe, Training, TrainingStep};
use crate::methods::try_visit;
use peftbench_models::Network;
use peftbench_models::slots::{ParamSlot, SlotMut};
use peftbench_ops::{DType, Param, Tensor};
use peftbench_spec::Role;
use std::sync::Arc;

/// Names of what the warm-up attaches: a tensor's change, its summed squared gradients, what gates a layer's channels and states.
const CHANGE: &str = "sdt_change.";
const SQUARES: &str = "sdt_squares.";
const GATE: &str = "sdt_gate.";

/// Shows the tensors that the warm-up changes, or would.
pub(super) fn visit(
    sdt: &Sdt,
    model: &mut dyn Network,
    layers: &Layers,
    visitor: &mut dyn FnMut(&mut ParamSlot) -> Result<()>,
) -> Result<()> {
    let wanted = |slot: &ParamSlot| match sdt.warmup_scope {
        WarmupScope::ALog => matches!(slot.info.role, Role::ALog | Role::AImag),
        WarmupScope::Ssm => slot.info.role.group() == Some("ssm"),
    };
    try_visit(model, &mut |slot| match slot {
        SlotMut::Param(slot) if layers.get(slot.info.layer).is_some() && wanted(slot) => visitor(slot),
        _ => Ok(()),
    })
}

/// Attaches what the warm-up trains: a dense change of each tensor. To rank by gradient these stay at zero and gradients are summed; to rank
/// by loss nothing trains, and gates are attached that prune.
pub(super) fn attach(sdt: &Sdt, model: &mut dyn Network, layers: &Layers) -> Result<Attachment> {
    if sdt.ranking == Ranking::Loss {
        return attach_gates(model, layers);
    }
    let (mut params, mut squares) = (Vec::new(), Vec::new());
    visit(sdt, model, layers, &mut |slot| {
        let value = slot.param.value();
        let change = Param::trainable(format!("{CHANGE}{}", slot.info.path), value.zeros_like()?);
        slot.attach(Box::new(Shift { change: change.clone(), layer: slot.info.layer }));
        squares.push((change.clone(), Param::frozen(format!("{SQUARES}{}", slot.info.path), value.zeros_like()?)));
        let lr_factor = if sdt.ranking == Ranking::Gradient { 0.0 } else { 1.0 };
        let param = AdapterParam::own(change, slot.info.layer, "warmup".to_owned()).with_lr_factor(lr_factor);
        params.push(AdapterParam { added: true, ..param });
        Ok(())
    })?;
    let training: Vec<Arc<dyn Training>> = match sdt.ranking {
        Ranking::Gradient => vec![Arc::new(SquaredGradients(squares))],
        _ => Vec::new(),
    };
    Ok(Attachment { params, training, ..Attachment::default() })
}

fn attach_gates(model: &mut dyn Network, layers: &Layers) -> Result<Attachment> {
    let mut buffers = Vec::new();
    try_visit(model, &mut |slot| {
        if let SlotMut::Param(slot) = slot
            && let Some(layer) = layers.get(slot.info.layer).filter(|layer| layer.pruned_role == slot.info.role)
        {
            let open = Tensor::ones((layer.channels, layer.states), DType::F32, &layer.device)?;
            let open = Param::frozen(format!("{GATE}{}", layer.path), open);
            slot.attach(Box::new(Gate { open: open.clone(), pruned_role: layer.pruned_role }));
            buffers.push(open);
        }
        Ok(())
    })?;
    Ok(Attachment { buffers, ..Attachment::default() })
}

/// Sums the squares of the gradients of changes that stay at zero.
#[derive(Debug)]
struct SquaredGradients(Vec<(Param, Param)>);

impl Training for SquaredGradients {
    fn after_step(&self, step: &TrainingStep<'_>) -> Result<()> {
        for (change, sum) in &self.0 {
            if let Some(grad) = step.grads.get(change) {
                sum.set((sum.value() + grad.sqr()?)?)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<Param> {
        self.0.iter().map(|(_, sum)| sum.clone()).collect()
    }
}

/// What the warm-up hands on: by the tensor's path its change or its summed squared gradients; by the path of A_log with `/channels` and
/// `/states` how much the loss grows.
pub(super) fn carry(sdt: &Sdt, attachment: &Attachment, probe: &mut LossProbe<'_>) -> Result<Carried> {
    match sdt.ranking {
        Ranking::Loss => prune_in_turn(sdt, attachment, probe),
        Ranking::Gradient => {
            let sums = attachment.training.iter().flat_map(|training| training.state());
            Ok(sums.filter_map(|sum| Some((sum.name().strip_prefix(SQUARES)?.to_owned(), sum.value()))).collect())
        }
        _ => {
            let params = attachment.params.iter().map(|p| &p.param);
            Ok(params.filter_map(|param| Some((param.name().strip_prefix(CHANGE)?.to_owned(), param.value()))).collect())
        }
    }
}

/// Prunes each channel, then each state of the channels that will be chosen, and sees how much the loss grows.
fn prune_in_turn(sdt: &Sdt, attachment: &Attachment, probe: &mut LossProbe<'_>) -> Result<Carried> {
    let mut carried = Carried::new();
    let whole = probe()?;
    for gate in &attachment.buffers {
        let Some(path) = gate.name().strip_prefix(GATE) else { continue };
        let (channels, states) = gate.value().dims2()?;
        let open = gate.value();
        let device = open.device().clone();
        let mut growth = |shut: std::ops::Range<usize>| -> Result<f64> {
            let mut values = vec![1f32; channels * states];
            values[shut].fill(0.0);
            gate.set(Tensor::from_vec(values, (channels, states), &device)?)?;
            Ok(probe()? - whole)
        };
        let by_channel = (0..channels).map(|channel| growth(channel * states..(channel + 1) * states)).collect::<Result<Vec<f64>>>()?;
        let mut by_state = vec![0.0; channels * states];
        for &channel in &descending(&by_channel)[..sdt.counts(channels, states)?.channels] {
            for (state, score) in by_state[channel * states..(channel + 1) * states].iter_mut().enumerate() {
                *score = growth(channel * states + state..channel * states + state + 1)?;
            }
        }
        gate.set(open)?;
        // Kept in f32, as checkpoints are.
        let kept = |values: Vec<f64>| Tensor::new(values.into_iter().map(|value| value as f32).collect::<Vec<f32>>(), &device);
        carried.insert(format!("{path}/{CHANNEL_SCORES}"), kept(by_channel)?);
        carried.insert(format!("{path}/{STATE_SCORES}"), kept(by_state)?);
    }
    Ok(carried)
}
