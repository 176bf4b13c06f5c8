//! A safetensors file of any bytes: opening it and reading each of its tensors ends with an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peftbench_models::checkpoint::Checkpoint;
use peftbench_ops::Device;
use std::io::Write;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    if let Ok(checkpoint) = Checkpoint::open_files(&[file.path().to_owned()], "fuzz".to_owned(), &Device::Cpu) {
        checkpoint.names().for_each(|name| drop(checkpoint.read(name)));
    }
});
