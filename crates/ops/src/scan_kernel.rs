//! The selective scan on f32 CPU memory.
//!
//! A block is sixteen channels of one batch row over the whole sequence; its states stay in vector registers (one register a state).
//! The number of states is padded to a compile-time constant: a padded state has A = B = C = 0 and stays 0. Blocks are independent;
//! the gradients of B and C, which all channels share, are summed per fixed channel group and then in order, so that the bits do
//! not depend on the number of threads.
#![expect(clippy::needless_range_loop, reason = "several arrays are walked in step by one index")]

use crate::cpu::{Rows, Shared, buffer, unwritten, with_rows};
use crate::parallel;
use crate::scan::{A, B, C, CHUNK, DT, Dims, Forward, H0, SKIP, U, Z};
use crate::simd::{LANES, LOG2_E, Lanes, dispatch, exp2, lanes, load, sigmoid_one, softplus_one, store};
use candle_core::{Device, Result, Tensor};

/// Channel groups a batch row in the backward pass.
const GROUPS: usize = 2;

/// Neighbouring blocks that one task of the forward pass takes.
const SPAN: usize = 8;

/// Steps that inputs are fetched ahead of their use.
const AHEAD: usize = 16;

/// The inputs as rows, in the order of [`crate::scan`]; A as [state · width] transposed and times log2 e.
struct Inputs<'a> {
    u: &'a Rows<'a>,
    dt: &'a Rows<'a>,
    b: &'a Rows<'a>,
    c: &'a Rows<'a>,
    z: &'a Rows<'a>,
    a: Vec<f32>,
    skip: Vec<f32>,
    initial: Vec<f32>,
    dims: Dims,
}

fn with_inputs<R>(values: &[Tensor], dims: Dims, body: impl FnOnce(&Inputs<'_>) -> Result<R>) -> Result<R> {
    let flat = |i: usize| values[i].flatten_all()?.to_vec1::<f32>();
    let (a, skip, initial) = ((values[A].t()? * f64::from(LOG2_E))?.flatten_all()?.to_vec1::<f32>()?, flat(SKIP)?, flat(H0)?);
    with_rows(&values[U], |u| {
        with_rows(&values[DT], |dt| {
            with_rows(&values[B], |b| {
                with_rows(&values[C], |c| with_rows(&values[Z], |z| body(&Inputs { u, dt, b, c, z, a, skip, initial, dims })))
            })
        })
    })
}

impl Inputs<'_> {
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

    /// A · log2 e of block `k`, one group a state.
    #[inline(always)]
    fn decay<const N: usize>(&self, k: usize) -> [Lanes; N] {
        let (lo, hi) = self.channels(k);
        let mut out = [[0.0; LANES]; N];
        for n in 0..self.dims.state {
            out[n] = load(&self.a[n * self.dims.width + lo..n * self.dims.width + hi]);
        }
        out
    }

    /// The state before the first step.
    #[inline(always)]
    fn initial<const N: usize>(&self, batch: usize, k: usize) -> [Lanes; N] {
        let (lo, hi) = self.channels(k);
        let mut out = [[0.0; LANES]; N];
        for channel in lo..hi {
            for n in 0..self.dims.state {
                out[n][channel - lo] = self.initial[(batch * self.dims.width + channel) * self.dims.state + n];
            }
        }
        out
    }

    /// B or C at one step, padded to N states.
    #[inline(always)]
    fn selective<const N: usize>(&self, rows: &Rows<'_>, row: usize) -> [f32; N] {
        let source = rows.row(row);
        // The common case, a state without padding, is a copy of fixed size.
        if let Ok(full) = <&[f32; N]>::try_from(source) {
            return *full;
        }
        let mut out = [0.0; N];
        out[..self.dims.state].copy_from_slice(source);
        out
    }

    /// Where the kept state of (batch, chunk, block) starts.
    #[inline(always)]
    fn kept<const N: usize>(&self, batch: usize, chunk: usize, k: usize) -> usize {
        ((batch * self.chunks() + chunk) * self.blocks() + k) * N * LANES
    }
}

/// Calls the function compiled for the smallest padded state count that fits.
macro_rules! for_states {
    ($state:expr, $function:ident ( $($argument:expr),* )) => {
        match $state {
            0..=4 => $function::<4>($($argument),*),
            5..=8 => $function::<8>($($argument),*),
            9..=16 => $function::<16>($($argument),*),
            17..=32 => $function::<32>($($argument),*),
            33..=64 => $function::<64>($($argument),*),
            65..=128 => $function::<128>($($argument),*),
            129.. => candle_core::bail!("selective scan: at most 128 states, found {}", $state),
        }
    };
}

pub(crate) fn forward(values: &[Tensor], dims: Dims, keep_states: bool) -> Result<Forward> {
    with_inputs(values, dims, |inputs| for_states!(dims.state, forward_padded(inputs, keep_states)))
}

fn forward_padded<const N: usize>(inputs: &Inputs<'_>, keep_states: bool) -> Result<Forward> {
    let Dims { batch, length, width, state } = inputs.dims;
    let kept_len = if keep_states { batch * inputs.chunks() * inputs.blocks() * N * LANES } else { 0 };
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every channel at every time, its last state and its kept ones.
    let (mut output, mut last, mut kept) =
        unsafe { (unwritten(batch * length * width), unwritten(batch * width * state), unwritten(kept_len)) };
    let shared = [Shared::new(&mut output), Shared::new(&mut last), Shared::new(&mut kept)];
    let spans = inputs.blocks().div_ceil(SPAN);
    parallel::for_each(batch * spans, batch * length * width * state, |task| {
        let first = task % spans * SPAN;
        dispatch(
            #[inline(always)]
            || forward_span::<N>(inputs, task / spans, first..(first + SPAN).min(inputs.blocks()), keep_states, shared),
        );
    });
    Ok(Forward {
        output: Tensor::from_vec(output, (batch, length, width), &Device::Cpu)?,
        last_state: Tensor::from_vec(last, (batch, width, state), &Device::Cpu)?,
        states: keep_states.then(|| Tensor::from_vec(kept, kept_len, &Device::Cpu)).transpose()?,
    })
}

/// One step of the recurrence: h ← exp2(dt · a) h + drive · b.
#[inline(always)]
fn advance<const N: usize>(h: &mut [Lanes; N], a: &[Lanes; N], dt: &Lanes, drive: &Lanes, b: &[f32; N]) {
    for n in 0..N {
        let decay = exp2(&lanes(|i| dt[i] * a[n][i]));
        h[n] = lanes(|i| decay[i].mul_add(h[n][i], drive[i] * b[n]));
    }
}

/// Neighbouring blocks, chunk after chunk: what a chunk has brought near serves them all.
#[allow(unsafe_code)]
#[inline(always)]
fn forward_span<const N: usize>(
    inputs: &Inputs<'_>,
    b: usize,
    blocks: std::ops::Range<usize>,
    keep_states: bool,
    [output, last, kept]: [Shared; 3],
) {
    let Dims { length, width, state, .. } = inputs.dims;
    let mut states: Vec<[Lanes; N]> = blocks.clone().map(|k| inputs.initial::<N>(b, k)).collect();
    for chunk in 0..inputs.chunks() {
        for (k, h) in blocks.clone().zip(&mut states) {
            if keep_states {
                // SAFETY: each task owns the kept states of its blocks; below, its channels of its batch row.
                let target = unsafe { kept.slice(inputs.kept::<N>(b, chunk, k), N * LANES) };
                target.chunks_mut(LANES).zip(h.iter()).for_each(|(target, h)| target.copy_from_slice(h));
            }
            forward_chunk(inputs, b, k, chunk * CHUNK..((chunk + 1) * CHUNK).min(length), h, output);
        }
    }
    for (k, h) in blocks.zip(&states) {
        let (lo, hi) = inputs.channels(k);
        for channel in lo..hi {
            let target = unsafe { last.slice((b * width + channel) * state, state) };
            target.iter_mut().zip(h).for_each(|(target, h)| *target = h[channel - lo]);
        }
    }
}

/// The steps of one chunk of one block, from the state `carried`, which is brought forward.
#[allow(unsafe_code)]
#[inline(always)]
fn forward_chunk<const N: usize>(
    inputs: &Inputs<'_>,
    b: usize,
    k: usize,
    steps: std::ops::Range<usize>,
    carried: &mut [Lanes; N],
    output: Shared,
) {
    let Dims { length, width, .. } = inputs.dims;
    let (lo, hi) = inputs.channels(k);
    let (a, skip) = (inputs.decay::<N>(k), load(&inputs.skip[lo..hi]));
    let mut h = *carried;
    for t in steps {
        let row = b * length + t;
        [inputs.u, inputs.dt, inputs.z].iter().for_each(|rows| rows.prefetch(row + AHEAD, lo));
        let (u, raw, z) = (load(&inputs.u.row(row)[lo..hi]), load(&inputs.dt.row(row)[lo..hi]), load(&inputs.z.row(row)[lo..hi]));
        let dt = lanes(|i| softplus_one(raw[i]));
        let drive = lanes(|i| dt[i] * u[i]);
        let (bt, ct) = (inputs.selective::<N>(inputs.b, row), inputs.selective::<N>(inputs.c, row));
        advance(&mut h, &a, &dt, &drive, &bt);
        let mut y = lanes(|i| skip[i] * u[i]);
        for n in 0..N {
            y = lanes(|i| h[n][i].mul_add(ct[n], y[i]));
        }
        let y = lanes(|i| y[i] * z[i] * sigmoid_one(z[i]));
        // SAFETY: each task owns its channels of its batch row.
        store(unsafe { output.slice(row * width + lo, hi - lo) }, &y);
    }
    *carried = h;
}

/// Gradients with respect to all eight inputs.
pub(crate) fn backward(grad: &Tensor, saved: &[Tensor], dims: Dims) -> Result<Vec<Tensor>> {
    with_rows(&saved[H0 + 1], |kept| {
        with_inputs(saved, dims, |inputs| with_rows(grad, |grad| for_states!(dims.state, backward_padded(inputs, grad, kept.data()))))
    })
}

/// Where the tasks of a backward pass write.
#[derive(Clone, Copy)]
struct Targets {
    u: Shared,
    dt: Shared,
    z: Shared,
    a: Shared,
    skip: Shared,
    initial: Shared,
    b: Shared,
    c: Shared,
}

fn backward_padded<const N: usize>(inputs: &Inputs<'_>, grad: &Rows<'_>, kept: &[f32]) -> Result<Vec<Tensor>> {
    let Dims { batch, length, width, state } = inputs.dims;
    let per_group = inputs.blocks().div_ceil(GROUPS);
    let sequence = batch * length * width;
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every channel at every time.
    let (mut u, mut dt, mut z) = unsafe { (unwritten(sequence), unwritten(sequence), unwritten(sequence)) };
    let (mut a, mut skip, mut initial) = (buffer(batch * width * state), buffer(batch * width), buffer(batch * width * state));
    let (mut b, mut c) = (buffer(batch * GROUPS * length * state), buffer(batch * GROUPS * length * state));
    let targets = Targets {
        u: Shared::new(&mut u),
        dt: Shared::new(&mut dt),
        z: Shared::new(&mut z),
        a: Shared::new(&mut a),
        skip: Shared::new(&mut skip),
        initial: Shared::new(&mut initial),
        b: Shared::new(&mut b),
        c: Shared::new(&mut c),
    };
    parallel::for_each(batch * GROUPS, 4 * sequence * state, |task| {
        let group = task % GROUPS;
        let blocks = (group * per_group).min(inputs.blocks())..((group + 1) * per_group).min(inputs.blocks());
        dispatch(
            #[inline(always)]
            || backward_group::<N>(inputs, grad, kept, task / GROUPS, blocks, task, targets),
        );
    });
    let sum_over = |parts: &[f32], pieces: usize, len: usize| {
        let mut sums = vec![0.0f32; len];
        parts.chunks(len).take(pieces).for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value));
        sums
    };
    let over_groups =
        |parts: &[f32]| parts.chunks(GROUPS * length * state).flat_map(|row| sum_over(row, GROUPS, length * state)).collect::<Vec<_>>();
    let cpu = &Device::Cpu;
    Ok(vec![
        Tensor::from_vec(u, (batch, length, width), cpu)?,
        Tensor::from_vec(dt, (batch, length, width), cpu)?,
        Tensor::from_vec(sum_over(&a, batch, width * state), (width, state), cpu)?,
        Tensor::from_vec(over_groups(&b), (batch, length, state), cpu)?,
        Tensor::from_vec(over_groups(&c), (batch, length, state), cpu)?,
        Tensor::from_vec(sum_over(&skip, batch, width), width, cpu)?,
        Tensor::from_vec(z, (batch, length, width), cpu)?,
        Tensor::from_vec(initial, (batch, width, state), cpu)?,
    ])
}

/// What one block carries from chunk to chunk, backwards in time.
struct Carried<const N: usize> {
    to_state: [Lanes; N],
    to_a: [Lanes; N],
    to_skip: Lanes,
}

/// Room for one chunk: its states and decays, and the lane-wise sums for B and C.
struct Scratch<const N: usize> {
    states: Vec<[Lanes; N]>,
    decays: Vec<[Lanes; N]>,
    to_b: Vec<[Lanes; N]>,
    to_c: Vec<[Lanes; N]>,
}

#[allow(unsafe_code)]
#[inline(always)]
fn backward_group<const N: usize>(
    inputs: &Inputs<'_>,
    grad: &Rows<'_>,
    kept: &[f32],
    b: usize,
    blocks: std::ops::Range<usize>,
    task: usize,
    targets: Targets,
) {
    let Dims { length, width, state, .. } = inputs.dims;
    let zero = [[0.0; LANES]; N];
    let mut scratch =
        Scratch { states: vec![zero; CHUNK + 1], decays: vec![zero; CHUNK], to_b: vec![zero; CHUNK], to_c: vec![zero; CHUNK] };
    let mut carried: Vec<Carried<N>> = blocks.clone().map(|_| Carried { to_state: zero, to_a: zero, to_skip: [0.0; LANES] }).collect();
    for chunk in (0..inputs.chunks()).rev() {
        let steps = chunk * CHUNK..((chunk + 1) * CHUNK).min(length);
        scratch.to_b.fill(zero);
        scratch.to_c.fill(zero);
        for (k, carried) in blocks.clone().zip(&mut carried) {
            let a = inputs.decay::<N>(k);
            let start = inputs.kept::<N>(b, chunk, k);
            for n in 0..N {
                scratch.states[0][n] = load(&kept[start + n * LANES..start + (n + 1) * LANES]);
            }
            recompute_states(inputs, grad, b, k, &a, steps.clone(), &mut scratch);
            for t in steps.clone().rev() {
                backward_step(inputs, grad, b, k, t, t - steps.start, &a, carried, &mut scratch, targets);
            }
        }
        for t in steps.clone() {
            // SAFETY: each task owns its part of the sums for B and C; below, its channels of its batch row.
            let (to_b, to_c) =
                unsafe { (targets.b.slice((task * length + t) * state, state), targets.c.slice((task * length + t) * state, state)) };
            for n in 0..state {
                to_b[n] = scratch.to_b[t - steps.start][n].iter().sum();
                to_c[n] = scratch.to_c[t - steps.start][n].iter().sum();
            }
        }
    }
    for (k, carried) in blocks.zip(&carried) {
        let (lo, hi) = inputs.channels(k);
        store(unsafe { targets.skip.slice(b * width + lo, hi - lo) }, &carried.to_skip);
        for channel in lo..hi {
            let at = (b * width + channel) * state;
            let (to_a, to_initial) = unsafe { (targets.a.slice(at, state), targets.initial.slice(at, state)) };
            for n in 0..state {
                to_a[n] = carried.to_a[n][channel - lo];
                to_initial[n] = carried.to_state[n][channel - lo];
            }
        }
    }
}

/// The states and decays of one chunk of one block, from the kept state in `scratch.states[0]`.
#[inline(always)]
fn recompute_states<const N: usize>(
    inputs: &Inputs<'_>,
    grad: &Rows<'_>,
    b: usize,
    k: usize,
    a: &[Lanes; N],
    steps: std::ops::Range<usize>,
    scratch: &mut Scratch<N>,
) {
    let (lo, hi) = inputs.channels(k);
    let mut h = scratch.states[0];
    for (j, t) in steps.enumerate() {
        let row = b * inputs.dims.length + t;
        [inputs.u, inputs.dt].iter().for_each(|rows| rows.prefetch(row + AHEAD, lo));
        // For the way back.
        [inputs.z, grad].iter().for_each(|rows| rows.prefetch(row, lo));
        let (u, raw) = (load(&inputs.u.row(row)[lo..hi]), load(&inputs.dt.row(row)[lo..hi]));
        let dt = lanes(|i| softplus_one(raw[i]));
        let drive = lanes(|i| dt[i] * u[i]);
        let bt = inputs.selective::<N>(inputs.b, row);
        let (decays, states) = (&mut scratch.decays[j], &mut scratch.states[j + 1]);
        for n in 0..N {
            let decay = exp2(&lanes(|i| dt[i] * a[n][i]));
            h[n] = lanes(|i| decay[i].mul_add(h[n][i], drive[i] * bt[n]));
            decays[n] = decay;
            states[n] = h[n];
        }
    }
}

#[allow(unsafe_code, clippy::too_many_arguments)]
#[inline(always)]
fn backward_step<const N: usize>(
    inputs: &Inputs<'_>,
    grad: &Rows<'_>,
    b: usize,
    k: usize,
    t: usize,
    j: usize,
    a: &[Lanes; N],
    carried: &mut Carried<N>,
    scratch: &mut Scratch<N>,
    targets: Targets,
) {
    let (lo, hi) = inputs.channels(k);
    let row = b * inputs.dims.length + t;
    let (u, raw, z) = (load(&inputs.u.row(row)[lo..hi]), load(&inputs.dt.row(row)[lo..hi]), load(&inputs.z.row(row)[lo..hi]));
    let (g, skip) = (load(&grad.row(row)[lo..hi]), load(&inputs.skip[lo..hi]));
    let (bt, ct) = (inputs.selective::<N>(inputs.b, row), inputs.selective::<N>(inputs.c, row));
    let (dt, gate) = (lanes(|i| softplus_one(raw[i])), lanes(|i| sigmoid_one(z[i])));
    let drive = lanes(|i| dt[i] * u[i]);
    // Gradient with respect to the output before the gate.
    let g1 = lanes(|i| g[i] * z[i] * gate[i]);
    let (before, after, decay) = (&scratch.states[j], &scratch.states[j + 1], &scratch.decays[j]);
    let (to_b, to_c) = (&mut scratch.to_b[j], &mut scratch.to_c[j]);
    let mut y = lanes(|i| skip[i] * u[i]);
    let (mut through_b, mut through_a) = ([0.0; LANES], [0.0; LANES]);
    for n in 0..N {
        y = lanes(|i| after[n][i].mul_add(ct[n], y[i]));
        to_c[n] = lanes(|i| g1[i].mul_add(after[n][i], to_c[n][i]));
        let v = lanes(|i| g1[i].mul_add(ct[n], carried.to_state[n][i]));
        through_b = lanes(|i| v[i].mul_add(bt[n], through_b[i]));
        to_b[n] = lanes(|i| v[i].mul_add(drive[i], to_b[n][i]));
        let w = lanes(|i| v[i] * decay[n][i]);
        carried.to_state[n] = w;
        let q = lanes(|i| w[i] * before[n][i]);
        through_a = lanes(|i| q[i].mul_add(a[n][i], through_a[i]));
        carried.to_a[n] = lanes(|i| q[i].mul_add(dt[i], carried.to_a[n][i]));
    }
    carried.to_skip = lanes(|i| g1[i].mul_add(u[i], carried.to_skip[i]));
    let to_u = lanes(|i| dt[i].mul_add(through_b[i], g1[i] * skip[i]));
    // `a` carries log2 e; the derivative of softplus is the sigmoid.
    let to_dt = lanes(|i| u[i].mul_add(through_b[i], through_a[i] * (1.0 / LOG2_E)) * sigmoid_one(raw[i]));
    let to_z = lanes(|i| g[i] * y[i] * gate[i] * (1.0 + z[i] * (1.0 - gate[i])));
    for (target, value) in [(targets.u, to_u), (targets.dt, to_dt), (targets.z, to_z)] {
        // SAFETY: each task owns its channels of its batch row.
        store(unsafe { target.slice(row * inputs.dims.width + lo, hi - lo) }, &value);
    }
}
