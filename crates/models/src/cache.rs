//! What a model remembers between decoded tokens.

use peftbench_ops::{Result, Tensor};

/// The state of all layers after `position` tokens.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Tokens seen, virtual ones included.
    pub position: usize,
    /// One entry a layer, in order; empty before the first token.
    pub layers: Vec<LayerCache>,
    /// Which of the positions are padding (0), [batch, position] of u8; absent where none is.
    pub mask: Option<Tensor>,
}

/// The state of one layer.
#[derive(Debug, Clone)]
pub enum LayerCache {
    /// Rotated keys and values so far, [batch, tokens, key-value heads · head_dim] each.
    Attention {
        /// Keys.
        keys: Tensor,
        /// Values.
        values: Tensor,
    },
    /// A selective state space.
    Ssm {
        /// Last inputs of the convolution, [batch, taps − 1, inner].
        context: Tensor,
        /// State, [batch, inner, state].
        state: Tensor,
    },
}

impl Cache {
    /// The cache of a batch made of these sequences of this one, each as often as it is named: the same prompt before several
    /// continuations, or the beams of a search that go on.
    ///
    /// # Errors
    /// Where a sequence is outside the batch.
    pub fn select(&self, sequences: &[u32]) -> Result<Self> {
        let pick = |tensor: &Tensor| tensor.contiguous()?.index_select(&Tensor::new(sequences, tensor.device())?, 0);
        let layers = self.layers.iter().map(|layer| layer.map(&pick)).collect::<Result<_>>()?;
        let mask = self.mask.as_ref().map(pick).transpose()?;
        Ok(Self { position: self.position, layers, mask })
    }

    /// The entry of `layer`, none before the first token.
    pub(crate) fn get(&self, layer: usize) -> Option<&LayerCache> {
        self.layers.get(layer)
    }

    /// Stores the entry of `layer`; layers come in order.
    pub(crate) fn put(&mut self, layer: usize, entry: LayerCache) {
        match self.layers.get_mut(layer) {
            Some(present) => *present = entry,
            None => self.layers.push(entry),
        }
    }
}

impl LayerCache {
    /// The entry with each of its tensors, all [batch, …], changed.
    fn map(&self, pick: &impl Fn(&Tensor) -> peftbench_ops::Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Attention { keys, values } => Self::Attention { keys: pick(keys)?, values: pick(values)? },
            Self::Ssm { context, state } => Self::Ssm { context: pick(context)?, state: pick(state)? },
        })
    }
}
