//! Keys and values of any type on any device.

use super::room_for;
use candle_core::{Result, Tensor, bail};

/// Keys and values as tensors. There is no `Clone`: who continues one copy would change the other.
#[derive(Debug)]
pub struct Tensors {
    /// [batch, room, width].
    keys: Tensor,
    /// [batch, room, width].
    values: Tensor,
    pub(super) tokens: usize,
}

impl Tensors {
    /// Of keys and values [batch, tokens, width]. There is no room behind them yet: what is appended goes into new storage, never into theirs.
    pub(super) fn new(keys: &Tensor, values: &Tensor) -> Result<Self> {
        Ok(Self { keys: keys.contiguous()?, values: values.contiguous()?, tokens: keys.dim(1)? })
    }

    pub(super) fn room(&self) -> usize {
        self.keys.dims()[1]
    }

    pub(super) fn stored(&self) -> &Tensor {
        &self.keys
    }

    /// The keys, [batch, tokens, width].
    pub(super) fn keys(&self) -> Result<Tensor> {
        self.keys.narrow(1, 0, self.tokens)?.contiguous()
    }

    /// The values, [batch, tokens, width].
    pub(super) fn values(&self) -> Result<Tensor> {
        self.values.narrow(1, 0, self.tokens)?.contiguous()
    }

    /// Adds keys and values of further tokens, [batch, more, width].
    pub(super) fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let tokens = self.tokens + keys.dim(1)?;
        if tokens > self.room() {
            *self = Self::join(&[self], room_for(tokens))?;
        }
        self.keys.slice_set(&keys.contiguous()?, 1, self.tokens)?;
        self.values.slice_set(&values.contiguous()?, 1, self.tokens)?;
        self.tokens = tokens;
        Ok(())
    }

    /// Those of these sequences.
    pub(super) fn select(&self, sequences: &Tensor) -> Result<Self> {
        Ok(Self { keys: self.keys.index_select(sequences, 0)?, values: self.values.index_select(sequences, 0)?, tokens: self.tokens })
    }

    /// Those of several batches, one behind the other, with memory for `room` tokens. Sequences of fewer tokens than the longest are padded in front,
    /// with zeros.
    pub(super) fn join(batches: &[&Self], room: usize) -> Result<Self> {
        let tokens = batches.iter().map(|batch| batch.tokens).max().unwrap_or(0);
        let widened = |part: fn(&Self) -> Result<Tensor>| -> Result<Tensor> {
            let Some(first) = batches.first() else { bail!("there is nothing to join") };
            let sequences = batches.iter().map(|batch| batch.keys.dims()[0]).sum::<usize>();
            let all = Tensor::zeros((sequences, room, first.keys.dim(2)?), first.keys.dtype(), first.keys.device())?;
            let mut start = 0;
            for batch in batches {
                let part = part(batch)?;
                all.narrow(0, start, part.dims()[0])?.slice_set(&part, 1, tokens - batch.tokens)?;
                start += part.dims()[0];
            }
            Ok(all)
        };
        Ok(Self { keys: widened(Self::keys)?, values: widened(Self::values)?, tokens })
    }
}
