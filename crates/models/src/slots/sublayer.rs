//! Outputs of sub-layers.

use super::SlotInfo;
use crate::pass::Pass;
use peftbench_ops::{Result, Var};

/// The output of a mixer, attention or MLP sub-layer.
pub struct SublayerSlot {
    /// Place and role.
    pub info: SlotInfo,
    adapters: Vec<Box<dyn SublayerAdapter>>,
}

/// What may be attached to a sub-layer.
pub trait SublayerAdapter: Send + Sync {
    /// The output to use in place of y; x is the sub-layer's input, both [batch, length, hidden].
    fn output(&self, pass: &Pass<'_>, x: &Var, y: Var) -> Result<Var>;
}

impl SublayerSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo) -> Self {
        Self { info, adapters: Vec::new() }
    }

    /// The sub-layer's output with what is attached.
    pub fn forward(&self, pass: &Pass<'_>, x: &Var, y: Var) -> Result<Var> {
        self.adapters.iter().try_fold(y, |y, adapter| adapter.output(pass, x, y))
    }

    /// Attaches `adapter` behind those already there.
    pub fn attach(&mut self, adapter: Box<dyn SublayerAdapter>) {
        self.adapters.push(adapter);
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }
}
