//! What a mixture of experts needs: softmax, and rows added up where they came from ([`Tape::select_rows`] takes them away).

use crate::tape::{Tape, Var};
use candle_core::{D, Result, Tensor};

impl Tape {
    /// Softmax over the last dimension. Keeps its output.
    pub fn softmax(&self, x: &Var) -> Result<Var> {
        let shifted = x.value().broadcast_sub(&x.value().max_keepdim(D::Minus1)?)?.exp()?;
        let output = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        let kept = output.clone();
        Ok(self.record(
            "softmax",
            &[x],
            output,
            || vec![kept],
            |back| {
                let weighted = (&back.grad * &back.saved[0])?;
                let mean = weighted.sum_keepdim(D::Minus1)?;
                Ok(vec![Some((weighted - back.saved[0].broadcast_mul(&mean)?)?)])
            },
        ))
    }

    /// A tensor [rows, d] of zeros to whose row `indices[i]` row i of `x` [n, d] is added, for each of the n indices in turn.
    pub fn index_add(&self, x: &Var, indices: &[u32], rows: usize) -> Result<Var> {
        let (n, width) = x.value().dims2()?;
        if indices.len() != n {
            candle_core::bail!("index_add: {n} rows but {} indices", indices.len())
        }
        let index = Tensor::new(indices, x.value().device())?;
        let zeros = Tensor::zeros((rows, width), x.value().dtype(), x.value().device())?;
        let output = zeros.index_add(&index, &x.value().contiguous()?, 0)?;
        Ok(self.record(
            "index_add",
            &[x],
            output,
            || vec![index],
            |back| Ok(vec![Some(back.grad.contiguous()?.index_select(&back.saved[0], 0)?)]),
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, check_kernel};
    use crate::{Tape, Var};
    use candle_core::{Device, Result, Tensor};

    #[test]
    fn softmax_agrees_with_finite_differences_and_holds_for_large_inputs() -> Result<()> {
        let softmax = |t: &Tape, v: &[Var]| t.softmax(&v[0]);
        check_gradients(&[&[2, 3, 4]], softmax)?;
        check_kernel(&[&[3, 5]], 1e-6, softmax)?;
        let large = Var::constant(Tensor::new(&[1000.0f32, 1000.0, -1000.0], &Device::Cpu)?);
        assert_eq!(Tape::inference().softmax(&large)?.value().to_vec1::<f32>()?, [0.5, 0.5, 0.0]);
        Ok(())
    }

    #[test]
    fn rows_are_added_up_where_they_belong() -> Result<()> {
        check_gradients(&[&[4, 3]], |t, v| t.index_add(&v[0], &[2, 0, 2, 4], 5))?;
        let x = Var::constant(Tensor::new(&[[1.0f32], [2.0], [4.0]], &Device::Cpu)?);
        let sum = Tape::inference().index_add(&x, &[1, 1, 3], 4)?;
        assert_eq!(sum.value().flatten_all()?.to_vec1::<f32>()?, [0.0, 3.0, 0.0, 4.0]);
        assert!(Tape::inference().index_add(&x, &[1], 4).is_err());
        Ok(())
    }
}
