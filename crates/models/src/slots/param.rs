//! Raw tensors.

use super::SlotInfo;
use crate::pass::Pass;
use peftbench_ops::{Param, Result, Tensor, Var};

/// A raw tensor: A_log, D, a convolution's weight, a norm's weight, a bias, an embedding.
pub struct ParamSlot {
    /// Place and role; the path is the tensor's name.
    pub info: SlotInfo,
    /// The tensor.
    pub param: Param,
    adapters: Vec<Box<dyn ParamAdapter>>,
}

/// What may be attached to a raw tensor. Every hook has the identity as its default.
pub trait ParamAdapter: Send + Sync {
    /// The tensor to use in place of `value`, in its shape.
    fn transform(&self, _pass: &Pass<'_>, value: Var) -> Result<Var> {
        Ok(value)
    }

    /// The rows [.., width] to use in place of those that `ids` [..] look up in a table. It leaves other uses of the table alone, such as
    /// a head that is tied to it.
    fn lookup(&self, _pass: &Pass<'_>, _ids: &Tensor, rows: Var) -> Result<Var> {
        Ok(rows)
    }
}

impl ParamSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo, param: Param) -> Self {
        Self { info, param, adapters: Vec::new() }
    }

    /// The tensor with what is attached.
    pub fn forward(&self, pass: &Pass<'_>) -> Result<Var> {
        self.adapters.iter().try_fold(pass.tape.param(&self.param), |value, adapter| adapter.transform(pass, value))
    }

    /// A linear layer's weight [out, in] with what is attached, stored as suits the pass.
    pub(crate) fn weight(&self, pass: &Pass<'_>) -> Result<Var> {
        match pass.column_weights {
            Some(weights) if self.adapters.is_empty() => weights.get(&self.param),
            _ => self.forward(pass),
        }
    }

    /// The rows `ids` [..] of a table [rows, width], with what is attached → [.., width].
    pub fn lookup(&self, pass: &Pass<'_>, ids: &Tensor) -> Result<Var> {
        let rows = pass.tape.embedding(&self.forward(pass)?, ids)?;
        self.adapters.iter().try_fold(rows, |rows, adapter| adapter.lookup(pass, ids, rows))
    }

    /// Attaches `adapter` behind those already there.
    pub fn attach(&mut self, adapter: Box<dyn ParamAdapter>) {
        self.adapters.push(adapter);
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }
}
