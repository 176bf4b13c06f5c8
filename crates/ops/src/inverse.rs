//! Inverses of small matrices, for the Cayley transform.

use crate::tape::{Tape, Var};
use candle_core::{D, DType, Device, Result, Tensor};

impl Tape {
    /// The inverse of each matrix of a [.., n, n]. It keeps the inverse. Computed in f64 on the CPU whatever the type and device: for
    /// blocks of adapters, not for activations.
    ///
    /// # Errors
    /// Where a matrix is singular.
    pub fn inverse(&self, a: &Var) -> Result<Var> {
        let output = inverses(a.value())?;
        let kept = output.clone();
        Ok(self.record(
            "inverse",
            &[a],
            output,
            || vec![kept],
            |back| {
                let transposed = back.saved[0].transpose(D::Minus1, D::Minus2)?.contiguous()?;
                Ok(vec![Some(transposed.matmul(&back.grad.contiguous()?)?.matmul(&transposed)?.neg()?)])
            },
        ))
    }
}

fn inverses(a: &Tensor) -> Result<Tensor> {
    let n = a.dim(D::Minus1)?;
    if n == 0 || a.dim(D::Minus2)? != n {
        candle_core::bail!("expected square matrices to invert, found {:?}", a.dims())
    }
    let mut values = a.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    for matrix in values.chunks_mut(n * n) {
        invert(matrix, n)?;
    }
    Tensor::from_vec(values, a.dims(), &Device::Cpu)?.to_dtype(a.dtype())?.to_device(a.device())
}

/// Gauss-Jordan elimination in place with partial pivoting.
fn invert(a: &mut [f64], n: usize) -> Result<()> {
    let mut swapped = Vec::with_capacity(n);
    for column in 0..n {
        let larger = |&i: &usize, &j: &usize| a[i * n + column].abs().total_cmp(&a[j * n + column].abs());
        let pivot = (column..n).max_by(larger).unwrap_or(column);
        swapped.push(pivot);
        (0..n).for_each(|k| a.swap(column * n + k, pivot * n + k));
        let diagonal = std::mem::replace(&mut a[column * n + column], 1.0);
        if diagonal.abs() < 1e-300 || !diagonal.is_finite() {
            candle_core::bail!("a {n} x {n} matrix is singular and has no inverse")
        }
        a[column * n..(column + 1) * n].iter_mut().for_each(|value| *value /= diagonal);
        for i in (0..n).filter(|&i| i != column) {
            let factor = std::mem::replace(&mut a[i * n + column], 0.0);
            (0..n).for_each(|k| a[i * n + k] -= factor * a[column * n + k]);
        }
    }
    for (column, &pivot) in swapped.iter().enumerate().rev() {
        (0..n).for_each(|i| a.swap(i * n + column, i * n + pivot));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, random};

    #[test]
    fn the_product_with_the_inverse_is_the_identity() -> Result<()> {
        for n in [1, 2, 5, 32] {
            let a = random(&[3, n, n], n as u64, DType::F64);
            let found = a.matmul(&inverses(&a)?)?;
            let identity = Tensor::eye(n, DType::F64, &Device::Cpu)?.broadcast_as(found.shape())?;
            let error = (found - identity)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
            assert!(error < 1e-9, "{n}: {error}");
        }
        check_gradients(&[&[2, 3, 3]], |t, v| t.inverse(&v[0]))
    }

    #[test]
    fn a_row_exchange_is_undone_and_a_singular_matrix_is_an_error() -> Result<()> {
        let swap = Tensor::new(&[[0.0f32, 2.0], [1.0, 0.0]], &Device::Cpu)?;
        assert_eq!(inverses(&swap)?.to_vec2::<f32>()?, [[0.0, 1.0], [0.5, 0.0]]);
        let message = inverses(&Tensor::ones((2, 2), DType::F32, &Device::Cpu)?).unwrap_err().to_string();
        assert!(message.contains("singular"), "{message}");
        Ok(())
    }
}
