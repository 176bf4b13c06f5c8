//! Keys and values in the CPU's memory, as its kernel reads them.

use super::room_for;
use crate::cpu::{Rows, with_rows};
use crate::gemm::Matrix;
use crate::panels::{Panels, transpose};
use crate::simd::LANES;
use candle_core::{Device, Result, Tensor, bail};
use std::ops::{Deref, DerefMut};

/// Keys and values in f32. Sixteen tokens' keys form a panel, so that the scores of a query are sums of whole registers, and what a head reads of a
/// sequence are a few long runs of memory.
#[derive(Debug)]
pub struct Host {
    pub(super) batch: usize,
    pub(super) width: usize,
    pub(super) tokens: usize,
    /// Tokens that there is memory for, a multiple of sixteen.
    room: usize,
    /// [batch, room / 16, width, 16].
    keys: Lines,
    /// [batch, room, width].
    values: Lines,
}

impl Host {
    /// Zeros for so many tokens.
    fn zeros(batch: usize, width: usize, room: usize) -> Self {
        let room = room.next_multiple_of(LANES);
        let zeros = || Lines::zeros(batch * width * room);
        Self { batch, width, tokens: 0, room, keys: zeros(), values: zeros() }
    }

    /// Of keys and values [batch, tokens, width] in f32 on the CPU.
    pub(super) fn new(keys: &Tensor, values: &Tensor) -> Result<Self> {
        let (batch, tokens, width) = keys.dims3()?;
        let mut all = Self::zeros(batch, width, tokens);
        all.append(keys, values)?;
        Ok(all)
    }

    /// The keys of sequence `b` from column `column` on.
    pub(crate) fn keys_of(&self, b: usize, column: usize) -> Panels<'_> {
        let stride = self.width * LANES;
        Panels { data: &self.keys[b * self.room * self.width + column * LANES..], stride }
    }

    /// The values of sequence `b` from column `column` on: a row for each token.
    pub(crate) fn values_of(&self, b: usize, column: usize) -> Matrix<'_> {
        Matrix::rows(&self.values[b * self.room * self.width + column..], self.width)
    }

    /// The keys, [batch, tokens, width].
    pub(super) fn keys(&self) -> Result<Tensor> {
        let panels = Tensor::from_slice(&self.keys, (self.batch, self.room / LANES, self.width, LANES), &Device::Cpu)?;
        panels.transpose(2, 3)?.contiguous()?.reshape((self.batch, self.room, self.width))?.narrow(1, 0, self.tokens)
    }

    /// The values, [batch, tokens, width].
    pub(super) fn values(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.values, (self.batch, self.room, self.width), &Device::Cpu)?.narrow(1, 0, self.tokens)
    }

    /// Adds keys and values of further tokens, [batch, more, width].
    pub(super) fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let more = keys.dim(1)?;
        if keys.dims() != [self.batch, more, self.width] || values.dims() != keys.dims() {
            bail!("keys {:?} and values {:?} do not continue {} sequences of width {}", keys.dims(), values.dims(), self.batch, self.width)
        }
        if self.tokens + more > self.room {
            *self = Self::join(&[self], room_for(self.tokens + more));
        }
        with_rows(keys, |rows| {
            self.write_keys(rows, more);
            Ok(())
        })?;
        with_rows(values, |rows| {
            self.write_values(rows, more);
            Ok(())
        })?;
        self.tokens += more;
        Ok(())
    }

    fn write_keys(&mut self, rows: &Rows<'_>, more: usize) {
        let (first, panel) = (self.tokens, self.width * LANES);
        for (b, panels) in self.keys.chunks_exact_mut((self.room * self.width).max(1)).enumerate() {
            let mut token = 0;
            while token < more {
                let (at, lane) = ((first + token) / LANES, (first + token) % LANES);
                let count = (LANES - lane).min(more - token);
                let panel = &mut panels[at * panel..(at + 1) * panel];
                let row = b * more + token;
                if lane == 0 {
                    transpose(Matrix::rows(rows.data(), rows.stride), row..row + count, panel);
                } else {
                    (0..count).for_each(|i| write_lane(rows.row(row + i), lane + i, panel));
                }
                token += count;
            }
        }
    }

    fn write_values(&mut self, rows: &Rows<'_>, more: usize) {
        let (first, width) = (self.tokens, self.width);
        for (b, tokens) in self.values.chunks_exact_mut((self.room * width).max(1)).enumerate() {
            for (i, row) in tokens[first * width..(first + more) * width].chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(rows.row(b * more + i));
            }
        }
    }

    /// Those of these sequences.
    pub(super) fn select(&self, sequences: &[u32]) -> Result<Self> {
        if let Some(outside) = sequences.iter().find(|&&b| b as usize >= self.batch) {
            bail!("sequence {outside} is not one of {}", self.batch)
        }
        let mut all = Self { tokens: self.tokens, ..Self::zeros(sequences.len(), self.width, self.room) };
        let (size, used) = (self.room * self.width, self.tokens.next_multiple_of(LANES) * self.width);
        for (to, &b) in sequences.iter().enumerate() {
            let (from, to) = (b as usize * size, to * size);
            all.keys[to..to + used].copy_from_slice(&self.keys[from..from + used]);
            all.values[to..to + used].copy_from_slice(&self.values[from..from + used]);
        }
        Ok(all)
    }

    /// Those of several batches of one width, one behind the other, with memory for at least `room` tokens. Sequences of fewer tokens than the longest
    /// are padded in front, with zeros.
    pub(super) fn join(batches: &[&Self], room: usize) -> Self {
        let tokens = batches.iter().map(|batch| batch.tokens).max().unwrap_or(0);
        let width = batches.first().map_or(0, |batch| batch.width);
        let mut all = Self { tokens, ..Self::zeros(batches.iter().map(|batch| batch.batch).sum(), width, room) };
        let size = all.room * width;
        let sequences = batches.iter().flat_map(|batch| (0..batch.batch).map(move |b| (batch, b)));
        for (to, (batch, b)) in sequences.enumerate() {
            let (front, used) = (tokens - batch.tokens, batch.tokens * width);
            let values = &batch.values[b * batch.room * width..][..used];
            all.values[to * size + front * width..][..used].copy_from_slice(values);
            batch.keys_of(b, 0).shifted(front, batch.tokens, &mut all.keys[to * size..(to + 1) * size]);
        }
        all
    }
}

/// Writes a row into a lane of a panel.
fn write_lane(row: &[f32], lane: usize, panel: &mut [f32]) {
    panel[lane..].iter_mut().step_by(LANES).zip(row).for_each(|(value, key)| *value = *key);
}

/// Floats from the start of a line of the cache on: a register's worth that lies across two lines takes twice as long to read.
#[derive(Debug)]
struct Lines {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Lines {
    fn zeros(len: usize) -> Self {
        const LINE: usize = LANES * size_of::<f32>();
        let memory = vec![0.0; len + LANES];
        let start = memory.as_ptr().align_offset(LINE).min(LANES);
        Self { memory, start, len }
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..][..self.len]
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..][..self.len]
    }
}
