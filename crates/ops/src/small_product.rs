//! f32 matrix products of small matrices on one thread, for use inside parallel loops.
//!
//! A general product packs both operands, which at these sizes (attention heads, chunks of a scan) costs as much as the product itself.
//! Here the right operand's rows are read as they lie, [`LANES`] columns at a time, and the left one's elements are spread over the lanes.
//! Every element of the result is one chain of fused multiply-adds over the inner dimension: the tile's size does not show in the bits.

use crate::gemm::{Into, Matrix};
use crate::simd::{LANES, Lanes, dispatch, lanes, load, store};

/// What becomes of a tile of sums.
#[derive(Clone, Copy)]
struct Ending {
    scale: f32,
    into: Into,
}

/// out[m, n] (rows `out_stride` apart) = or += scale · a[m, k] · b[k, n]. Where b does not lie row by row it is copied first.
#[allow(clippy::too_many_arguments)]
pub(crate) fn small_product(
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
    if m == 0 || n == 0 {
        return;
    }
    let reach = |rows: usize, cols: usize, row_stride: usize, col_stride: usize| (rows - 1) * row_stride + (cols - 1) * col_stride;
    assert!(k == 0 || reach(m, k, a.row_stride, a.col_stride) < a.data.len(), "left operand is too short");
    assert!(k == 0 || reach(k, n, b.row_stride, b.col_stride) < b.data.len(), "right operand is too short");
    assert!(out_stride >= n && reach(m, n, out_stride, 1) < out.len(), "output is too short");
    let ending = Ending { scale, into };
    if b.col_stride == 1 {
        return panels(m, n, k, a, b, ending, out, out_stride);
    }
    let copy = gathered(b, k, n);
    panels(m, n, k, a, Matrix::rows(&copy, n), ending, out, out_stride);
}

/// A copy of m[rows, cols] that lies row by row: a transpose where m lies column by column.
pub(crate) fn gathered(m: Matrix<'_>, rows: usize, cols: usize) -> Vec<f32> {
    let mut copy = crate::cpu::buffer(rows * cols);
    if m.row_stride != 1 || rows == 0 {
        let value = |at: usize| m.data[at / cols * m.row_stride + at % cols * m.col_stride];
        copy.iter_mut().enumerate().for_each(|(at, copy)| *copy = value(at));
        return copy;
    }
    // Sixteen columns at a time, so that whole lines are read and written.
    let mut at = 0;
    while at + LANES <= cols {
        let columns: [&[f32]; LANES] = std::array::from_fn(|l| &m.data[(at + l) * m.col_stride..][..rows]);
        for (i, row) in copy.chunks_exact_mut(cols).enumerate() {
            row[at..at + LANES].copy_from_slice(&lanes(|l| columns[l][i]));
        }
        at += LANES;
    }
    for j in at..cols {
        let column = &m.data[j * m.col_stride..][..rows];
        copy.chunks_exact_mut(cols).zip(column).for_each(|(row, value)| row[j] = *value);
    }
    copy
}

/// Whether a tile has twelve rows or six: with AVX-512 twelve groups of sums fit the registers, elsewhere six do.
fn tall_tiles() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Sixteen or fewer columns of the right operand and of the output.
struct Panel<'a> {
    b: Matrix<'a>,
    k: usize,
    /// First column and number of columns.
    at: usize,
    width: usize,
    ending: Ending,
}

#[allow(clippy::too_many_arguments)]
fn panels(m: usize, n: usize, k: usize, a: Matrix<'_>, b: Matrix<'_>, ending: Ending, out: &mut [f32], out_stride: usize) {
    let tall = tall_tiles();
    dispatch(
        #[inline(always)]
        || {
            for at in (0..n).step_by(LANES) {
                let panel = Panel { b, k, at, width: LANES.min(n - at), ending };
                match panel.width {
                    LANES => panel.rows::<true>(a, m, tall, out, out_stride),
                    _ => panel.rows::<false>(a, m, tall, out, out_stride),
                }
            }
        },
    );
}

impl Panel<'_> {
    /// All rows of the output's columns, which are sixteen if `FULL`.
    #[inline(always)]
    fn rows<const FULL: bool>(&self, a: Matrix<'_>, m: usize, tall: bool, out: &mut [f32], out_stride: usize) {
        let mut i = 0;
        while tall && i + 12 <= m {
            self.tile::<12, FULL>(a, i, out, out_stride);
            i += 12;
        }
        while !tall && i + 6 <= m {
            self.tile::<6, FULL>(a, i, out, out_stride);
            i += 6;
        }
        while i + 4 <= m {
            self.tile::<4, FULL>(a, i, out, out_stride);
            i += 4;
        }
        while i < m {
            self.tile::<1, FULL>(a, i, out, out_stride);
            i += 1;
        }
    }

    /// Rows i..i + R of the output's columns.
    #[inline(always)]
    fn tile<const R: usize, const FULL: bool>(&self, a: Matrix<'_>, i: usize, out: &mut [f32], out_stride: usize) {
        let sums = self.sums::<R, FULL>(a, i);
        let Ending { scale, into } = self.ending;
        for (r, sum) in sums.iter().enumerate() {
            let target = &mut out[(i + r) * out_stride + self.at..][..if FULL { LANES } else { self.width }];
            let scaled = match into {
                Into::Overwrite => lanes(|l| scale * sum[l]),
                Into::Accumulate => {
                    let before = load(target);
                    lanes(|l| scale.mul_add(sum[l], before[l]))
                }
            };
            store(target, &scaled);
        }
    }

    #[allow(unsafe_code)]
    #[inline(always)]
    fn sums<const R: usize, const FULL: bool>(&self, a: Matrix<'_>, i: usize) -> [Lanes; R] {
        let mut sums = [[0.0; LANES]; R];
        for p in 0..self.k {
            let start = p * self.b.row_stride + self.at;
            // SAFETY: `small_product` has asserted that the elements (i + r, p) and (p, at + width − 1) lie inside the operands.
            let row = unsafe { self.b.data.get_unchecked(start..start + self.width) };
            let columns = if FULL { load(unsafe { row.get_unchecked(..LANES) }) } else { load(row) };
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { *a.data.get_unchecked((i + r) * a.row_stride + p * a.col_stride) };
                *sum = lanes(|l| x.mul_add(columns[l], sum[l]));
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
