//! What a forward pass carries besides its input.

use crate::column_weights::ColumnWeights;
use peftbench_ops::{Result, Tape, Tensor, Var};
use peftbench_spec::seed::Stream;
use rand::Rng;
use std::cell::RefCell;

/// One forward pass: the tape it is recorded on, its padding mask, and what training adds.
pub struct Pass<'a> {
    /// The tape.
    pub tape: &'a Tape,
    /// [batch, length] of u8: 0 where a position is padding. Absent where nothing is.
    pub mask: Option<&'a Tensor>,
    /// Stream of dropout seeds; absent in evaluation, where dropout is off.
    pub dropout: Option<&'a RefCell<Stream>>,
    /// Factor on each layer's adapters; absent where all are 1. Layer policies suppress layers with it.
    pub adapter_scale: Option<&'a [f64]>,
    /// Whether each layer keeps its input only and is run again in the backward pass (Chen et al., 2016).
    pub gradient_checkpointing: bool,
    /// Where to leave the residual stream: before the first layer, behind each one, and behind the last norm. Absent where nobody looks.
    pub hidden_states: Option<&'a RefCell<Vec<Var>>>,
    /// Weights stored for few rows, in passes that decode several sequences and record nothing.
    pub column_weights: Option<&'a ColumnWeights>,
}

impl<'a> Pass<'a> {
    /// A pass in evaluation mode.
    pub fn evaluation(tape: &'a Tape) -> Self {
        Self {
            tape,
            mask: None,
            dropout: None,
            adapter_scale: None,
            gradient_checkpointing: false,
            hidden_states: None,
            column_weights: None,
        }
    }

    /// The same pass with a padding mask.
    pub fn with_mask(self, mask: Option<&'a Tensor>) -> Self {
        Self { mask, ..self }
    }

    /// Leaves x where the caller looks for hidden states.
    pub(crate) fn observe(&self, x: &Var) {
        if let Some(states) = self.hidden_states {
            states.borrow_mut().push(x.clone());
        }
    }

    /// x after dropout with probability `p`; x itself in evaluation mode or with p = 0.
    pub fn dropout(&self, x: &Var, p: f64) -> Result<Var> {
        match self.dropout {
            Some(stream) if p > 0.0 => self.tape.dropout(x, p, stream.borrow_mut().next_u64()),
            _ => Ok(x.clone()),
        }
    }

    /// Factor on the adapters of `layer`.
    pub fn scale_of(&self, layer: Option<usize>) -> f64 {
        match (self.adapter_scale, layer) {
            (Some(scales), Some(layer)) => scales.get(layer).copied().unwrap_or(1.0),
            _ => 1.0,
        }
    }
}
