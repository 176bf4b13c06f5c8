//! Sums and multiples of whole tensors on rayon's threads. candle's own f32 kernels share their work with a pool of spinning threads
//! that knows nothing of rayon's.

use crate::cpu::{is_f32_cpu, unwritten, with_rows};
use crate::parallel;
use crate::simd::dispatch;
use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Tensor};

/// Elements handled by one task.
const PIECE: usize = 16 * 1024;

/// a + b of equal shapes.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !(is_f32_cpu(a) && is_f32_cpu(b)) || a.dims() != b.dims() || a.rank() == 0 {
        return a + b;
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    with_rows(&a, |x| {
        with_rows(&b, |y| {
            let (x, y) = (x.data(), y.data());
            let sums = pieces(a.elem_count(), |at, out| {
                out.iter_mut().zip(&x[at..]).zip(&y[at..]).for_each(|((sum, x), y)| *sum = x + y);
            });
            Tensor::from_vec(sums, a.dims(), &Device::Cpu)
        })
    })
}

/// factor · a.
pub(crate) fn scale(a: &Tensor, factor: f64) -> Result<Tensor> {
    if !is_f32_cpu(a) || a.rank() == 0 {
        return a * factor;
    }
    let a = a.contiguous()?;
    with_rows(&a, |x| {
        let (x, factor) = (x.data(), factor as f32);
        let scaled = pieces(a.elem_count(), |at, out| out.iter_mut().zip(&x[at..]).for_each(|(y, x)| *y = x * factor));
        Tensor::from_vec(scaled, a.dims(), &Device::Cpu)
    })
}

/// `n` floats, written by `fill(start, piece)`, which must write the whole piece.
fn pieces(n: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    #[allow(unsafe_code)]
    // SAFETY: both users of this function write every element of each piece.
    let mut out = unsafe { unwritten(n) };
    parallel::for_each_piece(&mut out, PIECE, n, |i, piece| {
        dispatch(
            #[inline(always)]
            || fill(i * PIECE, piece),
        );
    });
    out
}

/// Adds `b` to `sum`, in place: `sum` must be contiguous and held by nobody else. `false` if nothing was done, because the tensors are not
/// f32 on the CPU.
pub(crate) fn add_in_place(sum: &Tensor, b: &Tensor) -> Result<bool> {
    if !(is_f32_cpu(sum) && is_f32_cpu(b)) || sum.dims() != b.dims() || !sum.is_contiguous() {
        return Ok(false);
    }
    sum.inplace_op2(&b.contiguous()?, &AddInPlace)?;
    Ok(true)
}

struct AddInPlace;

impl InplaceOp2 for AddInPlace {
    fn name(&self) -> &'static str {
        "add_in_place"
    }

    fn cpu_fwd(&self, sum: &mut CpuStorage, sum_layout: &Layout, b: &CpuStorage, b_layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(sum), CpuStorage::F32(b)) = (sum, b) else { candle_core::bail!("add_in_place: expected f32 tensors") };
        let n = sum_layout.shape().elem_count();
        let (sum, b) = (&mut sum[sum_layout.start_offset()..][..n], &b[b_layout.start_offset()..][..n]);
        parallel::for_each_piece(sum, PIECE, n, |i, piece| {
            dispatch(
                #[inline(always)]
                || piece.iter_mut().zip(&b[i * PIECE..]).for_each(|(sum, value)| *sum += value),
            );
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::DType;

    #[test]
    fn sums_agree_with_candle_s_to_the_bit() -> Result<()> {
        let (a, b) = (random(&[70, 500], 1, DType::F32), random(&[70, 500], 2, DType::F32));
        let expected = (&a + &b)?.to_vec2::<f32>()?;
        assert_eq!(add(&a, &b)?.to_vec2::<f32>()?, expected);
        let view = random(&[500, 70], 3, DType::F32).t()?;
        assert_eq!(add(&a, &view)?.to_vec2::<f32>()?, (&a + &view)?.to_vec2::<f32>()?);
        assert_eq!(scale(&view, 0.3)?.to_vec2::<f32>()?, (&view * 0.3)?.to_vec2::<f32>()?);
        assert!(add_in_place(&a, &b)?);
        assert_eq!(a.to_vec2::<f32>()?, expected);
        assert!(!add_in_place(&view, &b)?);
        Ok(())
    }
}
