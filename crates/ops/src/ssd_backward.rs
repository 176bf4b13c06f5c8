//! The backward pass of Mamba-2's scan on f32 CPU memory; the chunks and blocks are those of [`crate::ssd_kernel`].
//!
//! The gradient of s_t is a sum over all pairs (r, t') around the step t. It is accumulated as such: the shorter form as a difference of
//! two sums over the outputs loses every digit under strong decay.
#![expect(clippy::needless_range_loop, reason = "several arrays are walked in step by one index")]

use crate::cpu::{Rows, Shared, buffer, with_rows};
use crate::gemm::{Into, Matrix};
use crate::norm::{dot, sum};
use crate::parallel;
use crate::simd::{dispatch, sigmoid_one, softplus_one};
use crate::small_product::small_product;
use crate::ssd::Dims;
use crate::ssd_kernel::{Block, CHUNK, Chunk, Inputs, Scratch, decay, decay_state, with_inputs};
use candle_core::{Device, Result, Tensor};

/// Where the tasks of a backward pass write: per batch row, and B and C per block.
#[derive(Clone, Copy)]
struct Targets {
    x: Shared,
    dt: Shared,
    a: Shared,
    skip: Shared,
    initial: Shared,
    b: Shared,
    c: Shared,
}

/// Gradients with respect to all eight inputs.
pub(crate) fn backward(grad: &Tensor, saved: &[Tensor], dims: Dims) -> Result<Vec<Tensor>> {
    with_inputs(saved, dims, |inputs| with_rows(grad, |grad| backward_inputs(inputs, grad)))
}

fn backward_inputs(inputs: &Inputs<'_>, grad: &Rows<'_>) -> Result<Vec<Tensor>> {
    let Dims { batch, length, heads, groups, state, .. } = inputs.dims;
    let (width, tasks) = (inputs.dims.width(), inputs.tasks());
    let (mut x, mut dt, mut initial) = (buffer(batch * length * width), buffer(batch * length * heads), buffer(batch * width * state));
    let (mut a, mut skip) = (buffer(batch * heads), buffer(batch * heads));
    let (mut b, mut c) = (buffer(tasks * length * state), buffer(tasks * length * state));
    let targets = Targets {
        x: Shared::new(&mut x),
        dt: Shared::new(&mut dt),
        a: Shared::new(&mut a),
        skip: Shared::new(&mut skip),
        initial: Shared::new(&mut initial),
        b: Shared::new(&mut b),
        c: Shared::new(&mut c),
    };
    parallel::for_each(tasks, 3 * batch * length * width * state, |task| {
        backward_block(inputs, grad, &inputs.block(task), task, targets);
    });
    let cpu = &Device::Cpu;
    let over_blocks = |parts: Vec<f32>| {
        // [batch, groups, blocks, length, state] → [batch, length, groups · state].
        let parts = Tensor::from_vec(parts, (batch, groups, inputs.blocks_per_group(), length, state), cpu)?;
        parts.sum(2)?.transpose(1, 2)?.contiguous()?.reshape((batch, length, groups * state))
    };
    let dt = Tensor::from_vec(dt, (batch, length, heads), cpu)?;
    let to_bias = dt.sum((0, 1))?;
    Ok(vec![
        Tensor::from_vec(x, (batch, length, width), cpu)?,
        dt,
        to_bias,
        Tensor::from_vec(a, (batch, heads), cpu)?.sum(0)?,
        over_blocks(b)?,
        over_blocks(c)?,
        Tensor::from_vec(skip, (batch, heads), cpu)?.sum(0)?,
        Tensor::from_vec(initial, (batch, width, state), cpu)?,
    ])
}

/// What a task of the backward pass carries from chunk to chunk, backwards in time, and its room besides [`Scratch`].
struct Backward {
    /// Gradient with respect to the state behind the chunk, [channels, state].
    to_state: Vec<f32>,
    /// Of each head.
    to_a: Vec<f32>,
    to_skip: Vec<f32>,
    /// Gradient of G, [len, CHUNK]; 0 above the diagonal.
    to_scores: Vec<f32>,
    /// Gradient of one head's weights, [len, CHUNK].
    to_weights: Vec<f32>,
    /// Gradient of dt x, [len, channels].
    to_drive: Vec<f32>,
    /// Gradient of the output times e^s, [len, channels].
    decayed_grad: Vec<f32>,
    /// One head's part in the gradient of C, [len, state].
    through_state: Vec<f32>,
    to_b: Vec<f32>,
    to_c: Vec<f32>,
}

impl Backward {
    fn new(width: usize, heads: usize, state: usize) -> Self {
        Self {
            to_state: buffer(width * state),
            to_a: buffer(heads),
            to_skip: buffer(heads),
            to_scores: buffer(CHUNK * CHUNK),
            to_weights: buffer(CHUNK * CHUNK),
            to_drive: buffer(CHUNK * width),
            decayed_grad: buffer(CHUNK * width),
            through_state: buffer(CHUNK * state),
            to_b: buffer(CHUNK * state),
            to_c: buffer(CHUNK * state),
        }
    }
}

#[allow(unsafe_code)]
fn backward_block(inputs: &Inputs<'_>, grad: &Rows<'_>, block: &Block, task: usize, targets: Targets) {
    let Dims { head_dim: p, length, state: n, heads, .. } = inputs.dims;
    let mut scratch = Scratch::new(inputs, block);
    let width = scratch.width;
    // The state before each chunk.
    let mut states = Vec::with_capacity(length.div_ceil(CHUNK));
    for chunk in inputs.chunks(block.batch) {
        states.push(scratch.state.clone());
        dispatch(
            #[inline(always)]
            || scratch.fill(inputs, block, chunk),
        );
        scratch.advance(inputs, block, chunk);
    }
    let mut back = Backward::new(width, block.heads.len(), n);
    for chunk in inputs.chunks(block.batch).rev() {
        if let Some(before) = states.pop() {
            scratch.state = before;
        }
        backward_chunk(inputs, grad, block, chunk, &mut scratch, &mut back, targets);
        // SAFETY: each task owns its part of the sums for B and C; below, its heads of its batch row and their channels.
        let at = (task * length + chunk.start) * n;
        unsafe { targets.b.slice(at, chunk.len * n) }.copy_from_slice(&back.to_b[..chunk.len * n]);
        unsafe { targets.c.slice(at, chunk.len * n) }.copy_from_slice(&back.to_c[..chunk.len * n]);
    }
    let at = block.batch * heads + block.heads.start;
    unsafe {
        targets.a.slice(at, block.heads.len()).copy_from_slice(&back.to_a);
        targets.skip.slice(at, block.heads.len()).copy_from_slice(&back.to_skip);
        targets.initial.slice(at * p * n, width * n).copy_from_slice(&back.to_state);
    }
}

fn backward_chunk(
    inputs: &Inputs<'_>,
    grad: &Rows<'_>,
    block: &Block,
    chunk: Chunk,
    scratch: &mut Scratch,
    back: &mut Backward,
    targets: Targets,
) {
    let Dims { head_dim: p, state: n, .. } = inputs.dims;
    let (width, len, first) = (scratch.width, chunk.len, block.heads.start * p);
    let (b, c) = (inputs.selective(inputs.b, chunk, block), inputs.selective(inputs.c, chunk, block));
    dispatch(
        #[inline(always)]
        || {
            scratch.fill(inputs, block, chunk);
            for t in 0..len {
                let g = &grad.row(chunk.row + t)[first..first + width];
                for (k, steps) in scratch.steps.iter().enumerate() {
                    for i in k * p..(k + 1) * p {
                        back.decayed_grad[t * width + i] = g[i] * steps.from_start[t];
                    }
                }
            }
        },
    );
    scratch.score(inputs, block, chunk);
    // Through the state behind the chunk, to B and to dt x.
    let (decayed, to_state) = (Matrix::rows(&scratch.decayed, width), Matrix::rows(&back.to_state, n));
    small_product(len, n, width, decayed, to_state, 1.0, &mut back.to_b, n, Into::Overwrite);
    small_product(len, width, n, b, to_state.t(), 1.0, &mut back.to_drive, width, Into::Overwrite);
    back.to_scores.fill(0.0);
    back.to_c.fill(0.0);
    for k in 0..block.heads.len() {
        backward_head(inputs, grad, block, chunk, k, scratch, back, targets);
    }
    let to_scores = Matrix::rows(&back.to_scores, CHUNK);
    small_product(len, n, len, to_scores, b, 1.0, &mut back.to_c, n, Into::Accumulate);
    small_product(len, n, len, to_scores.t(), c, 1.0, &mut back.to_b, n, Into::Accumulate);
    // To the state before the chunk.
    decay_state(&mut back.to_state, &scratch.steps);
    let decayed_grad = Matrix::rows(&back.decayed_grad, width).t();
    small_product(width, n, len, decayed_grad, c, 1.0, &mut back.to_state, n, Into::Accumulate);
}

/// One head of a chunk: to x, dt, A and D, and its parts in the gradients of C and G.
#[allow(unsafe_code, clippy::too_many_arguments)]
fn backward_head(
    inputs: &Inputs<'_>,
    grad: &Rows<'_>,
    block: &Block,
    chunk: Chunk,
    k: usize,
    scratch: &mut Scratch,
    back: &mut Backward,
    targets: Targets,
) {
    let Dims { head_dim: p, state: n, .. } = inputs.dims;
    let (width, len, head) = (scratch.width, chunk.len, block.heads.start + k);
    let g = Matrix::rows(&grad.data()[chunk.row * grad.stride + head * p..], grad.stride);
    // Through the state before the chunk, to C.
    let decayed_grad = Matrix::rows(&back.decayed_grad[k * p..], width);
    small_product(len, n, p, decayed_grad, Matrix::rows(&scratch.state[k * p * n..], n), 1.0, &mut back.through_state, n, Into::Overwrite);
    let drive = Matrix::rows(&scratch.drive[k * p..], width);
    small_product(len, len, p, g, drive.t(), 1.0, &mut back.to_weights, CHUNK, Into::Overwrite);
    let mut to_log = [0.0; CHUNK];
    dispatch(
        #[inline(always)]
        || {
            within_chunk(scratch, back, k, len, &mut to_log);
            let state = &scratch.state[k * p * n..(k + 1) * p * n];
            let carried = scratch.steps[k].over_chunk * dot(state, &back.to_state[k * p * n..(k + 1) * p * n]);
            through_states(inputs, chunk, block, scratch, back, k, carried, &mut to_log);
        },
    );
    let weights = Matrix::rows(&scratch.weights, CHUNK).t();
    small_product(len, p, len, weights, g, 1.0, &mut back.to_drive[k * p..], width, Into::Accumulate);
    let (steps, skip, (low, high)) = (&scratch.steps[k], inputs.skip[head], inputs.dims.dt_limit);
    dispatch(
        #[inline(always)]
        || {
            for t in 0..len {
                let row = chunk.row + t;
                let (x, g) = (&inputs.x.row(row)[head * p..(head + 1) * p], &grad.row(row)[head * p..(head + 1) * p]);
                let to_drive = &back.to_drive[t * width + k * p..t * width + (k + 1) * p];
                // SAFETY: each task owns its heads of its batch row and their channels.
                let to_x = unsafe { targets.x.slice(row * inputs.dims.width() + head * p, p) };
                for i in 0..p {
                    to_x[i] = steps.dt[t].mul_add(to_drive[i], skip * g[i]);
                }
                back.to_skip[k] += dot(g, x);
                back.to_a[k] += to_log[t] * steps.dt[t];
                let unbounded = softplus_one(steps.raw[t]);
                let free = unbounded >= low as f32 && unbounded <= high as f32;
                let to_dt = dot(to_drive, x) + to_log[t] * inputs.a[head];
                let to_raw = if free { to_dt * sigmoid_one(steps.raw[t]) } else { 0.0 };
                let target = unsafe { targets.dt.slice(row * inputs.dims.heads + head, 1) };
                target[0] = to_raw;
            }
        },
    );
}

/// The pairs within the chunk: one head's weights, their part in the gradient of G, and in that of the log decay of each step t, which
/// is the sum over all pairs r < t ≤ t'.
#[inline(always)]
fn within_chunk(scratch: &mut Scratch, back: &mut Backward, k: usize, len: usize, to_log: &mut [f32; CHUNK]) {
    let steps = &scratch.steps[k];
    // Of each r, the sum over the t' seen so far.
    let mut later = [0.0f32; CHUNK];
    for t in (0..len).rev() {
        let row = t * CHUNK..t * CHUNK + t + 1;
        let (scores, to_weights) = (&scratch.scores[row.clone()], &back.to_weights[row.clone()]);
        let (weights, to_scores, later) = (&mut scratch.weights[row.clone()], &mut back.to_scores[row], &mut later[..t + 1]);
        for r in 0..t + 1 {
            let left = decay(steps.log[t] - steps.log[r]);
            let weight = scores[r] * left;
            weights[r] = weight;
            to_scores[r] = to_weights[r].mul_add(left, to_scores[r]);
            later[r] = to_weights[r].mul_add(weight, later[r]);
        }
        to_log[t] += sum(&later[..t]);
    }
}

/// The pairs that reach over the chunk's borders, to C and to the log decays: from the state before (`through_state`), to the state behind
/// (`to_drive`, which gets its decay here), and from the one to the other (`carried`).
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn through_states(
    inputs: &Inputs<'_>,
    chunk: Chunk,
    block: &Block,
    scratch: &Scratch,
    back: &mut Backward,
    k: usize,
    carried: f32,
    to_log: &mut [f32; CHUNK],
) {
    let (n, p, width, steps) = (inputs.dims.state, inputs.dims.head_dim, scratch.width, &scratch.steps[k]);
    let mut later = carried;
    for t in (0..chunk.len).rev() {
        let through = &back.through_state[t * n..(t + 1) * n];
        let c = &inputs.c.row(chunk.row + t)[block.group * n..(block.group + 1) * n];
        later += dot(through, c);
        to_log[t] += later;
        for (to_c, through) in back.to_c[t * n..(t + 1) * n].iter_mut().zip(through) {
            *to_c += through;
        }
    }
    let mut earlier = 0.0;
    for t in 0..chunk.len {
        to_log[t] += earlier;
        let at = t * width + k * p..t * width + (k + 1) * p;
        let to_drive = &mut back.to_drive[at.clone()];
        to_drive.iter_mut().for_each(|value| *value *= steps.to_end[t]);
        earlier += dot(to_drive, &scratch.drive[at]);
    }
}
