//! Rotary position embedding (Su et al., 2021).

use crate::cpu::{is_f32_cpu, unwritten, with_rows};
use crate::parallel;
use crate::simd::dispatch;
use crate::tape::{Tape, Var};
use candle_core::{D, Device, Result, Tensor};

/// Which two dimensions of a head make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryLayout {
    /// i and i + pairs: Hugging Face's `rotate_half`, in LLaMA.
    Halves,
    /// 2i and 2i + 1: Hugging Face's `rotate_every_two`, in GPT-J.
    Interleaved,
}

/// The cosines and sines of a pass's positions, and where they go.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    /// Cosines, [length, pairs]; or [batch · length, pairs] where each sequence has positions of its own.
    pub cos: Tensor,
    /// Sines, in the same shape.
    pub sin: Tensor,
    /// The pairs.
    pub layout: RotaryLayout,
}

impl Tape {
    /// Rotates the pairs of each head by position-dependent angles: x [batch, length, heads · head_dim]. The first 2 · pairs
    /// dimensions of a head are rotated and the others left alone.
    pub fn rotary(&self, x: &Var, tables: &RotaryTables, head_dim: usize) -> Result<Var> {
        let output = rotate(x.value(), tables, head_dim, 1.0)?;
        let tables = tables.clone();
        // The tables belong to the model; capturing them keeps no memory of this pass.
        Ok(self.record("rotary", &[x], output, Vec::new, move |back| Ok(vec![Some(rotate(&back.grad, &tables, head_dim, -1.0)?)])))
    }
}

/// x rotated by `direction` times the angles.
fn rotate(x: &Tensor, tables: &RotaryTables, head_dim: usize, direction: f64) -> Result<Tensor> {
    let (batch, length, width) = x.dims3()?;
    let (positions, pairs) = tables.cos.dims2()?;
    if ![length, batch * length].contains(&positions) || 2 * pairs > head_dim || width % head_dim != 0 {
        candle_core::bail!("rotary tables {:?} do not fit {:?} with head_dim {head_dim}", tables.cos.dims(), x.dims())
    }
    if !(is_f32_cpu(x) && is_f32_cpu(&tables.cos)) {
        return composed(x, tables, head_dim, direction);
    }
    let (cos, sin) = (tables.cos.flatten_all()?.to_vec1::<f32>()?, tables.sin.flatten_all()?.to_vec1::<f32>()?);
    with_rows(x, |rows| {
        #[allow(unsafe_code)]
        // SAFETY: the pieces below cover it; each head is written in full, rotated pairs first, then the rest.
        let mut out = unsafe { unwritten(rows.rows * width) };
        parallel::for_each_piece(&mut out, width, rows.rows * width, |i, out| {
            let t = (i % positions) * pairs;
            let (cos, sin) = (&cos[t..t + pairs], &sin[t..t + pairs]);
            dispatch(
                #[inline(always)]
                || {
                    for (x, y) in rows.row(i).chunks(head_dim).zip(out.chunks_mut(head_dim)) {
                        match tables.layout {
                            RotaryLayout::Halves => rotate_halves(x, y, cos, sin, direction as f32),
                            RotaryLayout::Interleaved => rotate_interleaved(x, y, cos, sin, direction as f32),
                        }
                        y[2 * pairs..].copy_from_slice(&x[2 * pairs..]);
                    }
                },
            );
        });
        Tensor::from_vec(out, x.dims(), &Device::Cpu)
    })
}

#[inline(always)]
fn rotate_halves(x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let pairs = cos.len();
    let (x_first, x_second) = (&x[..pairs], &x[pairs..2 * pairs]);
    let (y_first, y_second) = y[..2 * pairs].split_at_mut(pairs);
    let sin = &sin[..pairs];
    for j in 0..pairs {
        let s = sin[j] * direction;
        y_first[j] = x_first[j] * cos[j] - x_second[j] * s;
        y_second[j] = x_second[j] * cos[j] + x_first[j] * s;
    }
}

#[inline(always)]
fn rotate_interleaved(x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    for (((x, y), cos), sin) in x.chunks_exact(2).zip(y.chunks_exact_mut(2)).zip(cos).zip(sin) {
        let s = sin * direction;
        y[0] = x[0] * cos - x[1] * s;
        y[1] = x[1] * cos + x[0] * s;
    }
}

fn composed(x: &Tensor, tables: &RotaryTables, head_dim: usize, direction: f64) -> Result<Tensor> {
    let (batch, length, width) = x.dims3()?;
    let pairs = tables.cos.dim(1)?;
    let heads = x.contiguous()?.reshape((batch, length, width / head_dim, head_dim))?;
    let (rotated, rest) = (heads.narrow(3, 0, 2 * pairs)?, heads.narrow(3, 2 * pairs, head_dim - 2 * pairs)?);
    // Pairs lie along one dimension of two; which one is the layout.
    let (dims, pair) = match tables.layout {
        RotaryLayout::Halves => ([2, pairs], 3),
        RotaryLayout::Interleaved => ([pairs, 2], 4),
    };
    let paired = rotated.contiguous()?.reshape((batch, length, width / head_dim, dims[0], dims[1]))?;
    let table = |t: &Tensor| t.to_dtype(x.dtype())?.reshape(((), length, 1, pairs))?.unsqueeze(pair);
    let (cos, sin) = (table(&tables.cos)?, (table(&tables.sin)? * direction)?);
    let (a, b) = (paired.narrow(pair, 0, 1)?, paired.narrow(pair, 1, 1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rotated = Tensor::cat(&[first, second], pair)?.reshape(rotated.dims())?;
    Tensor::cat(&[rotated, rest], D::Minus1)?.reshape(x.dims())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel};
    use candle_core::DType;

    /// Tables of `pairs` pairs for as many positions as the input has.
    fn tables(length: usize, pairs: usize, layout: RotaryLayout, dtype: DType) -> Result<RotaryTables> {
        let angles: Vec<f64> = (0..length * pairs).map(|i| (i / pairs) as f64 * 0.7f64.powi((i % pairs) as i32)).collect();
        let angles = Tensor::from_vec(angles, (length, pairs), &Device::Cpu)?;
        Ok(RotaryTables { cos: angles.cos()?.to_dtype(dtype)?, sin: angles.sin()?.to_dtype(dtype)?, layout })
    }

    #[test]
    fn rotary_agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        for layout in [RotaryLayout::Halves, RotaryLayout::Interleaved] {
            let rotary = |head_dim: usize, pairs: usize| {
                move |t: &Tape, v: &[Var]| {
                    let tables = tables(v[0].dims()[1], pairs, layout, v[0].value().dtype())?;
                    t.rotary(&v[0], &tables, head_dim)
                }
            };
            check_gradients(&[&[2, 3, 8]], rotary(4, 2))?;
            check_gradients(&[&[2, 3, 10]], rotary(5, 1))?;
            check_kernel(&[&[2, 3, 8]], 1e-5, rotary(4, 2))?;
            check_kernel(&[&[1, 1, 2]], 1e-5, rotary(2, 1))?;
            check_kernel(&[&[3, 9, 46]], 1e-5, rotary(23, 7))?;
            let each_its_own = move |t: &Tape, v: &[Var]| t.rotary(&v[0], &tables(6, 2, layout, v[0].value().dtype())?, 4);
            check_gradients(&[&[2, 3, 8]], each_its_own)?;
            check_kernel(&[&[2, 3, 8]], 1e-5, each_its_own)?;
        }
        Ok(())
    }

    #[test]
    fn layouts_pair_the_dimensions_they_say() -> Result<()> {
        // A quarter turn at position 1: (a, b) becomes (−b, a).
        let turn = |layout| -> Result<Vec<f32>> {
            let cos = Tensor::new(&[[1f32, 1.0], [0.0, 0.0]], &Device::Cpu)?;
            let sin = Tensor::new(&[[0f32, 0.0], [1.0, 1.0]], &Device::Cpu)?;
            let x = Tensor::new(&[[[1f32, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]]], &Device::Cpu)?;
            rotate(&x, &RotaryTables { cos, sin, layout }, 5, 1.0)?.narrow(1, 1, 1)?.flatten_all()?.to_vec1()
        };
        assert_eq!(turn(RotaryLayout::Halves)?, [-3.0, -4.0, 1.0, 2.0, 5.0]);
        assert_eq!(turn(RotaryLayout::Interleaved)?, [-2.0, 1.0, -4.0, 3.0, 5.0]);
        Ok(())
    }
}
