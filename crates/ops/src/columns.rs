//! Linear maps of the last dimension that are cheaper than a matrix: a factor for each column, a small matrix for each block of columns, and
//! a matrix [2, 2] for each pair.

use crate::cpu::{buffer, is_f32_cpu, with_rows};
use crate::gemm::{Into, Matrix};
use crate::parallel;
use crate::small_product::small_product;
use crate::tape::{Tape, Var};
use candle_core::{D, Device, Result, Tensor};

/// Rows handled by one task.
const PIECE: usize = 64;

impl Tape {
    /// x · s: x [.., n], s [n] → [.., n]. It keeps x only if s needs a gradient.
    pub fn scale_columns(&self, x: &Var, s: &Var) -> Result<Var> {
        let output = scaled(x.value(), s.value())?;
        let needs_s = s.needs_grad();
        let saved = || if needs_s { vec![s.value().clone(), x.value().clone()] } else { vec![s.value().clone()] };
        Ok(self.record("scale_columns", &[x, s], output, saved, |back| {
            let to_x = back.needs[0].then(|| scaled(&back.grad, &back.saved[0])).transpose()?;
            let to_s = back.needs[1].then(|| column_products(&back.grad, &back.saved[1])).transpose()?;
            Ok(vec![to_x, to_s])
        }))
    }

    /// Each block of columns times a matrix of its own: x [.., blocks · b], r [blocks, b, b] → y [.., blocks · b] with
    /// y[.., k, c] = Σ_j x[.., k, j] r[k, j, c]. The block-diagonal matrix is never formed. It keeps x only if r needs a gradient.
    pub fn block_linear(&self, x: &Var, r: &Var) -> Result<Var> {
        let (blocks, side, columns) = r.value().dims3()?;
        if side != columns || x.value().dim(D::Minus1)? != blocks * side {
            candle_core::bail!("{blocks} blocks of {side} x {columns} do not fit an input of shape {:?}", x.dims())
        }
        let output = block_product(x.value(), r.value(), false)?;
        let needs_r = r.needs_grad();
        let saved = || if needs_r { vec![r.value().clone(), x.value().clone()] } else { vec![r.value().clone()] };
        Ok(self.record("block_linear", &[x, r], output, saved, |back| {
            let to_x = back.needs[0].then(|| block_product(&back.grad, &back.saved[0], true)).transpose()?;
            let to_r = back.needs[1].then(|| block_gradient(&back.saved[1], &back.grad, back.saved[0].dims())).transpose()?;
            Ok(vec![to_x, to_r])
        }))
    }
}

impl Tape {
    /// Pairs of columns, half a group of `group` apart, each mixed: x [.., n], own and other [n] → y [.., n] with
    /// yᵢ = ownᵢ xᵢ − otherᵢ xⱼ and yⱼ = ownⱼ xⱼ + otherⱼ xᵢ for i in the first half of a group and its partner j. It keeps x only if own or
    /// other needs a gradient.
    pub fn mix_pairs(&self, x: &Var, own: &Var, other: &Var, group: usize) -> Result<Var> {
        let columns = x.value().dim(D::Minus1)?;
        if group == 0 || !group.is_multiple_of(2) || !columns.is_multiple_of(group) {
            candle_core::bail!("groups of {group} columns do not make pairs of an input of shape {:?}", x.dims())
        }
        let output = mixed(x.value(), own.value(), other.value(), group)?;
        let needs_x = own.needs_grad() || other.needs_grad();
        let saved = || {
            let mut saved = vec![own.value().clone(), other.value().clone()];
            saved.extend(needs_x.then(|| x.value().clone()));
            saved
        };
        Ok(self.record("mix_pairs", &[x, own, other], output, saved, move |back| {
            let (grad, own, other) = (&back.grad, &back.saved[0], &back.saved[1]);
            // The transposed matrix of a pair has the partner's factor with the other sign.
            let to_x = || mixed(grad, own, &partners(other, group)?.neg()?, group);
            let to_other = || column_products(grad, &mixed(&back.saved[2], &own.zeros_like()?, &own.ones_like()?, group)?);
            Ok(vec![
                back.needs[0].then(to_x).transpose()?,
                back.needs[1].then(|| column_products(grad, &back.saved[2])).transpose()?,
                back.needs[2].then(to_other).transpose()?,
            ])
        }))
    }
}

/// x [.., n] with the halves of each group of columns in each other's place.
fn partners(x: &Tensor, group: usize) -> Result<Tensor> {
    let halves = x.contiguous()?.reshape(((), 2, group / 2))?;
    Tensor::cat(&[halves.narrow(1, 1, 1)?, halves.narrow(1, 0, 1)?], 1)?.reshape(x.dims())
}

fn mixed(x: &Tensor, own: &Tensor, other: &Tensor, group: usize) -> Result<Tensor> {
    let half = group / 2;
    if !(is_f32_cpu(x) && is_f32_cpu(own) && is_f32_cpu(other)) {
        let signs: Vec<f64> = (0..group).map(|i| if i < half { -1.0 } else { 1.0 }).collect();
        let signs = Tensor::new(signs, x.device())?.to_dtype(x.dtype())?;
        let signed = other.reshape(((), group))?.broadcast_mul(&signs)?.flatten_all()?;
        return x.broadcast_mul(own)? + partners(x, group)?.broadcast_mul(&signed)?;
    }
    let (own, other) = (own.to_vec1::<f32>()?, other.to_vec1::<f32>()?);
    with_rows(x, |x_rows| {
        let columns = x_rows.cols;
        let mut out = buffer(x_rows.rows * columns);
        let work = out.len();
        parallel::for_each_piece(&mut out, PIECE * columns, work, |i, piece| {
            for (j, row) in piece.chunks_mut(columns).enumerate() {
                let x = x_rows.row(i * PIECE + j);
                for start in (0..columns).step_by(group) {
                    for first in start..start + half {
                        let second = first + half;
                        row[first] = own[first] * x[first] - other[first] * x[second];
                        row[second] = own[second] * x[second] + other[second] * x[first];
                    }
                }
            }
        });
        Tensor::from_vec(out, x.dims(), &Device::Cpu)
    })
}

fn scaled(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    if !(is_f32_cpu(x) && is_f32_cpu(s)) {
        return x.broadcast_mul(s);
    }
    let factors = s.to_vec1::<f32>()?;
    with_rows(x, |x_rows| {
        let columns = x_rows.cols;
        let mut out = buffer(x_rows.rows * columns);
        let work = out.len();
        parallel::for_each_piece(&mut out, PIECE * columns, work, |i, piece| {
            for (j, row) in piece.chunks_mut(columns).enumerate() {
                row.iter_mut().zip(x_rows.row(i * PIECE + j)).zip(&factors).for_each(|((y, x), s)| *y = x * s);
            }
        });
        Tensor::from_vec(out, x.dims(), &Device::Cpu)
    })
}

/// Σ over rows of a · b.
fn column_products(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !(is_f32_cpu(a) && is_f32_cpu(b)) {
        let product = (a * b)?;
        let columns = product.dim(D::Minus1)?;
        return product.reshape(((), columns))?.sum(0);
    }
    with_rows(a, |a| {
        with_rows(b, |b| {
            let mut sums = vec![0.0f32; a.cols];
            for i in 0..a.rows {
                sums.iter_mut().zip(a.row(i)).zip(b.row(i)).for_each(|((sum, a), b)| *sum += a * b);
            }
            Tensor::from_vec(sums, a.cols, &Device::Cpu)
        })
    })
}

/// x times the blocks, or their transposes.
fn block_product(x: &Tensor, r: &Tensor, transposed: bool) -> Result<Tensor> {
    let (blocks, side, _) = r.dims3()?;
    if !(is_f32_cpu(x) && is_f32_cpu(r)) {
        let r = if transposed { r.transpose(1, 2)? } else { r.clone() };
        let by_block = x.reshape(((), blocks, side))?.transpose(0, 1)?.contiguous()?;
        return by_block.matmul(&r.contiguous()?)?.transpose(0, 1)?.contiguous()?.reshape(x.dims());
    }
    with_rows(x, |x_rows| {
        with_rows(&r.contiguous()?, |r| {
            let columns = blocks * side;
            let mut out = buffer(x_rows.rows * columns);
            let work = out.len() * side;
            parallel::for_each_piece(&mut out, PIECE * columns, work, |i, piece| {
                let rows = piece.len() / columns;
                for k in 0..blocks {
                    let left = Matrix::rows(&x_rows.data()[i * PIECE * x_rows.stride + k * side..], x_rows.stride);
                    let right = Matrix::rows(&r.data()[k * side * side..], side);
                    let right = if transposed { right.t() } else { right };
                    small_product(rows, side, side, left, right, 1.0, &mut piece[k * side..], columns, Into::Overwrite);
                }
            });
            Tensor::from_vec(out, x.dims(), &Device::Cpu)
        })
    })
}

/// xᵀ grad for each block, in the shape `dims` of the blocks.
fn block_gradient(x: &Tensor, grad: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let (blocks, side) = (dims[0], dims[1]);
    if !(is_f32_cpu(x) && is_f32_cpu(grad)) {
        let by_block = |t: &Tensor| t.reshape(((), blocks, side))?.transpose(0, 1)?.contiguous();
        return by_block(x)?.transpose(1, 2)?.matmul(&by_block(grad)?);
    }
    with_rows(x, |x| {
        with_rows(grad, |g| {
            let mut out = buffer(blocks * side * side);
            parallel::for_each_piece(&mut out, side * side, x.rows * x.cols * side, |k, piece| {
                let left = Matrix::rows(&x.data()[k * side..], x.stride).t();
                let right = Matrix::rows(&g.data()[k * side..], g.stride);
                small_product(side, side, x.rows, left, right, 1.0, piece, side, Into::Overwrite);
            });
            Tensor::from_vec(out, dims, &Device::Cpu)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Param;
    use crate::testing::{check_gradients, check_kernel, random};
    use candle_core::DType;

    #[test]
    fn gradients_agree_with_finite_differences_and_the_kernels() -> Result<()> {
        let scale = |t: &Tape, v: &[Var]| t.scale_columns(&v[0], &v[1]);
        check_gradients(&[&[2, 3, 4], &[4]], scale)?;
        check_kernel(&[&[3, 70, 19], &[19]], 1e-5, scale)?;
        let blocks = |t: &Tape, v: &[Var]| t.block_linear(&v[0], &v[1]);
        check_gradients(&[&[2, 3, 6], &[3, 2, 2]], blocks)?;
        check_kernel(&[&[3, 70, 24], &[3, 8, 8]], 1e-5, blocks)?;
        let pairs = |t: &Tape, v: &[Var]| t.mix_pairs(&v[0], &v[1], &v[2], 4);
        check_gradients(&[&[2, 3, 8], &[8], &[8]], pairs)?;
        check_kernel(&[&[3, 70, 24], &[24], &[24]], 1e-5, pairs)
    }

    #[test]
    fn a_strided_view_gives_what_its_copy_gives() -> Result<()> {
        let view = random(&[2, 3, 20], 1, DType::F32).narrow(2, 5, 8)?;
        let (r, s) = (random(&[2, 4, 4], 2, DType::F32), random(&[8], 3, DType::F32));
        let run = |x: &Tensor| -> Result<Vec<f32>> {
            let values = [scaled(x, &s)?, block_product(x, &r, true)?, block_gradient(x, x, r.dims())?];
            let flat = values.iter().map(|v| v.flatten_all()?.to_vec1::<f32>()).collect::<Result<Vec<_>>>()?;
            Ok(flat.concat())
        };
        assert_eq!(run(&view)?, run(&view.contiguous()?)?);
        Ok(())
    }

    #[test]
    fn a_constant_factor_keeps_no_activation() -> Result<()> {
        let tape = Tape::new();
        let x = tape.param(&Param::trainable("x", random(&[5, 4], 1, DType::F32)));
        let s = tape.param(&Param::frozen("s", random(&[4], 2, DType::F32)));
        let y = tape.mix_pairs(&tape.scale_columns(&x, &s)?, &s, &s, 2)?;
        tape.block_linear(&y, &tape.param(&Param::frozen("r", random(&[2, 2, 2], 3, DType::F32))))?;
        assert_eq!(tape.saved_bytes().values().sum::<u64>(), 0);
        Ok(())
    }

    #[test]
    fn blocks_that_do_not_fit_are_an_error() {
        let constant = |dims: &[usize]| Var::constant(random(dims, 1, DType::F32));
        let message = Tape::inference().block_linear(&constant(&[2, 7]), &constant(&[2, 3, 3])).unwrap_err().to_string();
        assert!(message.contains("2 blocks of 3 x 3 do not fit an input of shape [2, 7]"), "{message}");
        let (x, factors) = (constant(&[2, 6]), constant(&[6]));
        let message = Tape::inference().mix_pairs(&x, &factors, &factors, 4).unwrap_err().to_string();
        assert!(message.contains("groups of 4 columns do not make pairs of an input of shape [2, 6]"), "{message}");
    }
}
