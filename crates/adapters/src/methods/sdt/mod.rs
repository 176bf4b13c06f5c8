//! SDT: selective dimension tuning of state spaces (Galim et al., 2025, *Parameter-Efficient Fine-Tuning of State Space Models*,
//! arXiv 2410.09016). Together with LoRA on the output projection it is that paper's SDLoRA:
//!
//! ```toml
//! method = { type = "combined", methods = [
//!     { type = "sdt" },
//!     { type = "lora", r = 8, targets = ["out_proj"] },
//! ] }
//! ```
//!
//! A short warm-up tells which channels of each layer, and which states of these, a task would move most. Then training begins again
//! from the base model and only the chosen entries of A_log train, with the columns of B and C that read the chosen channels.
//!
//! * Mamba-1, Falcon-Mamba, Jamba: entries of `A_log` [channels, states]; columns of `x_proj.B` and `x_proj.C`.
//! * Mamba-2: `A_log` has one value a head, so heads are chosen. B and C are read from the residual stream there and no head has columns
//!   of its own in them; LoRA on `in_proj` reaches them (the paper's Lemma 1).
//! * S4D: entries of `log_A_real`, `A_imag` and `C`, the last with real and imaginary part. `output_linear` may be a target, too: the
//!   columns of the chosen channels.
//!
//! The paper and its released code differ. `reading` sets the defaults of the options to those of one of them:
//!
//! | option | `code` (default) | `paper` |
//! |---|---|---|
//! | `warmup_scope` | `a_log`: a dense change of A_log only | `ssm`: every tensor of the SSM module |
//! | `ranking` | `delta_a_log`: Σ ΔA_log² | `delta_a_bar`: Σ \|ΔĀ\|² |
//!
//! In both, methods beside it (LoRA) train along in the warm-up, and all that the warm-up has trained is discarded but for the ranking;
//! the learning rate is that of the run's schedule, begun anew afterwards. Layer policies act after the warm-up only.
//!
//! `channels` and `states` name the choice instead; `docs/studies/sdt-oracle.md` tries out every choice of a small layer.

mod options;
mod ranking;
mod selection;
mod warmup;

pub use options::{Ranking, Reading, WarmupScope};

use super::parts::{tensor_name, unsupported};
use super::{Options, try_visit};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Carried, LossProbe, Method, Stage};
use crate::selection::{Chosen, rows_of};
use peftbench_models::Network;
use peftbench_models::slots::{LinearSlot, ParamSlot, SlotMut};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Tensor};
use peftbench_spec::{Candidate, Role, SlotKind, TargetExpr};
use ranking::{Layers, StateSpace};
use selection::{Columns, Entries, Selection, Shift};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options. In a spec `reading` may stand before them: it sets the defaults of the rest and is gone once they are filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "options::Written")]
pub struct Sdt {
    /// Optimizer steps of the warm-up; the released code has 500, and 249 on RTE.
    pub warmup_steps: u64,
    /// What the warm-up changes.
    pub warmup_scope: WarmupScope,
    /// Whether training begins from the base model again. Otherwise what the warm-up has changed in the SSM modules stays, frozen, as a
    /// part of the adapter.
    pub reset_after_warmup: bool,
    /// What channels and states are ranked by.
    pub ranking: Ranking,
    /// Channels (Mamba-2: heads) of each layer that stay frozen, as a share of all, rounded as Python does; at least one trains.
    pub channel_freeze_ratio: f64,
    /// States of each chosen channel that stay frozen, likewise.
    pub state_freeze_ratio: f64,
    /// Channels that are pruned, the last in the ranking, as a share of all (SDT-P; 0 in every released configuration).
    pub channel_zero_ratio: f64,
    /// States of each chosen channel that are pruned, likewise.
    pub state_zero_ratio: f64,
    /// The channels (Mamba-2: heads) that train in every layer, by index, in place of those that rank first. Then nothing is ranked, and no
    /// warm-up is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<usize>>,
    /// The states of each of `channels` that train; where it is absent, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub states: Option<Vec<Vec<usize>>>,
    /// Whether columns of B and C train in the rows of the chosen states only; the released code trains all rows.
    pub restrict_states: bool,
}

/// Row parts of `x_proj` with one row a state.
const STATE_ROWS: [&str; 2] = ["B", "C"];

impl Method for Sdt {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Param, SlotKind::Linear]
    }

    /// Raw tensors with an entry for each channel and state, and linear layers that read the channels.
    fn accepts(&self, candidate: &Candidate) -> bool {
        match candidate.kind {
            SlotKind::Param => matches!(candidate.role, Role::ALog | Role::AImag | Role::B | Role::C),
            SlotKind::Linear => matches!(candidate.role, Role::XProj | Role::OutProj),
            _ => false,
        }
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        match arch {
            "mamba2" => TargetExpr::new(["A_log"]),
            "s4d" => TargetExpr::new(["log_A_real", "A_imag", "C"]),
            _ => TargetExpr::new(["A_log", "x_proj.B", "x_proj.C"]),
        }
    }

    fn starts_as_base(&self) -> bool {
        // What is pruned is gone from the first step on.
        self.channel_zero_ratio == 0.0 && self.state_zero_ratio == 0.0 && self.reset_after_warmup
    }

    fn stages(&self) -> Vec<Stage> {
        let train = Stage { name: "train", steps: None };
        match self.ranking {
            _ if self.channels.is_some() => vec![train],
            Ranking::Magnitude | Ranking::Random => vec![train],
            // Each channel is left out in turn, on the base model as it is.
            Ranking::Loss => vec![Stage { name: "warmup", steps: Some(0) }, train],
            _ => vec![Stage { name: "warmup", steps: Some(self.warmup_steps) }, train],
        }
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let layers = Layers::read(model, context.chosen)?;
        if context.stage + 1 < self.stages().len() {
            return warmup::attach(self, model, &layers);
        }
        let mut attachment = Attachment { peft_config: self.peft_config(), ..Attachment::default() };
        if !self.reset_after_warmup {
            attachment.buffers = keep_warmup(self, model, &layers, context.carried)?;
        }
        let mut selections = BTreeMap::new();
        for (index, layer) in layers.iter() {
            let first = context.chosen.iter().find(|chosen| chosen.layer == Some(index));
            let Some(first) = first else { continue };
            let selection = self.select(layer, first, context)?;
            attachment.selected.extend(selection.dimensions(index, &layer.path));
            attachment.buffers.extend(selection.buffers().cloned());
            selections.insert(index, Arc::new(selection));
        }
        try_visit(model, &mut |slot| {
            let path = slot.info().path.clone();
            let Some(selection) = slot.info().layer.and_then(|layer| selections.get(&layer)).cloned() else { return Ok(()) };
            let here: Vec<&Chosen> = context.chosen.iter().filter(|chosen| chosen.slot == path).collect();
            match slot {
                SlotMut::Param(slot) => {
                    if let [chosen] = here.as_slice() {
                        attachment.params.push(attach_entries(slot, chosen, selection)?);
                    }
                }
                SlotMut::Linear(slot) => {
                    for chosen in here {
                        attachment.params.push(self.attach_columns(slot, chosen, selection.clone())?);
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(attachment)
    }

    fn carry(&self, _stage: usize, attachment: &Attachment, probe: &mut LossProbe<'_>) -> Result<Carried> {
        warmup::carry(self, attachment, probe)
    }
}

impl Sdt {
    /// Which channels and states of a layer train, and which are pruned.
    fn select(&self, layer: &StateSpace, first: &Chosen, context: &mut AttachContext<'_>) -> Result<Selection> {
        let (counts, scores) = match &self.channels {
            Some(channels) => layer.named(channels, self.states.as_deref())?,
            None => (self.counts(layer.channels, layer.states)?, layer.scores(self.ranking, context.carried, context.init)?),
        };
        Ok(Selection::new(first, layer, counts, &scores)?)
    }

    /// The columns of a linear layer, or of a row part of one, that read the chosen channels.
    fn attach_columns(&self, slot: &mut LinearSlot, chosen: &Chosen, selection: Arc<Selection>) -> Result<AdapterParam> {
        let rows: RowRanges = rows_of(chosen, slot);
        if slot.dims().1 != selection.total_channels() {
            let problem = format!(
                "`{}` reads {} values a step, not the {} channels of the state space; take it away with `!`",
                chosen.path(),
                slot.dims().1,
                selection.total_channels()
            );
            return Err(unsupported("sdt", problem));
        }
        let by_state = self.restrict_states && chosen.part.as_deref().is_some_and(|part| STATE_ROWS.contains(&part));
        let device = slot.weight.param.value().device().clone();
        let dims = if by_state { [selection.channels(), selection.states()] } else { [rows.len(), selection.channels()] };
        let values = Param::trainable(tensor_name(chosen, "sdt_columns"), Tensor::zeros(&dims, peftbench_ops::DType::F32, &device)?);
        slot.attach(Box::new(Columns { selection, values: values.clone(), rows, by_state }));
        Ok(AdapterParam::added(values, chosen))
    }

    fn peft_config(&self) -> Value {
        let mut config = json!({ "peft_type": Self::PEFT_TYPE });
        if let (Some(table), Ok(Value::Object(options))) = (config.as_object_mut(), serde_json::to_value(self)) {
            table.extend(options);
        }
        config
    }
}

/// The chosen entries of a raw tensor.
fn attach_entries(slot: &mut ParamSlot, chosen: &Chosen, selection: Arc<Selection>) -> Result<AdapterParam> {
    let value = slot.param.value();
    let pairs = selection.total_channels() * selection.total_states();
    if !value.elem_count().is_multiple_of(pairs) {
        let problem =
            format!("`{}` of shape {:?} has no entry for each channel and state; take it away with `!`", chosen.slot, value.dims());
        return Err(unsupported("sdt", problem));
    }
    let dims = [selection.channels(), selection.states(), value.elem_count() / pairs];
    let values = Param::trainable(tensor_name(chosen, "sdt_delta"), Tensor::zeros(&dims, value.dtype(), value.device())?);
    let prunes = slot.info.role == selection.pruned_role();
    slot.attach(Box::new(Entries { selection, values: values.clone(), prunes, layer: chosen.layer }));
    Ok(AdapterParam::added(values, chosen))
}

/// Keeps what the warm-up has changed, as frozen tensors of the adapter.
fn keep_warmup(sdt: &Sdt, model: &mut dyn Network, layers: &Layers, carried: &Carried) -> Result<Vec<Param>> {
    let mut kept = Vec::new();
    warmup::visit(sdt, model, layers, &mut |slot| {
        let value = slot.param.value();
        let change = carried.get(&slot.info.path).cloned().map_or_else(|| value.zeros_like(), Ok)?;
        // Not below the slot's own path, so that loading an adapter does not take it for one more place where SDT is attached.
        let change = Param::frozen(format!("base_model.model.sdt_warmup.{}", slot.info.path), change);
        slot.attach(Box::new(Shift { change: change.clone(), layer: slot.info.layer }));
        kept.push(change);
        Ok(())
    })?;
    Ok(kept)
}
