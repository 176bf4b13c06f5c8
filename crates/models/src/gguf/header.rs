//! The header of a GGUF file (versions 1 to 3, little endian): its metadata, and which tensors it has.
//!
//! Nothing in it is believed before it was checked against the length of the file, so that no lie in it costs memory. candle's own reader
//! names no tensor in its errors, and divides by an alignment of 0.

use peftbench_ops::quantized::GgmlDType;
use std::collections::BTreeMap;

/// Deepest nesting of arrays that is read.
const DEEPEST: usize = 8;

/// Versions that are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;

/// ggml's numbers of the types that are read.
const TYPES: [(u32, GgmlDType); 13] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (30, GgmlDType::BF16),
];

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A whole number or a truth value.
    Integer(i128),
    Float(f64),
    Text(String),
    Array(Vec<Value>),
}

/// A tensor in the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub dtype: GgmlDType,
    /// Outermost first, as Hugging Face has it; GGUF stores them the other way round.
    pub dims: Vec<usize>,
    /// Its bytes in the file.
    pub start: usize,
    pub length: usize,
}

pub(super) struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Entry>,
}

/// Why a file could not be read.
pub(super) enum Problem {
    /// It is not whole.
    Damaged(String),
    /// It is of a kind that is not read.
    Unsupported(String),
}

type Result<T> = std::result::Result<T, Problem>;

fn damaged<T>(problem: impl Into<String>) -> Result<T> {
    Err(Problem::Damaged(problem.into()))
}

/// Names of the types that are read.
pub(super) fn type_names() -> String {
    TYPES.iter().map(|(_, dtype)| format!("{dtype:?}")).collect::<Vec<_>>().join(", ")
}

/// Reads the header of a file of these bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Header> {
    let mut reader = Reader { bytes, at: 0, version: 3 };
    if reader.take(4)? != b"GGUF" {
        return damaged("it does not begin with `GGUF`");
    }
    reader.version = reader.u32()?;
    if !VERSIONS.contains(&reader.version) {
        let (first, last) = (VERSIONS.start(), VERSIONS.end());
        return Err(Problem::Unsupported(format!("GGUF version {}; supported: {first} to {last}, little endian", reader.version)));
    }
    let (tensors, values) = (reader.size()?, reader.size()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..values {
        let key = reader.text()?;
        let kind = reader.u32()?;
        metadata.insert(key, reader.value(kind, 0)?);
    }
    let described = (0..tensors).map(|_| reader.tensor()).collect::<Result<Vec<_>>>()?;
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Integer(alignment @ 1..=65_536)) => *alignment as usize,
        Some(other) => return damaged(format!("`general.alignment` is {other:?}; expected 1 to 65536")),
    };
    let data = reader.at.next_multiple_of(alignment);
    let mut entries = BTreeMap::new();
    for (name, entry, offset) in described {
        let end = data.checked_add(offset).and_then(|start| Some((start, start.checked_add(entry.length)?)));
        let Some((start, _)) = end.filter(|&(_, end)| end <= bytes.len()) else {
            let (length, total) = (entry.length, bytes.len());
            return damaged(format!("tensor `{name}` has {length} bytes at {offset} behind the header's {data}, but the file has {total}"));
        };
        if entries.insert(name.clone(), Entry { start, ..entry }).is_some() {
            return damaged(format!("it has two tensors `{name}`"));
        }
    }
    Ok(Header { metadata, tensors: entries })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    version: u32,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else {
            return damaged(format!("it ends at byte {}, where {count} more were expected from byte {}", self.bytes.len(), self.at));
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count or length: four bytes in version 1, eight since.
    fn size(&mut self) -> Result<usize> {
        let size = if self.version == 1 { u64::from(self.u32()?) } else { self.u64()? };
        usize::try_from(size).or_else(|_| damaged(format!("it claims {size} of something")))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.size()?;
        Ok(String::from_utf8_lossy(self.take(length)?).trim_end_matches('\0').to_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            8 => Value::Text(self.text()?),
            9 if depth < DEEPEST => {
                let (kind, count) = (self.u32()?, self.size()?);
                // Not allocated at once: the count may lie, and every value takes at least a byte of the file.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            9 => return damaged(format!("its metadata has arrays {DEEPEST} deep")),
            other => return damaged(format!("its metadata has a value of the unknown kind {other}")),
        })
    }

    /// Name, description (its start still unknown) and offset behind the header of a tensor.
    fn tensor(&mut self) -> Result<(String, Entry, usize)> {
        let name = self.text()?;
        let rank = self.u32()?;
        if rank > 4 {
            return damaged(format!("tensor `{name}` has {rank} dimensions; expected at most 4"));
        }
        let mut dims = (0..rank).map(|_| self.size()).collect::<Result<Vec<usize>>>()?;
        dims.reverse();
        let number = self.u32()?;
        let Some(&(_, dtype)) = TYPES.iter().find(|(known, _)| *known == number) else {
            let supported = type_names();
            return Err(Problem::Unsupported(format!("tensor `{name}` is quantised by ggml's type {number}; supported: {supported}")));
        };
        // Blocks lie along the innermost dimension.
        let (block, width) = (dtype.block_size(), dims.last().copied().unwrap_or(1));
        if dims.contains(&0) {
            return damaged(format!("tensor `{name}` of shape {dims:?} has no elements"));
        }
        let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
        let length = count.filter(|_| width.is_multiple_of(block)).and_then(|count| (count / block).checked_mul(dtype.type_size()));
        let Some(length) = length else {
            return damaged(format!("tensor `{name}` of shape {dims:?} does not divide into blocks of {block} numbers ({dtype:?})"));
        };
        let offset = self.u64()?;
        let offset = usize::try_from(offset).or_else(|_| damaged(format!("tensor `{name}` begins at byte {offset}")))?;
        Ok((name, Entry { dtype, dims, start: 0, length }, offset))
    }
}
