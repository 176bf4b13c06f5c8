//! Hugging Face checkpoint folders: one or many safetensors files in f32, f16 or bf16.

mod header;
mod write;

pub use write::{Storage, to_safetensors};

use crate::error::{ModelError, Result};
use crate::weights::{Init, Weights, missing};
use header::Entry;
use peftbench_ops::device::host;
use peftbench_ops::{Device, Tensor};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// The file that says which shard has which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// Bytes read at once; they fit a processor's cache, where they are converted.
const PIECE: usize = 1 << 18;

/// Ends of names of tensors that are computed from the config, and so not read: rotary frequencies, causal masks, running positions.
const COMPUTED: [&str; 4] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".position_ids"];

/// An open checkpoint. A tensor is read and converted when it is asked for, so that the file's bytes are never held beside it.
pub struct Checkpoint {
    origin: String,
    files: Vec<(PathBuf, File)>,
    /// Tensor name → index of its file, and its place there.
    index: BTreeMap<String, (usize, Entry)>,
    /// Names that were asked for. (The cell also keeps a checkpoint from being shared by threads, whose reads would disturb each other.)
    used: RefCell<BTreeSet<String>>,
    device: Device,
}

impl Checkpoint {
    /// Opens the weights of a model folder: `model.safetensors`; or the shards that `model.safetensors.index.json` names; or else every
    /// `*.safetensors` there is.
    ///
    /// # Errors
    /// Where a file is missing, damaged or cut short, or the index contradicts the shards.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let origin = folder.display().to_string();
        let whole = folder.join("model.safetensors");
        if whole.is_file() {
            return Self::open_files(&[whole], origin, device);
        }
        let index = folder.join(INDEX);
        if index.is_file() {
            return Self::open_shards(folder, &index, device);
        }
        let unreadable = |problem: String| ModelError::Unreadable { path: folder.to_owned(), problem };
        let entries = std::fs::read_dir(folder).map_err(|e| unreadable(e.to_string()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.sort();
        if paths.is_empty() {
            return Err(unreadable("no .safetensors file in it; a model folder holds config.json and model.safetensors".to_owned()));
        }
        Self::open_files(&paths, origin, device)
    }

    /// Opens these files as one checkpoint.
    ///
    /// # Errors
    /// Where a file is missing, damaged or cut short, or two have the same tensor.
    pub fn open_files(paths: &[PathBuf], origin: String, device: &Device) -> Result<Self> {
        let (mut files, mut index) = (Vec::new(), BTreeMap::new());
        for (i, path) in paths.iter().enumerate() {
            let unreadable = |e: io::Error| ModelError::Unreadable { path: path.clone(), problem: e.to_string() };
            let file = File::open(path).map_err(unreadable)?;
            let length = file.metadata().map_err(unreadable)?.len();
            let entries = header::read(io::BufReader::new(&file), length).map_err(|problem| damaged(path, &problem))?;
            for (name, entry) in entries {
                if let Some((other, _)) = index.insert(name.clone(), (i, entry)) {
                    return Err(damaged(path, &format!("it has tensor `{name}`, and so has {}", paths[other].display())));
                }
            }
            files.push((path.clone(), file));
        }
        Ok(Self { origin, files, index, used: RefCell::default(), device: device.clone() })
    }

    /// Opens one file whose tensors are to stay in the processor's memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open_files`].
    pub fn open_on_host(path: &Path) -> Result<Self> {
        Self::open_files(&[path.to_owned()], path.display().to_string(), &host())
    }

    /// Opens the shards that the index names.
    fn open_shards(folder: &Path, index: &Path, device: &Device) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(index).map_err(|e| ModelError::Unreadable { path: index.to_owned(), problem: e.to_string() })?;
        let broken = |problem: String| ModelError::Damaged { path: index.to_owned(), problem };
        let Index { weight_map } = serde_json::from_slice(&text).map_err(|e| broken(format!("not an index of shards ({e})")))?;
        let shards: Vec<&String> = BTreeSet::from_iter(weight_map.values()).into_iter().collect();
        let mut paths = Vec::new();
        for shard in &shards {
            let plain = matches!(Path::new(shard).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            let path = folder.join(shard);
            match (plain, path.is_file()) {
                (false, _) => return Err(broken(format!("it names the shard `{shard}`; expected a file of its own folder"))),
                (true, false) => return Err(broken(format!("it names the shard `{shard}`, which is not there"))),
                (true, true) => paths.push(path),
            }
        }
        let checkpoint = Self::open_files(&paths, folder.display().to_string(), device)?;
        for (name, shard) in &weight_map {
            let found = checkpoint.index.get(name).map(|&(file, _)| shards[file]);
            if found != Some(shard) {
                let found = found.map_or("in no shard".to_owned(), |found| format!("in `{found}`"));
                return Err(broken(format!("it says that tensor `{name}` is in `{shard}`, but it is {found}")));
            }
        }
        Ok(checkpoint)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The name under which the files have the tensor `name`: that one, or the one without its first segment. Checkpoints of GPT-2, BLOOM
    /// and OPT were saved without their head and lack the `transformer.` or `model.` in front of every name.
    fn stored(&self, name: &str) -> Option<(&String, &(usize, Entry))> {
        let without_head = name.split_once('.').map(|(_, rest)| rest);
        [Some(name), without_head].into_iter().flatten().find_map(|name| self.index.get_key_value(name))
    }

    fn found(&self, name: &str) -> Result<(&Path, &File, &Entry)> {
        let Some((stored, (file, entry))) = self.stored(name) else { return Err(missing(&self.origin, name, self.names())) };
        self.used.borrow_mut().insert(stored.clone());
        let (path, file) = &self.files[*file];
        Ok((path, file, entry))
    }

    /// The tensor `name` in whatever shape it has, converted to f32.
    ///
    /// # Errors
    /// Where it is missing, of another type than f32, f16 or bf16, or the file has been cut short meanwhile.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let (path, file, entry) = self.found(name)?;
        let convert: fn(&[u8], &mut Vec<f32>) = match entry.dtype.as_str() {
            "F32" => |bytes, values| values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            "F16" => |bytes, values| values.extend(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())),
            "BF16" => |bytes, values| values.extend(bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            other => {
                return Err(ModelError::WrongType {
                    origin: path.display().to_string(),
                    name: name.to_owned(),
                    expected: "F32, F16 or BF16",
                    found: other.to_owned(),
                });
            }
        };
        let mut values = Vec::with_capacity(entry.dims.iter().product());
        for_each_piece(file, entry, |piece| convert(piece, &mut values)).map_err(|e| damaged(path, &format!("tensor `{name}`: {e}")))?;
        Ok(Tensor::from_vec(values, &entry.dims[..], &host())?.to_device(&self.device)?)
    }

    /// Checks that every tensor was asked for, but those that are computed from the config. `tied` is the tensor that serves as the
    /// head too, where one does: a stored head must then be equal to it.
    ///
    /// # Errors
    /// Names what is left over: the config belongs to another model.
    pub fn check_used(&self, tied: Option<&str>) -> Result<()> {
        let mut left: Vec<&str> = Vec::new();
        let used = self.used.borrow().clone();
        for name in self.names().filter(|name| !used.contains(*name) && !COMPUTED.iter().any(|end| name.ends_with(end))) {
            match tied {
                Some(tied) if name == "lm_head.weight" => self.check_equal(name, tied)?,
                _ => left.push(name),
            }
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(ModelError::ExtraTensors { origin: self.origin.clone(), names: left.into_iter().map(str::to_owned).collect() }),
        }
    }

    fn check_equal(&self, head: &str, tied: &str) -> Result<()> {
        let digest = |name: &str| -> Result<(String, Vec<usize>, blake3::Hash)> {
            let (path, file, entry) = self.found(name)?;
            let mut hasher = blake3::Hasher::new();
            for_each_piece(file, entry, |piece| {
                hasher.update(piece);
            })
            .map_err(|e| damaged(path, &format!("tensor `{name}`: {e}")))?;
            Ok((entry.dtype.clone(), entry.dims.clone(), hasher.finalize()))
        };
        match digest(head)? == digest(tied)? {
            true => Ok(()),
            false => Err(ModelError::Unsupported {
                origin: self.origin.clone(),
                problem: format!("`tie_word_embeddings` is true, but `{head}` differs from `{tied}`; set it to false in config.json"),
            }),
        }
    }
}

/// Reads a tensor's bytes in pieces of whole numbers.
fn for_each_piece(mut file: &File, entry: &Entry, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    file.seek(SeekFrom::Start(entry.start))?;
    let mut buffer = vec![0; PIECE.min(usize::try_from(entry.length).unwrap_or(PIECE))];
    let mut left = entry.length;
    while left > 0 {
        let piece = &mut buffer[..usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        file.read_exact(piece)?;
        visit(piece);
        left -= piece.len() as u64;
    }
    Ok(())
}

fn damaged(path: &Path, problem: &str) -> ModelError {
    ModelError::Damaged { path: path.to_owned(), problem: format!("not a whole safetensors file: {problem}") }
}

impl Weights for Checkpoint {
    fn tensor(&self, name: &str, dims: &[usize], _init: Init) -> Result<Tensor> {
        let (path, _, entry) = self.found(name)?;
        match entry.dims == dims {
            true => self.read(name),
            false => Err(ModelError::WrongShape {
                origin: path.display().to_string(),
                name: name.to_owned(),
                expected: dims.to_vec(),
                found: entry.dims.clone(),
            }),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.stored(name).is_some()
    }
}
