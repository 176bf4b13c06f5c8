//! The scan of Mamba-2 on f32 CPU memory, in chunks of matrix products (Dao and Gu, 2024, section 6).
//!
//! With s_t the sum of dt A up to step t of a chunk, S the state before it and G = C Bᵀ,
//!
//! y_t = Σ_{r ≤ t} G_tr e^{s_t − s_r} dt_r x_r + e^{s_t} S C_t + D x_t
//!
//! A task is a block of heads of one group of one batch row over the whole sequence, so that the products with B, C and the states run
//! over all its channels at once. Blocks depend on the shape alone, and what they share (the gradients of B and C) is summed in order,
//! so that the bits do not depend on the number of threads.

use crate::cpu::{Rows, Shared, buffer, with_rows};
use crate::gemm::{Into, Matrix};
use crate::parallel;
use crate::simd::{dispatch, exp_one, softplus_one};
use crate::small_product::small_product;
use crate::ssd::{A, B, BIAS, C, DT, Dims, H0, SKIP, X};
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// Steps of a chunk.
pub(crate) const CHUNK: usize = 64;

/// Channels of a block, about: enough for large products, few enough for many tasks.
const BLOCK: usize = 256;

/// The inputs as rows and plain floats, in the order of [`crate::ssd`].
pub(crate) struct Inputs<'a> {
    pub x: &'a Rows<'a>,
    pub dt: &'a Rows<'a>,
    pub b: &'a Rows<'a>,
    pub c: &'a Rows<'a>,
    pub bias: Vec<f32>,
    pub a: Vec<f32>,
    pub skip: Vec<f32>,
    pub initial: Vec<f32>,
    pub dims: Dims,
}

pub(crate) fn with_inputs<R>(values: &[Tensor], dims: Dims, body: impl FnOnce(&Inputs<'_>) -> Result<R>) -> Result<R> {
    let flat = |i: usize| values[i].flatten_all()?.to_vec1::<f32>();
    let (bias, a, skip, initial) = (flat(BIAS)?, flat(A)?, flat(SKIP)?, flat(H0)?);
    with_rows(&values[X], |x| {
        with_rows(&values[DT], |dt| {
            with_rows(&values[B], |b| with_rows(&values[C], |c| body(&Inputs { x, dt, b, c, bias, a, skip, initial, dims })))
        })
    })
}

/// The heads of one task.
pub(crate) struct Block {
    pub batch: usize,
    pub group: usize,
    pub heads: Range<usize>,
}

/// The steps of one chunk.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    /// First step, within the sequence.
    pub start: usize,
    /// First step, as a row of the inputs.
    pub row: usize,
    /// Number of steps.
    pub len: usize,
}

impl Inputs<'_> {
    /// Heads of a block: at least two blocks a group where it has two heads.
    fn heads_per_block(&self) -> usize {
        let in_group = self.dims.heads / self.dims.groups;
        let blocks = (in_group * self.dims.head_dim).div_ceil(BLOCK).max(2).min(in_group);
        in_group.div_ceil(blocks)
    }

    pub fn blocks_per_group(&self) -> usize {
        (self.dims.heads / self.dims.groups).div_ceil(self.heads_per_block())
    }

    pub fn tasks(&self) -> usize {
        self.dims.batch * self.dims.groups * self.blocks_per_group()
    }

    pub fn block(&self, task: usize) -> Block {
        let (in_group, size, per_group) = (self.dims.heads / self.dims.groups, self.heads_per_block(), self.blocks_per_group());
        let (batch, group, index) = (task / (self.dims.groups * per_group), task / per_group % self.dims.groups, task % per_group);
        let first = group * in_group;
        Block { batch, group, heads: first + index * size..first + ((index + 1) * size).min(in_group) }
    }

    pub fn chunks(&self, batch: usize) -> impl DoubleEndedIterator<Item = Chunk> {
        let length = self.dims.length;
        (0..length.div_ceil(CHUNK)).map(move |i| {
            let start = i * CHUNK;
            Chunk { start, row: batch * length + start, len: CHUNK.min(length - start) }
        })
    }

    /// B or C of the block's group over a chunk, [len, state].
    pub fn selective<'a>(&self, rows: &Rows<'a>, chunk: Chunk, block: &Block) -> Matrix<'a> {
        Matrix::rows(&rows.data()[chunk.row * rows.stride + block.group * self.dims.state..], rows.stride)
    }

    /// The state before the first step, [channels of the block, state].
    fn initial(&self, block: &Block) -> &[f32] {
        let Dims { head_dim, state, .. } = self.dims;
        let at = (block.batch * self.dims.width() + block.heads.start * head_dim) * state;
        &self.initial[at..at + block.heads.len() * head_dim * state]
    }
}

/// e^x for x ≤ 0, and 0 below e⁻⁶⁰: nothing that decayed so far shows in a float, but its products would be subnormal numbers, on which
/// processors are a hundred times slower.
#[inline(always)]
pub(crate) fn decay(x: f32) -> f32 {
    if x < -60.0 { 0.0 } else { exp_one(x) }
}

/// One head's steps over a chunk.
#[derive(Clone)]
pub(crate) struct Steps {
    /// dt_raw + dt_bias.
    pub raw: [f32; CHUNK],
    /// dt.
    pub dt: [f32; CHUNK],
    /// s: the sum of dt A up to this step.
    pub log: [f32; CHUNK],
    /// e^s: what is left of the state before the chunk.
    pub from_start: [f32; CHUNK],
    /// e^{s_end − s}: what is left of this step at the chunk's end.
    pub to_end: [f32; CHUNK],
    /// e^{s_end}.
    pub over_chunk: f32,
}

impl Steps {
    fn new() -> Self {
        let zero = [0.0; CHUNK];
        Self { raw: zero, dt: zero, log: zero, from_start: zero, to_end: zero, over_chunk: 0.0 }
    }

    #[inline(always)]
    fn fill(&mut self, inputs: &Inputs<'_>, chunk: Chunk, head: usize) {
        let (low, high) = (inputs.dims.dt_limit.0 as f32, inputs.dims.dt_limit.1 as f32);
        for t in 0..chunk.len {
            self.raw[t] = inputs.dt.row(chunk.row + t)[head] + inputs.bias[head];
        }
        for t in 0..CHUNK {
            self.dt[t] = softplus_one(self.raw[t]).max(low).min(high);
        }
        let mut sum = 0.0;
        for t in 0..chunk.len {
            sum += self.dt[t] * inputs.a[head];
            self.log[t] = sum;
        }
        for t in 0..CHUNK {
            self.from_start[t] = decay(self.log[t]);
            self.to_end[t] = decay(sum - self.log[t]);
        }
        self.over_chunk = decay(sum);
    }
}

/// Room of one task, reused from chunk to chunk. Matrices over steps have rows of CHUNK elements.
pub(crate) struct Scratch {
    /// Channels of the block.
    pub width: usize,
    /// [channels, state].
    pub state: Vec<f32>,
    pub steps: Vec<Steps>,
    /// G, [len, CHUNK].
    pub scores: Vec<f32>,
    /// G_tr e^{s_t − s_r} for r ≤ t; 0 above, where nothing is ever written.
    pub weights: Vec<f32>,
    /// dt x, [len, channels].
    pub drive: Vec<f32>,
    /// [len, channels].
    pub decayed: Vec<f32>,
}

impl Scratch {
    pub fn new(inputs: &Inputs<'_>, block: &Block) -> Self {
        let width = block.heads.len() * inputs.dims.head_dim;
        Self {
            width,
            state: inputs.initial(block).to_vec(),
            steps: vec![Steps::new(); block.heads.len()],
            scores: buffer(CHUNK * CHUNK),
            weights: buffer(CHUNK * CHUNK),
            drive: buffer(CHUNK * width),
            decayed: buffer(CHUNK * width),
        }
    }

    /// Steps, dt x, and dt x as it is left at the chunk's end.
    #[inline(always)]
    pub fn fill(&mut self, inputs: &Inputs<'_>, block: &Block, chunk: Chunk) {
        let (width, p) = (self.width, inputs.dims.head_dim);
        for (k, head) in block.heads.clone().enumerate() {
            self.steps[k].fill(inputs, chunk, head);
        }
        for t in 0..chunk.len {
            let x = &inputs.x.row(chunk.row + t)[block.heads.start * p..block.heads.end * p];
            let (drive, decayed) = (&mut self.drive[t * width..(t + 1) * width], &mut self.decayed[t * width..(t + 1) * width]);
            for k in 0..block.heads.len() {
                let (dt, to_end) = (self.steps[k].dt[t], self.steps[k].to_end[t]);
                for c in k * p..(k + 1) * p {
                    drive[c] = dt * x[c];
                    decayed[c] = drive[c] * to_end;
                }
            }
        }
    }

    /// Moves the state over the chunk that was filled in: S ← e^{s_end} S + (decayed dt x)ᵀ B.
    pub fn advance(&mut self, inputs: &Inputs<'_>, block: &Block, chunk: Chunk) {
        decay_state(&mut self.state, &self.steps);
        let (width, n) = (self.width, inputs.dims.state);
        let (decayed, b) = (Matrix::rows(&self.decayed, width).t(), inputs.selective(inputs.b, chunk, block));
        small_product(width, n, chunk.len, decayed, b, 1.0, &mut self.state, n, Into::Accumulate);
    }

    /// G = C Bᵀ.
    pub fn score(&mut self, inputs: &Inputs<'_>, block: &Block, chunk: Chunk) {
        let (b, c) = (inputs.selective(inputs.b, chunk, block), inputs.selective(inputs.c, chunk, block));
        small_product(chunk.len, chunk.len, inputs.dims.state, c, b.t(), 1.0, &mut self.scores, CHUNK, Into::Overwrite);
    }
}

/// Multiplies each head's state [head_dim, state] by its decay over the chunk.
pub(crate) fn decay_state(state: &mut [f32], steps: &[Steps]) {
    let size = state.len() / steps.len().max(1);
    state.chunks_mut(size.max(1)).zip(steps).for_each(|(state, steps)| state.iter_mut().for_each(|s| *s *= steps.over_chunk));
}

/// The outputs [batch, length, width] and the last states [batch, width, state].
pub(crate) fn forward(values: &[Tensor], dims: Dims) -> Result<(Tensor, Tensor)> {
    with_inputs(values, dims, |inputs| {
        let Dims { batch, length, state, .. } = dims;
        let width = dims.width();
        let (mut output, mut last) = (buffer(batch * length * width), buffer(batch * width * state));
        let shared = [Shared::new(&mut output), Shared::new(&mut last)];
        parallel::for_each(inputs.tasks(), batch * length * width * state, |task| forward_block(inputs, &inputs.block(task), shared));
        let output = Tensor::from_vec(output, (batch, length, width), &Device::Cpu)?;
        Ok((output, Tensor::from_vec(last, (batch, width, state), &Device::Cpu)?))
    })
}

#[allow(unsafe_code)]
fn forward_block(inputs: &Inputs<'_>, block: &Block, [output, last]: [Shared; 2]) {
    let Dims { head_dim: p, state: n, .. } = inputs.dims;
    let mut scratch = Scratch::new(inputs, block);
    let (width, first) = (scratch.width, block.heads.start * p);
    let mut y = buffer(CHUNK * width);
    for chunk in inputs.chunks(block.batch) {
        dispatch(
            #[inline(always)]
            || scratch.fill(inputs, block, chunk),
        );
        scratch.score(inputs, block, chunk);
        let (c, state) = (inputs.selective(inputs.c, chunk, block), Matrix::rows(&scratch.state, n).t());
        small_product(chunk.len, width, n, c, state, 1.0, &mut y, width, Into::Overwrite);
        for k in 0..block.heads.len() {
            let (steps, y) = (&scratch.steps[k], &mut y[k * p..]);
            dispatch(
                #[inline(always)]
                || {
                    weigh(&scratch.scores, steps, chunk.len, &mut scratch.weights);
                    (0..chunk.len).for_each(|t| y[t * width..t * width + p].iter_mut().for_each(|y| *y *= steps.from_start[t]));
                },
            );
            let (weights, drive) = (Matrix::rows(&scratch.weights, CHUNK), Matrix::rows(&scratch.drive[k * p..], width));
            small_product(chunk.len, p, chunk.len, weights, drive, 1.0, y, width, Into::Accumulate);
        }
        for t in 0..chunk.len {
            // SAFETY: each task owns its channels of its batch row; below, their states.
            let target = unsafe { output.slice((chunk.row + t) * inputs.dims.width() + first, width) };
            let x = &inputs.x.row(chunk.row + t)[first..first + width];
            for (k, head) in block.heads.clone().enumerate() {
                for c in k * p..(k + 1) * p {
                    target[c] = inputs.skip[head].mul_add(x[c], y[t * width + c]);
                }
            }
        }
        scratch.advance(inputs, block, chunk);
    }
    unsafe { last.slice((block.batch * inputs.dims.width() + first) * n, width * n) }.copy_from_slice(&scratch.state);
}

/// weights_tr = scores_tr e^{s_t − s_r} for r ≤ t.
#[inline(always)]
fn weigh(scores: &[f32], steps: &Steps, len: usize, weights: &mut [f32]) {
    for t in 0..len {
        let (scores, weights) = (&scores[t * CHUNK..t * CHUNK + t + 1], &mut weights[t * CHUNK..t * CHUNK + t + 1]);
        for r in 0..t + 1 {
            weights[r] = scores[r] * decay(steps.log[t] - steps.log[r]);
        }
    }
}
