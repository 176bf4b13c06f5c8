//! Hugging Face checkpoint folders: one or many safetensors files in f32, f16 or bf16.

use crate::error::{ModelError, Result};
use crate::weights::{Init, Weights, missing};
use peftbench_ops::mapped::MappedFile;
use peftbench_ops::{DType, Device, Param, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An open checkpoint: its files are mapped, and a tensor is converted when it is asked for.
pub struct Checkpoint {
    origin: String,
    files: Vec<(PathBuf, MappedFile)>,
    /// Tensor name → index of its file.
    index: BTreeMap<String, usize>,
    device: Device,
}

impl Checkpoint {
    /// Opens all `*.safetensors` of a model folder.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let unreadable = |problem: String| ModelError::Unreadable { path: folder.to_owned(), problem };
        let entries = std::fs::read_dir(folder).map_err(|e| unreadable(e.to_string()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.sort();
        if paths.is_empty() {
            return Err(unreadable("no .safetensors file in it; a model folder holds config.json and model.safetensors".to_owned()));
        }
        Self::open_files(&paths, folder.display().to_string(), device)
    }

    /// Opens these files as one checkpoint.
    pub fn open_files(paths: &[PathBuf], origin: String, device: &Device) -> Result<Self> {
        let (mut files, mut index) = (Vec::new(), BTreeMap::new());
        for path in paths {
            let file = MappedFile::open(path).map_err(|e| ModelError::Unreadable { path: path.clone(), problem: e.to_string() })?;
            let tensors = parse(path, &file)?;
            index.extend(tensors.names().into_iter().map(|name| (name.to_owned(), files.len())));
            drop(tensors);
            files.push((path.clone(), file));
        }
        Ok(Self { origin, files, index, device: device.clone() })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The name under which the files have the tensor `name`: that one, or the one without its first segment. Checkpoints of GPT-2, BLOOM
    /// and OPT were saved without their head and lack the `transformer.` or `model.` in front of every name.
    fn stored<'n>(&self, name: &'n str) -> Option<(&'n str, usize)> {
        let without_head = name.split_once('.').map(|(_, rest)| rest);
        [Some(name), without_head].into_iter().flatten().find_map(|name| self.index.get(name).map(|&file| (name, file)))
    }

    /// The tensor `name` in whatever shape it has, converted to f32.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let Some((name, file)) = self.stored(name) else { return Err(missing(&self.origin, name, self.names())) };
        let (path, bytes) = &self.files[file];
        let tensors = parse(path, bytes)?;
        let view = tensors.tensor(name).map_err(|e| ModelError::Damaged { path: path.clone(), problem: e.to_string() })?;
        let values = to_f32(&view).ok_or_else(|| ModelError::Unsupported {
            origin: self.origin.clone(),
            problem: format!("tensor `{name}` is {:?}; supported: F32, F16, BF16", view.dtype()),
        })?;
        Ok(Tensor::from_vec(values, view.shape(), &Device::Cpu)?.to_device(&self.device)?)
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| ModelError::Damaged { path: path.to_owned(), problem: format!("not a whole safetensors file ({e})") })
}

fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
    match view.dtype() {
        Dtype::F32 => Some(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::F16 => Some(pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect()),
        Dtype::BF16 => Some(pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect()),
        _ => None,
    }
}

impl Weights for Checkpoint {
    fn tensor(&self, name: &str, dims: &[usize], _init: Init) -> Result<Tensor> {
        let tensor = self.read(name)?;
        match tensor.dims() == dims {
            true => Ok(tensor),
            false => Err(ModelError::WrongShape {
                origin: self.origin.clone(),
                name: name.to_owned(),
                expected: dims.to_vec(),
                found: tensor.dims().to_vec(),
            }),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.stored(name).is_some()
    }
}

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
