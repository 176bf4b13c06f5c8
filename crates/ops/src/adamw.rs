//! The AdamW update (Loshchilov and Hutter, 2019), as `torch.optim.AdamW` computes it.

use crate::cpu::{Shared, is_f32_cpu, with_rows};
use crate::norm::dot;
use crate::parallel;
use crate::simd::dispatch;
use candle_core::{DType, Device, Result, Tensor};

/// Elements handled by one task.
const PIECE: usize = 16 * 1024;

/// The numbers of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Updates of this parameter so far, this one included.
    pub step: u64,
    /// Factor on the gradient, from clipping.
    pub grad_scale: f64,
}

/// A parameter's value and its moments.
#[derive(Debug, Clone)]
pub struct Moments {
    /// The value.
    pub value: Tensor,
    /// Mean of the gradients.
    pub first: Tensor,
    /// Mean of their squares.
    pub second: Tensor,
}

/// The value and moments after one update with `grad`, all in one shape.
pub fn adamw(old: &Moments, grad: &Tensor, s: AdamWStep) -> Result<Moments> {
    let [b1, b2] = s.betas;
    let (c1, c2) = (1.0 - b1.powf(s.step as f64), (1.0 - b2.powf(s.step as f64)).sqrt());
    if ![&old.value, &old.first, &old.second, grad].into_iter().all(is_f32_cpu) {
        let g = (grad * s.grad_scale)?;
        let first = ((&old.first * b1)? + (&g * (1.0 - b1))?)?;
        let second = ((&old.second * b2)? + (g.sqr()? * (1.0 - b2))?)?;
        let denominator = ((second.sqrt()? / c2)? + s.eps)?;
        let decayed = (&old.value * (1.0 - s.lr * s.weight_decay))?;
        return Ok(Moments { value: (decayed - ((&first / denominator)? * (s.lr / c1))?)?, first, second });
    }
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let (mut value, mut first, mut second) = (flat(&old.value)?, flat(&old.first)?, flat(&old.second)?);
    let grad = grad.flatten_all()?;
    with_rows(&grad, |grad| {
        let grad = &grad.data()[..value.len()];
        let (shared_first, shared_second) = (Shared::new(&mut first), Shared::new(&mut second));
        // Rounded only now: 1 − 0.999 taken in f32 is off by 5e-5.
        let (new1, new2) = ((1.0 - b1) as f32, (1.0 - b2) as f32);
        let (b1, b2, c2, eps) = (b1 as f32, b2 as f32, c2 as f32, s.eps as f32);
        let (rate, keep, scale) = ((s.lr / c1) as f32, (1.0 - s.lr * s.weight_decay) as f32, s.grad_scale as f32);
        let work = value.len();
        parallel::for_each_piece(&mut value, PIECE, work, |i, value| {
            let start = i * PIECE;
            #[allow(unsafe_code)]
            // SAFETY: pieces are disjoint.
            let (first, second) = unsafe { (shared_first.slice(start, value.len()), shared_second.slice(start, value.len())) };
            dispatch(
                #[inline(always)]
                || {
                    for (((value, first), second), grad) in value.iter_mut().zip(first).zip(second).zip(&grad[start..]) {
                        let g = grad * scale;
                        *first = b1 * *first + new1 * g;
                        *second = b2 * *second + new2 * g * g;
                        *value = *value * keep - rate * *first / (second.sqrt() / c2 + eps);
                    }
                },
            );
        });
        Ok(())
    })?;
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, old.value.shape(), &Device::Cpu);
    Ok(Moments { value: tensor(value)?, first: tensor(first)?, second: tensor(second)? })
}

/// Σ x², in f64 over partial sums of fixed length: the same bits for any number of threads.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !is_f32_cpu(x) {
        return x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
    }
    let flat = x.flatten_all()?;
    with_rows(&flat, |rows| {
        let piece = |values: &[f32]| {
            dispatch(
                #[inline(always)]
                || f64::from(dot(values, values)),
            )
        };
        Ok(rows.data()[..rows.rows * rows.cols].chunks(4096).map(piece).sum())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, relative_error};

    #[test]
    fn the_kernel_agrees_with_the_composition_over_several_steps() -> Result<()> {
        let start = |dtype| -> Result<Moments> {
            let value = random(&[7, 11], 1, dtype);
            Ok(Moments { first: value.zeros_like()?, second: value.zeros_like()?, value })
        };
        let (mut fast, mut exact) = (start(DType::F32)?, start(DType::F64)?);
        for step in 1..=5 {
            let s = AdamWStep { lr: 1e-2, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.7 };
            fast = adamw(&fast, &random(&[7, 11], 10 + step, DType::F32), s)?;
            exact = adamw(&exact, &random(&[7, 11], 10 + step, DType::F64), s)?;
        }
        assert!(relative_error(&exact.value, &fast.value)? < 1e-5);
        assert!(relative_error(&exact.first, &fast.first)? < 1e-6);
        assert!(relative_error(&exact.second, &fast.second)? < 1e-6);
        Ok(())
    }

    #[test]
    fn sums_of_squares_agree() -> Result<()> {
        let x = random(&[3, 5000], 1, DType::F32);
        let (fast, exact) = (sum_of_squares(&x)?, sum_of_squares(&x.to_dtype(DType::F64)?)?);
        assert!((fast - exact).abs() < 1e-5 * exact, "{fast} {exact}");
        Ok(())
    }
}
