//! Causal depthwise convolution over time with SiLU, as in Mamba's mixer.
#![expect(clippy::needless_range_loop, reason = "several arrays are walked in step by one index")]

use crate::cpu::{Rows, Shared, buffer, is_f32_cpu, unwritten, with_rows};
use crate::parallel;
use crate::simd::{LANES, Lanes, dispatch, lanes, load, sigmoid_one, store};
use crate::tape::{Tape, Var};
use candle_core::{Device, Result, Tensor};

/// Longest kernel of the fast path; Mamba's is 4.
const MAX_TAPS: usize = 8;

/// Steps that inputs are fetched ahead of their use.
const AHEAD: usize = 16;

impl Tape {
    /// silu(conv(x) + bias): x [batch, length, d], weight [d, 1, taps] and bias [d] as PyTorch's `Conv1d` holds them, `context`
    /// [batch, taps − 1, d] the inputs before the first (zeros if absent) → [batch, length, d].
    ///
    /// Keeps x; the sum before SiLU is computed again in the backward pass.
    pub fn causal_conv_silu(&self, x: &Var, weight: &Var, bias: Option<&Var>, context: Option<&Var>) -> Result<Var> {
        let (batch, length, width) = x.value().dims3()?;
        let (channels, _, taps) = weight.value().dims3()?;
        if channels != width || context.is_some_and(|c| c.dims() != [batch, taps - 1, width]) {
            candle_core::bail!(
                "causal convolution {:?} with context {:?} does not fit {:?}",
                weight.dims(),
                context.map(|c| c.dims().to_vec()),
                x.dims()
            )
        }
        let shape = Shape { batch, length, width, taps };
        let zeros_bias = Var::constant(Tensor::zeros(width, x.value().dtype(), x.value().device())?);
        let zeros_context = Var::constant(Tensor::zeros((batch, taps - 1, width), x.value().dtype(), x.value().device())?);
        let inputs = [x, weight, bias.unwrap_or(&zeros_bias), context.unwrap_or(&zeros_context)];
        let values = inputs.map(|v| v.value().clone());
        let on_kernel = values.iter().all(is_f32_cpu) && taps <= MAX_TAPS;
        let output = if on_kernel { forward_kernel(&values, shape)? } else { composed_forward(&values, shape)?.0 };
        Ok(self.record(
            "causal_conv_silu",
            &inputs,
            output,
            || values.to_vec(),
            move |back| {
                let grads = if on_kernel {
                    backward_kernel(&back.grad, &back.saved, shape)?
                } else {
                    composed_backward(&back.grad, &back.saved, shape)?
                };
                Ok(grads.into_iter().zip(back.needs).map(|(grad, &needed)| needed.then_some(grad)).collect())
            },
        ))
    }
}

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    length: usize,
    width: usize,
    taps: usize,
}

/// The inputs of one channel group over time, behind their context.
struct Channel<'a> {
    x: &'a Rows<'a>,
    context: &'a Rows<'a>,
    shape: Shape,
    b: usize,
    /// First channel and one past the last.
    at: (usize, usize),
}

impl Channel<'_> {
    /// Input at time `t − (taps − 1)`: the first taps − 1 come from the context.
    #[inline(always)]
    fn input(&self, t: usize) -> Lanes {
        let (lo, hi) = self.at;
        match t.checked_sub(self.shape.taps - 1) {
            Some(t) => load(&self.x.row(self.b * self.shape.length + t)[lo..hi]),
            None => load(&self.context.row(self.b * (self.shape.taps - 1) + t)[lo..hi]),
        }
    }

    /// The convolution's sum at time `t`.
    #[inline(always)]
    fn sum(&self, t: usize, weights: &[Lanes; MAX_TAPS], bias: &Lanes) -> Lanes {
        let mut sum = *bias;
        for k in 0..self.shape.taps {
            let x = self.input(t + k);
            sum = lanes(|i| weights[k][i].mul_add(x[i], sum[i]));
        }
        sum
    }
}

/// Weights [d, taps] of the channels `lo..hi`, one group a tap.
fn group_weights(weight: &[f32], taps: usize, (lo, hi): (usize, usize)) -> [Lanes; MAX_TAPS] {
    let mut groups = [[0.0; LANES]; MAX_TAPS];
    for c in lo..hi {
        for k in 0..taps {
            groups[k][c - lo] = weight[c * taps + k];
        }
    }
    groups
}

fn forward_kernel(values: &[Tensor; 4], shape: Shape) -> Result<Tensor> {
    let (weight, bias) = (values[1].flatten_all()?.to_vec1::<f32>()?, values[2].to_vec1::<f32>()?);
    let groups = shape.width.div_ceil(LANES);
    // Once for all sequences: with one step each, laying them out takes as long as the sums.
    let weights: Vec<_> =
        (0..groups).map(|group| group_weights(&weight, shape.taps, (group * LANES, (group * LANES + LANES).min(shape.width)))).collect();
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every channel at every time.
    let mut out = unsafe { unwritten(shape.batch * shape.length * shape.width) };
    let shared = Shared::new(&mut out);
    let context = values[3].reshape((shape.batch * (shape.taps - 1), shape.width))?;
    with_rows(&values[0], |x| {
        with_rows(&context, |context| {
            parallel::for_each(shape.batch * groups, shape.batch * shape.length * shape.width, |task| {
                let group = task % groups;
                let at = (group * LANES, (group * LANES + LANES).min(shape.width));
                let channel = Channel { x, context, shape, b: task / groups, at };
                let (weights, bias) = (&weights[group], load(&bias[at.0..at.1]));
                dispatch(
                    #[inline(always)]
                    || {
                        for t in 0..shape.length {
                            x.prefetch(channel.b * shape.length + t + AHEAD, at.0);
                            let sum = channel.sum(t, weights, &bias);
                            #[allow(unsafe_code)]
                            // SAFETY: each task owns its channels of its batch row.
                            let y = unsafe { shared.slice((channel.b * shape.length + t) * shape.width + at.0, at.1 - at.0) };
                            store(y, &lanes(|i| sum[i] * sigmoid_one(sum[i])));
                        }
                    },
                );
            });
            Ok(())
        })
    })?;
    Tensor::from_vec(out, (shape.batch, shape.length, shape.width), &Device::Cpu)
}

/// Gradients with respect to x, weight, bias and context.
fn backward_kernel(grad: &Tensor, values: &[Tensor], shape: Shape) -> Result<Vec<Tensor>> {
    let Shape { batch, length, width, taps } = shape;
    let (weight, bias) = (values[1].flatten_all()?.to_vec1::<f32>()?, values[2].to_vec1::<f32>()?);
    let groups = width.div_ceil(LANES);
    // Inputs and context in one: [batch, taps − 1 + length, d].
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every channel at every time.
    let mut to_all = unsafe { unwritten(batch * (taps - 1 + length) * width) };
    // Per batch row, summed in order afterwards: taps weights and a bias a channel.
    let mut partial = buffer(batch * (taps + 1) * width);
    let (shared_all, shared_partial) = (Shared::new(&mut to_all), Shared::new(&mut partial));
    let context = values[3].reshape((batch * (taps - 1), width))?;
    with_rows(grad, |grad| {
        with_rows(&values[0], |x| {
            with_rows(&context, |context| {
                parallel::for_each(batch * groups, 4 * batch * length * width, |task| {
                    let at = (task % groups * LANES, (task % groups * LANES + LANES).min(width));
                    let channel = Channel { x, context, shape, b: task / groups, at };
                    let (weights, bias) = (group_weights(&weight, taps, at), load(&bias[at.0..at.1]));
                    dispatch(
                        #[inline(always)]
                        || backward_group(&channel, grad, &weights, &bias, shared_all, shared_partial),
                    );
                });
                Ok(())
            })
        })
    })?;
    let mut to_weight = buffer(width * taps);
    let mut to_bias = buffer(width);
    for b in 0..batch {
        let sums = &partial[b * (taps + 1) * width..(b + 1) * (taps + 1) * width];
        for c in 0..width {
            (0..taps).for_each(|k| to_weight[c * taps + k] += sums[k * width + c]);
            to_bias[c] += sums[taps * width + c];
        }
    }
    let to_all = Tensor::from_vec(to_all, (batch, taps - 1 + length, width), &Device::Cpu)?;
    Ok(vec![
        to_all.narrow(1, taps - 1, length)?.contiguous()?,
        Tensor::from_vec(to_weight, (width, 1, taps), &Device::Cpu)?,
        Tensor::from_vec(to_bias, width, &Device::Cpu)?,
        to_all.narrow(1, 0, taps - 1)?.contiguous()?,
    ])
}

#[inline(always)]
fn backward_group(channel: &Channel<'_>, grad: &Rows<'_>, weights: &[Lanes; MAX_TAPS], bias: &Lanes, to_all: Shared, partial: Shared) {
    let Channel { shape: Shape { length, width, taps, .. }, b, at: (lo, hi), .. } = *channel;
    let mut to_weights = [[0.0; LANES]; MAX_TAPS];
    let mut to_bias = [0.0; LANES];
    // Gradients of the last `taps` sums: input j contributes to the sums at times j − taps + 1 to j.
    let mut recent = [[0.0; LANES]; MAX_TAPS];
    for j in (0..length + taps - 1).rev() {
        for k in (1..taps).rev() {
            recent[k] = recent[k - 1];
        }
        recent[0] = [0.0; LANES];
        if let Some(t) = j.checked_sub(taps - 1) {
            [channel.x, grad].iter().for_each(|rows| rows.prefetch((b * length + t).saturating_sub(AHEAD), lo));
            let (sum, g) = (channel.sum(t, weights, bias), load(&grad.row(b * length + t)[lo..hi]));
            let slope = lanes(|i| {
                let s = sigmoid_one(sum[i]);
                g[i] * s * (1.0 + sum[i] * (1.0 - s))
            });
            recent[0] = slope;
            for k in 0..taps {
                let x = channel.input(t + k);
                to_weights[k] = lanes(|i| slope[i].mul_add(x[i], to_weights[k][i]));
            }
            to_bias = lanes(|i| to_bias[i] + slope[i]);
        }
        // recent[d] is the slope of the sum at time j − taps + 1 + d, in which input j has tap taps − 1 − d.
        let mut to_input = [0.0; LANES];
        for d in 0..taps {
            to_input = lanes(|i| recent[d][i].mul_add(weights[taps - 1 - d][i], to_input[i]));
        }
        #[allow(unsafe_code)]
        // SAFETY: each task owns its channels of its batch row.
        store(unsafe { to_all.slice((b * (taps - 1 + length) + j) * width + lo, hi - lo) }, &to_input);
    }
    for (k, sums) in to_weights.iter().take(taps).chain([&to_bias]).enumerate() {
        #[allow(unsafe_code)]
        // SAFETY: as above.
        store(unsafe { partial.slice((b * (taps + 1) + k) * width + lo, hi - lo) }, sums);
    }
}

/// silu of the sums, and the sums: both [batch, length, d].
fn composed_forward(values: &[Tensor], shape: Shape) -> Result<(Tensor, Tensor)> {
    let all = Tensor::cat(&[&values[3], &values[0]], 1)?;
    let mut sum = values[2].reshape((1, 1, shape.width))?.broadcast_as((shape.batch, shape.length, shape.width))?.contiguous()?;
    for k in 0..shape.taps {
        let tap = values[1].narrow(2, k, 1)?.reshape((1, 1, shape.width))?;
        sum = (sum + all.narrow(1, k, shape.length)?.broadcast_mul(&tap)?)?;
    }
    let sigmoid = (sum.neg()?.exp()? + 1.0)?.recip()?;
    Ok(((&sum * sigmoid)?, sum))
}

fn composed_backward(grad: &Tensor, values: &[Tensor], shape: Shape) -> Result<Vec<Tensor>> {
    let (_, sum) = composed_forward(values, shape)?;
    let s = (sum.neg()?.exp()? + 1.0)?.recip()?;
    let slope = ((grad * &s)? * ((&sum * (1.0 - &s)?)? + 1.0)?)?;
    let all = Tensor::cat(&[&values[3], &values[0]], 1)?;
    let mut to_all = all.zeros_like()?;
    let mut to_weight = Vec::with_capacity(shape.taps);
    for k in 0..shape.taps {
        let tap = values[1].narrow(2, k, 1)?.reshape((1, 1, shape.width))?;
        to_all = (to_all + slope.broadcast_mul(&tap)?.pad_with_zeros(1, k, shape.taps - 1 - k)?)?;
        to_weight.push((&slope * all.narrow(1, k, shape.length)?)?.sum((0, 1))?);
    }
    Ok(vec![
        to_all.narrow(1, shape.taps - 1, shape.length)?.contiguous()?,
        Tensor::stack(&to_weight, 1)?.unsqueeze(1)?,
        slope.sum((0, 1))?,
        to_all.narrow(1, 0, shape.taps - 1)?.contiguous()?,
    ])
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, check_kernel};
    use crate::{Tape, Var};
    use candle_core::Result;

    #[test]
    fn agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        let conv = |t: &Tape, v: &[Var]| t.causal_conv_silu(&v[0], &v[1], Some(&v[2]), Some(&v[3]));
        check_gradients(&[&[2, 5, 3], &[3, 1, 4], &[3], &[2, 3, 3]], conv)?;
        for (b, l, d, k) in [(1, 1, 1, 4), (2, 9, 3, 4), (2, 40, 37, 4), (1, 7, 16, 2)] {
            check_kernel(&[&[b, l, d], &[d, 1, k], &[d], &[b, k - 1, d]], 1e-5, conv)?;
            check_kernel(&[&[b, l, d], &[d, 1, k]], 1e-5, |t, v| t.causal_conv_silu(&v[0], &v[1], None, None))?;
        }
        Ok(())
    }
}
