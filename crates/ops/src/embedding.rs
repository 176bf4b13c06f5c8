//! Table look-up.

use crate::tape::{Tape, Var};
use candle_core::{DType, Result, Tensor};

impl Tape {
    /// The rows `ids` of `table`: table [vocabulary, d], ids [.., ] of type u32 → [.., d].
    pub fn embedding(&self, table: &Var, ids: &Tensor) -> Result<Var> {
        let (rows, width) = table.value().dims2()?;
        let flat = ids.flatten_all()?.to_dtype(DType::U32)?;
        let mut dims = ids.dims().to_vec();
        dims.push(width);
        let output = table.value().index_select(&flat, 0)?.reshape(dims)?;
        Ok(self.record(
            "embedding",
            &[table],
            output,
            || vec![flat],
            move |back| {
                let grad = back.grad.reshape(((), width))?;
                let zeros = Tensor::zeros((rows, width), grad.dtype(), grad.device())?;
                Ok(vec![Some(zeros.index_add(&back.saved[0], &grad.contiguous()?, 0)?)])
            },
        ))
    }

    /// The columns `ids` of `table`: table [d, vocabulary], ids [.., ] of type u32 → [.., d].
    pub fn embedding_columns(&self, table: &Var, ids: &Tensor) -> Result<Var> {
        let (width, columns) = table.value().dims2()?;
        let flat = ids.flatten_all()?.to_dtype(DType::U32)?;
        let mut dims = ids.dims().to_vec();
        dims.push(width);
        let output = table.value().index_select(&flat, 1)?.t()?.contiguous()?.reshape(dims)?;
        Ok(self.record(
            "embedding",
            &[table],
            output,
            || vec![flat],
            move |back| {
                let grad = back.grad.reshape(((), width))?.t()?.contiguous()?;
                let zeros = Tensor::zeros((width, columns), grad.dtype(), grad.device())?;
                Ok(vec![Some(zeros.index_add(&back.saved[0], &grad, 1)?)])
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;
    use candle_core::{Device, Result, Tensor};

    #[test]
    fn repeated_rows_add_up() -> Result<()> {
        let ids = Tensor::new(&[[1u32, 3], [1, 0]], &Device::Cpu)?;
        let by_columns = ids.clone();
        check_gradients(&[&[5, 3]], move |t, v| t.embedding(&v[0], &ids))?;
        check_gradients(&[&[3, 5]], move |t, v| t.embedding_columns(&v[0], &by_columns))
    }
}
