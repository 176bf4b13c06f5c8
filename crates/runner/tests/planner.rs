//! A plan reads each data set once, however many runs are over it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_runner::{Environment, Planner, RunError, resolve};
use peftbench_spec::RunSpec;
use serde_json::json;
use std::fs;
use std::path::Path;

fn environment(data: &Path) -> Environment {
    let bases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bases");
    Environment { models: vec![bases], data: Some(data.to_owned()), threads: 1, ..Environment::default() }
}

fn spec(environment: &Environment, method: &str, seed: u64, train_samples: usize) -> RunSpec {
    let train = json!({"train_samples": train_samples});
    let value = json!({"model": "tiny-llama", "task": "glue/sst2", "method": method, "seed": seed, "train": train});
    resolve(&RunSpec::from_value(value).unwrap(), environment).unwrap()
}

#[test]
fn data_are_read_once_for_runs_over_the_same_examples() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("glue/sst2");
    fs::create_dir_all(&folder).unwrap();
    let rows = |word: &str, count: usize| {
        (0..count).map(|i| format!("{{\"sentence\": \"{word} {i}\", \"label\": {}}}\n", i % 2)).collect::<String>()
    };
    fs::write(folder.join("train.jsonl"), rows("film", 100)).unwrap();
    fs::write(folder.join("dev.jsonl"), rows("scene", 10)).unwrap();
    let environment = environment(data.path());
    let planner = Planner::new(environment.clone());
    let lora = planner.estimate(&spec(&environment, "lora", 0, 40)).unwrap();
    let inputs = planner.inputs(&spec(&environment, "lora", 0, 40)).unwrap();
    assert!(inputs.dataset.is_some() && inputs.model.is_some() && inputs.tokenizer.is_some());

    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(planner.estimate(&spec(&environment, "lora", 1, 40)).unwrap(), lora, "only the seed differs");
    let full = planner.estimate(&spec(&environment, "full", 0, 40)).unwrap();
    assert!(full.trainable_params > lora.trainable_params && full.seconds > lora.seconds);
    assert_eq!(planner.inputs(&spec(&environment, "full", 1, 40)).unwrap(), inputs);
    let other = planner.estimate(&spec(&environment, "lora", 0, 20)).unwrap_err();
    assert!(matches!(other, RunError::Data(_)), "other examples are read from the files: {other}");
}
