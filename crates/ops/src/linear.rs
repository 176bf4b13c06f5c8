//! The linear layer, frozen or trained, with any number of low-rank updates.
//!
//! A frozen weight gets no gradient and keeps no input. With low-rank updates only the input and the rank-sized product are kept:
//! x and h = x Aᵀ, with x shared among all layers that read it.

use crate::cpu::{buffer, is_f32_cpu, with_rows};
use crate::gemm::{Into, Matrix, multiply};
use crate::tape::{Backward, InputGradients, Tape, Var};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// A low-rank update of a linear layer, or of some of its output rows: y[.., rows] += scale · (x Aᵀ) Bᵀ.
pub struct LowRank {
    /// A, [rank, in].
    pub a: Var,
    /// B, [rows, rank].
    pub b: Var,
    /// Factor of the update.
    pub scale: f64,
    /// The output rows it updates.
    pub rows: Range<usize>,
    /// The input to use instead of the layer's own, e.g. after dropout.
    pub input: Option<Var>,
}

impl Tape {
    /// x Wᵀ + bias: x [.., in], weight [out, in], bias [out] → [.., out].
    pub fn linear(&self, x: &Var, weight: &Var, bias: Option<&Var>) -> Result<Var> {
        let mut output = apply(x.value(), weight.value(), bias.map(Var::value))?;
        output = output.reshape(with_last(x.dims(), weight.dims()[0]))?;
        let needs_x = weight.needs_grad();
        let saved = || if needs_x { vec![weight.value().clone(), x.value().clone()] } else { vec![weight.value().clone()] };
        let mut inputs = vec![x, weight];
        inputs.extend(bias);
        Ok(self.record("linear", &inputs, output, saved, move |back| linear_backward(&back)))
    }

    /// x Wᵀ + bias plus low-rank updates. Operators are fused where no update has an input of its own.
    pub fn low_rank_linear(&self, x: &Var, weight: &Var, bias: Option<&Var>, updates: &[LowRank]) -> Result<Var> {
        let mut output = self.linear(x, weight, bias)?;
        for update in updates {
            let h = self.linear(update.input.as_ref().unwrap_or(x), &update.a, None)?;
            output = self.add_product(&output, &h, &update.b, update.scale, update.rows.clone())?;
        }
        Ok(output)
    }

    /// y with scale · h Bᵀ added to its columns `rows`: y [.., out], h [.., rank], b [rows, rank]. y is updated in place where nothing
    /// else holds it.
    fn add_product(&self, y: &Var, h: &Var, b: &Var, scale: f64, rows: Range<usize>) -> Result<Var> {
        let output = add_product_value(y.value(), h.value(), b.value(), scale, &rows)?;
        let saved = || vec![h.value().clone(), b.value().clone()];
        let h_dims = h.dims().to_vec();
        Ok(self.record("low_rank", &[y, h, b], output, saved, move |back| {
            let (h, b) = (&back.saved[0], &back.saved[1]);
            let part = back.grad.narrow(back.grad.rank() - 1, rows.start, rows.len())?;
            let to_h = back.needs[1].then(|| input_gradient(&part, b, scale)?.reshape(h_dims)).transpose()?;
            let to_b = back.needs[2].then(|| weight_gradient(&part, h, scale)).transpose()?;
            Ok(vec![back.needs[0].then(|| back.grad.clone()), to_h, to_b])
        }))
    }
}

fn with_last(dims: &[usize], last: usize) -> Vec<usize> {
    let mut dims = dims.to_vec();
    if let Some(d) = dims.last_mut() {
        *d = last;
    }
    dims
}

fn linear_backward(back: &Backward<'_>) -> Result<InputGradients> {
    let weight = &back.saved[0];
    let to_x = back.needs[0].then(|| input_gradient(&back.grad, weight, 1.0)).transpose()?;
    let to_x = to_x.map(|g| g.reshape(with_last(back.grad.dims(), weight.dims()[1]))).transpose()?;
    let to_weight = back.needs[1].then(|| weight_gradient(&back.grad, &back.saved[1], 1.0)).transpose()?;
    let mut grads = vec![to_x, to_weight];
    if let Some(&needed) = back.needs.get(2) {
        grads.push(needed.then(|| column_sums(&back.grad)).transpose()?);
    }
    Ok(grads)
}

/// All dimensions but the last as one: [rows, last].
fn flatten_rows(tensor: &Tensor) -> Result<Tensor> {
    let last = tensor.dim(candle_core::D::Minus1)?;
    tensor.reshape(((), last))
}

/// x Wᵀ + bias as [rows, out].
fn apply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_dim, in_dim) = weight.dims2()?;
    if x.dim(candle_core::D::Minus1)? != in_dim {
        candle_core::bail!("linear layer [{out_dim}, {in_dim}] does not fit an input of shape {:?}", x.dims())
    }
    if !(is_f32_cpu(x) && is_f32_cpu(weight)) {
        let product = flatten_rows(x)?.matmul(&weight.t()?)?;
        return bias.map_or(Ok(product.clone()), |bias| product.broadcast_add(bias));
    }
    with_rows(x, |x| {
        with_rows(weight, |w| {
            let mut out = buffer(x.rows * out_dim);
            let into = match bias {
                Some(bias) => {
                    let bias = bias.to_vec1::<f32>()?;
                    out.chunks_mut(out_dim).for_each(|row| row.copy_from_slice(&bias));
                    Into::Accumulate
                }
                None => Into::Overwrite,
            };
            multiply(
                x.rows,
                out_dim,
                in_dim,
                Matrix::rows(x.data(), x.stride),
                Matrix::rows(w.data(), w.stride).t(),
                1.0,
                &mut out,
                out_dim,
                into,
            );
            Tensor::from_vec(out, (x.rows, out_dim), &candle_core::Device::Cpu)
        })
    })
}

/// scale · grad · weight as [rows, in].
fn input_gradient(grad: &Tensor, weight: &Tensor, scale: f64) -> Result<Tensor> {
    let (out_dim, in_dim) = weight.dims2()?;
    if !(is_f32_cpu(grad) && is_f32_cpu(weight)) {
        return flatten_rows(grad)?.matmul(weight)? * scale;
    }
    with_rows(grad, |g| {
        with_rows(weight, |w| {
            let mut out = buffer(g.rows * in_dim);
            let (left, right) = (Matrix::rows(g.data(), g.stride), Matrix::rows(w.data(), w.stride));
            multiply(g.rows, in_dim, out_dim, left, right, scale as f32, &mut out, in_dim, Into::Overwrite);
            Tensor::from_vec(out, (g.rows, in_dim), &candle_core::Device::Cpu)
        })
    })
}

/// scale · gradᵀ · x as [out, in].
fn weight_gradient(grad: &Tensor, x: &Tensor, scale: f64) -> Result<Tensor> {
    if !(is_f32_cpu(grad) && is_f32_cpu(x)) {
        return flatten_rows(grad)?.t()?.matmul(&flatten_rows(x)?)? * scale;
    }
    with_rows(grad, |g| {
        with_rows(x, |x| {
            let mut out = buffer(g.cols * x.cols);
            let (left, right) = (Matrix::rows(g.data(), g.stride).t(), Matrix::rows(x.data(), x.stride));
            multiply(g.cols, x.cols, g.rows, left, right, scale as f32, &mut out, x.cols, Into::Overwrite);
            Tensor::from_vec(out, (g.cols, x.cols), &candle_core::Device::Cpu)
        })
    })
}

/// Sums over all dimensions but the last.
pub(crate) fn column_sums(grad: &Tensor) -> Result<Tensor> {
    if !is_f32_cpu(grad) {
        return flatten_rows(grad)?.sum(0);
    }
    with_rows(grad, |g| {
        let mut sums = vec![0.0f32; g.cols];
        for i in 0..g.rows {
            sums.iter_mut().zip(g.row(i)).for_each(|(sum, value)| *sum += value);
        }
        Tensor::from_vec(sums, g.cols, &candle_core::Device::Cpu)
    })
}

fn add_product_value(y: &Tensor, h: &Tensor, b: &Tensor, scale: f64, rows: &Range<usize>) -> Result<Tensor> {
    let (out_rows, rank) = b.dims2()?;
    if out_rows != rows.len() {
        candle_core::bail!("low-rank update of rows {rows:?} has B of shape {:?}", b.dims())
    }
    let out_dim = y.dim(candle_core::D::Minus1)?;
    if !(is_f32_cpu(y) && is_f32_cpu(h) && is_f32_cpu(b)) {
        let update = (flatten_rows(h)?.matmul(&b.t()?)? * scale)?;
        let update = update.pad_with_zeros(1, rows.start, out_dim - rows.end)?.reshape(y.dims())?;
        return y + update;
    }
    let mut out = y.flatten_all()?.to_vec1::<f32>()?;
    with_rows(h, |h| {
        with_rows(b, |b| {
            let (left, right) = (Matrix::rows(h.data(), h.stride), Matrix::rows(b.data(), b.stride).t());
            multiply(h.rows, rows.len(), rank, left, right, scale as f32, &mut out[rows.start..], out_dim, Into::Accumulate);
            Ok(())
        })
    })?;
    Tensor::from_vec(out, y.dims(), &candle_core::Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Param;
    use crate::testing::{check_gradients, check_kernel, random};
    use candle_core::DType;

    fn updated(t: &Tape, v: &[Var]) -> Result<Var> {
        let update = |a: usize, rows: Range<usize>| LowRank { a: v[a].clone(), b: v[a + 1].clone(), scale: 1.5, rows, input: None };
        t.low_rank_linear(&v[0], &v[1], Some(&v[2]), &[update(3, 0..5), update(5, 2..4)])
    }

    const UPDATED: [&[usize]; 7] = [&[2, 3, 4], &[5, 4], &[5], &[2, 4], &[5, 2], &[3, 4], &[2, 3]];

    #[test]
    fn gradients_agree_with_finite_differences_and_the_kernel() -> Result<()> {
        let plain = |t: &Tape, v: &[Var]| t.linear(&v[0], &v[1], Some(&v[2]));
        check_gradients(&[&[2, 3, 4], &[5, 4], &[5]], plain)?;
        check_kernel(&[&[1, 1, 1], &[1, 1], &[1]], 1e-5, plain)?;
        check_kernel(&[&[2, 37, 19], &[23, 19], &[23]], 1e-5, plain)?;
        check_gradients(&UPDATED, updated)?;
        check_kernel(&UPDATED, 1e-5, updated)
    }

    #[test]
    fn a_strided_view_gives_what_its_copy_gives() -> Result<()> {
        let wide = random(&[2, 3, 10], 1, DType::F32);
        let weight = Param::trainable("w", random(&[5, 4], 2, DType::F32));
        let run = |x: Tensor| -> Result<(Tensor, Tensor)> {
            let tape = Tape::new();
            let y = tape.linear(&Var::constant(x), &tape.param(&weight), None)?;
            let value = y.value().clone();
            let grad = random(&[2, 3, 5], 3, DType::F32);
            Ok((value, tape.backward_from(&y, grad)?.get(&weight).unwrap().clone()))
        };
        let view = wide.narrow(2, 3, 4)?;
        let ((a, ga), (b, gb)) = (run(view.clone())?, run(view.contiguous()?)?);
        assert_eq!(a.to_vec3::<f32>()?, b.to_vec3::<f32>()?);
        assert_eq!(ga.to_vec2::<f32>()?, gb.to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn a_frozen_weight_keeps_nothing_and_low_rank_keeps_input_and_product() -> Result<()> {
        let frozen = Param::frozen("w", random(&[8, 6], 1, DType::F32));
        let a = Param::trainable("a", random(&[2, 6], 2, DType::F32));
        let b = Param::trainable("b", random(&[8, 2], 3, DType::F32));
        let tape = Tape::new();
        let x = Var::constant(random(&[10, 6], 4, DType::F32));
        let update = LowRank { a: tape.param(&a), b: tape.param(&b), scale: 1.0, rows: 0..8, input: None };
        let w = tape.param(&frozen);
        let y = tape.low_rank_linear(&x, &w, None, &[update])?;
        let y = tape.linear(&y, &tape.param(&Param::frozen("v", random(&[3, 8], 5, DType::F32))), None)?;
        // x: 10 · 6 floats, h: 10 · 2 floats; the frozen layer behind it keeps only its (own) weight.
        assert_eq!(tape.saved_bytes().values().sum::<u64>(), (60 + 20) * 4);
        let loss = tape.sum_all(&y)?;
        let grads = tape.backward(&loss)?;
        assert_eq!(grads.iter().map(|(p, _)| p.name()).collect::<Vec<_>>(), ["a", "b"]);
        Ok(())
    }
}
