//! Keys and values of the tokens that a layer has seen, as attention to further tokens reads them.

use crate::cpu::{is_f32_cpu, prefetch, unwritten, with_rows};
use crate::gemm::Matrix;
use crate::simd::LANES;
use crate::small_product::gathered;
use candle_core::{Device, Result, Tensor, bail};

/// Keys and values of a batch of sequences that grow together, written in place into room behind them. There is no `Clone`: who continues one copy
/// would change the other.
///
/// Keys lie token by token along the last dimension, so that the scores of a query are sums of whole rows.
#[derive(Debug)]
pub struct KeyValues {
    /// [batch, width, room].
    keys: Tensor,
    /// [batch, room, width].
    values: Tensor,
    tokens: usize,
}

impl KeyValues {
    /// Of keys and values [batch, tokens, width].
    ///
    /// # Errors
    /// Where the shapes differ.
    pub fn new(keys: &Tensor, values: &Tensor) -> Result<Self> {
        if keys.dims() != values.dims() {
            bail!("keys {:?} and values {:?} are not of one shape", keys.dims(), values.dims())
        }
        let tokens = keys.dim(1)?;
        // There is no room behind them yet: what is appended goes into new storage, never into that of `values`.
        Ok(Self { keys: by_token(keys)?, values: values.contiguous()?, tokens })
    }

    /// Tokens seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.keys.dims()[0]
    }

    /// Key-value heads · head_dim.
    pub fn width(&self) -> usize {
        self.keys.dims()[1]
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        self.keys.device()
    }

    /// The keys, [batch, tokens, width].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn keys(&self) -> Result<Tensor> {
        self.keys.narrow(2, 0, self.tokens)?.transpose(1, 2)?.contiguous()
    }

    /// The values, [batch, tokens, width].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn values(&self) -> Result<Tensor> {
        self.values.narrow(1, 0, self.tokens)?.contiguous()
    }

    /// Adds keys and values of further tokens, [batch, more, width].
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let tokens = self.tokens + keys.dim(1)?;
        if tokens > self.room() {
            let room = room_for(tokens);
            (self.keys, self.values) = (widened(&[(&self.keys, 0)], 2, room)?, widened(&[(&self.values, 0)], 1, room)?);
        }
        self.keys.slice_set(&by_token(keys)?, 2, self.tokens)?;
        self.values.slice_set(&values.contiguous()?, 1, self.tokens)?;
        self.tokens = tokens;
        Ok(())
    }

    /// Those of these sequences, each as often as it is named: indices [n] of u32.
    ///
    /// # Errors
    /// Where a sequence is outside the batch.
    pub fn select(&self, sequences: &Tensor) -> Result<Self> {
        Ok(Self { keys: self.keys.index_select(sequences, 0)?, values: self.values.index_select(sequences, 0)?, tokens: self.tokens })
    }

    /// Those of several batches, one behind the other. Sequences of fewer tokens than the longest are padded in front, with zeros.
    ///
    /// # Errors
    /// Where there is none, or the widths differ.
    pub fn join(batches: &[&Self]) -> Result<Self> {
        let tokens = batches.iter().map(|batch| batch.tokens).max().unwrap_or(0);
        let front = |batch: &Self| tokens - batch.tokens;
        let room = batches.iter().map(|batch| front(batch) + batch.room()).max().unwrap_or(0).max(room_for(tokens));
        let keys: Vec<_> = batches.iter().map(|batch| (&batch.keys, front(batch))).collect();
        let values: Vec<_> = batches.iter().map(|batch| (&batch.values, front(batch))).collect();
        Ok(Self { keys: widened(&keys, 2, room)?, values: widened(&values, 1, room)?, tokens })
    }

    fn room(&self) -> usize {
        self.values.dims()[1]
    }

    /// With keys and values in memory, for the kernel on the CPU.
    pub(crate) fn with_memory<R>(&self, body: impl FnOnce(Memory<'_>) -> Result<R>) -> Result<R> {
        let (width, room) = (self.width(), self.room());
        with_rows(&self.keys, |keys| {
            with_rows(&self.values, |values| body(Memory { keys: keys.data(), values: values.data(), width, room }))
        })
    }

    /// Whether the kernel can run on it.
    pub(crate) fn is_f32_cpu(&self) -> bool {
        is_f32_cpu(&self.keys) && is_f32_cpu(&self.values)
    }
}

/// Keys and values in the CPU's memory.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    width: usize,
    room: usize,
}

impl<'a> Memory<'a> {
    /// The keys of sequence `b` from column `column` on: a row for each column, and a column for each token.
    pub fn keys(&self, b: usize, column: usize) -> Matrix<'a> {
        Matrix::rows(&self.keys[(b * self.width + column) * self.room..], self.room)
    }

    /// Has the processor fetch the keys and values of `tokens` tokens in `width` columns from `column` on. All of a batch's are more than its caches
    /// hold, and it foresees no walk down a few columns.
    pub fn prefetch(&self, b: usize, column: usize, width: usize, tokens: usize) {
        const LINE: usize = 16;
        for row in 0..width {
            let start = (b * self.width + column + row) * self.room;
            (0..tokens).step_by(LINE).for_each(|at| prefetch(self.keys.as_ptr().wrapping_add(start + at)));
        }
        for token in 0..tokens {
            let start = (b * self.room + token) * self.width + column;
            (0..width).step_by(LINE).for_each(|at| prefetch(self.values.as_ptr().wrapping_add(start + at)));
        }
    }

    /// The values of sequence `b` from column `column` on: a row for each token.
    pub fn values(&self, b: usize, column: usize) -> Matrix<'a> {
        Matrix::rows(&self.values[b * self.room * self.width + column..], self.width)
    }
}

/// Room for so many tokens and some to come: half as many again, so that moving them is rare, and whole registers.
fn room_for(tokens: usize) -> usize {
    (tokens + tokens / 2).next_multiple_of(LANES) + LANES
}

/// [batch, tokens, width] as [batch, width, tokens], contiguous.
pub(crate) fn by_token(x: &Tensor) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    if !is_f32_cpu(x) {
        return x.transpose(1, 2)?.contiguous();
    }
    with_rows(x, |rows| {
        #[allow(unsafe_code)]
        // SAFETY: the loop below writes the part of every sequence.
        let mut out = unsafe { unwritten(batch * width * tokens) };
        for (b, part) in out.chunks_exact_mut((width * tokens).max(1)).enumerate() {
            match tokens {
                1 => part.copy_from_slice(rows.row(b)),
                _ => {
                    part.copy_from_slice(&gathered(Matrix::rows(&rows.data()[b * tokens * rows.stride..], rows.stride).t(), width, tokens))
                }
            }
        }
        Tensor::from_vec(out, (batch, width, tokens), &Device::Cpu)
    })
}

/// Tensors [batch, …] one behind the other, dimension `dim` of each beginning at its offset in one of size `room`. Zeros elsewhere.
fn widened(parts: &[(&Tensor, usize)], dim: usize, room: usize) -> Result<Tensor> {
    let Some((like, _)) = parts.first() else { bail!("there is nothing to join") };
    let mut dims = like.dims().to_vec();
    dims[0] = parts.iter().map(|(part, _)| part.dims()[0]).sum();
    dims[dim] = room;
    let all = Tensor::zeros(dims, like.dtype(), like.device())?;
    let mut start = 0;
    for (part, offset) in parts {
        let batch = part.dims()[0];
        all.narrow(0, start, batch)?.slice_set(part, dim, *offset)?;
        start += batch;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// Keys of one sequence that count from `from`; values are their negatives. Width 3.
    fn counted(from: usize, tokens: usize) -> (Tensor, Tensor) {
        let keys: Vec<f32> = (from * 3..(from + tokens) * 3).map(|i| i as f32).collect();
        let keys = Tensor::from_vec(keys, (1, tokens, 3), &Device::Cpu).unwrap();
        let values = keys.neg().unwrap();
        (keys, values)
    }

    fn of(from: usize, tokens: usize) -> KeyValues {
        let (keys, values) = counted(from, tokens);
        KeyValues::new(&keys, &values).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn tokens_are_appended_one_by_one_and_many_at_a_time() {
        let mut all = of(0, 5);
        for more in [1, 1, 40, 1, 2, 100] {
            let (keys, values) = counted(all.tokens(), more);
            all.append(&keys, &values).unwrap();
        }
        let (keys, values) = counted(0, 150);
        assert_eq!(all.tokens(), 150);
        assert_eq!(flat(&all.keys().unwrap()), flat(&keys));
        assert_eq!(flat(&all.values().unwrap()), flat(&values));
    }

    #[test]
    fn what_is_appended_changes_no_other_tensor() {
        let (keys, values) = counted(0, 3);
        let mut all = KeyValues::new(&keys, &values).unwrap();
        let mut selected = all.select(&Tensor::new(&[0u32, 0], &Device::Cpu).unwrap()).unwrap();
        let (one, minus) = counted(3, 1);
        all.append(&one, &minus).unwrap();
        selected
            .append(
                &Tensor::zeros((2, 1, 3), DType::F32, &Device::Cpu).unwrap(),
                &Tensor::ones((2, 1, 3), DType::F32, &Device::Cpu).unwrap(),
            )
            .unwrap();
        assert_eq!(flat(&all.values().unwrap()), flat(&counted(0, 4).1));
        assert_eq!(flat(&values), flat(&counted(0, 3).1));
        assert_eq!(flat(&selected.values().unwrap().narrow(1, 3, 1).unwrap()), [1.0; 6]);
    }

    #[test]
    fn joined_ones_are_padded_in_front() {
        let mut joined = KeyValues::join(&[&of(0, 2), &of(10, 4)]).unwrap();
        let (one, minus) = counted(20, 1);
        joined.append(&Tensor::cat(&[&one, &one], 0).unwrap(), &Tensor::cat(&[&minus, &minus], 0).unwrap()).unwrap();
        let keys = flat(&joined.keys().unwrap());
        let (first, second, last) = (flat(&counted(0, 2).0), flat(&counted(10, 4).0), flat(&one));
        assert_eq!(keys, [&[0.0; 6][..], &first, &last, &second, &last].concat());
        assert!(KeyValues::join(&[]).is_err());
    }
}
