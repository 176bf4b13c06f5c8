//! Weights of linear layers, stored for passes with few rows.

use peftbench_ops::linear::stored_by_columns;
use peftbench_ops::param::ParamKey;
use peftbench_ops::{Param, Result, Tensor, Var};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Copies of the weights of linear layers that are stored column by column: a step that decodes a few sequences reads them as they lie, where it
/// would spend more time on laying out each weight than on multiplying by it. A weight is copied when it is first used, and large ones, which take
/// longer to read than to lay out, never.
#[derive(Default)]
pub struct ColumnWeights(Mutex<HashMap<ParamKey, Copied>>);

struct Copied {
    of: Tensor,
    copy: Tensor,
}

impl ColumnWeights {
    /// The parameter's value [out, in], stored so where that is of use.
    pub(crate) fn get(&self, param: &Param) -> Result<Var> {
        let value = param.value();
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present = copies.get(&param.key()).filter(|copied| copied.of.id() == value.id());
        if let Some(copied) = present {
            return Ok(Var::constant(copied.copy.clone()));
        }
        let copy = stored_by_columns(&value)?.unwrap_or_else(|| value.clone());
        copies.insert(param.key(), Copied { of: value, copy: copy.clone() });
        Ok(Var::constant(copy))
    }
}
