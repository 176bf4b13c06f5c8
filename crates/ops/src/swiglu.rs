//! The gated activation silu(gate) · up of LLaMA's MLP, and silu alone.

use crate::cpu::{is_f32_cpu, unwritten, with_rows};
use crate::parallel;
use crate::simd::{dispatch, sigmoid_one};
use crate::tape::{Tape, Var};
use candle_core::{Device, Result, Tensor};

/// Elements handled by one task.
const PIECE: usize = 16 * 1024;

impl Tape {
    /// silu(gate) · up, elementwise on equal shapes. Keeps both inputs; the activation is computed again in the backward pass.
    pub fn swiglu(&self, gate: &Var, up: &Var) -> Result<Var> {
        let output = forward(gate.value(), up.value())?;
        let saved = || vec![gate.value().clone(), up.value().clone()];
        Ok(self.record("swiglu", &[gate, up], output, saved, |back| {
            let (to_gate, to_up) = backward(&back.grad, &back.saved[0], &back.saved[1])?;
            Ok(vec![back.needs[0].then_some(to_gate), back.needs[1].then_some(to_up)])
        }))
    }
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !(is_f32_cpu(gate) && is_f32_cpu(up)) {
        return gate * sigmoid(gate)? * up;
    }
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    with_rows(&gate, |g| {
        with_rows(&up, |u| {
            let n = g.rows * g.cols;
            let (g, u) = (&g.data()[..n], &u.data()[..n]);
            #[allow(unsafe_code)]
            // SAFETY: the pieces below cover it and are written in full.
            let mut out = unsafe { unwritten(n) };
            parallel::for_each_piece(&mut out, PIECE, n, |i, piece| {
                let (g, u) = (&g[i * PIECE..], &u[i * PIECE..]);
                dispatch(
                    #[inline(always)]
                    || {
                        for ((y, &g), &u) in piece.iter_mut().zip(g).zip(u) {
                            *y = g * sigmoid_one(g) * u;
                        }
                    },
                );
            });
            Tensor::from_vec(out, gate.dims(), &Device::Cpu)
        })
    })
}

fn backward(grad: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    if !(is_f32_cpu(grad) && is_f32_cpu(gate) && is_f32_cpu(up)) {
        let s = sigmoid(gate)?;
        let slope = (&s * ((gate * (1.0 - &s)?)? + 1.0)?)?;
        return Ok(((grad * up)?.mul(&slope)?, (grad * (gate * s)?)?));
    }
    let (grad, gate, up) = (grad.contiguous()?, gate.contiguous()?, up.contiguous()?);
    with_rows(&grad, |d| {
        with_rows(&gate, |g| {
            with_rows(&up, |u| {
                let n = g.rows * g.cols;
                let (d, g, u) = (&d.data()[..n], &g.data()[..n], &u.data()[..n]);
                #[allow(unsafe_code)]
                // SAFETY: the pieces below cover both and are written in full.
                let (mut to_gate, mut to_up) = unsafe { (unwritten(n), unwritten(n)) };
                let shared_up = crate::cpu::Shared::new(&mut to_up);
                parallel::for_each_piece(&mut to_gate, PIECE, n, |i, to_gate| {
                    let start = i * PIECE;
                    #[allow(unsafe_code)]
                    // SAFETY: pieces are disjoint.
                    let to_up = unsafe { shared_up.slice(start, to_gate.len()) };
                    let (d, g, u) = (&d[start..], &g[start..], &u[start..]);
                    dispatch(
                        #[inline(always)]
                        || {
                            for i in 0..to_gate.len().min(to_up.len()).min(d.len()).min(g.len()).min(u.len()) {
                                let s = sigmoid_one(g[i]);
                                to_gate[i] = d[i] * u[i] * s * (1.0 + g[i] * (1.0 - s));
                                to_up[i] = d[i] * g[i] * s;
                            }
                        },
                    );
                });
                Ok((Tensor::from_vec(to_gate, gate.dims(), &Device::Cpu)?, Tensor::from_vec(to_up, up.dims(), &Device::Cpu)?))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, check_kernel};
    use candle_core::Result;

    #[test]
    fn agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        check_gradients(&[&[2, 5], &[2, 5]], |t, v| t.swiglu(&v[0], &v[1]))?;
        for shape in [[1, 1], [3, 50], [40, 1000]] {
            check_kernel(&[&shape, &shape], 1e-5, |t, v| t.swiglu(&v[0], &v[1]))?;
        }
        Ok(())
    }
}
