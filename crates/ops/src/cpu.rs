//! Views of CPU tensors as rows of floats, for the kernels.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

/// A f32 CPU tensor seen as rows: the last dimension is contiguous, and the rows lie `stride` apart.
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    /// Number of rows: the product of all dimensions but the last.
    pub rows: usize,
    /// Elements a row.
    pub cols: usize,
    /// Elements from one row's start to the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// The view, if the tensor is f32 on the CPU and laid out so; a view such as one half of a fused projection is.
    fn of(storage: &'a Storage, layout: &Layout) -> Option<Self> {
        let Storage::Cpu(CpuStorage::F32(values)) = storage else { return None };
        let (dims, strides) = (layout.dims(), layout.stride());
        let (&cols, outer) = dims.split_last()?;
        if cols > 1 && strides[dims.len() - 1] != 1 {
            return None;
        }
        // Outer dimensions must collapse into one: each stride is the next inner one times its dimension.
        let mut stride = None;
        let mut expected = None;
        for (&dim, &step) in outer.iter().zip(strides).rev().filter(|(dim, _)| **dim != 1) {
            match expected {
                None => stride = Some(step),
                Some(expected) if expected != step => return None,
                Some(_) => {}
            }
            expected = Some(step * dim);
        }
        Some(Self { data: &values[layout.start_offset()..], rows: outer.iter().product(), cols, stride: stride.unwrap_or(cols) })
    }

    /// From the first row's first element to the end of the storage.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// Has the processor fetch the line at column `column` of row `i`, which need not exist. Kernels that walk down a few columns of long rows need
    /// it: the processor foresees no step that leaves a page, and in the first-level cache such lines push each other out.
    #[inline(always)]
    pub fn prefetch(&self, i: usize, column: usize) {
        prefetch(self.data.as_ptr().wrapping_add(i.wrapping_mul(self.stride).wrapping_add(column)));
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride..i * self.stride + self.cols]
    }
}

/// Has the processor fetch the line at `address`, whatever that is, into its second-level cache.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        #[allow(unsafe_code)]
        // SAFETY: a prefetch is a hint; it reads nothing and faults at no address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Whether the kernels can run on it: f32 on the CPU.
pub(crate) fn is_f32_cpu(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu()
}

/// The tensor as rows for a kernel, copied first if its layout is another.
pub(crate) fn with_rows<R>(tensor: &Tensor, body: impl FnOnce(&Rows<'_>) -> Result<R>) -> Result<R> {
    {
        let (storage, layout) = tensor.storage_and_layout();
        if let Some(rows) = Rows::of(&storage, layout) {
            return body(&rows);
        }
    }
    let copy = tensor.contiguous()?;
    let (storage, layout) = copy.storage_and_layout();
    match Rows::of(&storage, layout) {
        Some(rows) => body(&rows),
        None => candle_core::bail!(
            "expected an f32 tensor of at least one dimension on the cpu, found {:?} {:?}",
            tensor.dtype(),
            tensor.shape()
        ),
    }
}

/// A pointer to floats that tasks of one parallel loop share.
///
/// Writers must keep to disjoint elements; [`Shared::slice`] checks only the bounds.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    pointer: *mut f32,
    len: usize,
}

// SAFETY: the pointer comes from a live `&mut [f32]`, and users write disjoint elements only.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    /// Shares `slice`, which must outlive the loop.
    pub fn new(slice: &mut [f32]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other task may touch these elements while the slice lives.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len, "slice {start}+{len} of {}", self.len);
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}

/// A buffer of `len` floats that is written in full before it is read.
pub(crate) fn buffer(len: usize) -> Vec<f32> {
    // Zeroed memory comes from the allocator without a pass over it where the pages are fresh.
    vec![0.0; len]
}

/// A buffer of `len` floats of whatever content. Zeroing memory that is used again costs a pass over it, which a kernel that writes every
/// element anyway can do without.
///
/// # Safety
/// Every float must be written before it is read.
#[allow(unsafe_code, clippy::uninit_vec)]
pub(crate) unsafe fn unwritten(len: usize) -> Vec<f32> {
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`, floats need no drop, and the caller writes them all.
    unsafe { buffer.set_len(len) };
    buffer
}
