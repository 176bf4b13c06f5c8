//! What a model remembers between decoded tokens.

use candle_core::bail;
use peftbench_ops::{DType, Result, Tensor};

/// The state of all layers after `position` tokens.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Tokens seen, virtual ones included.
    pub position: usize,
    /// One entry a layer, in order; empty before the first token.
    pub layers: Vec<LayerCache>,
    /// Which of the positions are padding (0), [batch, position] of u8; absent where none is.
    pub mask: Option<Tensor>,
    /// How many positions padding takes up in front of each sequence, and of its prefix if it has one; empty where none does. A
    /// sequence counts its positions from behind its padding.
    pub padding: Vec<usize>,
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
        let padding = sequences.iter().filter_map(|&sequence| self.padding.get(sequence as usize).copied()).collect();
        Ok(Self { position: self.position, layers, mask, padding })
    }

    /// The cache of the sequences of several caches, in their order. Those that have seen fewer tokens are padded in front.
    ///
    /// # Errors
    /// Where the caches are of different models.
    pub fn join(caches: &[Self]) -> Result<Self> {
        let (Some(first), Some(position)) = (caches.first(), caches.iter().map(|cache| cache.position).max()) else {
            return Ok(Self::default());
        };
        if caches.len() == 1 {
            return Ok(first.clone());
        }
        let layers = (0..first.layers.len()).map(|layer| LayerCache::join(caches, layer, position)).collect::<Result<_>>()?;
        let even = caches.iter().all(|cache| cache.position == position && cache.mask.is_none());
        if even {
            return Ok(Self { position, layers, ..Self::default() });
        }
        let (mut masks, mut padding) = (Vec::new(), Vec::new());
        for cache in caches {
            let Some(like) = cache.layers.first().map(LayerCache::first_tensor) else {
                bail!("a cache that has seen no token cannot be joined")
            };
            let (batch, more) = (like.dim(0)?, position - cache.position);
            let own = cache.mask.clone().map_or_else(|| Tensor::ones((batch, cache.position), DType::U8, like.device()), Ok)?;
            masks.push(own.pad_with_zeros(1, more, 0)?);
            match cache.padding.is_empty() {
                true => padding.extend(std::iter::repeat_n(more, batch)),
                false => padding.extend(cache.padding.iter().map(|padding| padding + more)),
            }
        }
        Ok(Self { position, layers, mask: Some(Tensor::cat(&masks, 0)?), padding })
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
    fn map(&self, pick: &impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Attention { keys, values } => Self::Attention { keys: pick(keys)?, values: pick(values)? },
            Self::Ssm { context, state } => Self::Ssm { context: pick(context)?, state: pick(state)? },
        })
    }

    fn first_tensor(&self) -> &Tensor {
        match self {
            Self::Attention { keys, .. } => keys,
            Self::Ssm { context, .. } => context,
        }
    }

    /// The entry of layer `layer` of all the caches, each padded to `position`.
    fn join(caches: &[Cache], layer: usize, position: usize) -> Result<Self> {
        let (mut first, mut second, mut grows) = (Vec::new(), Vec::new(), Vec::new());
        for cache in caches {
            let more = position - cache.position;
            match cache.layers.get(layer) {
                Some(Self::Attention { keys, values }) => {
                    first.push(keys.pad_with_zeros(1, more, 0)?);
                    second.push(values.pad_with_zeros(1, more, 0)?);
                    grows.push(true);
                }
                Some(Self::Ssm { context, state }) => {
                    first.push(context.clone());
                    second.push(state.clone());
                    grows.push(false);
                }
                None => bail!("the caches have different numbers of layers"),
            }
        }
        let attention = grows.iter().all(|grows| *grows);
        if !attention && grows.contains(&true) {
            bail!("layer {layer} is attention in one cache and a state space in another");
        }
        let (first, second) = (Tensor::cat(&first, 0)?, Tensor::cat(&second, 0)?);
        Ok(if attention { Self::Attention { keys: first, values: second } } else { Self::Ssm { context: first, state: second } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_ops::device::host;

    /// A cache of one sequence whose keys count from `from`, with a prefix of one key.
    fn cache(from: u8, tokens: usize) -> Cache {
        let keys: Vec<f32> = (0..=tokens).map(|i| f32::from(from) + i as f32).collect();
        let keys = Tensor::from_vec(keys, (1, tokens + 1, 1), &host()).unwrap();
        let state = Tensor::full(f32::from(from), (1, 2, 3), &host()).unwrap();
        let layers = vec![LayerCache::Attention { keys: keys.clone(), values: keys }, LayerCache::Ssm { context: state.clone(), state }];
        Cache { position: tokens, layers, ..Cache::default() }
    }

    fn keys(cache: &Cache) -> Vec<Vec<f32>> {
        let LayerCache::Attention { keys, .. } = &cache.layers[0] else { panic!("layer 0 is attention") };
        keys.squeeze(2).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn joined_caches_are_padded_in_front() {
        let joined = Cache::join(&[cache(1, 3), cache(11, 1)]).unwrap();
        assert_eq!(keys(&joined), [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 11.0, 12.0]]);
        assert_eq!(joined.mask.as_ref().unwrap().to_vec2::<u8>().unwrap(), [[1, 1, 1], [0, 0, 1]]);
        assert_eq!((joined.position, &joined.padding[..]), (3, &[0, 2][..]));
        let selected = joined.select(&[1, 1, 0]).unwrap();
        assert_eq!(selected.padding, [2, 2, 0]);
        // Joined again: paddings add up.
        let again = Cache::join(&[selected, cache(21, 4)]).unwrap();
        assert_eq!(again.padding, [3, 3, 1, 0]);
        assert_eq!(again.mask.unwrap().to_vec2::<u8>().unwrap(), [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]);
        let even = Cache::join(&[cache(1, 2), cache(5, 2)]).unwrap();
        assert!(even.mask.is_none() && even.padding.is_empty());
    }

    #[test]
    fn caches_of_different_models_are_not_joined() {
        let mut other = cache(1, 2);
        other.layers.swap(0, 1);
        assert!(Cache::join(&[cache(1, 2), other]).unwrap_err().to_string().contains("layer 0"));
        assert!(Cache::join(&[cache(1, 2), Cache::default()]).is_err());
    }
}
