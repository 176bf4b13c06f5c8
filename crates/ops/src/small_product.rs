//! f32 matrix products of small matrices, and of few rows by a large one.
//!
//! A general product packs both operands, which at these sizes (attention heads, chunks of a scan, the sequences that are decoded together)
//! costs as much as the product itself. Here the right operand's rows are read as they lie, [`LANES`] columns at a time, and the left one's
//! elements are spread over the lanes. Every element of the result is one chain of fused multiply-adds over the inner dimension: neither
//! the tile's size nor the number of rows or threads shows in the bits.

use crate::cpu::Shared;
use crate::gemm::{Into, Matrix};
use crate::panels::{Panels, transpose};
use crate::parallel;
use crate::simd::{LANES, Lanes, dispatch, lanes, load, store};
use std::ops::Range;

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// As it lies, by rows or by columns.
    Matrix(Matrix<'a>),
    /// Sixteen columns at a time.
    Panels(Panels<'a>),
}

impl<'a> From<Matrix<'a>> for Right<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Matrix(matrix)
    }
}

impl<'a> From<Panels<'a>> for Right<'a> {
    fn from(panels: Panels<'a>) -> Self {
        Self::Panels(panels)
    }
}

/// What becomes of a tile of sums.
#[derive(Clone, Copy)]
struct Ending {
    scale: f32,
    into: Into,
}

/// out[m, n] (rows `out_stride` apart) = or += scale · a[m, k] · b[k, n], on the calling thread. Where b lies neither row by row nor in panels, the
/// columns of a few panels are copied at a time: what is copied is in the cache next to the core when it is read.
#[allow(clippy::too_many_arguments)]
pub(crate) fn small_product<'a>(
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: impl std::convert::Into<Right<'a>>,
    scale: f32,
    out: &mut [f32],
    out_stride: usize,
    into: Into,
) {
    product_into(m, n, k, a, b, scale, into, Output::new(out, out_stride));
}

/// The same with rows of an output that tasks share.
#[allow(clippy::too_many_arguments)]
pub(crate) fn product_into<'a>(
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: impl std::convert::Into<Right<'a>>,
    scale: f32,
    into: Into,
    out: Output,
) {
    if m == 0 || n == 0 {
        return;
    }
    let b = b.into();
    check(m, n, k, a, b, out);
    panels(m, 0..n, k, a, b, Ending { scale, into }, out, most_sums());
}

/// The same for few rows of a large product, on as many threads as rayon has.
#[allow(clippy::too_many_arguments)]
pub(crate) fn few_rows_product(
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    out: &mut [f32],
    out_stride: usize,
    into: Into,
) {
    let (b, out) = (b.into(), Output::new(out, out_stride));
    check(m, n, k, a, b, out);
    parallel::for_each(n.div_ceil(COLUMNS), m * n * k / (2 * LANES), |task| {
        panels(m, task * COLUMNS..n.min((task + 1) * COLUMNS), k, a, b, Ending { scale, into }, out, most_sums());
    });
}

/// Columns of a product that one task computes.
const COLUMNS: usize = 64;

/// Position of a matrix's last element.
fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    (rows - 1) * row_stride + (cols - 1) * col_stride
}

/// Panics where an operand is too short.
fn check(m: usize, n: usize, k: usize, a: Matrix<'_>, b: Right<'_>, out: Output) {
    assert!(out.stride >= n && out.start + reach(m, n, out.stride, 1) < out.values.len(), "output is too short");
    assert!(k == 0 || reach(m, k, a.row_stride, a.col_stride) < a.data.len(), "left operand is too short");
    let long_enough = match b {
        Right::Matrix(b) => k == 0 || reach(k, n, b.row_stride, b.col_stride) < b.data.len(),
        Right::Panels(b) => b.end(k, n) <= b.data.len(),
    };
    assert!(long_enough, "right operand is too short");
}

/// Registers' worth of sums of a tile, a power of two: with AVX-512 sixteen, elsewhere four, which have two registers each. A tile of four rows and
/// four panels reads half as much for each sum as one of eight rows and one panel.
fn most_sums() -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return 16;
    }
    4
}

/// Most rows of a tile where there are panels enough.
const MOST_ROWS: usize = 4;

/// Where the sums go.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    values: Shared,
    start: usize,
    stride: usize,
}

impl Output {
    /// Rows that lie `stride` apart.
    fn new(values: &mut [f32], stride: usize) -> Self {
        Self { values: Shared::new(values), start: 0, stride }
    }

    /// Rows that lie `stride` apart, the first at `start`.
    ///
    /// # Safety
    /// No other task may touch the elements of a product while it is written to them.
    #[allow(unsafe_code)]
    pub unsafe fn shared(values: Shared, start: usize, stride: usize) -> Self {
        Self { values, start, stride }
    }
}

/// A few panels of the right operand, of sixteen columns each, and the output's columns that they make.
struct Strip<'a> {
    /// Element (p, l) of panel q is `b[q * panel_stride + p * row_stride + l]`.
    b: &'a [f32],
    panel_stride: usize,
    row_stride: usize,
    k: usize,
    /// First column of the output, and number of columns: all of the panels', or fewer of the last.
    at: usize,
    width: usize,
    ending: Ending,
}

/// The columns from a multiple of [`LANES`] on, in tiles of at most `most` sums.
#[allow(clippy::too_many_arguments)]
fn panels(m: usize, columns: Range<usize>, k: usize, a: Matrix<'_>, b: Right<'_>, ending: Ending, out: Output, most: usize) {
    let together = most / m.next_power_of_two().min(MOST_ROWS);
    let (mut copy, mut at) = (Vec::new(), columns.start);
    while at < columns.end {
        let count = match (columns.end - at).div_ceil(LANES).min(together) {
            1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        let width = (count * LANES).min(columns.end - at);
        let (b, panel_stride, row_stride) = match b {
            Right::Panels(b) => (&b.data[at / LANES * b.stride..], b.stride, LANES),
            Right::Matrix(b) if b.col_stride == 1 && width == count * LANES => (&b.data[at.min(b.data.len())..], LANES, b.row_stride),
            Right::Matrix(b) => {
                copy.resize(count * k * LANES, 0.0);
                for (q, panel) in copy.chunks_exact_mut((k * LANES).max(1)).enumerate() {
                    transpose(b.t(), at + q * LANES..(at + (q + 1) * LANES).min(columns.end), panel);
                }
                (copy.as_slice(), k * LANES, LANES)
            }
        };
        let strip = Strip { b, panel_stride, row_stride, k, at, width, ending };
        dispatch(
            #[inline(always)]
            || match count {
                1 => strip.rows::<1>(a, m, most, out),
                2 => strip.rows::<2>(a, m, most, out),
                _ => strip.rows::<4>(a, m, most, out),
            },
        );
        at += width;
    }
}

impl Strip<'_> {
    /// All rows of the output's columns, in tiles of at most `most` sums.
    #[inline(always)]
    fn rows<const P: usize>(&self, a: Matrix<'_>, m: usize, most: usize, out: Output) {
        let mut i = 0;
        while P == 1 && most >= 8 && i + 8 <= m {
            self.tile::<8, P>(a, i, out);
            i += 8;
        }
        while most >= 4 * P && i + 4 <= m {
            self.tile::<4, P>(a, i, out);
            i += 4;
        }
        while i + 2 <= m {
            self.tile::<2, P>(a, i, out);
            i += 2;
        }
        while i < m {
            self.tile::<1, P>(a, i, out);
            i += 1;
        }
    }

    /// Rows i..i + R of the output's columns.
    #[inline(always)]
    fn tile<const R: usize, const P: usize>(&self, a: Matrix<'_>, i: usize, out: Output) {
        let sums = self.sums::<R, P>(a, i);
        for (r, sums) in sums.iter().enumerate() {
            for (q, sum) in sums.iter().enumerate() {
                #[allow(unsafe_code)]
                // SAFETY: each task owns its columns.
                let target = unsafe {
                    out.values.slice(out.start + (i + r) * out.stride + self.at + q * LANES, (self.width - q * LANES).min(LANES))
                };
                match target.first_chunk_mut() {
                    Some(whole) => *whole = ended(sum, whole, self.ending),
                    None => end_part(sum, target, self.ending),
                }
            }
        }
    }

    #[allow(unsafe_code)]
    #[inline(always)]
    fn sums<const R: usize, const P: usize>(&self, a: Matrix<'_>, i: usize) -> [[Lanes; P]; R] {
        let mut sums = [[[0.0; LANES]; P]; R];
        for p in 0..self.k {
            let columns: [Lanes; P] = std::array::from_fn(|q| {
                let start = q * self.panel_stride + p * self.row_stride;
                // SAFETY: `check` has asserted that the elements (i + r, p) of a and those of the panels of b, or of their copy, lie inside.
                load(unsafe { self.b.get_unchecked(start..start + LANES) })
            });
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { *a.data.get_unchecked((i + r) * a.row_stride + p * a.col_stride) };
                for (sum, columns) in sums.iter_mut().zip(&columns) {
                    *sum = lanes(|l| x.mul_add(columns[l], sum[l]));
                }
            }
        }
        sums
    }
}

/// What becomes of a register's worth of sums where `before` stood.
#[inline(always)]
fn ended(sum: &Lanes, before: &Lanes, Ending { scale, into }: Ending) -> Lanes {
    match into {
        Into::Overwrite => lanes(|l| scale * sum[l]),
        Into::Accumulate => lanes(|l| scale.mul_add(sum[l], before[l])),
    }
}

/// The same for a part of a register. It stands apart because the compiler would otherwise have one call of the library's copy do for both.
#[cold]
#[inline(never)]
fn end_part(sum: &Lanes, target: &mut [f32], ending: Ending) {
    let values = ended(sum, &load(target), ending);
    store(target, &values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panels::transposed;
    use proptest::prelude::*;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(m in 1usize..30, n in 1usize..40, k in 0usize..20, a_t: bool, b_t: bool, accumulate: bool, gap in 0usize..3) {
            let (a, b, before) = (values(m * k + k + m, 1), values(k * n + k + n, 2), values(m * (n + gap), 3));
            let left = if a_t { Matrix::rows(&a, m).t() } else { Matrix::rows(&a, k.max(1)) };
            let right = if b_t { Matrix::rows(&b, k.max(1)).t() } else { Matrix::rows(&b, n) };
            let mut out = before.clone();
            let into = if accumulate { Into::Accumulate } else { Into::Overwrite };
            small_product(m, n, k, left, right, 1.5, &mut out, n + gap, into);
            let mut same = before.clone();
            few_rows_product(m, n, k, left, right, 1.5, &mut same, n + gap, into);
            prop_assert_eq!(&out, &same);
            // As on a processor with the other size of tile, and with the right operand in panels.
            for most in [4, 16] {
                let mut same = before.clone();
                panels(m, 0..n, k, left, right.into(), Ending { scale: 1.5, into }, Output::new(&mut same, n + gap), most);
                prop_assert_eq!(&out, &same);
            }
            let packed = transposed(right.t(), n, k);
            let mut same = before.clone();
            small_product(m, n, k, left, Panels::packed(&packed, k), 1.5, &mut same, n + gap, into);
            prop_assert_eq!(&out, &same);
            let at = |x: &Matrix<'_>, i: usize, j: usize| f64::from(x.data[i * x.row_stride + j * x.col_stride]);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let product = 1.5 * (0..k).map(|p| at(&left, i, p) * at(&right, p, j)).sum::<f64>();
                let expected = product + if accumulate { f64::from(before[i * (n + gap) + j]) } else { 0.0 };
                prop_assert!((f64::from(out[i * (n + gap) + j]) - expected).abs() < 1e-5);
            }
            for (i, j) in (0..m).flat_map(|i| (n..n + gap).map(move |j| (i, j))) {
                prop_assert_eq!(out[i * (n + gap) + j], before[i * (n + gap) + j]);
            }
        }
    }
}
