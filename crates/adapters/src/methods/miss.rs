//! MiSS, matrix shard sharing (Kang and Yin, 2024, also called Bone, block-affine adaptation): the columns of W are cut into shards of r, and
//! all shards get the same trained update D [r, out], W + (Dᵀ Dᵀ … Dᵀ).
//!
//! D starts at zero. This is a low-rank update whose A is a row of identities: y += (Σ over the shards of x) D. A step keeps these r sums, not x.
//! `init_weights = "bat"` is the non-linear variant, W + (W + I) D block by block; it keeps x and computes the weight again in the backward
//! pass. `init_weights = "mini"` repeats a D of `mini_r` columns along the outputs.

use super::Options;
use super::initializer::Initializer;
use super::parts::{at_least_one, attach_linear, dropout_rate, linear_config, projection_targets, refuse_part, tensor_name};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::candle_fn::DerivedWeight;
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Miss {
    /// Columns of a shard.
    pub r: usize,
    /// Columns of D with `init_weights = "mini"`.
    pub mini_r: usize,
    /// Dropout on the input of the update; not with `init_weights = "bat"`.
    pub miss_dropout: f64,
    /// The variant: `true` starts at zero, `false` at random values, `"bat"` and `"mini"` are variants of their own that start at zero.
    pub init_weights: Variant,
}

/// Hugging Face's `init_weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Variant {
    /// One D [r, out] for all shards; whether it starts at zero.
    Plain(bool),
    /// A variant by name.
    Named(NamedVariant),
}

/// Variants by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedVariant {
    /// W + (W + I) D for blocks of [r, r]; D [out / r, r, r].
    Bat,
    /// D [r, mini_r], repeated.
    Mini,
}

impl Default for Miss {
    fn default() -> Self {
        Self { r: 64, mini_r: 1, miss_dropout: 0.0, init_weights: Variant::Plain(true) }
    }
}

impl Options for Miss {
    const PEFT_TYPE: Option<&'static str> = Some("MISS");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("r", self.r)?;
        at_least_one("mini_r", self.mini_r)?;
        if self.init_weights == Variant::Named(NamedVariant::Bat) && self.miss_dropout > 0.0 {
            return Err(SpecError::at("miss_dropout", "has no place in the variant `bat`; expected 0"));
        }
        dropout_rate("miss_dropout", self.miss_dropout)
    }
}

impl Miss {
    /// Shape of D for a layer [out, input].
    fn dims(&self, out: usize, input: usize, path: &str) -> Result<Vec<usize>> {
        let (r, mini_r) = (self.r, self.mini_r);
        let wrong = |field: &str, problem: String| Err(SpecError::at(field, format!("{problem} `{path}` [{out}, {input}]")).into());
        if r > input {
            return wrong("r", format!("{r} is above the inputs of"));
        }
        match self.init_weights {
            Variant::Named(NamedVariant::Bat) if !(out.is_multiple_of(r) && input.is_multiple_of(r)) => {
                wrong("r", format!("the variant `bat` needs blocks of {r} x {r} that divide"))
            }
            Variant::Named(NamedVariant::Bat) => Ok(vec![out / r, r, r]),
            Variant::Named(NamedVariant::Mini) if !out.is_multiple_of(mini_r) => {
                wrong("mini_r", format!("{mini_r} does not divide the outputs of"))
            }
            Variant::Named(NamedVariant::Mini) => Ok(vec![r, mini_r]),
            Variant::Plain(_) => Ok(vec![r, out]),
        }
    }

    fn attach_to(&self, slot: &mut LinearSlot, chosen: &Chosen, init: &mut Initializer<'_>) -> Result<Vec<Param>> {
        let (all, input) = slot.dims();
        let part = chosen.part.as_ref().and_then(|name| slot.parts.iter().find(|part| part.name == name));
        let rows = part.map_or_else(|| (0..all).into(), |part| part.rows.clone());
        let out = rows.len();
        let dims = self.dims(out, input, &chosen.path())?;
        let start = match self.init_weights {
            // As torch's Kaiming-uniform with a = √5, which takes the second dimension for the fan-in.
            Variant::Plain(false) => init.uniform(dims, 1.0 / (out as f64).sqrt())?,
            _ => init.zeros(dims)?,
        };
        let block = Param::trainable(tensor_name(chosen, "miss_block"), start);
        if self.init_weights == Variant::Named(NamedVariant::Bat) {
            refuse_part("miss", chosen)?;
            slot.attach(Box::new(Bat { block: block.clone(), layer: chosen.layer }));
        } else {
            let identities: Vec<f32> = (0..self.r * input).map(|i| if i / input == i % input % self.r { 1.0 } else { 0.0 }).collect();
            let fold = init.values(identities, (self.r, input))?;
            slot.attach(Box::new(Shared { block: block.clone(), fold, out, rows, dropout: self.miss_dropout }));
        }
        Ok(vec![block])
    }
}

/// One update for all shards of a layer's columns.
struct Shared {
    /// [r, out] or [r, mini_r].
    block: Param,
    /// Identities side by side, [r, in].
    fold: Tensor,
    out: usize,
    rows: RowRanges,
    dropout: f64,
}

impl LinearAdapter for Shared {
    fn updates(&self, pass: &Pass<'_>, x: &Var) -> peftbench_ops::Result<Vec<LowRank>> {
        let tape = pass.tape;
        let mut block = tape.param(&self.block);
        let (r, columns) = (block.dims()[0], block.dims()[1]);
        if columns != self.out {
            let copies = self.out / columns;
            let repeated = tape.broadcast_to(&tape.reshape(&block, &[r, 1, columns])?, &[r, copies, columns])?;
            block = tape.reshape(&repeated, &[r, self.out])?;
        }
        let input = (pass.dropout.is_some() && self.dropout > 0.0).then(|| pass.dropout(x, self.dropout)).transpose()?;
        let (a, b) = (Var::constant(self.fold.clone()), tape.transpose(&block, 0, 1)?);
        Ok(vec![LowRank { a, b, scale: 1.0, rows: self.rows.clone(), input }])
    }
}

/// The non-linear variant.
struct Bat {
    /// [out / r, r, r].
    block: Param,
    layer: Option<usize>,
}

impl LinearAdapter for Bat {
    fn derive(&self, pass: &Pass<'_>) -> Option<DerivedWeight> {
        let scale = pass.scale_of(self.layer);
        let function = move |weight: &Tensor, params: &[Tensor]| weight + (bat(weight, &params[0])? * scale)?;
        Some(DerivedWeight { params: vec![pass.tape.param(&self.block)], function: Rc::new(function) })
    }
}

/// (W_oi + I) D_o for each block [r, r] of W: row block o, column block i.
fn bat(weight: &Tensor, block: &Tensor) -> peftbench_ops::Result<Tensor> {
    let ((out, input), r) = (weight.dims2()?, block.dim(2)?);
    let (down, across) = (out / r, input / r);
    let blocks = weight.reshape((down, r, across, r))?.transpose(1, 2)?.contiguous()?;
    let changed = blocks.reshape((down, across * r, r))?.matmul(block)?.reshape((down, across, r, r))?;
    changed.broadcast_add(&block.unsqueeze(1)?)?.transpose(1, 2)?.contiguous()?.reshape((out, input))
}

impl Method for Miss {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn starts_as_base(&self) -> bool {
        self.init_weights != Variant::Plain(false)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let params = attach_linear(model, context, "miss", &mut |slot, chosen, init| self.attach_to(slot, chosen, init))?;
        Ok(Attachment::new(params, linear_config("MISS", self, model, context.chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed;

    #[test]
    fn the_bat_variant_is_its_definition_block_by_block() {
        let mut stream = seed::stream(0, "bat");
        let mut init = Initializer::on_cpu(&mut stream);
        let (weight, block) = (init.uniform((6, 4), 1.0).unwrap(), init.uniform((3, 2, 2), 1.0).unwrap());
        let found = bat(&weight, &block).unwrap();
        for o in 0..3 {
            for i in 0..2 {
                let part = |t: &Tensor| t.narrow(0, 2 * o, 2).unwrap().narrow(1, 2 * i, 2).unwrap().contiguous().unwrap();
                let sum = (part(&weight) + Tensor::eye(2, weight.dtype(), weight.device()).unwrap()).unwrap();
                let expected = sum.matmul(&block.get(o).unwrap()).unwrap();
                let error = (part(&found) - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(error < 1e-6, "block {o}, {i}: {error}");
            }
        }
    }
}
