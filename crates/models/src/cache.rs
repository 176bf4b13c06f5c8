//! What a model remembers between decoded tokens.

use candle_core::bail;
use peftbench_ops::key_values::KeyValues;
use peftbench_ops::{DType, Device, Result, Tensor};

/// The state of all layers after `position` tokens.
#[derive(Debug, Default)]
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
#[derive(Debug)]
pub enum LayerCache {
    /// Rotated keys and values so far.
    Attention(KeyValues),
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
        let indices = |device: &Device| Tensor::new(sequences, device);
        let layers = self.layers.iter().map(|layer| layer.select(&indices(layer.device())?)).collect::<Result<_>>()?;
        let mask = self.mask.as_ref().map(|mask| mask.index_select(&indices(mask.device())?, 0)).transpose()?;
        let padding = sequences.iter().filter_map(|&sequence| self.padding.get(sequence as usize).copied()).collect();
        Ok(Self { position: self.position, layers, mask, padding })
    }

    /// The cache of the sequences of several caches, in their order. Those that have seen fewer tokens are padded in front.
    ///
    /// # Errors
    /// Where the caches are of different models.
    pub fn join(mut caches: Vec<Self>) -> Result<Self> {
        if caches.len() < 2 {
            return Ok(caches.pop().unwrap_or_default());
        }
        let position = caches.iter().map(|cache| cache.position).max().unwrap_or(0);
        let layers = (0..caches[0].layers.len()).map(|layer| LayerCache::join(&caches, layer)).collect::<Result<_>>()?;
        let even = caches.iter().all(|cache| cache.position == position && cache.mask.is_none());
        if even {
            return Ok(Self { position, layers, ..Self::default() });
        }
        let (mut masks, mut padding) = (Vec::new(), Vec::new());
        for cache in caches {
            let Some(layer) = cache.layers.first() else { bail!("a cache that has seen no token cannot be joined") };
            let (batch, more) = (layer.batch(), position - cache.position);
            let own = cache.mask.clone().map_or_else(|| Tensor::ones((batch, cache.position), DType::U8, layer.device()), Ok)?;
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

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, layer: usize) -> Option<&mut LayerCache> {
        self.layers.get_mut(layer)
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
    /// The entry of these sequences, each as often as it is named.
    fn select(&self, sequences: &Tensor) -> Result<Self> {
        let pick = |tensor: &Tensor| tensor.contiguous()?.index_select(sequences, 0);
        Ok(match self {
            Self::Attention(all) => Self::Attention(all.select(sequences)?),
            Self::Ssm { context, state } => Self::Ssm { context: pick(context)?, state: pick(state)? },
        })
    }

    fn batch(&self) -> usize {
        match self {
            Self::Attention(all) => all.batch(),
            Self::Ssm { context, .. } => context.dims()[0],
        }
    }

    fn device(&self) -> &Device {
        match self {
            Self::Attention(all) => all.device(),
            Self::Ssm { context, .. } => context.device(),
        }
    }

    /// The entry of layer `layer` of all the caches; what has seen fewer tokens is padded in front.
    fn join(caches: &[Cache], layer: usize) -> Result<Self> {
        let (mut attention, mut contexts, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for cache in caches {
            match cache.get(layer) {
                Some(Self::Attention(all)) => attention.push(all),
                Some(Self::Ssm { context, state }) => {
                    contexts.push(context);
                    states.push(state);
                }
                None => bail!("the caches have different numbers of layers"),
            }
        }
        match (attention.is_empty(), states.is_empty()) {
            (false, true) => Ok(Self::Attention(KeyValues::join(&attention)?)),
            (true, false) => Ok(Self::Ssm { context: Tensor::cat(&contexts, 0)?, state: Tensor::cat(&states, 0)? }),
            _ => bail!("layer {layer} is attention in one cache and a state space in another"),
        }
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
        let layers = vec![LayerCache::Attention(KeyValues::new(&keys, &keys).unwrap()), LayerCache::Ssm { context: state.clone(), state }];
        Cache { position: tokens, layers, ..Cache::default() }
    }

    fn keys(cache: &Cache) -> Vec<Vec<f32>> {
        let LayerCache::Attention(all) = &cache.layers[0] else { panic!("layer 0 is attention") };
        all.keys().unwrap().squeeze(2).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn joined_caches_are_padded_in_front() {
        let joined = Cache::join(vec![cache(1, 3), cache(11, 1)]).unwrap();
        assert_eq!(keys(&joined), [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 11.0, 12.0]]);
        assert_eq!(joined.mask.as_ref().unwrap().to_vec2::<u8>().unwrap(), [[1, 1, 1], [0, 0, 1]]);
        assert_eq!((joined.position, &joined.padding[..]), (3, &[0, 2][..]));
        let selected = joined.select(&[1, 1, 0]).unwrap();
        assert_eq!(selected.padding, [2, 2, 0]);
        // Joined again: paddings add up.
        let again = Cache::join(vec![selected, cache(21, 4)]).unwrap();
        assert_eq!(again.padding, [3, 3, 1, 0]);
        assert_eq!(again.mask.unwrap().to_vec2::<u8>().unwrap(), [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]);
        let even = Cache::join(vec![cache(1, 2), cache(5, 2)]).unwrap();
        assert!(even.mask.is_none() && even.padding.is_empty());
    }

    #[test]
    fn caches_of_different_models_are_not_joined() {
        let mut other = cache(1, 2);
        other.layers.swap(0, 1);
        assert!(Cache::join(vec![cache(1, 2), other]).unwrap_err().to_string().contains("layer 0"));
        assert!(Cache::join(vec![cache(1, 2), Cache::default()]).is_err());
    }
}
