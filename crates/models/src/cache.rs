//! What a model remembers between decoded tokens.

use peftbench_ops::Tensor;

/// The state of all layers after `position` tokens.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Tokens seen, virtual ones included.
    pub position: usize,
    /// One entry a layer, in order; empty before the first token.
    pub layers: Vec<LayerCache>,
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
