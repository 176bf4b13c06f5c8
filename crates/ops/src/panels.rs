//! Matrices that lie sixteen columns at a time, as products of small matrices read their right operand.

use crate::cpu::{buffer, unwritten};
use crate::gemm::Matrix;
use crate::simd::{LANES, lanes, store};
use std::ops::Range;

/// b[k, n] in panels of [`LANES`] columns: element (p, j) is `data[j / LANES * stride + p * LANES + j % LANES]`. The last panel is whole, too:
/// what stands behind column n shows in no product.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub data: &'a [f32],
    /// Elements from one panel's start to the next.
    pub stride: usize,
}

impl<'a> Panels<'a> {
    /// Panels of k rows that lie one behind the other.
    pub fn packed(data: &'a [f32], k: usize) -> Self {
        Self { data, stride: k * LANES }
    }

    /// Position behind the last element that a product with b[k, n] reads.
    pub fn end(&self, k: usize, n: usize) -> usize {
        (n - 1) / LANES * self.stride + k * LANES
    }
}

/// A copy of the transpose of rows[n, k] as packed panels; zeros behind its last column.
#[allow(unsafe_code)]
pub(crate) fn transposed(rows: Matrix<'_>, n: usize, k: usize) -> Vec<f32> {
    // SAFETY: each panel below writes all of its rows.
    let mut panels = unsafe { unwritten(n.div_ceil(LANES) * k * LANES) };
    for (i, panel) in panels.chunks_exact_mut((k * LANES).max(1)).enumerate() {
        let first = i * LANES;
        transpose(rows, first..n.min(first + LANES), panel);
    }
    panels
}

/// The transpose of rows[n, k], row by row.
pub(crate) fn columns_of(rows: Matrix<'_>, n: usize, k: usize) -> Vec<f32> {
    let (mut columns, mut panel) = (buffer(n * k), buffer(k * LANES));
    for first in (0..n).step_by(LANES) {
        let count = LANES.min(n - first);
        transpose(rows, first..first + count, &mut panel);
        for (row, part) in columns.chunks_exact_mut(n).zip(panel.chunks_exact(LANES)) {
            row[first..first + count].copy_from_slice(&part[..count]);
        }
    }
    columns
}

/// The transpose of these rows, all that `panel` has lanes for or fewer, into its first lanes; zeros into the others.
pub(crate) fn transpose(m: Matrix<'_>, rows: Range<usize>, panel: &mut [f32]) {
    let k = panel.len() / LANES;
    if rows.len() == LANES && m.col_stride == 1 {
        let rows: [&[f32]; LANES] = std::array::from_fn(|l| &m.data[(rows.start + l) * m.row_stride..][..k]);
        panel.chunks_exact_mut(LANES).enumerate().for_each(|(p, out)| store(out, &lanes(|l| rows[l][p])));
        return;
    }
    for (p, out) in panel.chunks_exact_mut(LANES).enumerate() {
        out.fill(0.0);
        out.iter_mut().zip(rows.clone()).for_each(|(value, i)| *value = m.data[i * m.row_stride + p * m.col_stride]);
    }
}

impl Panels<'_> {
    /// Writes the first n columns into `panels`, `by` columns further on. What stands behind column n in its panel goes with it.
    pub fn shifted(&self, by: usize, n: usize, panels: &mut [f32]) {
        let (skipped, lane) = (by / LANES, by % LANES);
        let mut panels: Vec<_> = panels.chunks_exact_mut(self.stride).skip(skipped).collect();
        for (i, source) in self.data.chunks(self.stride).take(n.div_ceil(LANES)).enumerate() {
            let target = panels[i].chunks_exact_mut(LANES).zip(source.chunks_exact(LANES));
            if lane == 0 {
                target.for_each(|(to, from)| to.copy_from_slice(from));
                continue;
            }
            target.for_each(|(to, from)| to[lane..].copy_from_slice(&from[..LANES - lane]));
            if let Some(next) = panels.get_mut(i + 1) {
                next.chunks_exact_mut(LANES)
                    .zip(source.chunks_exact(LANES))
                    .for_each(|(to, from)| to[..lane].copy_from_slice(&from[LANES - lane..]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn panels_hold_the_transpose_and_can_be_shifted(n in 1usize..70, k in 1usize..50, gap in 0usize..3, by in 0usize..40) {
            let data: Vec<f32> = (0..n * (k + gap)).map(|i| i as f32).collect();
            let rows = Matrix::rows(&data, k + gap);
            let made = transposed(rows, n, k);
            let at = |panels: &[f32], p: usize, j: usize| panels[j / LANES * k * LANES + p * LANES + j % LANES];
            let mut further = vec![0.0; (by + n).div_ceil(LANES) * k * LANES];
            Panels::packed(&made, k).shifted(by, n, &mut further);
            for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
                prop_assert_eq!(at(&made, p, j), data[j * (k + gap) + p]);
                prop_assert_eq!(at(&further, p, j + by), data[j * (k + gap) + p]);
            }
            prop_assert!((n..n.next_multiple_of(LANES)).all(|j| (0..k).all(|p| at(&made, p, j) == 0.0)));
            prop_assert!((0..by).all(|j| (0..k).all(|p| at(&further, p, j) == 0.0)));
        }
    }
}
