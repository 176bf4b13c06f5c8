//! What an SSM layer remembers: its recurrent state and the last inputs of its convolution.

use crate::cache::{Cache, LayerCache};
use crate::causal_lm::Step;
use crate::error::Result;
use crate::slots::StateSlot;
use peftbench_ops::{Tensor, Var};

/// The state of one layer, before its first token and between tokens.
pub(crate) struct SsmState {
    /// Index of the layer in the cache.
    pub layer: usize,
    /// What a method may learn to start from.
    pub start: StateSlot,
}

impl SsmState {
    /// The state and the convolution's context before this pass: from the cache, or what a method has attached.
    pub fn before(&self, step: &Step<'_>, batch: usize, cache: Option<&Cache>) -> Result<(Option<Var>, Option<Var>)> {
        match cache.and_then(|cache| cache.get(self.layer)) {
            Some(LayerCache::Ssm { context, state }) => Ok((Some(Var::constant(state.clone())), Some(Var::constant(context.clone())))),
            _ => Ok(self.start.forward(step.pass, batch)?),
        }
    }

    /// The inputs that a method puts in front of a sequence's beginning, for every sequence: [batch, virtual tokens, width].
    pub fn virtual_inputs(&self, step: &Step<'_>, batch: usize, cache: Option<&Cache>) -> Result<Option<Var>> {
        if cache.and_then(|cache| cache.get(self.layer)).is_some() {
            return Ok(None);
        }
        let Some(inputs) = self.start.virtual_inputs(step.pass)? else { return Ok(None) };
        let dims = [batch, inputs.dims()[0], inputs.dims()[1]];
        Ok(Some(step.pass.tape.broadcast_to(&inputs, &dims)?))
    }

    /// Stores the state behind this pass, and the last of the convolution's `inputs` [batch, length, channels] with those before them.
    pub fn store(&self, cache: &mut Cache, inputs: &Var, context: Option<&Var>, state: Tensor) -> Result<()> {
        let (batch, length, channels) = inputs.value().dims3()?;
        let (kept, inputs) = (self.start.context, inputs.value());
        let context = if length >= kept {
            inputs.narrow(1, length - kept, kept)?.contiguous()?
        } else {
            let before = match context {
                Some(context) => context.value().narrow(1, length, kept - length)?.contiguous()?,
                None => Tensor::zeros((batch, kept - length, channels), inputs.dtype(), inputs.device())?,
            };
            Tensor::cat(&[&before, &inputs.contiguous()?], 1)?
        };
        cache.put(self.layer, LayerCache::Ssm { context, state });
        Ok(())
    }
}
