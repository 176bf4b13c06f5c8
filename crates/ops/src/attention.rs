//! Causal attention with grouped key-value heads, with or without ALiBi's biases.
//!
//! Activations stay in the layout of the projections, [batch, length, heads · head_dim]; heads are strided views of it. Attention
//! keeps queries, keys and values and computes the weights again in the backward pass, block by block, so that no
//! [length, length] matrix outlives its block.

use crate::cpu::{Rows, Shared, buffer, is_f32_cpu, unwritten, with_rows};
use crate::gemm::{Into, Matrix};
use crate::key_values::{Host, KeyValues};
use crate::panels::{Panels, transposed};
use crate::parallel;
use crate::simd::{LANES, dispatch, exp_one};
use crate::small_product::{Output, product_into, small_product};
use crate::tape::{Tape, Var};
use candle_core::{D, DType, Device, Result, Tensor};
use std::borrow::Cow;

/// Query rows handled together; keys above a block's diagonal are never touched.
const BLOCK: usize = 64;

/// Shape of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub key_value: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Tape {
    /// softmax(q kᵀ / √head_dim) v, causal: q [batch, length, query · dim], k and v [batch, keys, key_value · dim] with
    /// keys ≥ length; query i sees keys up to keys − length + i. `key_mask` [batch, keys] of u8, 0 where a key is padding. With
    /// `alibi`, a slope for each query head, slope · position of the key is added to the scores (Press et al., 2022); positions count
    /// from the first key that is no padding.
    pub fn attention(&self, q: &Var, k: &Var, v: &Var, heads: Heads, key_mask: Option<&Tensor>, alibi: Option<&[f32]>) -> Result<Var> {
        let (_, keys, width) = k.value().dims3()?;
        let shape = Shape::new(q.value(), keys, width, heads)?;
        let bias = Bias::new(shape, key_mask, alibi)?;
        let on_kernel = [q, k, v].iter().all(|x| is_f32_cpu(x.value()));
        let output = match on_kernel {
            true => kernel_over_own(q.value(), k.value(), v.value(), shape, &bias)?,
            false => composed_forward(q.value(), k.value(), v.value(), shape, &bias)?.0,
        };
        let saved = || vec![q.value().clone(), k.value().clone(), v.value().clone()];
        Ok(self.record("attention", &[q, k, v], output, saved, move |back| {
            let (q, k, v) = (&back.saved[0], &back.saved[1], &back.saved[2]);
            let [to_q, to_k, to_v] = match on_kernel {
                true => backward_kernel(&back.grad, q, k, v, shape, &bias)?,
                false => composed_backward(&back.grad, q, k, v, shape, &bias)?,
            };
            Ok(vec![back.needs[0].then_some(to_q), back.needs[1].then_some(to_k), back.needs[2].then_some(to_v)])
        }))
    }

    /// The same of further tokens over the keys and values of all, theirs being the last: q [batch, length, query · dim]. For inference: no
    /// gradient flows back.
    pub fn cached_attention(
        &self,
        q: &Var,
        all: &KeyValues,
        heads: Heads,
        key_mask: Option<&Tensor>,
        alibi: Option<&[f32]>,
    ) -> Result<Var> {
        let shape = Shape::new(q.value(), all.tokens(), all.width(), heads)?;
        let bias = Bias::new(shape, key_mask, alibi)?;
        let output = match all {
            KeyValues::Host(all) if is_f32_cpu(q.value()) => kernel_over_cached(q.value(), all, shape, &bias)?,
            all => composed_forward(q.value(), &all.keys()?, &all.values()?, shape, &bias)?.0,
        };
        Ok(Var::constant(output))
    }
}

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    length: usize,
    keys: usize,
    heads: Heads,
    scale: f64,
}

impl Shape {
    fn new(q: &Tensor, keys: usize, key_width: usize, heads: Heads) -> Result<Self> {
        let (batch, length, width) = q.dims3()?;
        if width != heads.query * heads.dim || key_width != heads.key_value * heads.dim || keys < length {
            candle_core::bail!("attention with {heads:?} does not fit queries {:?} and {keys} keys of width {key_width}", q.dims())
        }
        Ok(Self { batch, length, keys, heads, scale: 1.0 / (heads.dim as f64).sqrt() })
    }

    /// Query heads a key-value head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    /// Keys that the query row sees.
    fn visible(&self, row: usize) -> usize {
        self.keys - self.length + row + 1
    }

    /// The keys, or values, of one head, [keys, dim].
    fn keys_of<'a>(&self, rows: &Rows<'a>, b: usize, kv_head: usize) -> Matrix<'a> {
        Matrix::rows(&rows.data()[b * self.keys * rows.stride + kv_head * self.heads.dim..], rows.stride)
    }

    fn work(&self) -> usize {
        self.batch * self.heads.query * self.length * self.keys * self.heads.dim / 8
    }
}

/// What is added to the scores.
struct Bias {
    /// [batch][keys], 0 where a key is padding.
    mask: Option<Vec<Vec<u8>>>,
    /// ALiBi's slope of each query head.
    slopes: Option<Vec<f32>>,
    /// [batch][keys], counted without padding; empty without slopes.
    positions: Vec<Vec<f32>>,
}

impl Bias {
    fn new(shape: Shape, key_mask: Option<&Tensor>, alibi: Option<&[f32]>) -> Result<Self> {
        let mask = key_mask.map(|mask| mask.to_dtype(DType::U8)?.to_vec2::<u8>()).transpose()?;
        if alibi.is_some_and(|slopes| slopes.len() != shape.heads.query) {
            candle_core::bail!("ALiBi needs a slope for each of {} query heads, found {}", shape.heads.query, alibi.map_or(0, <[f32]>::len))
        }
        let position = |b: usize| {
            let seen = |seen: &mut f32, j: usize| {
                let at = *seen;
                *seen += if mask.as_ref().is_none_or(|mask| mask[b][j] != 0) { 1.0 } else { 0.0 };
                Some(at)
            };
            (0..shape.keys).scan(0.0, seen).collect()
        };
        let positions = if alibi.is_some() { (0..shape.batch).map(position).collect() } else { Vec::new() };
        Ok(Self { mask, slopes: alibi.map(<[f32]>::to_vec), positions })
    }

    /// The padding mask of a sequence.
    fn mask(&self, b: usize) -> Option<&[u8]> {
        self.mask.as_ref().map(|mask| mask[b].as_slice())
    }

    /// The slope of a head and the positions of a sequence's keys.
    fn alibi(&self, b: usize, head: usize) -> Option<(f32, &[f32])> {
        self.slopes.as_ref().map(|slopes| (slopes[head], self.positions[b].as_slice()))
    }

    /// All of it, causality included, as [batch, query heads or 1, length, keys] in f64.
    fn tensor(&self, shape: Shape) -> Result<Tensor> {
        let heads = if self.slopes.is_some() { shape.heads.query } else { 1 };
        let mut values = Vec::with_capacity(shape.batch * heads * shape.length * shape.keys);
        for (b, head) in (0..shape.batch).flat_map(|b| (0..heads).map(move |head| (b, head))) {
            for (i, j) in (0..shape.length).flat_map(|i| (0..shape.keys).map(move |j| (i, j))) {
                let allowed = j < shape.visible(i) && self.mask(b).is_none_or(|mask| mask[j] != 0);
                let alibi = self.alibi(b, head).map_or(0.0, |(slope, positions)| f64::from(slope) * f64::from(positions[j]));
                values.push(if allowed { alibi } else { f64::NEG_INFINITY });
            }
        }
        Tensor::from_vec(values, (shape.batch, heads, shape.length, shape.keys), &Device::Cpu)
    }
}

/// The keys of one head, transposed, in panels [dim, 16 keys]. All blocks of queries multiply by them.
struct Keys<'a> {
    panels: Cow<'a, [f32]>,
    stride: usize,
}

impl Keys<'_> {
    fn new(k: &Rows<'_>, shape: Shape, b: usize, kv_head: usize) -> Self {
        let dim = shape.heads.dim;
        Self { panels: transposed(shape.keys_of(k, b, kv_head), shape.keys, dim).into(), stride: dim * LANES }
    }

    fn panels(&self) -> Panels<'_> {
        Panels { data: &self.panels, stride: self.stride }
    }
}

/// Query rows of one sequence that are handled together: `rows` positions of one head, or one position of `heads` that share their keys.
#[derive(Clone, Copy)]
struct Queries {
    b: usize,
    head: usize,
    heads: usize,
    first: usize,
    rows: usize,
}

impl Queries {
    /// Position and head of a row.
    fn row(&self, i: usize) -> (usize, usize) {
        (self.first + i / self.heads, self.head + i % self.heads)
    }

    /// Keys that the last row sees.
    fn span(&self, shape: Shape) -> usize {
        shape.visible(self.row(self.rows - 1).0)
    }

    /// The rows, [rows, dim].
    fn matrix<'a>(&self, q: &Rows<'a>, shape: Shape) -> Matrix<'a> {
        let dim = shape.heads.dim;
        let start = (self.b * shape.length + self.first) * q.stride + self.head * dim;
        Matrix::rows(&q.data()[start..], if self.heads == 1 { q.stride } else { dim })
    }
}

/// Softmax weights of the queries into `weights`, rows of `stride` elements, which are at least the keys that the last row sees and at most
/// what the panels of keys hold.
fn block_weights(q: &Rows<'_>, keys: &Keys<'_>, shape: Shape, queries: Queries, bias: &Bias, weights: &mut [f32], stride: usize) {
    let q = queries.matrix(q, shape);
    small_product(queries.rows, stride, shape.heads.dim, q, keys.panels(), shape.scale as f32, weights, stride, Into::Overwrite);
    let mask = bias.mask(queries.b);
    for (i, row) in weights.chunks_mut(stride).take(queries.rows).enumerate() {
        let (position, head) = queries.row(i);
        let (seen, alibi) = (shape.visible(position), bias.alibi(queries.b, head));
        dispatch(
            #[inline(always)]
            || {
                if let Some((slope, positions)) = alibi {
                    row.iter_mut().zip(positions).for_each(|(score, position)| *score = slope.mul_add(*position, *score));
                }
                softmax_row(row, seen, mask);
            },
        );
    }
}

/// Softmax over the first `seen` values that are not masked; 0 elsewhere.
#[inline(always)]
fn softmax_row(row: &mut [f32], seen: usize, mask: Option<&[u8]>) {
    row[seen..].fill(f32::NEG_INFINITY);
    if let Some(mask) = mask {
        row.iter_mut().zip(mask).for_each(|(w, &keep)| *w = if keep == 0 { f32::NEG_INFINITY } else { *w });
    }
    let max = crate::norm::max(row);
    // A row that sees padding only is itself padding: its weights are all 0.
    if max == f32::NEG_INFINITY {
        return row.fill(0.0);
    }
    row.iter_mut().for_each(|w| *w = if *w == f32::NEG_INFINITY { 0.0 } else { exp_one(*w - max) });
    let inverse = 1.0 / crate::norm::sum(row);
    row.iter_mut().for_each(|w| *w *= inverse);
}

/// Attention over keys and values of the pass itself, [batch, keys, heads · dim].
fn kernel_over_own(q: &Tensor, k: &Tensor, v: &Tensor, shape: Shape, bias: &Bias) -> Result<Tensor> {
    with_rows(q, |q| {
        with_rows(k, |k| {
            with_rows(v, |v| {
                let values = |b, kv_head| shape.keys_of(v, b, kv_head);
                forward_kernel(q, |b, kv_head| Keys::new(k, shape, b, kv_head), values, shape, bias)
            })
        })
    })
}

fn kernel_over_cached(q: &Tensor, all: &Host, shape: Shape, bias: &Bias) -> Result<Tensor> {
    let Heads { dim, .. } = shape.heads;
    let keys = |b, kv_head| {
        let Panels { data, stride } = all.keys_of(b, kv_head * dim);
        Keys { panels: data.into(), stride }
    };
    with_rows(q, |q| forward_kernel(q, keys, |b, kv_head| all.values_of(b, kv_head * dim), shape, bias))
}

/// `keys` and `values` give those of a sequence's key-value head.
fn forward_kernel<'a>(
    q: &Rows<'_>,
    keys: impl Fn(usize, usize) -> Keys<'a> + Sync + Send,
    values: impl Fn(usize, usize) -> Matrix<'a> + Sync + Send,
    shape: Shape,
    bias: &Bias,
) -> Result<Tensor> {
    let Heads { query, dim, .. } = shape.heads;
    let width = query * dim;
    // One query a head is little work: those that share their keys go together.
    let heads = if shape.length == 1 { shape.group() } else { 1 };
    let tasks = query / heads;
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every head of every row.
    let mut out = unsafe { unwritten(shape.batch * shape.length * width) };
    let shared = Shared::new(&mut out);
    parallel::for_each(shape.batch * tasks, shape.work(), |task| {
        let (b, head) = (task / tasks, task % tasks * heads);
        let (keys, values) = (keys(b, head / shape.group()), values(b, head / shape.group()));
        #[allow(unsafe_code)]
        // SAFETY: products overwrite what is read of it.
        let mut weights = unsafe { unwritten(heads * BLOCK.min(shape.length) * shape.keys.next_multiple_of(LANES)) };
        for first in (0..shape.length).step_by(BLOCK) {
            let queries = Queries { b, head, heads, first, rows: heads * BLOCK.min(shape.length - first) };
            let span = queries.span(shape);
            // Whole registers; what is beyond the span counts for nothing.
            let stride = span.next_multiple_of(LANES);
            block_weights(q, &keys, shape, queries, bias, &mut weights, stride);
            let start = (b * shape.length + first) * width + head * dim;
            #[allow(unsafe_code)]
            // SAFETY: each task owns the columns of its heads.
            let rows = unsafe { Output::shared(shared, start, if heads == 1 { width } else { dim }) };
            product_into(queries.rows, dim, span, Matrix::rows(&weights, stride), values, 1.0, Into::Overwrite, rows);
        }
    });
    Tensor::from_vec(out, (shape.batch, shape.length, width), &Device::Cpu)
}

/// Gradients with respect to q, k and v.
fn backward_kernel(grad: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, shape: Shape, bias: &Bias) -> Result<[Tensor; 3]> {
    let Heads { key_value, dim, query } = shape.heads;
    let (queries, keys) = (shape.batch * shape.length * query * dim, shape.batch * shape.keys * key_value * dim);
    #[allow(unsafe_code)]
    // SAFETY: the tasks below write every head of every row.
    let (mut to_q, mut to_k, mut to_v) = unsafe { (unwritten(queries), unwritten(keys), unwritten(keys)) };
    let targets = [Shared::new(&mut to_q), Shared::new(&mut to_k), Shared::new(&mut to_v)];
    with_rows(grad, |grad| {
        with_rows(q, |q| {
            with_rows(k, |k| {
                with_rows(v, |v| {
                    // One task a key-value head, so that its gradients are summed in one place and in one order.
                    parallel::for_each(shape.batch * key_value, 4 * shape.work(), |task| {
                        backward_head([grad, q, k, v], shape, task / key_value, task % key_value, bias, targets);
                    });
                    Ok(())
                })
            })
        })
    })?;
    Ok([
        Tensor::from_vec(to_q, (shape.batch, shape.length, query * dim), &Device::Cpu)?,
        Tensor::from_vec(to_k, (shape.batch, shape.keys, key_value * dim), &Device::Cpu)?,
        Tensor::from_vec(to_v, (shape.batch, shape.keys, key_value * dim), &Device::Cpu)?,
    ])
}

fn backward_head([grad, q, k, v]: [&Rows<'_>; 4], shape: Shape, b: usize, kv_head: usize, bias: &Bias, [to_q, to_k, to_v]: [Shared; 3]) {
    let Heads { query, key_value, dim } = shape.heads;
    let block = BLOCK.min(shape.length);
    #[allow(unsafe_code)]
    // SAFETY: products overwrite what is read of them.
    let (mut weights, mut slopes, mut q_block) =
        unsafe { (unwritten(block * shape.keys), unwritten(block * shape.keys), unwritten(block * dim)) };
    let (mut k_sum, mut v_sum) = (buffer(shape.keys * dim), buffer(shape.keys * dim));
    let (keys, values) = (Keys::new(k, shape, b, kv_head), transposed(shape.keys_of(v, b, kv_head), shape.keys, dim));
    for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
        for first in (0..shape.length).step_by(BLOCK) {
            let rows = BLOCK.min(shape.length - first);
            let queries = Queries { b, head, heads: 1, first, rows };
            let span = queries.span(shape);
            let (g_data, q_data) = (queries.matrix(grad, shape), queries.matrix(q, shape));
            block_weights(q, &keys, shape, queries, bias, &mut weights, span);
            small_product(span, dim, rows, Matrix::rows(&weights, span).t(), g_data, 1.0, &mut v_sum, dim, Into::Accumulate);
            small_product(rows, span, dim, g_data, Panels::packed(&values, dim), 1.0, &mut slopes, span, Into::Overwrite);
            for (slope, weight) in slopes.chunks_mut(span).zip(weights.chunks(span)).take(rows) {
                dispatch(
                    #[inline(always)]
                    || {
                        let mean = crate::norm::dot(slope, weight);
                        slope.iter_mut().zip(weight).for_each(|(s, w)| *s = w * (*s - mean));
                    },
                );
            }
            let scale = shape.scale as f32;
            let k_data = shape.keys_of(k, b, kv_head);
            small_product(rows, dim, span, Matrix::rows(&slopes, span), k_data, scale, &mut q_block, dim, Into::Overwrite);
            small_product(span, dim, rows, Matrix::rows(&slopes, span).t(), q_data, scale, &mut k_sum, dim, Into::Accumulate);
            for (i, row) in q_block.chunks(dim).take(rows).enumerate() {
                #[allow(unsafe_code)]
                // SAFETY: each task owns the columns of its query heads.
                unsafe { to_q.slice((b * shape.length + first + i) * query * dim + head * dim, dim) }.copy_from_slice(row);
            }
        }
    }
    for (target, sums) in [(to_k, &k_sum), (to_v, &v_sum)] {
        for (i, row) in sums.chunks(dim).enumerate() {
            #[allow(unsafe_code)]
            // SAFETY: each task owns the columns of its key-value head.
            unsafe { target.slice((b * shape.keys + i) * key_value * dim + kv_head * dim, dim) }.copy_from_slice(row);
        }
    }
}

/// [batch, n, heads · dim] as [batch, query heads, n, dim], key-value heads repeated.
fn by_head(x: &Tensor, shape: Shape) -> Result<Tensor> {
    let (batch, n, width) = x.dims3()?;
    let heads = width / shape.heads.dim;
    let x = x.contiguous()?.reshape((batch, n, heads, shape.heads.dim))?.transpose(1, 2)?.contiguous()?;
    let repeat = shape.heads.query / heads;
    x.unsqueeze(2)?.broadcast_as((batch, heads, repeat, n, shape.heads.dim))?.contiguous()?.reshape((
        batch,
        shape.heads.query,
        n,
        shape.heads.dim,
    ))
}

/// The inverse of [`by_head`]: repeated heads are summed into `heads`.
fn from_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, query, n, dim) = x.dims4()?;
    let x = x.contiguous()?.reshape((batch, heads, query / heads, n, dim))?.sum(2)?;
    x.transpose(1, 2)?.contiguous()?.reshape((batch, n, heads * dim))
}

/// Output [batch, length, query · dim] and weights [batch, query, length, keys].
fn composed_forward(q: &Tensor, k: &Tensor, v: &Tensor, shape: Shape, bias: &Bias) -> Result<(Tensor, Tensor)> {
    let (q, k, v) = (by_head(q, shape)?, by_head(k, shape)?, by_head(v, shape)?);
    let scores = (q.matmul(&k.t()?)? * shape.scale)?;
    let scores = scores.broadcast_add(&bias.tensor(shape)?.to_device(q.device())?.to_dtype(q.dtype())?)?;
    let max = scores.max_keepdim(D::Minus1)?.clamp(f64::from(f32::MIN), f64::from(f32::MAX))?;
    let weights = scores.broadcast_sub(&max)?.exp()?;
    let total = (weights.sum_keepdim(D::Minus1)? + 1e-30)?;
    let weights = weights.broadcast_div(&total)?;
    Ok((from_heads(&weights.matmul(&v)?, shape.heads.query)?, weights))
}

fn composed_backward(grad: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, shape: Shape, bias: &Bias) -> Result<[Tensor; 3]> {
    let (_, weights) = composed_forward(q, k, v, shape, bias)?;
    let (grad, q, k, v) = (by_head(grad, shape)?, by_head(q, shape)?, by_head(k, shape)?, by_head(v, shape)?);
    let to_v = weights.t()?.matmul(&grad)?;
    let slopes = grad.matmul(&v.t()?)?;
    let slopes = (slopes.broadcast_sub(&(&slopes * &weights)?.sum_keepdim(D::Minus1)?)? * &weights)?;
    let slopes = (slopes * shape.scale)?;
    let kv = shape.heads.key_value;
    Ok([from_heads(&slopes.matmul(&k)?, shape.heads.query)?, from_heads(&slopes.t()?.matmul(&q)?, kv)?, from_heads(&to_v, kv)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel};

    fn attend(heads: Heads, mask: Option<Vec<Vec<u8>>>, alibi: Option<Vec<f32>>) -> impl Fn(&Tape, &[Var]) -> Result<Var> {
        move |t, v| {
            let mask = mask.clone().map(|mask| Tensor::new(mask, &Device::Cpu)).transpose()?;
            t.attention(&v[0], &v[1], &v[2], heads, mask.as_ref(), alibi.as_deref())
        }
    }

    #[test]
    fn attention_agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        let heads = Heads { query: 4, key_value: 2, dim: 3 };
        check_gradients(&[&[2, 3, 12], &[2, 4, 6], &[2, 4, 6]], attend(heads, None, None))?;
        let masked = Some(vec![vec![1, 1, 1, 1], vec![0, 1, 1, 1]]);
        check_gradients(&[&[2, 3, 12], &[2, 4, 6], &[2, 4, 6]], attend(heads, masked.clone(), None))?;
        check_kernel(&[&[2, 3, 12], &[2, 4, 6], &[2, 4, 6]], 1e-5, attend(heads, masked, None))?;
        check_kernel(&[&[1, 1, 12], &[1, 1, 6], &[1, 1, 6]], 1e-5, attend(heads, None, None))?;
        // One query, as in decoding.
        let masked = Some(vec![vec![1; 19], [vec![0; 5], vec![1; 14]].concat()]);
        let one = Heads { query: 4, key_value: 2, dim: 37 };
        check_kernel(&[&[2, 1, 148], &[2, 19, 74], &[2, 19, 74]], 1e-5, attend(one, masked, None))?;
        let heads = Heads { query: 3, key_value: 1, dim: 8 };
        check_kernel(&[&[2, 131, 24], &[2, 131, 8], &[2, 131, 8]], 1e-5, attend(heads, None, None))
    }
    #[test]
    fn alibi_agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        let heads = Heads { query: 2, key_value: 2, dim: 3 };
        let slopes = Some(vec![0.25, 0.0625]);
        let masked = Some(vec![vec![1, 0, 1, 1], vec![0, 1, 1, 1]]);
        check_gradients(&[&[2, 3, 6], &[2, 4, 6], &[2, 4, 6]], attend(heads, None, slopes.clone()))?;
        check_gradients(&[&[2, 3, 6], &[2, 4, 6], &[2, 4, 6]], attend(heads, masked.clone(), slopes.clone()))?;
        check_kernel(&[&[2, 3, 6], &[2, 4, 6], &[2, 4, 6]], 1e-5, attend(heads, masked, slopes.clone()))?;
        check_kernel(&[&[2, 131, 6], &[2, 140, 6], &[2, 140, 6]], 1e-5, attend(heads, None, slopes.clone()))?;
        // A single key gets all the weight, so that only the values have a gradient worth comparing.
        let one = |t: &Tape, v: &[Var]| {
            let q = Var::constant(Tensor::ones((1, 1, 6), v[0].value().dtype(), &Device::Cpu)?);
            t.attention(&q, &q, &v[0], heads, None, slopes.as_deref())
        };
        check_kernel(&[&[1, 1, 6]], 1e-5, one)
    }

    #[test]
    fn alibi_counts_positions_from_the_first_key_that_is_no_padding() -> Result<()> {
        let heads = Heads { query: 1, key_value: 1, dim: 1 };
        let (q, k) = (Tensor::zeros((1, 1, 1), DType::F64, &Device::Cpu)?, Tensor::zeros((1, 4, 1), DType::F64, &Device::Cpu)?);
        let v = Tensor::new(&[[[9.0f64], [1.0], [9.0], [0.0]]], &Device::Cpu)?;
        let mask = Tensor::new(&[[0u8, 1, 0, 1]], &Device::Cpu)?;
        let [q, k, v] = [q, k, v].map(Var::constant);
        // Keys 1 and 3 lie at positions 0 and 1: their weights are as 1 to 2.
        let slope = std::f32::consts::LN_2;
        let found = Tape::inference().attention(&q, &k, &v, heads, Some(&mask), Some(&[slope]))?;
        assert!((found.value().flatten_all()?.to_vec1::<f64>()?[0] - 1.0 / 3.0).abs() < 1e-7);
        Ok(())
    }
}
