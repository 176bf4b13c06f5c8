//! The diagonal scan on f32 CPU memory.
//!
//! A block is sixteen channels. Time is walked in chunks whose inputs lie in the first-level cache, and within a chunk a few states at a
//! time run through all steps in vector registers, with their coefficients. States are padded to whole groups; a padded state has a = w = 0
//! and stays 0. The gradients of the coefficients are summed per fixed group of batch rows and then in order, so that the bits do not
//! depend on the number of threads.

use crate::cpu::{Rows, Shared, buffer, with_rows};
use crate::diagonal_scan::{CHUNK, Dims, Saved, Wanted};
use crate::parallel;
use crate::simd::{LANES, Lanes, dispatch, lanes, load, store};
use candle_core::{Device, Result, Tensor};

/// States that run together. Two hide most of the latency of the chain from step to step; with four, backwards with their sums, the
/// registers overflow and the kernel is many times slower.
const TOGETHER: usize = 2;
/// Groups of batch rows in the backward pass.
const ROW_GROUPS: usize = 16;
const ZERO: Lanes = [0.0; LANES];

/// The coefficients of one state of one block; the imaginary parts are 0 where the states are real.
#[derive(Clone, Copy)]
struct Coefficients {
    a: [Lanes; 2],
    w: [Lanes; 2],
}

/// A state, or a sum of its shape: real and imaginary part of sixteen channels.
type Pair = [Lanes; 2];

/// What all tasks read.
struct Layout {
    dims: Dims,
    /// States, padded.
    padded: usize,
    /// [block][padded state].
    coefficients: Vec<Coefficients>,
    d: Vec<f32>,
}

impl Layout {
    fn new(coefficients: &Tensor, d: &Tensor, dims: Dims) -> Result<Self> {
        let flat = coefficients.flatten_all()?.to_vec1::<f32>()?;
        let Dims { width, states, components, .. } = dims;
        let padded = states.next_multiple_of(TOGETHER);
        let mut packed = vec![Coefficients { a: [ZERO; 2], w: [ZERO; 2] }; width.div_ceil(LANES) * padded];
        for channel in 0..width {
            for n in 0..states {
                let target = &mut packed[channel / LANES * padded + n];
                for part in 0..components {
                    target.a[part][channel % LANES] = flat[(part * width + channel) * states + n];
                    target.w[part][channel % LANES] = flat[((components + part) * width + channel) * states + n];
                }
            }
        }
        Ok(Self { dims, padded, coefficients: packed, d: d.to_vec1::<f32>()? })
    }

    fn blocks(&self) -> usize {
        self.dims.width.div_ceil(LANES)
    }

    fn chunks(&self) -> usize {
        self.dims.length.div_ceil(CHUNK)
    }

    /// Channels of block `k`.
    #[inline(always)]
    fn channels(&self, k: usize) -> (usize, usize) {
        (k * LANES, (k * LANES + LANES).min(self.dims.width))
    }

    /// Coefficients of block `k`.
    #[inline(always)]
    fn of_block(&self, k: usize) -> &[Coefficients] {
        &self.coefficients[k * self.padded..(k + 1) * self.padded]
    }

    /// Floats of one block's states.
    fn state_len(&self) -> usize {
        self.padded * self.dims.components * LANES
    }

    /// Where the kept state of (batch row, chunk, block) starts.
    #[inline(always)]
    fn kept(&self, b: usize, chunk: usize, k: usize) -> usize {
        ((b * self.chunks() + chunk) * self.blocks() + k) * self.state_len()
    }

    /// Time steps of a chunk.
    #[inline(always)]
    fn steps(&self, chunk: usize) -> std::ops::Range<usize> {
        chunk * CHUNK..((chunk + 1) * CHUNK).min(self.dims.length)
    }

    /// One block of a sequence's rows: steps `steps` of batch row `b`.
    #[inline(always)]
    fn gather(&self, rows: &Rows<'_>, b: usize, k: usize, steps: std::ops::Range<usize>, out: &mut [Lanes; CHUNK]) {
        let (lo, hi) = self.channels(k);
        for (target, t) in out.iter_mut().zip(steps) {
            *target = load(&rows.row(b * self.dims.length + t)[lo..hi]);
        }
    }

    /// Writes one block of a sequence's rows.
    #[allow(unsafe_code)]
    #[inline(always)]
    fn scatter(&self, target: Shared, b: usize, k: usize, steps: std::ops::Range<usize>, values: &[Lanes; CHUNK]) {
        let (lo, hi) = self.channels(k);
        for (value, t) in values.iter().zip(steps) {
            // SAFETY: each task owns its channels of its batch rows.
            store(unsafe { target.slice((b * self.dims.length + t) * self.dims.width + lo, hi - lo) }, value);
        }
    }
}

/// The output and, if they are to be kept, the states at the chunks' starts.
pub(crate) fn forward(
    u: &Tensor,
    coefficients: &Tensor,
    d: &Tensor,
    initial: Option<&Tensor>,
    dims: Dims,
    keep: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let layout = Layout::new(coefficients, d, dims)?;
    let initial = initial.map(|initial| initial.flatten_all()?.to_vec1::<f32>()).transpose()?;
    let kept_len = if keep { dims.batch * layout.chunks() * layout.blocks() * layout.state_len() } else { 0 };
    let (mut output, mut kept) = (buffer(dims.batch * dims.length * dims.width), buffer(kept_len));
    let (to_output, to_kept) = (Shared::new(&mut output), keep.then(|| Shared::new(&mut kept)));
    let work = output.len() * dims.states;
    with_rows(u, |u| {
        parallel::for_each(dims.batch * layout.blocks(), work, |task| {
            let (b, k) = (task / layout.blocks(), task % layout.blocks());
            dispatch(
                #[inline(always)]
                || match dims.components {
                    2 => forward_block::<true>(&layout, u, initial.as_deref(), b, k, to_output, to_kept),
                    _ => forward_block::<false>(&layout, u, initial.as_deref(), b, k, to_output, to_kept),
                },
            );
        });
        Ok(())
    })?;
    let output = Tensor::from_vec(output, (dims.batch, dims.length, dims.width), &Device::Cpu)?;
    let kept = keep.then(|| Tensor::from_vec(kept, kept_len, &Device::Cpu)).transpose()?;
    Ok((output, kept))
}

/// Block `k` of the given state [batch, channels, states, components], padded.
fn initial_state(layout: &Layout, initial: Option<&[f32]>, b: usize, k: usize) -> Vec<Pair> {
    let Dims { width, states, components, .. } = layout.dims;
    let mut out = vec![[ZERO; 2]; layout.padded];
    let Some(initial) = initial else { return out };
    let (lo, hi) = layout.channels(k);
    for channel in lo..hi {
        for n in 0..states {
            for part in 0..components {
                out[n][part][channel - lo] = initial[((b * width + channel) * states + n) * components + part];
            }
        }
    }
    out
}

#[allow(unsafe_code)]
#[inline(always)]
fn forward_block<const COMPLEX: bool>(
    layout: &Layout,
    u: &Rows<'_>,
    initial: Option<&[f32]>,
    b: usize,
    k: usize,
    output: Shared,
    kept: Option<Shared>,
) {
    let (lo, hi) = layout.channels(k);
    let d = load(&layout.d[lo..hi]);
    let mut states = initial_state(layout, initial, b, k);
    let (mut inputs, mut outputs) = ([ZERO; CHUNK], [ZERO; CHUNK]);
    for chunk in 0..layout.chunks() {
        if let Some(kept) = kept {
            // SAFETY: each task owns the kept states of its batch row and block.
            let target = unsafe { kept.slice(layout.kept(b, chunk, k), layout.state_len()) };
            for (target, state) in target.chunks_exact_mut(layout.dims.components * LANES).zip(&states) {
                target.chunks_exact_mut(LANES).zip(state).for_each(|(target, part)| target.copy_from_slice(part));
            }
        }
        let steps = layout.steps(chunk);
        layout.gather(u, b, k, steps.clone(), &mut inputs);
        for t in 0..steps.len() {
            outputs[t] = lanes(|i| d[i] * inputs[t][i]);
        }
        for (coefficients, states) in layout.of_block(k).chunks_exact(TOGETHER).zip(states.chunks_exact_mut(TOGETHER)) {
            forward_group::<COMPLEX>(coefficients, states, &inputs[..steps.len()], &mut outputs[..steps.len()]);
        }
        layout.scatter(output, b, k, steps, &outputs);
    }
}

/// a z + w u.
#[inline(always)]
fn advance<const COMPLEX: bool>(c: &Coefficients, z: &Pair, u: &Lanes) -> Pair {
    let (mut re, mut im) = (lanes(|i| c.w[0][i] * u[i]), ZERO);
    if COMPLEX {
        re = lanes(|i| (-c.a[1][i]).mul_add(z[1][i], re[i]));
        im = lanes(|i| c.w[1][i] * u[i]);
        im = lanes(|i| c.a[1][i].mul_add(z[0][i], im[i]));
        im = lanes(|i| c.a[0][i].mul_add(z[1][i], im[i]));
    }
    [lanes(|i| c.a[0][i].mul_add(z[0][i], re[i])), im]
}

#[inline(always)]
fn forward_group<const COMPLEX: bool>(coefficients: &[Coefficients], states: &mut [Pair], inputs: &[Lanes], outputs: &mut [Lanes]) {
    let c: [Coefficients; TOGETHER] = std::array::from_fn(|g| coefficients[g]);
    let mut z: [Pair; TOGETHER] = std::array::from_fn(|g| states[g]);
    for (u, y) in inputs.iter().zip(outputs) {
        let mut sum = *y;
        for g in 0..TOGETHER {
            z[g] = advance::<COMPLEX>(&c[g], &z[g], u);
            sum = lanes(|i| sum[i] + z[g][0][i]);
        }
        *y = sum;
    }
    states.copy_from_slice(&z);
}

/// Where the tasks of a backward pass write.
#[derive(Clone, Copy)]
struct Targets {
    u: Shared,
    initial: Option<Shared>,
    /// Per group of batch rows, block and padded state: the parts of a, then of w.
    coefficients: Shared,
    /// Per group of batch rows.
    d: Shared,
}

/// The inputs of a backward pass.
struct Inputs<'a> {
    grad: &'a Rows<'a>,
    /// Absent where only the gradients of u and the initial state are wanted.
    u: Option<&'a Rows<'a>>,
    /// States at the chunks' starts; absent where the coefficients' gradients are not wanted.
    kept: Option<&'a [f32]>,
}

/// Gradients with respect to u, the coefficients, D and the initial state.
pub(crate) fn backward(grad: &Tensor, saved: &Saved<'_>, dims: Dims, wanted: Wanted) -> Result<[Option<Tensor>; 4]> {
    let layout = Layout::new(saved.coefficients, saved.d, dims)?;
    let Dims { batch, length, width, states, components } = dims;
    let per_group = batch.div_ceil(ROW_GROUPS).max(1);
    let groups = batch.div_ceil(per_group);
    let part_len = layout.blocks() * layout.padded * 4 * LANES;
    let kept = match saved.states.filter(|_| wanted.coefficients) {
        Some(states) => Some(states.to_vec1::<f32>()?),
        None => None,
    };
    let mut to_u = buffer(batch * length * width);
    let mut to_initial = buffer(if wanted.initial { batch * width * states * components } else { 0 });
    let mut parts = buffer(if kept.is_some() { groups * part_len } else { 0 });
    let mut d_parts = buffer(groups * width);
    let targets = Targets {
        u: Shared::new(&mut to_u),
        initial: wanted.initial.then(|| Shared::new(&mut to_initial)),
        coefficients: Shared::new(&mut parts),
        d: Shared::new(&mut d_parts),
    };
    let work = 3 * batch * length * width * states;
    let run = |inputs: &Inputs<'_>| {
        parallel::for_each(groups * layout.blocks(), work, |task| {
            let (group, k) = (task / layout.blocks(), task % layout.blocks());
            let rows = group * per_group..((group + 1) * per_group).min(batch);
            dispatch(
                #[inline(always)]
                || match components {
                    2 => backward_block::<true>(&layout, inputs, rows, group, k, targets),
                    _ => backward_block::<false>(&layout, inputs, rows, group, k, targets),
                },
            );
        });
        Ok(())
    };
    with_rows(grad, |grad| match saved.u.filter(|_| wanted.coefficients || wanted.d) {
        Some(u) => with_rows(u, |u| run(&Inputs { grad, u: Some(u), kept: kept.as_deref() })),
        None => run(&Inputs { grad, u: None, kept: None }),
    })?;
    let to_coefficients = kept.is_some().then(|| coefficient_gradient(&layout, &parts, part_len)).transpose()?;
    let to_d = wanted.d.then(|| Tensor::from_vec(sum_parts(&d_parts, width), width, &Device::Cpu)).transpose()?;
    let to_initial = wanted.initial.then(|| Tensor::from_vec(to_initial, (batch, width, states, components), &Device::Cpu)).transpose()?;
    let to_u = wanted.u.then(|| Tensor::from_vec(to_u, (batch, length, width), &Device::Cpu)).transpose()?;
    Ok([to_u, to_coefficients, to_d, to_initial])
}

/// The sum of consecutive pieces of `len`, in order.
fn sum_parts(parts: &[f32], len: usize) -> Vec<f32> {
    let mut sums = vec![0.0f32; len];
    parts.chunks(len).for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value));
    sums
}

/// The row groups' sums as [2 · components, channels, states].
fn coefficient_gradient(layout: &Layout, parts: &[f32], part_len: usize) -> Result<Tensor> {
    let Dims { width, states, components, .. } = layout.dims;
    let sums = sum_parts(parts, part_len);
    let mut out = vec![0.0f32; 2 * components * width * states];
    for channel in 0..width {
        for n in 0..states {
            let state = channel / LANES * layout.padded + n;
            for part in 0..components {
                let sum = |quantity: usize| sums[((state * 2 + quantity) * 2 + part) * LANES + channel % LANES];
                out[(part * width + channel) * states + n] = sum(0);
                out[((components + part) * width + channel) * states + n] = sum(1);
            }
        }
    }
    Tensor::from_vec(out, (2 * components, width, states), &Device::Cpu)
}

/// One chunk of one block of one batch row.
struct Chunk {
    len: usize,
    grad: [Lanes; CHUNK],
    u: [Lanes; CHUNK],
    to_u: [Lanes; CHUNK],
}

#[allow(unsafe_code)]
#[inline(always)]
fn backward_block<const COMPLEX: bool>(
    layout: &Layout,
    inputs: &Inputs<'_>,
    rows: std::ops::Range<usize>,
    group: usize,
    k: usize,
    targets: Targets,
) {
    let (lo, hi) = layout.channels(k);
    let (d, mut to_d) = (load(&layout.d[lo..hi]), ZERO);
    let mut sums = vec![[[ZERO; 2]; 2]; layout.padded];
    let mut before = vec![[[ZERO; 2]; TOGETHER]; CHUNK];
    let mut chunk = Chunk { len: 0, grad: [ZERO; CHUNK], u: [ZERO; CHUNK], to_u: [ZERO; CHUNK] };
    for b in rows {
        let mut carried = vec![[ZERO; 2]; layout.padded];
        for index in (0..layout.chunks()).rev() {
            let steps = layout.steps(index);
            chunk.len = steps.len();
            layout.gather(inputs.grad, b, k, steps.clone(), &mut chunk.grad);
            for t in 0..steps.len() {
                chunk.to_u[t] = lanes(|i| d[i] * chunk.grad[t][i]);
            }
            if let Some(u) = inputs.u {
                layout.gather(u, b, k, steps.clone(), &mut chunk.u);
                for t in 0..steps.len() {
                    to_d = lanes(|i| chunk.grad[t][i].mul_add(chunk.u[t][i], to_d[i]));
                }
            }
            let start = inputs.kept.map(|kept| &kept[layout.kept(b, index, k)..][..layout.state_len()]);
            for first in (0..layout.padded).step_by(TOGETHER) {
                let coefficients = &layout.of_block(k)[first..first + TOGETHER];
                let carried = &mut carried[first..first + TOGETHER];
                if let Some(start) = start {
                    recompute::<COMPLEX>(coefficients, &start[first * layout.dims.components * LANES..], &chunk, &mut before);
                    backward_group::<COMPLEX, true>(coefficients, carried, &mut chunk, &before, &mut sums[first..first + TOGETHER]);
                } else {
                    backward_group::<COMPLEX, false>(coefficients, carried, &mut chunk, &before, &mut sums[first..first + TOGETHER]);
                }
            }
            layout.scatter(targets.u, b, k, steps, &chunk.to_u);
        }
        if let Some(initial) = targets.initial {
            write_initial(layout, &carried, b, k, initial);
        }
    }
    // SAFETY: each task owns the sums of its group of batch rows and its block.
    unsafe {
        store(targets.d.slice(group * layout.dims.width + lo, hi - lo), &to_d);
        if inputs.kept.is_some() {
            let len = layout.padded * 4 * LANES;
            let target = targets.coefficients.slice((group * layout.blocks() + k) * len, len);
            let parts = sums.iter().flatten().flatten();
            target.chunks_exact_mut(LANES).zip(parts).for_each(|(target, part)| target.copy_from_slice(part));
        }
    }
}

/// The states before each step of a chunk, from the kept state at its start.
#[inline(always)]
fn recompute<const COMPLEX: bool>(coefficients: &[Coefficients], start: &[f32], chunk: &Chunk, before: &mut [[Pair; TOGETHER]]) {
    let components = if COMPLEX { 2 } else { 1 };
    let c: [Coefficients; TOGETHER] = std::array::from_fn(|g| coefficients[g]);
    let mut z = [[ZERO; 2]; TOGETHER];
    for g in 0..TOGETHER {
        for part in 0..components {
            z[g][part] = load(&start[(g * components + part) * LANES..]);
        }
    }
    for (u, before) in chunk.u[..chunk.len].iter().zip(before) {
        *before = z;
        for g in 0..TOGETHER {
            z[g] = advance::<COMPLEX>(&c[g], &z[g], u);
        }
    }
}

/// Takes `carried`, ā times the gradient with respect to the states behind the chunk, to before it; adds to the chunk's gradient with
/// respect to u and, with `SUMS`, to those with respect to a and w.
#[inline(always)]
fn backward_group<const COMPLEX: bool, const SUMS: bool>(
    coefficients: &[Coefficients],
    carried: &mut [Pair],
    chunk: &mut Chunk,
    before: &[[Pair; TOGETHER]],
    sums: &mut [[Pair; 2]],
) {
    let c: [Coefficients; TOGETHER] = std::array::from_fn(|g| coefficients[g]);
    let mut m: [Pair; TOGETHER] = std::array::from_fn(|g| carried[g]);
    let mut to = [[[ZERO; 2]; 2]; TOGETHER];
    for t in (0..chunk.len).rev() {
        let (grad, u, mut to_u) = (chunk.grad[t], chunk.u[t], chunk.to_u[t]);
        for g in 0..TOGETHER {
            // The output reads only the real part.
            let (re, im) = (lanes(|i| m[g][0][i] + grad[i]), m[g][1]);
            to_u = lanes(|i| c[g].w[0][i].mul_add(re[i], to_u[i]));
            if COMPLEX {
                to_u = lanes(|i| c[g].w[1][i].mul_add(im[i], to_u[i]));
            }
            if SUMS {
                let [to_a, to_w] = &mut to[g];
                let z = &before[t][g];
                to_a[0] = lanes(|i| re[i].mul_add(z[0][i], to_a[0][i]));
                to_w[0] = lanes(|i| re[i].mul_add(u[i], to_w[0][i]));
                if COMPLEX {
                    to_a[0] = lanes(|i| im[i].mul_add(z[1][i], to_a[0][i]));
                    to_a[1] = lanes(|i| im[i].mul_add(z[0][i], to_a[1][i]));
                    to_a[1] = lanes(|i| (-re[i]).mul_add(z[1][i], to_a[1][i]));
                    to_w[1] = lanes(|i| im[i].mul_add(u[i], to_w[1][i]));
                }
            }
            m[g] = if COMPLEX {
                let (a, b) = (lanes(|i| c[g].a[1][i] * im[i]), lanes(|i| -c[g].a[1][i] * re[i]));
                [lanes(|i| c[g].a[0][i].mul_add(re[i], a[i])), lanes(|i| c[g].a[0][i].mul_add(im[i], b[i]))]
            } else {
                [lanes(|i| c[g].a[0][i] * re[i]), ZERO]
            };
        }
        chunk.to_u[t] = to_u;
    }
    carried.copy_from_slice(&m);
    if SUMS {
        for g in 0..TOGETHER {
            for (sum, part) in sums[g].iter_mut().flatten().zip(to[g].iter().flatten()) {
                *sum = lanes(|i| sum[i] + part[i]);
            }
        }
    }
}

/// The gradient with respect to the state before the first step.
#[allow(unsafe_code)]
fn write_initial(layout: &Layout, carried: &[Pair], b: usize, k: usize, target: Shared) {
    let Dims { width, states, components, .. } = layout.dims;
    let (lo, hi) = layout.channels(k);
    for channel in lo..hi {
        // SAFETY: each task owns its channels of its batch rows.
        let target = unsafe { target.slice((b * width + channel) * states * components, states * components) };
        for n in 0..states {
            for part in 0..components {
                target[n * components + part] = carried[n][part][channel - lo];
            }
        }
    }
}
