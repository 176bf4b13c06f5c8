//! The header of a safetensors file: which tensors it has, and where.
//!
//! Nothing in it is believed before it was checked against the length of the file, so that no lie in it costs memory.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// Longest header that is read, as in Hugging Face's reader.
const LONGEST: u64 = 100_000_000;

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// safetensors' name of its number type: `F32`, `BF16`.
    pub dtype: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// First byte, from the beginning of the file.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

/// As it stands in the file.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Bits of a number, none for a type this reader does not know.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Reads the header of a file of `file_length` bytes.
///
/// # Errors
/// What does not fit, and where.
pub(super) fn read(mut file: impl Read, file_length: u64) -> Result<BTreeMap<String, Entry>, String> {
    let unreadable = |error: io::Error| error.to_string();
    if file_length < 8 {
        return Err(format!("it has {file_length} bytes; expected at least the 8 of a header's length"));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(unreadable)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST.min(file_length - 8) {
        return Err(format!("its header claims {length} bytes; the file has {file_length}, and {LONGEST} is the longest header there is"));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(unreadable)?;
    let mut raw: BTreeMap<String, Value> =
        serde_json::from_slice(&text).map_err(|error| format!("its header is no JSON object ({error})"))?;
    raw.remove("__metadata__");
    let data = file_length - 8 - length;
    let mut entries = BTreeMap::new();
    for (name, value) in raw {
        let entry = entry(value, data).map_err(|problem| format!("tensor `{name}` {problem}"))?;
        entries.insert(name, Entry { start: entry.start + 8 + length, ..entry });
    }
    check_cover(&entries, 8 + length, file_length)?;
    Ok(entries)
}

/// An entry, with its start counted from the data's, of which there are `data` bytes.
fn entry(value: Value, data: u64) -> Result<Entry, String> {
    let Raw { dtype, shape, data_offsets: [start, end] } =
        serde_json::from_value(value).map_err(|error| format!("is described wrongly ({error})"))?;
    if start > end || end > data {
        return Err(format!("lies at bytes {start} to {end} of the data, which has {data}"));
    }
    let per_number = bits(&dtype).ok_or_else(|| format!("has the unknown type {dtype}"))?;
    let needed = shape.iter().try_fold(per_number, |total, &dim| total.checked_mul(dim)).map(|bits| bits.div_ceil(8));
    if needed != Some(end - start) {
        let needed = needed.map_or("more bytes than can be counted".to_owned(), |needed| format!("{needed} bytes"));
        return Err(format!("of shape {shape:?} and type {dtype} needs {needed}, but has {}", end - start));
    }
    let dims =
        shape.into_iter().map(usize::try_from).collect::<Result<_, _>>().map_err(|_| "has a dimension beyond this machine".to_owned())?;
    Ok(Entry { dtype, dims, start, length: end - start })
}

/// The tensors must cover the data without gap or overlap: a file that was cut short or patched does not.
fn check_cover(entries: &BTreeMap<String, Entry>, start: u64, end: u64) -> Result<(), String> {
    let mut in_order: Vec<(&String, &Entry)> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| (entry.start, entry.length));
    let mut covered = start;
    for (name, entry) in in_order {
        if entry.start != covered {
            return Err(format!("tensor `{name}` begins at byte {}; expected {covered}, where the one before ends", entry.start));
        }
        covered += entry.length;
    }
    match covered == end {
        true => Ok(()),
        false => Err(format!("its tensors end at byte {covered}, but it has {end}")),
    }
}
