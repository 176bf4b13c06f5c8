//! AdaLoRA's tensors in the adapter file: of a pruned layer only the ranks that are left, and `rank_pattern` says which.

use super::allocator::Allocator;
use super::{AdaLora, Triple};
use crate::error::Result;
use crate::folder::FileTensors;
use crate::method::FileForm;
use peftbench_ops::{Param, Tensor};
use serde_json::{Map, Value};

/// The form of all layers.
#[derive(Debug)]
pub(super) struct Pruned {
    allocator: Allocator,
    options: AdaLora,
}

impl Pruned {
    pub fn new(allocator: Allocator, options: AdaLora) -> Self {
        Self { allocator, options }
    }

    /// Which entries of E are left. The best epoch's tensors may be older than the last allocation, so that E itself is asked.
    fn left(&self, triple: &Triple) -> Result<Vec<bool>> {
        let entries = triple.e.value().flatten_all()?.to_vec1::<f32>()?;
        let pruned = self.allocator.has_allocated()?;
        Ok(entries.into_iter().map(|entry| !pruned || entry != 0.0).collect())
    }
}

/// The entries `kept` of dimension `dim`.
fn select(tensor: &Tensor, kept: &[bool], dim: usize) -> Result<Tensor> {
    let indices: Vec<u32> = (0u32..).zip(kept).filter(|(_, kept)| **kept).map(|(i, _)| i).collect();
    if indices.is_empty() {
        let mut dims = tensor.dims().to_vec();
        dims[dim] = 0;
        return Ok(Tensor::zeros(dims, tensor.dtype(), tensor.device())?);
    }
    Ok(tensor.contiguous()?.index_select(&Tensor::new(indices, tensor.device())?, dim)?)
}

/// `part` in the first places of dimension `dim` of `whole`.
fn replace_front(whole: &Tensor, part: &Tensor, dim: usize) -> Result<Tensor> {
    let (size, count) = (whole.dim(dim)?, part.dim(dim)?);
    match count {
        0 => Ok(whole.clone()),
        _ if count == size => Ok(part.clone()),
        _ => Ok(Tensor::cat(&[part, &whole.narrow(dim, count, size - count)?.contiguous()?], dim)?),
    }
}

impl FileForm for Pruned {
    fn params(&self) -> Vec<Param> {
        self.allocator.triples().into_iter().flat_map(|t| [t.a.clone(), t.e.clone(), t.b.clone()]).collect()
    }

    fn write(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for triple in self.allocator.triples() {
            let left = self.left(triple)?;
            for (param, dim) in [(&triple.a, 0), (&triple.e, 0), (&triple.b, 1)] {
                all.push((param.name().to_owned(), select(&param.value(), &left, dim)?));
            }
        }
        Ok(all)
    }

    fn read(&self, file: &mut FileTensors) -> Result<()> {
        for triple in self.allocator.triples() {
            let (a, e, b) = (file.take(triple.a.name())?, file.take(triple.e.name())?, file.take(triple.b.name())?);
            let (rank, columns) = triple.a.value().dims2()?;
            let (left, rows) = (a.dims()[0], triple.b.value().dims()[0]);
            if left > rank || a.dims() != [left, columns] || e.dims() != [left, 1] || b.dims() != [rows, left] {
                let (found, path) = ([a.dims(), e.dims(), b.dims()], &triple.path);
                return Err(
                    file.wrong(format!("A, E and B of `{path}` have shapes {found:?}, which are none of [{rank}, {columns}] pruned"))
                );
            }
            // Which ranks were left does not matter to their sum; the others count for nothing with E at 0.
            triple.e.set(replace_front(&triple.e.value().zeros_like()?, &e, 0)?)?;
            triple.a.set(replace_front(&triple.a.value(), &a, 0)?)?;
            triple.b.set(replace_front(&triple.b.value(), &b, 1)?)?;
        }
        Ok(())
    }

    fn complete(&self, config: &mut Map<String, Value>) {
        if config.get("peft_type").is_none_or(|found| found != "ADALORA") {
            return;
        }
        // peft asks for a schedule even where nothing is trained any more.
        let total = self.options.total_step.max(self.options.tinit + self.options.tfinal + 1);
        config.insert("total_step".to_owned(), total.into());
        if !self.allocator.has_allocated().unwrap_or(false) {
            return;
        }
        let of = |triple: &&Triple| Some((format!("{}.lora_E", triple.path), Value::from(self.left(triple).ok()?)));
        config.insert("rank_pattern".to_owned(), Value::Object(self.allocator.triples().iter().filter_map(of).collect()));
    }
}
