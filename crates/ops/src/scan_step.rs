//! One step of the selective scan on f32 CPU memory, as in decoding.
//!
//! The kernel over time holds a state of sixteen channels in a register, which pays where many steps follow one another. Here the states of
//! a channel lie side by side in a register, as they do in memory: nothing is transposed or copied for the one step.

use crate::cpu::{Rows, Shared, unwritten, with_rows};
use crate::parallel;
use crate::scan::{A, B, C, DT, Dims, Forward, H0, SKIP, U, Z};
use crate::simd::{LANES, LOG2_E, Lanes, dispatch, exp2, lanes, load, sigmoid_one, softplus_one, store, total};
use candle_core::{Device, Result, Tensor};

/// The inputs as rows, in the order of [`crate::scan`]: one a sequence, but one a channel of A and one a channel of a sequence of the state.
struct Inputs<'a> {
    u: &'a Rows<'a>,
    dt: &'a Rows<'a>,
    a: &'a Rows<'a>,
    b: &'a Rows<'a>,
    c: &'a Rows<'a>,
    z: &'a Rows<'a>,
    initial: &'a Rows<'a>,
    skip: Vec<f32>,
    dims: Dims,
}

fn with_inputs<R>(values: &[Tensor], dims: Dims, body: impl FnOnce(&Inputs<'_>) -> Result<R>) -> Result<R> {
    let skip = values[SKIP].to_vec1::<f32>()?;
    with_rows(&values[U], |u| {
        with_rows(&values[DT], |dt| {
            with_rows(&values[A], |a| {
                with_rows(&values[B], |b| {
                    with_rows(&values[C], |c| {
                        with_rows(&values[Z], |z| {
                            with_rows(&values[H0], |initial| body(&Inputs { u, dt, a, b, c, z, initial, skip, dims }))
                        })
                    })
                })
            })
        })
    })
}

/// The step of every sequence; `dims.length` is 1.
pub(crate) fn forward(values: &[Tensor], dims: Dims) -> Result<Forward> {
    let Dims { batch, width, state, .. } = dims;
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every channel of every sequence and its states.
    let (mut output, mut last) = unsafe { (unwritten(batch * width), unwritten(batch * width * state)) };
    let shared = [Shared::new(&mut output), Shared::new(&mut last)];
    with_inputs(values, dims, |inputs| {
        parallel::for_each(batch, batch * width * state, |b| {
            #[allow(unsafe_code)]
            // SAFETY: each task owns its sequence.
            let (output, last) = unsafe { (shared[0].slice(b * width, width), shared[1].slice(b * width * state, width * state)) };
            dispatch(
                #[inline(always)]
                || inputs.step(b, output, last),
            );
        });
        Ok(())
    })?;
    Ok(Forward {
        output: Tensor::from_vec(output, (batch, 1, width), &Device::Cpu)?,
        last_state: Tensor::from_vec(last, (batch, width, state), &Device::Cpu)?,
        states: None,
    })
}

impl Inputs<'_> {
    /// The step of sequence `b`.
    #[inline(always)]
    fn step(&self, b: usize, output: &mut [f32], last: &mut [f32]) {
        let Dims { width, state, .. } = self.dims;
        let (drives, reads) = (self.b.row(b), self.c.row(b));
        for lo in (0..width).step_by(LANES) {
            let hi = (lo + LANES).min(width);
            let (u, raw, z) = (load(&self.u.row(b)[lo..hi]), load(&self.dt.row(b)[lo..hi]), load(&self.z.row(b)[lo..hi]));
            let skip = load(&self.skip[lo..hi]);
            let dt = lanes(|i| softplus_one(raw[i]));
            let mut y = lanes(|i| skip[i] * u[i]);
            for channel in lo..hi {
                let i = channel - lo;
                let (a, before) = (self.a.row(channel), self.initial.row(b * width + channel));
                let after = &mut last[channel * state..(channel + 1) * state];
                y[i] += advance(a, dt[i] * LOG2_E, before, dt[i] * u[i], drives, reads, after);
            }
            store(&mut output[lo..hi], &lanes(|i| y[i] * z[i] * sigmoid_one(z[i])));
        }
    }
}

/// One channel: after = exp2(rate · a) before + drive · b. Returns c · after.
#[inline(always)]
fn advance(a: &[f32], rate: f32, before: &[f32], drive: f32, b: &[f32], c: &[f32], after: &mut [f32]) -> f32 {
    // A length that the compiler knows makes each of the full groups a register.
    let full = after.len() / LANES * LANES;
    let mut sums = [0.0; LANES];
    for at in (0..full).step_by(LANES) {
        let values = [a, before, b, c].map(|values| load(&values[at..at + LANES]));
        sums = advance_group(values, rate, drive, sums, &mut after[at..at + LANES]);
    }
    if full < after.len() {
        let values = [a, before, b, c].map(|values| load(&values[full..after.len()]));
        sums = advance_group(values, rate, drive, sums, &mut after[full..]);
    }
    // In memory: else LLVM splits the group, and all that leads to it, into the pieces that are added up.
    total(std::hint::black_box(&sums))
}

/// The same for a group of states; returns `sums` with c · after added.
#[inline(always)]
fn advance_group([a, before, b, c]: [Lanes; 4], rate: f32, drive: f32, sums: Lanes, after: &mut [f32]) -> Lanes {
    let decay = exp2(&lanes(|n| rate * a[n]));
    let h = lanes(|n| decay[n].mul_add(before[n], drive * b[n]));
    store(after, &h);
    lanes(|n| h[n].mul_add(c[n], sums[n]))
}
