//! The order of the crates, held against `cargo metadata`: lower ones know nothing of upper ones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may depend on; `docs/design.md` says why.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("spec", &[]),
    ("ops", &[]),
    ("models", &["ops", "spec"]),
    ("adapters", &["models", "ops", "spec"]),
    ("datasets", &["spec"]),
    ("runner", &["adapters", "datasets", "models", "ops", "spec"]),
    ("sweep", &["spec"]),
    ("results", &["spec"]),
    ("report", &["results", "spec"]),
    ("cli", &["adapters", "datasets", "models", "ops", "report", "results", "runner", "spec", "sweep"]),
];

/// Crates from outside that only one of ours may use.
const LEAVES: [(&str, &str); 2] = [("polars", "results"), ("plotters", "report")];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let normal = |package: &Value| package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null()).map(name).collect();
    metadata["packages"].as_array().unwrap().iter().map(|package| (name(package), normal(package))).collect()
}

#[test]
fn every_crate_depends_only_on_those_below_it() {
    let found = dependencies();
    assert_eq!(found.len(), ALLOWED.len(), "a crate is missing from the table: {:?}", found.keys());
    for (name, allowed) in ALLOWED {
        let ours = found[&format!("peftbench-{name}")].iter().filter_map(|d| d.strip_prefix("peftbench-"));
        for dependency in ours {
            assert!(allowed.contains(&dependency), "`{name}` may not depend on `{dependency}`");
        }
    }
}

#[test]
fn heavy_libraries_stay_in_their_leaf_crates() {
    for (name, dependencies) in dependencies() {
        for (heavy, home) in LEAVES {
            assert!(
                !dependencies.iter().any(|d| d == heavy) || name == format!("peftbench-{home}"),
                "`{heavy}` belongs in `{home}`, not in `{name}`"
            );
        }
        let may_compute = ["ops", "models", "adapters", "runner"].iter().any(|c| name == format!("peftbench-{c}"));
        assert!(may_compute || !dependencies.iter().any(|d| d == "candle-core"), "`{name}` must build without candle");
    }
}

/// Which kind of device computes is decided in `ops` and on the command line.
#[test]
fn models_adapters_and_runner_name_no_kind_of_device() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<PathBuf> = ["models", "adapters", "runner"].iter().map(|name| crates.join(name).join("src")).collect();
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for kind in ["Device::Cpu", "Device::Cuda", "Device::Metal", "new_cuda", "cuda_if_available"] {
                assert!(!text.contains(kind), "{} names `{kind}`; use the device of a tensor, or `ops::device::host`", path.display());
            }
            read += 1;
        }
    }
    assert!(read > 50, "only {read} files found");
}
