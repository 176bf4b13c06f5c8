//! The linear layer, frozen or trained, with any number of low-rank updates.
//!
//! A frozen weight gets no gradient and keeps no input. With low-rank updates only the input and the rank-sized product are kept:
//! x and h = x Aᵀ, with x shared among all layers that read it.

use crate::cpu::{is_f32_cpu, with_rows};
use crate::products::{Operand, Product, sum_of_products};
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
        self.low_rank_linear(x, weight, bias, &[])
    }

    /// x Wᵀ + bias plus low-rank updates, as one operator.
    ///
    /// Keeps what the wanted gradients need and no more: the input for A (or a trained weight), x Aᵀ for B.
    pub fn low_rank_linear(&self, x: &Var, weight: &Var, bias: Option<&Var>, updates: &[LowRank]) -> Result<Var> {
        let (out_dim, in_dim) = weight.value().dims2()?;
        if x.value().dim(candle_core::D::Minus1)? != in_dim {
            candle_core::bail!("linear layer [{out_dim}, {in_dim}] does not fit an input of shape {:?}", x.dims())
        }
        let reduced = updates.iter().map(|update| update.reduce(x)).collect::<Result<Vec<_>>>()?;
        let added = updates.iter().zip(&reduced).map(|(update, h)| update.expand(h)).collect::<Result<Vec<_>>>()?;
        let first = Product::new(Operand::rows(x.value()), Operand::columns(weight.value()), 1.0)?;
        let output = sum_of_products(&first, &added, bias.map(Var::value))?.reshape(with_last(x.dims(), out_dim))?;

        let mut inputs = vec![x, weight];
        inputs.extend(bias);
        let mut places = Vec::with_capacity(updates.len());
        for update in updates {
            let a = inputs.len();
            inputs.extend([&update.a, &update.b]);
            inputs.extend(&update.input);
            places.push(Place { rows: update.rows.clone(), scale: update.scale, a, own: update.input.as_ref().map(|_| a + 2) });
        }
        let needs_x = weight.needs_grad() || updates.iter().any(|update| update.input.is_none() && update.a.needs_grad());
        let saved = || {
            // What no gradient needs is replaced by the weight, which costs nothing.
            let or_weight = |needed: bool, tensor: &Tensor| if needed { tensor.clone() } else { weight.value().clone() };
            let mut saved = vec![weight.value().clone(), or_weight(needs_x, x.value())];
            for (update, h) in updates.iter().zip(&reduced) {
                let own = update.input.as_ref().map_or(weight.value(), Var::value);
                saved.extend([update.a.value().clone(), update.b.value().clone()]);
                saved.extend([or_weight(update.b.needs_grad(), h), or_weight(update.a.needs_grad(), own)]);
            }
            saved
        };
        let has_bias = bias.is_some();
        Ok(self.record("linear", &inputs, output, saved, move |back| backward(&back, has_bias, &places)))
    }
}

impl LowRank {
    /// (x or its own input) Aᵀ, [rows, rank].
    fn reduce(&self, x: &Var) -> Result<Tensor> {
        let input = self.input.as_ref().unwrap_or(x).value();
        product(Operand::rows(input), Operand::columns(self.a.value()), 1.0)
    }

    /// scale · h Bᵀ in its columns of the output.
    fn expand<'a>(&'a self, h: &'a Tensor) -> Result<Product<'a>> {
        if self.b.dims()[0] != self.rows.len() {
            candle_core::bail!("low-rank update of rows {:?} has B of shape {:?}", self.rows, self.b.dims())
        }
        Ok(Product::new(Operand::rows(h), Operand::columns(self.b.value()), self.scale)?.at(self.rows.start))
    }
}

fn with_last(dims: &[usize], last: usize) -> Vec<usize> {
    let mut dims = dims.to_vec();
    if let Some(d) = dims.last_mut() {
        *d = last;
    }
    dims
}

/// Where a low-rank update stands among a node's inputs, which are x, weight, bias where there is one, and for each update A, B and its
/// own input where it has one.
struct Place {
    rows: Range<usize>,
    scale: f64,
    /// Index of A; B follows.
    a: usize,
    /// Index of its own input.
    own: Option<usize>,
}

/// The node saves weight and x, and for each update A, B, x Aᵀ and its own input.
fn backward(back: &Backward<'_>, has_bias: bool, places: &[Place]) -> Result<InputGradients> {
    let (grad, weight, x) = (&back.grad, &back.saved[0], &back.saved[1]);
    let mut grads: InputGradients = vec![None; back.needs.len()];
    // With each update that reads x itself, the gradient with respect to x Aᵀ, and A.
    let mut through = Vec::with_capacity(places.len());
    for (place, saved) in places.iter().zip(back.saved[2..].chunks_exact(4)) {
        let to_reduced = place.backward(back, saved, x, &mut grads)?;
        through.extend(to_reduced.filter(|_| place.own.is_none()).map(|to_reduced| (to_reduced, &saved[0])));
    }
    if back.needs[0] {
        let first = Product::new(Operand::rows(grad), Operand::rows(weight), 1.0)?;
        let mut others = Vec::with_capacity(through.len());
        for (to_reduced, a) in &through {
            others.push(Product::new(Operand::rows(to_reduced), Operand::rows(a), 1.0)?);
        }
        grads[0] = Some(sum_of_products(&first, &others, None)?.reshape(with_last(grad.dims(), weight.dims()[1]))?);
    }
    if back.needs[1] {
        grads[1] = Some(product(Operand::columns(grad), Operand::rows(x), 1.0)?);
    }
    if has_bias && back.needs[2] {
        grads[2] = Some(column_sums(grad)?);
    }
    Ok(grads)
}

impl Place {
    /// Puts the gradients of A, B and the update's own input into `grads`; returns that with respect to x Aᵀ if it was needed.
    fn backward(&self, back: &Backward<'_>, saved: &[Tensor], x: &Tensor, grads: &mut InputGradients) -> Result<Option<Tensor>> {
        let (a, b, reduced, own) = (&saved[0], &saved[1], &saved[2], &saved[3]);
        let part = back.grad.narrow(back.grad.rank() - 1, self.rows.start, self.rows.len())?;
        if back.needs[self.a + 1] {
            grads[self.a + 1] = Some(product(Operand::columns(&part), Operand::rows(reduced), self.scale)?);
        }
        if !(back.needs[self.a] || back.needs[self.own.unwrap_or(0)]) {
            return Ok(None);
        }
        let to_reduced = product(Operand::rows(&part), Operand::rows(b), self.scale)?;
        if back.needs[self.a] {
            let input = if self.own.is_some() { own } else { x };
            grads[self.a] = Some(product(Operand::columns(&to_reduced), Operand::rows(input), 1.0)?);
        }
        if let Some(index) = self.own.filter(|&index| back.needs[index]) {
            let to_own = product(Operand::rows(&to_reduced), Operand::rows(a), 1.0)?;
            grads[index] = Some(to_own.reshape(with_last(back.grad.dims(), a.dims()[1]))?);
        }
        Ok(Some(to_reduced))
    }
}

/// scale · left · right.
fn product(left: Operand<'_>, right: Operand<'_>, scale: f64) -> Result<Tensor> {
    sum_of_products(&Product::new(left, right, scale)?, &[], None)
}

/// Sums over all dimensions but the last.
pub(crate) fn column_sums(grad: &Tensor) -> Result<Tensor> {
    if !is_f32_cpu(grad) {
        let last = grad.dim(candle_core::D::Minus1)?;
        return grad.reshape(((), last))?.sum(0);
    }
    with_rows(grad, |g| {
        let mut sums = vec![0.0f32; g.cols];
        for i in 0..g.rows {
            sums.iter_mut().zip(g.row(i)).for_each(|(sum, value)| *sum += value);
        }
        Tensor::from_vec(sums, g.cols, &candle_core::Device::Cpu)
    })
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
