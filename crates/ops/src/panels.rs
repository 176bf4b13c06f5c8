//! Matrices that lie sixteen columns at a time, as products of small matrices read their right operand.

use crate::cpu::unwritten;
use crate::gemm::Matrix;
use crate::simd::{LANES, lanes};

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

/// The transpose of these rows, all that `panel` has lanes for or fewer, into its first lanes; zeros into the others.
pub(crate) fn transpose(m: Matrix<'_>, rows: std::ops::Range<usize>, panel: &mut [f32]) {
    let k = panel.len() / LANES;
    let row = |l: usize| &m.data[(rows.start + l) * m.row_stride..][..k];
    if rows.len() == LANES && m.col_stride == 1 {
        let rows: [&[f32]; LANES] = std::array::from_fn(row);
        for (p, out) in panel.chunks_exact_mut(LANES).enumerate() {
            out.copy_from_slice(&lanes(|l| rows[l][p]));
        }
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
                next.chunks_exact_mut(LANES).zip(source.chunks_exact(LANES)).for_each(|(to, from)| to[..lane].copy_from_slice(&from[LANES - lane..]));
            }
        }
    }
}
