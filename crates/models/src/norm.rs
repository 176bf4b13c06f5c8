//! Normalisation layers.

use crate::pass::Pass;
use crate::slots::{ParamSlot, SlotMut, Visitor};
use peftbench_ops::{Result, Tensor, Var};

/// A normalisation over the last dimension.
pub(crate) enum Norm {
    /// x / rms(x) · weight (Zhang and Sennrich, 2019).
    Rms {
        /// [width].
        weight: ParamSlot,
        /// Added to the mean square.
        eps: f64,
    },
    /// (x − mean) / deviation · weight + bias (Ba, Kiros and Hinton, 2016).
    Layer {
        /// Weight and bias, [width] each; absent where the config wants no trained ones.
        affine: Option<[ParamSlot; 2]>,
        /// Added to the variance.
        eps: f64,
    },
    /// x itself, where a config leaves the norm out.
    Identity,
    /// x / rms(x) · weight, the mean square being taken over each of `groups` equal parts of the width by itself: Mamba-2's behind its gate.
    GroupedRms {
        /// [width].
        weight: ParamSlot,
        /// Added to the mean squares.
        eps: f64,
        /// Parts of the width.
        groups: usize,
    },
    /// x / rms(x): Falcon-Mamba's.
    UnweightedRms {
        /// Added to the mean square.
        eps: f64,
    },
}

impl Norm {
    /// x [batch, length, width] → the same shape.
    pub fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        match self {
            Self::Rms { weight, eps } => pass.tape.rms_norm(x, &weight.forward(pass)?, *eps),
            Self::GroupedRms { weight, eps, groups } => {
                let (tape, dims) = (pass.tape, x.dims());
                let (rest, width) = (&dims[..dims.len() - 1], dims[dims.len() - 1]);
                let parts = tape.reshape(x, &[rest, &[*groups, width / groups]].concat())?;
                let normed = tape.reshape(&tape.rms_norm(&parts, &constant(&parts, 1.0)?, *eps)?, dims)?;
                tape.mul(&normed, &weight.forward(pass)?)
            }
            Self::UnweightedRms { eps } => pass.tape.rms_norm(x, &constant(x, 1.0)?, *eps),
            Self::Layer { affine: Some([weight, bias]), eps } => {
                pass.tape.layer_norm(x, &weight.forward(pass)?, &bias.forward(pass)?, *eps)
            }
            Self::Layer { affine: None, eps } => pass.tape.layer_norm(x, &constant(x, 1.0)?, &constant(x, 0.0)?, *eps),
            Self::Identity => Ok(x.clone()),
        }
    }

    /// Shows its tensors.
    pub fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        match self {
            Self::Rms { weight, .. } | Self::GroupedRms { weight, .. } => visitor(SlotMut::Param(weight)),
            Self::Layer { affine: Some(affine), .. } => affine.iter_mut().for_each(|slot| visitor(SlotMut::Param(slot))),
            Self::UnweightedRms { .. } | Self::Layer { affine: None, .. } | Self::Identity => {}
        }
    }
}

/// `value` for each column of x.
fn constant(x: &Var, value: f64) -> Result<Var> {
    let width = x.dims()[x.dims().len() - 1];
    Ok(Var::constant(Tensor::full(value as f32, width, x.value().device())?.to_dtype(x.value().dtype())?))
}
