//! Making slots from a source of tensors.

use crate::error::Result;
use crate::norm::Norm;
use crate::slots::{LinearSlot, ParamSlot, RowPart, SlotInfo};
use crate::weights::{Init, Weights, param};
use peftbench_spec::Role;

/// Standard deviation of fresh weights, as Hugging Face's `initializer_range` has it by default.
const INITIALIZER_RANGE: f64 = 0.02;

/// Makes the slots below one prefix of names.
pub(crate) struct Builder<'a> {
    weights: &'a dyn Weights,
    prefix: String,
    layer: Option<usize>,
}

/// Shape and fresh values of a linear layer.
pub(crate) struct LinearSpec {
    out: usize,
    input: usize,
    init: Init,
    bias: Option<Init>,
    parts: Vec<RowPart>,
    transposed: bool,
}

impl LinearSpec {
    /// [out, input] without bias.
    pub fn new(out: usize, input: usize) -> Self {
        Self { out, input, init: Init::Normal(INITIALIZER_RANGE), bias: None, parts: Vec::new(), transposed: false }
    }

    /// A projection back into a residual stream that adds up `terms` outputs: GPT-2's scaling of fresh weights.
    pub fn residual(self, terms: usize) -> Self {
        self.init(Init::Normal(INITIALIZER_RANGE / (terms as f64).sqrt()))
    }

    /// Fresh values other than the default.
    pub fn init(self, init: Init) -> Self {
        Self { init, ..self }
    }

    /// With a bias, if `wanted`, of zeros when fresh.
    pub fn bias(self, wanted: bool) -> Self {
        Self { bias: wanted.then_some(Init::Constant(0.0)), ..self }
    }

    /// With a bias of these fresh values.
    pub fn bias_init(self, init: Init) -> Self {
        Self { bias: Some(init), ..self }
    }

    /// Names consecutive ranges of the output rows.
    pub fn parts(self, parts: &[(&'static str, usize)]) -> Self {
        self.interleaved_parts(1, parts)
    }

    /// Names ranges of the output rows that repeat `times` one behind another.
    pub fn interleaved_parts(self, times: usize, parts: &[(&'static str, usize)]) -> Self {
        let period: usize = parts.iter().map(|(_, rows)| rows).sum();
        let mut start = 0;
        let part = |&(name, rows): &(&'static str, usize)| {
            let first = start;
            start += rows;
            RowPart { name, rows: (0..times).map(|i| i * period + first..i * period + first + rows).collect() }
        };
        Self { parts: parts.iter().map(part).collect(), ..self }
    }

    /// With a weight that the checkpoint stores as [input, out], if `wanted`.
    pub fn transposed(self, wanted: bool) -> Self {
        Self { transposed: wanted, ..self }
    }
}

impl<'a> Builder<'a> {
    /// The builder of a whole model.
    pub fn new(weights: &'a dyn Weights) -> Self {
        Self { weights, prefix: String::new(), layer: None }
    }

    /// The builder of one layer, whose names begin with `prefix` and a dot.
    pub fn layer(&self, prefix: &str, layer: usize) -> Self {
        Self { weights: self.weights, prefix: format!("{}{prefix}.", self.prefix), layer: Some(layer) }
    }

    /// The builder of a module, whose names begin with `prefix` and a dot.
    pub fn within(&self, prefix: &str) -> Self {
        Self { weights: self.weights, prefix: format!("{}{prefix}.", self.prefix), layer: self.layer }
    }

    /// Where the slot `name` is and what it does.
    pub fn info(&self, name: &str, role: Role) -> SlotInfo {
        SlotInfo { path: format!("{}{name}", self.prefix), layer: self.layer, role }
    }

    /// A raw tensor.
    pub fn tensor(&self, name: &str, role: Role, dims: &[usize], init: Init) -> Result<ParamSlot> {
        let info = self.info(name, role);
        let value = param(self.weights, &info.path, dims, init)?;
        Ok(ParamSlot::new(info, value))
    }

    /// A linear layer `name.weight`, `name.bias`.
    pub fn linear(&self, name: &str, role: Role, spec: LinearSpec) -> Result<LinearSlot> {
        let info = self.info(name, role);
        let dims = if spec.transposed { [spec.input, spec.out] } else { [spec.out, spec.input] };
        let weight = param(self.weights, &format!("{}.weight", info.path), &dims, spec.init)?;
        let bias = spec.bias.map(|init| param(self.weights, &format!("{}.bias", info.path), &[spec.out], init)).transpose()?;
        let slot = LinearSlot::new(info, weight, bias, spec.parts);
        Ok(if spec.transposed { slot.stored_transposed() } else { slot })
    }

    /// An embedding table `name.weight` [rows, width].
    pub fn embedding(&self, name: &str, rows: usize, width: usize) -> Result<ParamSlot> {
        self.tensor(&format!("{name}.weight"), Role::Embedding, &[rows, width], Init::Normal(INITIALIZER_RANGE))
    }

    /// An RMSNorm `name.weight`.
    pub fn rms_norm(&self, name: &str, width: usize, eps: f64) -> Result<Norm> {
        Ok(Norm::Rms { weight: self.tensor(&format!("{name}.weight"), Role::Norm, &[width], Init::Constant(1.0))?, eps })
    }

    /// A layer norm `name.weight`, `name.bias`.
    pub fn layer_norm(&self, name: &str, width: usize, eps: f64) -> Result<Norm> {
        let tensor = |suffix: &str, fresh| self.tensor(&format!("{name}.{suffix}"), Role::Norm, &[width], Init::Constant(fresh));
        Ok(Norm::Layer { affine: Some([tensor("weight", 1.0)?, tensor("bias", 0.0)?]), eps })
    }

    /// The untied head `lm_head.weight` [vocabulary, hidden], or none where the embedding serves.
    pub fn head(&self, tied: bool, vocab: usize, hidden: usize) -> Result<Option<LinearSlot>> {
        (!tied).then(|| self.linear("lm_head", Role::LmHead, LinearSpec::new(vocab, hidden))).transpose()
    }
}
