//! Layer normalisation (Ba, Kiros and Hinton, 2016).

use crate::cpu::{Rows, Shared, buffer, is_f32_cpu, with_rows};
use crate::norm::{dot, sum};
use crate::parallel;
use crate::simd::dispatch;
use crate::tape::{Tape, Var};
use candle_core::{D, Device, Result, Tensor};

/// Rows handled by one task.
const ROWS: usize = 16;

impl Tape {
    /// (x − mean(x)) / √(var(x) + eps) · weight + bias over the last dimension, with the variance of the population: x [.., d], weight
    /// and bias [d].
    ///
    /// Keeps x; mean and deviation are computed again in the backward pass.
    pub fn layer_norm(&self, x: &Var, weight: &Var, bias: &Var, eps: f64) -> Result<Var> {
        let output = forward(x.value(), weight.value(), bias.value(), eps)?;
        let saved = || vec![x.value().clone(), weight.value().clone()];
        Ok(self.record("layer_norm", &[x, weight, bias], output, saved, move |back| {
            let needs_affine = back.needs[1] || back.needs[2];
            let Gradients { x, affine } = backward(&back.grad, &back.saved[0], &back.saved[1], eps, needs_affine)?;
            let (weight, bias) = affine.unzip();
            Ok(vec![back.needs[0].then_some(x), weight.filter(|_| back.needs[1]), bias.filter(|_| back.needs[2])])
        }))
    }
}

/// With respect to x, and to weight and bias where they are wanted.
struct Gradients {
    x: Tensor,
    affine: Option<(Tensor, Tensor)>,
}

/// (x − mean) / deviation, and 1 / deviation [.., 1].
fn normalise(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let inverse = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok((centred.broadcast_mul(&inverse)?, inverse))
}

fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if ![x, weight, bias].into_iter().all(is_f32_cpu) {
        return normalise(x, eps)?.0.broadcast_mul(weight)?.broadcast_add(bias);
    }
    let (w, b) = (weight.to_vec1::<f32>()?, bias.to_vec1::<f32>()?);
    with_rows(x, |rows| {
        let mut out = buffer(rows.rows * rows.cols);
        parallel::for_each_piece(&mut out, ROWS * rows.cols, rows.rows * rows.cols, |i, piece| {
            dispatch(
                #[inline(always)]
                || {
                    for (j, y) in piece.chunks_mut(rows.cols).enumerate() {
                        let x = rows.row(i * ROWS + j);
                        let inverse = normalise_row(x, eps, y);
                        for ((y, w), b) in y.iter_mut().zip(&w).zip(&b) {
                            *y = (*y * inverse).mul_add(*w, *b);
                        }
                    }
                },
            );
        });
        Tensor::from_vec(out, x.dims(), &Device::Cpu)
    })
}

/// Writes x − mean(x) to `centred` and returns 1 / deviation. Two passes: the variance of values far from 0 keeps its digits.
#[inline(always)]
fn normalise_row(x: &[f32], eps: f64, centred: &mut [f32]) -> f32 {
    let mean = sum(x) / x.len() as f32;
    for (c, x) in centred.iter_mut().zip(x) {
        *c = x - mean;
    }
    1.0 / (dot(centred, centred) / x.len() as f32 + eps as f32).sqrt()
}

fn backward(grad: &Tensor, x: &Tensor, weight: &Tensor, eps: f64, needs_affine: bool) -> Result<Gradients> {
    if ![grad, x, weight].into_iter().all(is_f32_cpu) {
        let (normed, inverse) = normalise(x, eps)?;
        let scaled = grad.broadcast_mul(weight)?;
        let (mean, slope) = (scaled.mean_keepdim(D::Minus1)?, (&scaled * &normed)?.mean_keepdim(D::Minus1)?);
        let to_x = (scaled.broadcast_sub(&mean)? - normed.broadcast_mul(&slope)?)?.broadcast_mul(&inverse)?;
        let sums = || Ok::<_, candle_core::Error>((crate::linear::column_sums(&(grad * &normed)?)?, crate::linear::column_sums(grad)?));
        return Ok(Gradients { x: to_x, affine: needs_affine.then(sums).transpose()? });
    }
    let w = weight.to_vec1::<f32>()?;
    with_rows(grad, |g| with_rows(x, |rows| backward_kernel(g, rows, &w, eps, needs_affine, x.dims())))
}

fn backward_kernel(g: &Rows<'_>, x: &Rows<'_>, w: &[f32], eps: f64, needs_affine: bool, dims: &[usize]) -> Result<Gradients> {
    let d = x.cols;
    let tasks = x.rows.div_ceil(ROWS);
    let mut to_x = buffer(x.rows * d);
    // Partial sums of a task for weight and bias, added in order afterwards: the same bits for any number of threads.
    let width = if needs_affine { 2 * d } else { 0 };
    let mut partial = buffer(tasks * width);
    let (shared_x, shared_partial) = (Shared::new(&mut to_x), Shared::new(&mut partial));
    parallel::for_each(tasks, x.rows * d, |task| {
        #[allow(unsafe_code)]
        // SAFETY: each task owns its rows of `to_x` and its row of `partial`.
        let sums = unsafe { shared_partial.slice(task * width, width) };
        let mut centred = buffer(d);
        for i in task * ROWS..((task + 1) * ROWS).min(x.rows) {
            #[allow(unsafe_code)]
            // SAFETY: as above.
            let out = unsafe { shared_x.slice(i * d, d) };
            dispatch(
                #[inline(always)]
                || backward_row(g.row(i), x.row(i), w, eps, &mut centred, out, sums),
            );
        }
    });
    let affine = || {
        let mut sums = vec![0.0f32; 2 * d];
        partial.chunks(2 * d).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value));
        let to_bias = sums.split_off(d);
        Ok::<_, candle_core::Error>((Tensor::from_vec(sums, d, &Device::Cpu)?, Tensor::from_vec(to_bias, d, &Device::Cpu)?))
    };
    let affine = needs_affine.then(affine).transpose()?;
    Ok(Gradients { x: Tensor::from_vec(to_x, dims, &Device::Cpu)?, affine })
}

/// The gradient of one row; `sums` are those of weight and bias, one behind the other, or empty.
#[inline(always)]
fn backward_row(g: &[f32], x: &[f32], w: &[f32], eps: f64, centred: &mut [f32], out: &mut [f32], sums: &mut [f32]) {
    let inverse = normalise_row(x, eps, centred);
    for ((out, g), w) in out.iter_mut().zip(g).zip(w) {
        *out = g * w;
    }
    let count = x.len() as f32;
    let (mean, slope) = (sum(out) / count, dot(out, centred) / count * inverse * inverse);
    for (out, c) in out.iter_mut().zip(&*centred) {
        *out = (*out - mean - c * slope) * inverse;
    }
    let (to_weight, to_bias) = sums.split_at_mut(sums.len() / 2);
    for ((sum, g), c) in to_weight.iter_mut().zip(g).zip(&*centred) {
        *sum += g * c * inverse;
    }
    for (sum, g) in to_bias.iter_mut().zip(g) {
        *sum += g;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel, random, relative_error};
    use candle_core::DType;

    fn norm(t: &Tape, v: &[Var]) -> Result<Var> {
        t.layer_norm(&v[0], &v[1], &v[2], 1e-5)
    }

    #[test]
    fn agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        check_gradients(&[&[2, 3, 5], &[5], &[5]], norm)?;
        for shape in [[1, 1, 3], [1, 1, 7], [2, 17, 16], [3, 11, 50]] {
            check_kernel(&[&shape, &shape[2..], &shape[2..]], 1e-5, norm)?;
        }
        Ok(())
    }

    #[test]
    fn values_far_from_zero_keep_their_variance() -> Result<()> {
        let x = (random(&[4, 33], 1, DType::F32) + 1000.0)?;
        let tape = Tape::inference();
        let run = |dtype| {
            let of = |t: Tensor| Ok::<_, candle_core::Error>(Var::constant(t.to_dtype(dtype)?));
            let affine = [of(random(&[33], 2, DType::F32))?, of(random(&[33], 3, DType::F32))?];
            Ok::<_, candle_core::Error>(tape.layer_norm(&of(x.clone())?, &affine[0], &affine[1], 1e-5)?.value().clone())
        };
        assert!(relative_error(&run(DType::F64)?, &run(DType::F32)?)? < 1e-4);
        Ok(())
    }
}
