//! Sums of matrix products, from which linear layers and their gradients are made.

use crate::cpu::{is_f32_cpu, with_rows};
use crate::gemm::{self, Matrix};
use crate::parallel;
use candle_core::{D, Device, Result, Tensor};
use std::ops::Range;

/// A tensor as a matrix: all dimensions but the last are its rows, or its columns if transposed.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    tensor: &'a Tensor,
    transposed: bool,
}

impl<'a> Operand<'a> {
    /// Its rows as the matrix's rows.
    pub fn rows(tensor: &'a Tensor) -> Self {
        Self { tensor, transposed: false }
    }

    /// Its rows as the matrix's columns.
    pub fn columns(tensor: &'a Tensor) -> Self {
        Self { tensor, transposed: true }
    }

    fn dims(&self) -> Result<(usize, usize)> {
        let cols = self.tensor.dim(D::Minus1)?;
        let rows = self.tensor.elem_count() / cols.max(1);
        Ok(if self.transposed { (cols, rows) } else { (rows, cols) })
    }

    /// Calls `body` with the matrix in memory. One that is stored by columns takes no copy either.
    fn with_memory<R>(&self, body: impl FnOnce(Matrix<'_>) -> Result<R>) -> Result<R> {
        let by_columns = self.tensor.rank() == 2 && self.tensor.stride()[0] == 1 && self.tensor.stride()[1] != 1;
        let stored = if by_columns { self.tensor.t()? } else { self.tensor.clone() };
        with_rows(&stored, |rows| {
            let matrix = Matrix::rows(rows.data(), rows.stride);
            body(if by_columns == self.transposed { matrix } else { matrix.t() })
        })
    }

    /// As a tensor of two dimensions.
    fn matrix(&self) -> Result<Tensor> {
        let flat = self.tensor.reshape(((), self.tensor.dim(D::Minus1)?))?;
        if self.transposed { flat.t() } else { Ok(flat) }
    }
}

/// scale · left · right, in the columns `columns` of a sum.
pub(crate) struct Product<'a> {
    pub left: Operand<'a>,
    pub right: Operand<'a>,
    pub scale: f64,
    pub columns: Range<usize>,
}

impl<'a> Product<'a> {
    /// scale · left · right.
    pub fn new(left: Operand<'a>, right: Operand<'a>, scale: f64) -> Result<Self> {
        let columns = 0..right.dims()?.1;
        Ok(Self { left, right, scale, columns })
    }

    /// The same from column `start` on.
    pub fn at(self, start: usize) -> Self {
        Self { columns: start..start + self.columns.len(), ..self }
    }

    fn check(&self, columns: usize) -> Result<()> {
        let ((_, k), (depth, _)) = (self.left.dims()?, self.right.dims()?);
        if k != depth || self.columns.end > columns {
            let (left, right) = (self.left.tensor.dims(), self.right.tensor.dims());
            candle_core::bail!(
                "product of {left:?} and {right:?}: inner sizes {k} and {depth}; columns {:?} of {columns} for the result",
                self.columns
            )
        }
        Ok(())
    }
}

/// first + others + bias as [rows, columns of `first`]. `first` covers all columns; bias [columns] is added to every row.
pub(crate) fn sum_of_products(first: &Product<'_>, others: &[Product<'_>], bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, cols) = (first.left.dims()?.0, first.columns.len());
    std::iter::once(first).chain(others).try_for_each(|product| product.check(cols))?;
    let operands = std::iter::once(first).chain(others).flat_map(|p| [p.left.tensor, p.right.tensor]).chain(bias);
    if !operands.into_iter().all(is_f32_cpu) {
        return composed(first, others, bias);
    }
    let mut out = with_operands(first, |a, b, k| Ok(gemm::product(rows, cols, k, a, b, first.scale as f32)))?;
    for other in others {
        with_operands(other, |a, b, k| {
            let target = &mut out[other.columns.start..];
            gemm::multiply(rows, other.columns.len(), k, a, b, other.scale as f32, target, cols, gemm::Into::Accumulate);
            Ok(())
        })?;
    }
    if let Some(bias) = bias {
        let bias = bias.to_vec1::<f32>()?;
        parallel::for_each_piece(&mut out, cols, rows * cols, |_, row| row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias));
    }
    Tensor::from_vec(out, (rows, cols), &Device::Cpu)
}

/// scale · left · right.
pub(crate) fn product(left: Operand<'_>, right: Operand<'_>, scale: f64) -> Result<Tensor> {
    sum_of_products(&Product::new(left, right, scale)?, &[], None)
}

/// Calls `body` with both operands' memory and the inner size.
fn with_operands<R>(product: &Product<'_>, body: impl FnOnce(Matrix<'_>, Matrix<'_>, usize) -> Result<R>) -> Result<R> {
    let (_, k) = product.left.dims()?;
    product.left.with_memory(|left| product.right.with_memory(|right| body(left, right, k)))
}

fn composed(first: &Product<'_>, others: &[Product<'_>], bias: Option<&Tensor>) -> Result<Tensor> {
    let value = |p: &Product<'_>| -> Result<Tensor> { p.left.matrix()?.matmul(&p.right.matrix()?)? * p.scale };
    let mut sum = value(first)?;
    for other in others {
        let padded = value(other)?.pad_with_zeros(1, other.columns.start, first.columns.len() - other.columns.end)?;
        sum = (sum + padded)?;
    }
    bias.map_or(Ok(sum.clone()), |bias| sum.broadcast_add(bias))
}
