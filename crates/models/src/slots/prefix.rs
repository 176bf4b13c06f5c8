//! Virtual keys and values.

use super::SlotInfo;
use crate::pass::Pass;
use peftbench_ops::{Result, Var};

/// Keys and values in front of an attention layer's own.
pub struct PrefixSlot {
    /// Place and role.
    pub info: SlotInfo,
    /// Width of the keys, and of the values: key-value heads · head_dim.
    pub width: usize,
    adapter: Option<Box<dyn PrefixAdapter>>,
}

/// Virtual keys and values.
pub trait PrefixAdapter: Send + Sync {
    /// Keys and values, each [virtual tokens, width]; keys are used as they are, without rotation.
    fn keys_values(&self, pass: &Pass<'_>) -> Result<(Var, Var)>;
}

impl PrefixSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo, width: usize) -> Self {
        Self { info, width, adapter: None }
    }

    /// k and v [batch, length, width] with the prefix in front.
    pub fn forward(&self, pass: &Pass<'_>, k: Var, v: Var) -> Result<(Var, Var)> {
        let Some(adapter) = &self.adapter else { return Ok((k, v)) };
        let (prefix_k, prefix_v) = adapter.keys_values(pass)?;
        let join = |prefix: &Var, own: &Var| {
            let prefix = pass.tape.broadcast_to(prefix, &[own.dims()[0], prefix.dims()[0], self.width])?;
            pass.tape.cat(&[&prefix, own], 1)
        };
        Ok((join(&prefix_k, &k)?, join(&prefix_v, &v)?))
    }

    /// Attaches `adapter` in place of any before.
    pub fn attach(&mut self, adapter: Box<dyn PrefixAdapter>) {
        self.adapter = Some(adapter);
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        self.adapter.is_some()
    }
}
