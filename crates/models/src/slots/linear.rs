//! Linear layers.

use super::{ParamSlot, SlotInfo};
use crate::pass::Pass;
use peftbench_ops::candle_fn::DerivedWeight;
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{Param, Result, Var};

/// A weight [out, in] applied to activations, with an optional bias and named row parts.
pub struct LinearSlot {
    /// Place and role; the path is the module's name, without `.weight`.
    pub info: SlotInfo,
    /// Weight as the checkpoint stores it: [out, in], or [in, out] if transposed.
    pub weight: ParamSlot,
    /// Bias [out].
    pub bias: Option<ParamSlot>,
    /// Named parts of the output rows, in order: `x` and `z` of Mamba's `in_proj`.
    pub parts: Vec<RowPart>,
    /// Whether the checkpoint stores the weight as [in, out], as GPT-2's `Conv1D` does. Adapters see [out, in] all the same.
    pub transposed: bool,
    adapters: Vec<Box<dyn LinearAdapter>>,
}

/// A named part of a linear layer's output rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPart {
    /// Name after the layer's: `x` in `in_proj.x`.
    pub name: &'static str,
    /// Output rows.
    pub rows: RowRanges,
}

/// What may be attached to a linear layer y = W x + b. Every hook has the identity as its default; they apply in this order.
pub trait LinearAdapter: Send + Sync {
    /// The input to use in place of x [batch, length, in].
    fn input(&self, _pass: &Pass<'_>, x: Var) -> Result<Var> {
        Ok(x)
    }

    /// The weight to use in place of W [out, in].
    fn weight(&self, _pass: &Pass<'_>, weight: Var) -> Result<Var> {
        Ok(weight)
    }

    /// A weight to use in place of W that is as large as W: it is computed again in the backward pass instead of being kept. The head has
    /// no such hook.
    fn derive(&self, _pass: &Pass<'_>) -> Option<DerivedWeight> {
        None
    }

    /// Low-rank updates of the output, computed together with W x.
    fn updates(&self, _pass: &Pass<'_>, _x: &Var) -> Result<Vec<LowRank>> {
        Ok(Vec::new())
    }

    /// Factors [out] on W x and its updates, before the bias.
    fn gain(&self, _pass: &Pass<'_>) -> Result<Option<Var>> {
        Ok(None)
    }

    /// The output to use in place of y [batch, length, out]; x is the layer's input. The head has no such hook: its logits are never
    /// whole in training.
    fn output(&self, _pass: &Pass<'_>, _x: &Var, y: Var) -> Result<Var> {
        Ok(y)
    }

    /// Whether the layer stays affine in x with this adapter, so that it can be merged into weight and bias.
    fn is_affine(&self) -> bool {
        true
    }
}

/// What a linear layer computes in one pass, before its output hooks: gain · (W x + updates) + bias.
pub struct Prepared {
    /// Input.
    pub x: Var,
    /// Weight [out, in].
    pub weight: Var,
    /// Bias [out].
    pub bias: Option<Var>,
    /// Low-rank updates.
    pub updates: Vec<LowRank>,
    /// Factors on the rows, [out].
    pub gain: Option<Var>,
}

impl LinearSlot {
    /// A slot with nothing attached. `parts` cover the rows in order, or are empty.
    pub fn new(info: SlotInfo, weight: Param, bias: Option<Param>, parts: Vec<RowPart>) -> Self {
        let param = |suffix: &str, param| ParamSlot::new(SlotInfo { path: format!("{}.{suffix}", info.path), ..info.clone() }, param);
        let (weight, bias) = (param("weight", weight), bias.map(|bias| param("bias", bias)));
        Self { weight, bias, info, parts, transposed: false, adapters: Vec::new() }
    }

    /// The same slot with a weight that is stored as [in, out].
    pub fn stored_transposed(self) -> Self {
        Self { transposed: true, ..self }
    }

    /// [out, in].
    pub fn dims(&self) -> (usize, usize) {
        let value = self.weight.param.value();
        let (first, second) = (value.dims()[0], value.dims()[1]);
        if self.transposed { (second, first) } else { (first, second) }
    }

    /// Multiply-adds a row of input.
    pub(crate) fn multiply_adds(&self) -> usize {
        let (out, input) = self.dims();
        out * input
    }

    /// Attaches `adapter` behind those already there.
    pub fn attach(&mut self, adapter: Box<dyn LinearAdapter>) {
        self.adapters.push(adapter);
    }

    /// Whether anything is attached, to the layer or to its tensors.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty() || self.weight.has_adapters() || self.bias.as_ref().is_some_and(ParamSlot::has_adapters)
    }

    /// Everything that x [.., in] meets in this layer, but for the output hooks.
    pub fn prepare(&self, pass: &Pass<'_>, x: &Var) -> Result<Prepared> {
        let x = self.adapters.iter().try_fold(x.clone(), |x, adapter| adapter.input(pass, x))?;
        let weight = match self.transposed {
            true => pass.tape.transpose(&self.weight.forward(pass)?, 0, 1)?,
            false => self.weight.weight(pass)?,
        };
        let weight = self.adapters.iter().try_fold(weight, |w, adapter| adapter.weight(pass, w))?;
        let bias = self.bias.as_ref().map(|bias| bias.forward(pass)).transpose()?;
        let scale = pass.scale_of(self.info.layer);
        let (mut updates, mut gain) = (Vec::new(), None);
        for adapter in &self.adapters {
            updates.extend(adapter.updates(pass, &x)?.into_iter().map(|update| LowRank { scale: update.scale * scale, ..update }));
            gain = match (gain, adapter.gain(pass)?) {
                (Some(first), Some(second)) => Some(pass.tape.mul(&first, &second)?),
                (first, second) => first.or(second),
            };
        }
        Ok(Prepared { x, weight, bias, updates, gain })
    }

    /// x [batch, length, in] → [batch, length, out].
    pub fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let Prepared { x, weight, bias, updates, gain } = self.prepare(pass, x)?;
        let derived: Vec<DerivedWeight> = self.adapters.iter().filter_map(|adapter| adapter.derive(pass)).collect();
        let product = |bias: Option<&Var>| match (derived.as_slice(), updates.as_slice()) {
            ([], updates) => pass.tape.low_rank_linear(&x, &weight, bias, updates),
            (derived, []) => pass.tape.derived_linear(&x, &weight, bias, derived),
            (derived, updates) => pass.tape.low_rank_linear(&x, &pass.tape.derived_weight(&weight, derived)?, bias, updates),
        };
        let y = match gain {
            None => product(bias.as_ref())?,
            Some(gain) => {
                let y = pass.tape.mul(&product(None)?, &gain)?;
                bias.map_or(Ok(y.clone()), |bias| pass.tape.add(&y, &bias))?
            }
        };
        self.adapters.iter().try_fold(y, |y, adapter| adapter.output(pass, &x, y))
    }

    /// Whether all that is attached can be merged into weight and bias.
    pub fn is_affine(&self) -> bool {
        self.adapters.iter().all(|adapter| adapter.is_affine())
    }
}
