//! f32 matrix products on strided CPU memory, with accumulation.

use crate::cpu::unwritten;
use crate::simd::LANES;
use crate::small_product::few_rows_product;
use gemm::Parallelism;

/// A matrix in memory: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements, from (0, 0) on.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of contiguous elements, `stride` apart.
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        Self { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }
}

/// What becomes of the output's present content.
#[derive(Clone, Copy, PartialEq)]
pub enum Into {
    /// It is overwritten.
    Overwrite,
    /// The product is added to it.
    Accumulate,
}

/// out[m, n] (rows `out_stride` apart) = or += scale · a[m, k] · b[k, n], on as many threads as rayon has.
#[allow(clippy::too_many_arguments)]
pub fn multiply(m: usize, n: usize, k: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32, out: &mut [f32], out_stride: usize, into: Into) {
    if is_of_few_rows(m, n, k, a, b) {
        return few_rows_product(m, n, k, a, b, scale, out, out_stride, into);
    }
    multiply_on(parallelism(m * n * k), m, n, k, a, b, scale, out, out_stride, into);
}

/// Most rows of a product with a matrix that is read as it lies; with more of them the general product is as fast, for all its packing.
const MOST_ROWS: usize = 128;

/// Most elements of a right operand that is read as it lies: half a MiB, which stays in the cache next to the core. A larger one, such as the
/// activations of a training step that gradients of low rank are made of, is read faster once it is packed.
const MOST_IN_CACHE: usize = 1 << 17;

/// Whether a right operand [k, n] that lies row by row is read as it lies where it has few rows to be multiplied by.
pub(crate) fn read_as_it_lies(k: usize, n: usize) -> bool {
    n >= LANES && (1..=MOST_IN_CACHE).contains(&(k * n))
}

/// Whether a product is one of few rows with a matrix that can be read as it lies: the general product would spend its time on packing.
fn is_of_few_rows(m: usize, n: usize, k: usize, a: Matrix<'_>, b: Matrix<'_>) -> bool {
    (2..=MOST_ROWS).contains(&m) && read_as_it_lies(k, n) && a.col_stride == 1 && b.col_stride == 1
}

/// scale · a[m, k] · b[k, n] in fresh memory, on as many threads as rayon has.
#[allow(unsafe_code)]
pub(crate) fn product(m: usize, n: usize, k: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32) -> Vec<f32> {
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * n];
    }
    if is_of_few_rows(m, n, k, a, b) {
        // SAFETY: the product writes all of it.
        let mut out = unsafe { unwritten(m * n) };
        few_rows_product(m, n, k, a, b, scale, &mut out, n, Into::Overwrite);
        return out;
    }
    let mut out = Vec::with_capacity(m * n);
    // SAFETY: the memory is `m * n` floats long and rows lie `n` apart; overwriting reads none of them and writes all.
    unsafe {
        multiply_into(parallelism(m * n * k), m, n, k, a, b, scale, out.as_mut_ptr(), n, Into::Overwrite);
        out.set_len(m * n);
    }
    out
}

#[allow(unsafe_code, clippy::too_many_arguments)]
fn multiply_on(
    parallelism: Parallelism,
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
    if k == 0 {
        if into == Into::Overwrite {
            out.chunks_mut(out_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    assert!(out_stride >= n && reach(m, n, out_stride, 1) < out.len(), "output is too short");
    // SAFETY: the assertion above keeps every access inside `out`, which cannot alias the operands, being borrowed mutably.
    unsafe { multiply_into(parallelism, m, n, k, a, b, scale, out.as_mut_ptr(), out_stride, into) }
}

/// Multiply-adds below which a product stays on the calling thread: handing parts of it over costs tens of microseconds where the other
/// threads sleep.
const SERIAL_WORK: usize = 1 << 22;

fn parallelism(multiply_adds: usize) -> Parallelism {
    let threads = rayon::current_num_threads();
    if threads > 1 && multiply_adds >= SERIAL_WORK { Parallelism::Rayon(threads) } else { Parallelism::None }
}

/// Position of a matrix's last element.
fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    (rows - 1) * row_stride + (cols - 1) * col_stride
}

/// The product itself; no size may be 0.
///
/// # Safety
/// `out` must be valid for writes, and for `Into::Accumulate` reads, of m rows of n floats that lie `out_stride` apart and are part of
/// neither operand.
#[allow(unsafe_code, clippy::too_many_arguments)]
unsafe fn multiply_into(
    parallelism: Parallelism,
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    out: *mut f32,
    out_stride: usize,
    into: Into,
) {
    assert!(reach(m, k, a.row_stride, a.col_stride) < a.data.len(), "left operand is too short");
    assert!(reach(k, n, b.row_stride, b.col_stride) < b.data.len(), "right operand is too short");
    let accumulate = into == Into::Accumulate;
    // SAFETY: the assertions keep every access inside the operands; the caller answers for `out`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if accumulate { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
