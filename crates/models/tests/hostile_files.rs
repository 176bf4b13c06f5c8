//! Files that lie: whatever their bytes, reading them ends with an answer, never with a panic, and takes memory in proportion to the
//! file, not to what it claims.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::ModelError;
use peftbench_models::checkpoint::Checkpoint;
use peftbench_models::config::ModelConfig;
use peftbench_models::model::build;
use peftbench_models::weights::Shapes;
use peftbench_ops::Device;
use peftbench_ops::memory::{self, CountingAllocator};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// One case at a time allocates, so that the peak is its own.
static ALONE: Mutex<()> = Mutex::new(());

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)
}

/// A safetensors file of this header, and `data` bytes of data.
fn file_of(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn loading_holds_the_weights_and_no_second_copy() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let size = 32 << 20;
    fs::write(&path, file_of(&format!(r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{size}]}}}}"#, size / 4), size)).unwrap();
    let before = memory::reset_peak();
    let tensor = Checkpoint::open_files(&[path], "test".into(), &Device::Cpu).unwrap().read("a").unwrap();
    let peak = memory::peak_bytes() - before;
    assert_eq!(tensor.elem_count(), size / 4);
    assert!(peak < size as u64 * 21 / 20, "{peak} bytes for {size}");
}

/// Opens the bytes as a checkpoint and reads every tensor; returns the peak of memory on the way.
fn read_all(bytes: &[u8]) -> (Result<(), ModelError>, u64) {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let before = memory::reset_peak();
    let read = || {
        let checkpoint = Checkpoint::open_files(std::slice::from_ref(&path), "test".into(), &Device::Cpu)?;
        checkpoint.names().try_for_each(|name| checkpoint.read(name).map(drop))
    };
    let result = read();
    (result, memory::peak_bytes() - before)
}

/// A valid small file.
fn small() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"__metadata__":{"format":"pt"}}"#;
    file_of(header, 22)
}

/// What a checkpoint of `bytes` may take: its tensors as f32, and room for a header and its errors.
fn bound(bytes: usize) -> u64 {
    (64 * bytes + (1 << 20)) as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (result, peak) = read_all(&bytes);
        prop_assert!(result.is_err() && peak < bound(bytes.len()));
    }

    #[test]
    fn flipped_bits_give_an_answer(flips in prop::collection::vec((0usize..190, 0u8..8), 1..4)) {
        let mut bytes = small();
        let length = bytes.len();
        flips.into_iter().for_each(|(at, bit)| bytes[at % length] ^= 1 << bit);
        prop_assert!(read_all(&bytes).1 < bound(length));
    }

    #[test]
    fn headers_that_lie_about_their_length_are_refused(claim in any::<u64>()) {
        let mut bytes = small();
        let honest = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        prop_assume!(claim != honest);
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        let (result, peak) = read_all(&bytes);
        prop_assert!(result.is_err() && peak < bound(bytes.len()));
    }

    #[test]
    fn tensors_that_lie_about_their_size_or_place_are_refused(
        shape in prop::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
        start in prop_oneof![0u64..40, any::<u64>()],
        end in prop_oneof![0u64..40, any::<u64>()],
        dtype in prop::sample::select(vec!["F32", "F16", "BF16", "F64", "I8", "F4", "X"]),
    ) {
        let bytes = file_of(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#), 22);
        let (result, peak) = read_all(&bytes);
        let width = match dtype { "F32" => 4u128, "F16" | "BF16" => 2, _ => 0 };
        let honest = width > 0 && start == 0 && end == 22 && shape.iter().map(|&dim| u128::from(dim)).product::<u128>() * width == 22;
        prop_assert!(peak < bound(bytes.len()));
        prop_assert_eq!(result.is_ok(), honest);
    }

    #[test]
    fn configs_of_any_numbers_give_an_answer(
        model in prop::sample::select(vec![
            "bloom", "falcon_mamba", "gpt2", "gptj", "jamba", "llama", "mamba", "mamba2", "opt", "qwen2",
        ]),
        pick in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            json!(0), json!(1), json!(3), json!(-1), json!(1u64 << 31), json!(1u64 << 40), json!(u64::MAX), json!(0.5), json!(1e300), json!("7"), json!(null),
            json!([]), json!({}), json!(true), json!([-1, "a"]),
        ]),
    ) {
        let _alone = ALONE.lock();
        let mut values: Map<String, Value> = serde_json::from_slice(&fs::read(fixture(model).join("config.json")).unwrap()).unwrap();
        let keys: Vec<String> = values.keys().cloned().collect();
        values.insert(pick.get(&keys).clone(), value);
        if let Ok(config) = ModelConfig::from_values(values, "config.json".to_owned()) {
            let before = memory::reset_peak();
            let _no_panic = build(&config, &Shapes);
            // Thousands of layers without weights are some megabytes; what must not be is a table of what the config claims.
            prop_assert!(memory::peak_bytes() - before < 64 << 20);
            let checkpoint = Checkpoint::open(&fixture(model), &Device::Cpu).unwrap();
            let _no_panic = build(&config, &checkpoint);
        }
    }
}
