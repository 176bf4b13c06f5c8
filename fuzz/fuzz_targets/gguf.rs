//! A GGUF file of any bytes: opening it, reading its config and tokenizer, and building its model ends with an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peftbench_models::gguf::GgufFile;
use peftbench_models::model::build;
use peftbench_ops::Device;
use std::io::Write;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    if let Ok(gguf) = GgufFile::open(file.path(), &Device::Cpu) {
        let _tokenizer = gguf.tokenizer();
        let _model = gguf.config().and_then(|config| build(&config, &gguf));
    }
});
