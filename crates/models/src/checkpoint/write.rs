//! Writing safetensors.

use crate::error::{ModelError, Result};
use peftbench_ops::{DType, Param};
use safetensors::tensor::{Dtype, TensorView};

/// Number type of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Four bytes a number.
    F32,
    /// Two bytes a number, 11 bits of precision.
    F16,
}

/// Serialises tensors as safetensors, in the order given.
pub fn to_safetensors(params: &[Param], storage: Storage) -> Result<Vec<u8>> {
    let mut buffers = Vec::with_capacity(params.len());
    for param in params {
        let value = param.value();
        let values = value.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = match storage {
            Storage::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Storage::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        };
        buffers.push((param.name().to_owned(), value.dims().to_vec(), bytes));
    }
    let dtype = if storage == Storage::F32 { Dtype::F32 } else { Dtype::F16 };
    let unwritable = |e: safetensors::SafeTensorError| ModelError::Unsupported { origin: "safetensors".to_owned(), problem: e.to_string() };
    let views =
        buffers.iter().map(|(name, dims, bytes)| Ok((name.clone(), TensorView::new(dtype, dims.clone(), bytes).map_err(unwritable)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = Some(std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]));
    safetensors::serialize(views, metadata).map_err(unwritable)
}
