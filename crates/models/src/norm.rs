//! Normalisation layers.

use crate::pass::Pass;
use crate::slots::{ParamSlot, SlotMut, Visitor};
use peftbench_ops::{Result, Var};

/// A normalisation over the last dimension.
pub(crate) enum Norm {
    /// x / rms(x) · weight (Zhang and Sennrich, 2019).
    Rms {
        /// [width].
        weight: ParamSlot,
        /// Added to the mean square.
        eps: f64,
    },
}

impl Norm {
    /// x [batch, length, width] → the same shape.
    pub fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        match self {
            Self::Rms { weight, eps } => pass.tape.rms_norm(x, &weight.forward(pass)?, *eps),
        }
    }

    /// Shows its tensors.
    pub fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        match self {
            Self::Rms { weight, .. } => visitor(SlotMut::Param(weight)),
        }
    }
}
