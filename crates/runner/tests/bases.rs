//! The shipped base models are what their specs make: the first steps are run again and give the recorded losses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_runner::Environment;
use peftbench_runner::pretrain::{FIRST_LOSSES, FirstLosses, PretrainSpec, first_losses, processor};
use std::path::{Path, PathBuf};

/// Steps that are run again.
const STEPS: usize = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The language models that ship; a network over numbers has no tokenizer.
fn bases() -> Vec<PathBuf> {
    let mut bases: Vec<PathBuf> = std::fs::read_dir(root().join("bases")).unwrap().map(|e| e.unwrap().path()).collect();
    bases.retain(|path| path.join("tokenizer.json").is_file());
    bases.sort();
    let names: Vec<&str> = bases.iter().filter_map(|base| base.file_name()?.to_str()).collect();
    assert_eq!(names, ["tiny-jamba", "tiny-llama", "tiny-mamba", "tiny-mamba2"]);
    bases
}

#[test]
fn the_first_losses_are_those_recorded_to_the_bit() {
    for base in bases() {
        let spec = PretrainSpec::read(&base.join("pretrain.toml")).unwrap();
        let recorded: FirstLosses = serde_json::from_str(&std::fs::read_to_string(base.join(FIRST_LOSSES)).unwrap()).unwrap();
        let found = first_losses(&spec, &base.join("tokenizer.json"), STEPS).unwrap();
        for (found, recorded_loss) in found.iter().zip(&recorded.losses) {
            match recorded.processor == processor() {
                true => assert_eq!(found.to_bits(), recorded_loss.to_bits(), "{}", spec.name),
                // Another type of processor may sum in another order.
                false => assert!((found - recorded_loss).abs() < 1e-3, "{}: {found}, recorded {recorded_loss}", spec.name),
            }
        }
    }
}

#[test]
fn each_base_has_the_spec_that_lies_with_the_experiments() {
    for base in bases() {
        let shipped = PretrainSpec::read(&base.join("pretrain.toml")).unwrap();
        let experiment = PretrainSpec::read(&root().join(format!("experiments/bases/{}.toml", shipped.name))).unwrap();
        assert_eq!(serde_json::to_value(&shipped).unwrap(), serde_json::to_value(&experiment).unwrap());
    }
}

#[test]
fn bases_are_small_and_deep_enough() {
    for base in bases() {
        let bytes = std::fs::metadata(base.join("model.safetensors")).unwrap().len();
        assert!(bytes < 2 << 20, "{}: {bytes} bytes of weights", base.display());
        let files = Environment::default().find_model(base.to_str().unwrap()).unwrap();
        let mut model = files.model(&peftbench_ops::Device::Cpu).unwrap();
        assert!(model.num_layers() >= 8);
        let params: usize = model.params().iter().map(peftbench_ops::Param::elem_count).sum();
        assert!((900_000..1_100_000).contains(&params), "{params}");
        files.tokenizer_for(&*model).unwrap();
    }
}
