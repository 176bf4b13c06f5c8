//! The linear layer, frozen or trained, with any number of low-rank updates.
//!
//! A frozen weight gets no gradient and keeps no input. With low-rank updates only the input and the rank-sized product are kept:
//! x and h = x Aᵀ, with x shared among all layers that read it.

use crate::cpu::{is_f32_cpu, with_rows};
use crate::gemm::{Matrix, read_as_it_lies};
use crate::panels::columns_of;
use crate::products::{Operand, Product, product, sum_of_products};
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
    pub rows: RowRanges,
    /// The input to use instead of the layer's own, e.g. after dropout.
    pub input: Option<Var>,
}

/// Output rows of a layer, as ranges in ascending order: several where a fused projection holds, head by head, more than is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRanges(Vec<Range<usize>>);

impl From<Range<usize>> for RowRanges {
    fn from(range: Range<usize>) -> Self {
        Self(vec![range])
    }
}

impl FromIterator<Range<usize>> for RowRanges {
    fn from_iter<I: IntoIterator<Item = Range<usize>>>(ranges: I) -> Self {
        Self(ranges.into_iter().collect())
    }
}

impl RowRanges {
    /// Number of rows.
    #[allow(clippy::len_without_is_empty, reason = "a layer's part is never empty")]
    pub fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Range<usize>> {
        self.0.iter()
    }

    /// These columns of y [.., out], joined: [.., rows].
    pub fn columns_of(&self, y: &Tensor) -> Result<Tensor> {
        let last = y.rank() - 1;
        let parts = self.0.iter().map(|range| y.narrow(last, range.start, range.len())).collect::<Result<Vec<_>>>()?;
        match parts.as_slice() {
            [part] => Ok(part.clone()),
            parts => Tensor::cat(parts, last),
        }
    }

    /// The inverse of [`RowRanges::columns_of`]: these columns in a matrix [n, width] of zeros.
    pub(crate) fn spread(&self, columns: &Tensor, width: usize) -> Result<Tensor> {
        let zeros = |count: usize| Tensor::zeros((columns.dim(0)?, count), columns.dtype(), columns.device());
        let (mut parts, mut done, mut end) = (Vec::new(), 0, 0);
        for range in &self.0 {
            parts.extend([zeros(range.start - end)?, columns.narrow(1, done, range.len())?]);
            (done, end) = (done + range.len(), range.end);
        }
        parts.push(zeros(width - end)?);
        parts.retain(|part| part.elem_count() > 0);
        if parts.len() == 1 { Ok(columns.clone()) } else { Tensor::cat(&parts, 1) }
    }

    /// The matrix [rows, n] cut into that of each range.
    fn cut(&self, matrix: &Tensor) -> Result<Vec<Tensor>> {
        if matrix.dims()[0] != self.len() {
            candle_core::bail!("low-rank update of rows {:?} has B of shape {:?}", self.0, matrix.dims())
        }
        let starts = self.0.iter().scan(0, |next, range| Some(std::mem::replace(next, *next + range.len())));
        starts.zip(&self.0).map(|(start, range)| matrix.narrow(0, start, range.len())).collect()
    }
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
        let cut = updates.iter().map(|update| update.rows.cut(update.b.value())).collect::<Result<Vec<_>>>()?;
        let mut added = Vec::with_capacity(updates.len());
        for ((update, h), parts) in updates.iter().zip(&reduced).zip(&cut) {
            for (rows, b) in update.rows.iter().zip(parts) {
                added.push(Product::new(Operand::rows(h), Operand::columns(b), update.scale)?.at(rows.start));
            }
        }
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
}

/// The weight [out, in] as a view of a copy that is stored column by column, for [`Tape::linear`] with few rows: it then reads the weight as it
/// lies, where a weight that is stored row by row would have to be laid out anew for each product. None for a weight of so many elements, or in
/// such a place, that the copy would change nothing.
///
/// # Errors
/// Where the weight is no matrix.
pub fn stored_by_columns(weight: &Tensor) -> Result<Option<Tensor>> {
    let (out_dim, in_dim) = weight.dims2()?;
    if !is_f32_cpu(weight) || !read_as_it_lies(in_dim, out_dim) {
        return Ok(None);
    }
    let copy = with_rows(weight, |rows| {
        Tensor::from_vec(columns_of(Matrix::rows(rows.data(), rows.stride), out_dim, in_dim), (in_dim, out_dim), weight.device())?.t()
    })?;
    Ok(Some(copy))
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
    rows: RowRanges,
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
        // The gradient of a weight that is stored by columns is stored so too.
        let by_columns = weight.stride()[0] == 1 && weight.stride()[1] != 1;
        grads[1] = Some(match by_columns {
            true => product(Operand::columns(x), Operand::rows(grad), 1.0)?.t()?,
            false => product(Operand::columns(grad), Operand::rows(x), 1.0)?,
        });
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
        let part = self.rows.columns_of(&back.grad)?;
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
        let update = |a: usize, rows: RowRanges| LowRank { a: v[a].clone(), b: v[a + 1].clone(), scale: 1.5, rows, input: None };
        let updates = [update(3, (0..5).into()), update(5, (2..4).into()), update(7, [0..1, 3..5].into_iter().collect())];
        t.low_rank_linear(&v[0], &v[1], Some(&v[2]), &updates)
    }

    const UPDATED: [&[usize]; 9] = [&[2, 3, 4], &[5, 4], &[5], &[2, 4], &[5, 2], &[3, 4], &[2, 3], &[2, 4], &[3, 2]];

    #[test]
    fn small_weights_are_stored_by_columns_and_large_ones_stay() -> Result<()> {
        let small = random(&[48, 37], 1, DType::F32);
        let stored = stored_by_columns(&small)?.unwrap();
        assert_eq!(stored.stride(), [1, 48]);
        assert_eq!(stored.to_vec2::<f32>()?, small.to_vec2::<f32>()?);
        assert!(stored_by_columns(&random(&[512, 512], 1, DType::F32))?.is_none());
        assert!(stored_by_columns(&random(&[48, 37], 1, DType::F64))?.is_none());
        Ok(())
    }

    #[test]
    fn a_weight_stored_by_columns_is_neither_copied_nor_are_its_gradients_transposed() -> Result<()> {
        let by_columns = |t: &Tape, v: &[Var]| t.linear(&v[0], &t.transpose(&v[1], 0, 1)?, Some(&v[2]));
        check_gradients(&[&[2, 3, 4], &[4, 5], &[5]], by_columns)?;
        for (input, out) in [(4, 5), (1, 3), (3, 1), (1, 1), (19, 23)] {
            check_kernel(&[&[2, 7, input], &[input, out], &[out]], 1e-5, by_columns)?;
        }
        let weight = Param::trainable("w", random(&[19, 23], 1, DType::F32));
        let tape = Tape::new();
        let stored = tape.param(&weight);
        let y = tape.linear(&Var::constant(random(&[5, 19], 2, DType::F32)), &tape.transpose(&stored, 0, 1)?, None)?;
        let loss = tape.sum_all(&y)?;
        let grads = tape.backward(&loss)?;
        assert!(grads.get(&weight).unwrap().is_contiguous());
        Ok(())
    }

    #[test]
    fn an_update_of_other_rows_than_b_has_is_refused() {
        let v = [&[2, 4][..], &[5, 4], &[2, 4], &[3, 2]].map(|dims| Var::constant(random(dims, 1, DType::F32)));
        let rows = [0..1, 3..4].into_iter().collect();
        let update = LowRank { a: v[2].clone(), b: v[3].clone(), scale: 1.0, rows, input: None };
        let error = Tape::inference().low_rank_linear(&v[0], &v[1], None, &[update]).unwrap_err().to_string();
        assert!(error.contains("low-rank update of rows [0..1, 3..4] has B of shape [3, 2]"), "{error}");
    }

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
        let update = LowRank { a: tape.param(&a), b: tape.param(&b), scale: 1.0, rows: (0..8).into(), input: None };
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
