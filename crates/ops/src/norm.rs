//! Root-mean-square normalisation (Zhang and Sennrich, 2019).

use crate::cpu::{Rows, Shared, buffer, is_f32_cpu, unwritten, with_rows};
use crate::parallel;
use crate::simd::{dispatch, folded, total};
use crate::tape::{Tape, Var};
use candle_core::{D, Device, Result, Tensor};

/// Rows handled by one task.
const ROWS: usize = 16;

impl Tape {
    /// x / √(mean(x²) + eps) · weight over the last dimension: x [.., d], weight [d].
    ///
    /// Keeps x; the inverse root is computed again in the backward pass.
    pub fn rms_norm(&self, x: &Var, weight: &Var, eps: f64) -> Result<Var> {
        let output = forward(x.value(), weight.value(), eps)?;
        let saved = || vec![x.value().clone(), weight.value().clone()];
        Ok(self.record("rms_norm", &[x, weight], output, saved, move |back| {
            let (to_x, to_weight) = backward(&back.grad, &back.saved[0], &back.saved[1], eps, back.needs[1])?;
            Ok(vec![back.needs[0].then_some(to_x), to_weight])
        }))
    }
}

fn inverse_root(x: &Tensor, eps: f64) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()
}

fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !(is_f32_cpu(x) && is_f32_cpu(weight)) {
        return x.broadcast_mul(&inverse_root(x, eps)?)?.broadcast_mul(weight);
    }
    let w = weight.to_vec1::<f32>()?;
    with_rows(x, |rows| {
        #[allow(unsafe_code)]
        // SAFETY: the pieces below cover it and are written in full.
        let mut out = unsafe { unwritten(rows.rows * rows.cols) };
        parallel::for_each_piece(&mut out, ROWS * rows.cols, rows.rows * rows.cols, |i, piece| {
            dispatch(
                #[inline(always)]
                || {
                    for (j, y) in piece.chunks_mut(rows.cols).enumerate() {
                        let x = rows.row(i * ROWS + j);
                        let r = row_inverse_root(x, eps);
                        for ((y, x), w) in y.iter_mut().zip(x).zip(&w) {
                            *y = x * r * w;
                        }
                    }
                },
            );
        });
        Tensor::from_vec(out, x.dims(), &Device::Cpu)
    })
}

/// Σ a·b in sixteen interleaved partial sums: vectorisable, and the same bits on every processor.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_groups, b_groups) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_groups.remainder().iter().zip(b_groups.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_groups.zip(b_groups) {
        for i in 0..16 {
            sums[i] = x[i].mul_add(y[i], sums[i]);
        }
    }
    total(&sums) + tail
}

/// Σ a, summed as [`dot`] does.
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let groups = a.chunks_exact(16);
    let tail: f32 = groups.remainder().iter().sum();
    for group in groups {
        for i in 0..16 {
            sums[i] += group[i];
        }
    }
    total(&sums) + tail
}

/// The largest value of a, or −∞ of none.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; 16];
    let groups = a.chunks_exact(16);
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let tail = groups.remainder().iter().copied().fold(f32::NEG_INFINITY, larger);
    for group in groups {
        for i in 0..16 {
            largest[i] = larger(largest[i], group[i]);
        }
    }
    larger(tail, folded(&largest, larger))
}

#[inline(always)]
fn row_inverse_root(x: &[f32], eps: f64) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps as f32).sqrt()
}

fn backward(grad: &Tensor, x: &Tensor, weight: &Tensor, eps: f64, needs_weight: bool) -> Result<(Tensor, Option<Tensor>)> {
    if !(is_f32_cpu(grad) && is_f32_cpu(x) && is_f32_cpu(weight)) {
        let r = inverse_root(x, eps)?;
        let scaled = grad.broadcast_mul(weight)?;
        let mean = (&scaled * x)?.mean_keepdim(D::Minus1)?;
        let to_x = (scaled - x.broadcast_mul(&(mean * r.sqr()?)?)?)?.broadcast_mul(&r)?;
        let to_weight = needs_weight.then(|| crate::linear::column_sums(&(grad * x.broadcast_mul(&r)?)?)).transpose()?;
        return Ok((to_x, to_weight));
    }
    let w = weight.to_vec1::<f32>()?;
    with_rows(grad, |g| with_rows(x, |rows| backward_kernel(g, rows, &w, eps, needs_weight, x.dims())))
}

fn backward_kernel(
    g: &Rows<'_>,
    x: &Rows<'_>,
    w: &[f32],
    eps: f64,
    needs_weight: bool,
    dims: &[usize],
) -> Result<(Tensor, Option<Tensor>)> {
    let d = x.cols;
    let tasks = x.rows.div_ceil(ROWS);
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every row.
    let mut to_x = unsafe { unwritten(x.rows * d) };
    // One partial sum a task, added in order afterwards: the same bits for any number of threads.
    let mut partial = buffer(if needs_weight { tasks * d } else { 0 });
    let (shared_x, shared_partial) = (Shared::new(&mut to_x), Shared::new(&mut partial));
    parallel::for_each(tasks, x.rows * d, |task| {
        #[allow(unsafe_code)]
        // SAFETY: each task owns its rows of `to_x` and its row of `partial`.
        let sums = unsafe { shared_partial.slice(if needs_weight { task * d } else { 0 }, if needs_weight { d } else { 0 }) };
        for i in task * ROWS..((task + 1) * ROWS).min(x.rows) {
            #[allow(unsafe_code)]
            // SAFETY: as above.
            let out = unsafe { shared_x.slice(i * d, d) };
            dispatch(
                #[inline(always)]
                || backward_row(g.row(i), x.row(i), w, eps, out, sums),
            );
        }
    });
    let to_weight = needs_weight.then(|| {
        let mut sums = vec![0.0f32; d];
        partial.chunks(d).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value));
        Tensor::from_vec(sums, d, &Device::Cpu)
    });
    Ok((Tensor::from_vec(to_x, dims, &Device::Cpu)?, to_weight.transpose()?))
}

#[inline(always)]
fn backward_row(g: &[f32], x: &[f32], w: &[f32], eps: f64, out: &mut [f32], sums: &mut [f32]) {
    let r = row_inverse_root(x, eps);
    for ((out, g), w) in out.iter_mut().zip(g).zip(w) {
        *out = g * w;
    }
    let mean = dot(out, x) / x.len() as f32 * r * r;
    for (out, x) in out.iter_mut().zip(x) {
        *out = (*out - x * mean) * r;
    }
    for ((sum, g), x) in sums.iter_mut().zip(g).zip(x) {
        *sum += g * x * r;
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, check_kernel};
    use candle_core::Result;

    #[test]
    fn agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        check_gradients(&[&[2, 3, 5], &[5]], |t, v| t.rms_norm(&v[0], &v[1], 1e-5))?;
        for shape in [[1, 1, 2], [1, 1, 7], [2, 17, 16], [3, 11, 50]] {
            check_kernel(&[&shape, &shape[2..]], 1e-5, |t, v| t.rms_norm(&v[0], &v[1], 1e-5))?;
        }
        Ok(())
    }
}
