//! Elementwise activations of feed-forward layers.

use crate::cpu::{buffer, is_f32_cpu, with_rows};
use crate::parallel;
use crate::simd::{dispatch, erf_one, exp_one, sigmoid_one};
use crate::tape::{Tape, Var};
use candle_core::{Device, Result, Tensor};
use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// Elements handled by one task.
const PIECE: usize = 16 * 1024;

/// The factor of x³ in GELU's tanh form.
const CUBIC: f64 = 0.044_715;

/// An elementwise activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x) with the exact normal distribution (Hendrycks and Gimpel, 2016); Hugging Face's `gelu`.
    Gelu,
    /// x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, of the same paper; Hugging Face's `gelu_new`.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x / (1 + e^−x), also called swish.
    Silu,
}

impl Tape {
    /// The activation of each element. Keeps its input, or its output where that is enough.
    pub fn activation(&self, x: &Var, activation: Activation) -> Result<Var> {
        let output = apply(x.value(), None, activation)?;
        // Behind ReLU the next layer may keep the output anyway, and its sign tells the slope.
        let kept = if activation == Activation::Relu { output.clone() } else { x.value().clone() };
        Ok(self.record(
            "activation",
            &[x],
            output,
            || vec![kept],
            move |back| Ok(vec![Some(apply(&back.saved[0], Some(&back.grad), activation)?)]),
        ))
    }
}

/// The activation of x, or `grad` times its slope at x.
fn apply(x: &Tensor, grad: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    if !(is_f32_cpu(x) && grad.is_none_or(is_f32_cpu)) {
        return match grad {
            None => composed(x, activation),
            Some(grad) => grad * composed_slope(x, activation)?,
        };
    }
    match (activation, grad) {
        (Activation::Gelu, None) => map(x, gelu),
        (Activation::Gelu, Some(grad)) => map_slope(x, grad, gelu_slope),
        (Activation::GeluTanh, None) => map(x, gelu_tanh),
        (Activation::GeluTanh, Some(grad)) => map_slope(x, grad, gelu_tanh_slope),
        (Activation::Relu, None) => map(x, |x| x.max(0.0)),
        (Activation::Relu, Some(grad)) => map_slope(x, grad, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        (Activation::Silu, None) => map(x, |x| x * sigmoid_one(x)),
        (Activation::Silu, Some(grad)) => map_slope(x, grad, |x| {
            let s = sigmoid_one(x);
            s * (1.0 + x * (1.0 - s))
        }),
    }
}

#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    0.5 * (1.0 + erf_one(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * normal_distribution(x)
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const DENSITY: f32 = (0.5 * FRAC_2_SQRT_PI / SQRT_2) as f32;
    normal_distribution(x) + x * DENSITY * exp_one(-0.5 * x * x)
}

/// (1 + tanh u) / 2 is the sigmoid of 2u.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const DOUBLE: f32 = (FRAC_2_SQRT_PI * SQRT_2) as f32;
    x * sigmoid_one(DOUBLE * x * (1.0 + CUBIC as f32 * x * x))
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    const DOUBLE: f32 = (FRAC_2_SQRT_PI * SQRT_2) as f32;
    let s = sigmoid_one(DOUBLE * x * (1.0 + CUBIC as f32 * x * x));
    s + x * s * (1.0 - s) * DOUBLE * (1.0 + 3.0 * CUBIC as f32 * x * x)
}

/// f of each element.
#[inline(always)]
fn map(x: &Tensor, f: impl Fn(f32) -> f32 + Sync + Send) -> Result<Tensor> {
    let x = x.contiguous()?;
    with_rows(&x, |rows| {
        let source = &rows.data()[..rows.rows * rows.cols];
        let mut out = buffer(source.len());
        parallel::for_each_piece(&mut out, PIECE, source.len(), |i, piece| {
            let source = &source[i * PIECE..];
            dispatch(
                #[inline(always)]
                || piece.iter_mut().zip(source).for_each(|(y, &x)| *y = f(x)),
            );
        });
        Tensor::from_vec(out, x.dims(), &Device::Cpu)
    })
}

/// grad · f of each element.
#[inline(always)]
fn map_slope(x: &Tensor, grad: &Tensor, f: impl Fn(f32) -> f32 + Sync + Send) -> Result<Tensor> {
    let (x, grad) = (x.contiguous()?, grad.contiguous()?);
    with_rows(&grad, |grad| {
        with_rows(&x, |rows| {
            let n = rows.rows * rows.cols;
            let (source, grad) = (&rows.data()[..n], &grad.data()[..n]);
            let mut out = buffer(n);
            parallel::for_each_piece(&mut out, PIECE, n, |i, piece| {
                let (source, grad) = (&source[i * PIECE..], &grad[i * PIECE..]);
                dispatch(
                    #[inline(always)]
                    || piece.iter_mut().zip(source).zip(grad).for_each(|((y, &x), &g)| *y = g * f(x)),
                );
            });
            Tensor::from_vec(out, x.dims(), &Device::Cpu)
        })
    })
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// The argument of the sigmoid in GELU's tanh form.
fn doubled(x: &Tensor) -> Result<Tensor> {
    (x * ((x.sqr()? * CUBIC)? + 1.0)?)? * (FRAC_2_SQRT_PI * SQRT_2)
}

fn composed(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x * (((x / SQRT_2)?.erf()? + 1.0)? * 0.5)?,
        Activation::GeluTanh => x * sigmoid(&doubled(x)?)?,
        Activation::Relu => x.relu(),
        Activation::Silu => x * sigmoid(x)?,
    }
}

fn composed_slope(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => {
            let density = ((x.sqr()? * -0.5)?.exp()? * (0.5 * FRAC_2_SQRT_PI / SQRT_2))?;
            (((x / SQRT_2)?.erf()? + 1.0)? * 0.5)? + (x * density)?
        }
        Activation::GeluTanh => {
            let s = sigmoid(&doubled(x)?)?;
            let inner = (((x.sqr()? * (3.0 * CUBIC))? + 1.0)? * (FRAC_2_SQRT_PI * SQRT_2))?;
            &s + (x * ((&s * (1.0 - &s)?)? * inner)?)?
        }
        Activation::Relu => x.gt(0.0)?.to_dtype(x.dtype()),
        Activation::Silu => {
            let s = sigmoid(x)?;
            &s * ((x * (1.0 - &s)?)? + 1.0)?
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel};

    const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];

    #[test]
    fn activations_agree_with_finite_differences_and_the_kernel() -> Result<()> {
        for activation in ALL {
            check_gradients(&[&[2, 5]], |t, v| t.activation(&v[0], activation))?;
            for shape in [[1, 1], [3, 50], [40, 1000]] {
                check_kernel(&[&shape], 1e-5, |t, v| t.activation(&v[0], activation))?;
            }
            // A view that is not contiguous.
            check_kernel(&[&[3, 7]], 1e-5, |t, v| t.activation(&t.narrow(&v[0], 1, 2, 4)?, activation))?;
        }
        Ok(())
    }

    /// Values of PyTorch's `torch.nn.functional.gelu`, `relu` and `silu` in float64.
    #[test]
    fn values_are_pytorchs() -> Result<()> {
        let x = [-9.0, -3.0, -1.0, -0.1, 0.0, 0.5, 2.0, 9.0];
        for (activation, expected) in ALL.into_iter().zip(TORCH) {
            for dtype in [candle_core::DType::F64, candle_core::DType::F32] {
                let input = Tensor::new(&x, &Device::Cpu)?.to_dtype(dtype)?;
                let found = Tape::inference().activation(&Var::constant(input), activation)?;
                let found = found.value().to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
                for ((x, found), expected) in x.iter().zip(found).zip(expected) {
                    assert!((found - expected).abs() <= 1e-6, "{activation:?}({x}) in {dtype:?}: {found}, PyTorch has {expected}");
                }
            }
        }
        Ok(())
    }

    const TORCH: [[f64; 8]; 4] = [
        [0.0, -0.004_049_694_094_89, -0.158_655_253_931, -0.046_017_216_272_3, 0.0, 0.345_731_230_637, 1.954_499_736_1, 9.0],
        [0.0, -0.003_637_392_081_77, -0.158_808_009_392, -0.046_017_248_954_6, 0.0, 0.345_714_009_825, 1.954_597_694_09, 9.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 2.0, 9.0],
        [
            -0.001_110_551_183_88,
            -0.142_277_619_533,
            -0.268_941_421_37,
            -0.047_502_081_252_1,
            0.0,
            0.311_229_665_601,
            1.761_594_155_96,
            8.998_889_448_82,
        ],
    ];
}
