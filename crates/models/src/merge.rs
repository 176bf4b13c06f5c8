//! Base weights with what is attached worked into them.

use crate::error::{ModelError, Result};
use crate::model::{Head, Model};
use crate::pass::Pass;
use crate::slots::{LinearSlot, ParamSlot, SlotMut};
use peftbench_ops::{DType, Tape, Tensor};
use peftbench_spec::Role;
use std::collections::HashMap;

/// Name of an untied head's weight.
const HEAD_WEIGHT: &str = "lm_head.weight";

/// Rows of the identity that are sent through a layer at once.
const PROBE_ROWS: usize = 256;

/// Every tensor of a model after a merge.
pub struct Merged {
    /// Tensors by their names in the Hugging Face checkpoint, in slot order.
    pub tensors: Vec<(String, Tensor)>,
    /// Whether the head had to be parted from the embedding, as an adapter changed one of them only: the config of the merged model then
    /// says `tie_word_embeddings: false`, and `tensors` has `lm_head.weight`.
    pub untied: bool,
}

impl dyn Model + '_ {
    /// The base weights that compute what the model computes now with nothing attached.
    ///
    /// An adapted linear layer is asked what it makes of the identity, which is exact for whatever is affine in the input and costs one
    /// product of [in, in] with the weight; so no method needs a merge of its own. What cannot be merged is an error that names the slot:
    /// virtual tokens, prefixes, initial states and bottleneck adapters are no function of a weight.
    pub fn merged(&mut self) -> Result<Merged> {
        let tied = matches!(self.head(), Head::Tied(_));
        let (mut found, mut replaced, mut head) = (Ok(Vec::new()), HashMap::new(), None);
        self.visit_slots(&mut |slot| {
            let Ok(tensors) = &mut found else { return };
            match merge_slot(slot, &mut replaced) {
                Ok(Some((name, value, before))) => {
                    head = head.take().or(before);
                    tensors.push((name, value));
                }
                Ok(None) => {}
                Err(error) => found = Err(error),
            }
        });
        let mut tensors = found?;
        let head = head.filter(|_| tied);
        let untied = head.is_some();
        tensors.extend(head.map(|value| (HEAD_WEIGHT.to_owned(), value)));
        Ok(Merged { tensors, untied })
    }
}

/// Name and value of a raw tensor; and a table as a head uses it, where look-ups see another one.
type Entry = (String, Tensor, Option<Tensor>);

/// A linear slot leaves its merged tensors in `replaced`, where the slots of its weight and bias, which follow, find them.
fn merge_slot(slot: SlotMut<'_>, replaced: &mut HashMap<String, Tensor>) -> Result<Option<Entry>> {
    let refuse = |path: &str| ModelError::Unsupported {
        origin: path.to_owned(),
        problem: "what is attached here is no function of a weight and cannot be merged; keep the adapter as a folder of its own"
            .to_owned(),
    };
    match slot {
        SlotMut::Linear(slot) if slot.has_adapters() => {
            if !slot.is_affine() {
                return Err(refuse(&slot.info.path));
            }
            replaced.extend(merge_linear(slot)?);
            Ok(None)
        }
        SlotMut::Param(slot) => match replaced.remove(slot.param.name()) {
            Some(value) => Ok(Some((slot.param.name().to_owned(), value, None))),
            None => Ok(Some(merge_param(slot)?)),
        },
        other if other.has_adapters() => Err(refuse(&other.info().path)),
        _ => Ok(None),
    }
}

fn merge_param(slot: &ParamSlot) -> Result<Entry> {
    let name = slot.param.name().to_owned();
    if !slot.has_adapters() {
        return Ok((name, slot.param.value(), None));
    }
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let value = slot.forward(&pass)?.value().clone();
    if slot.info.role != Role::Embedding {
        return Ok((name, value, None));
    }
    let ids = Tensor::arange(0, value.dim(0)? as u32, value.device())?;
    let looked_up = slot.lookup(&pass, &ids)?.value().clone();
    let differs = looked_up.ne(&value)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? > 0.0;
    Ok((name, looked_up, differs.then_some(value)))
}

/// The weight and, if it has one, the bias of a layer that is affine in its input.
fn merge_linear(slot: &LinearSlot) -> Result<Vec<(String, Tensor)>> {
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let (out, input) = slot.dims();
    let weight = slot.weight.param.value();
    let device = weight.device();
    let respond = |rows: Tensor| -> Result<Tensor> {
        let count = rows.dim(0)?;
        Ok(slot.forward(&pass, &peftbench_ops::Var::constant(rows.unsqueeze(0)?))?.value().reshape((count, out))?)
    };
    let constant = respond(Tensor::zeros((1, input), DType::F32, device)?)?;
    let mut columns = Vec::new();
    for start in (0..input).step_by(PROBE_ROWS) {
        let rows = PROBE_ROWS.min(input - start);
        let diagonal = Tensor::eye(rows, DType::F32, device)?;
        let identity = diagonal.pad_with_zeros(1, start, input - start - rows)?;
        columns.push(respond(identity)?.broadcast_sub(&constant)?);
    }
    let columns = Tensor::cat(&columns, 0)?;
    let weight = if slot.transposed { columns } else { columns.t()?.contiguous()? };
    let mut merged = vec![(slot.weight.param.name().to_owned(), weight)];
    match &slot.bias {
        Some(bias) => merged.push((bias.param.name().to_owned(), constant.squeeze(0)?)),
        None if constant.abs()?.sum_all()?.to_scalar::<f32>()? > 0.0 => {
            return Err(ModelError::Unsupported {
                origin: slot.info.path.clone(),
                problem: "what is attached here adds a constant, but the layer has no bias to merge it into".to_owned(),
            });
        }
        None => {}
    }
    Ok(merged)
}
