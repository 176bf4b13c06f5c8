//! The shipped experiment files that need nothing but the shipped bases are understood: an option that is renamed is renamed there too.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_experiment_on_the_shipped_bases_can_be_planned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let studies = std::fs::read_dir(root.join("experiments/studies")).unwrap().map(|entry| entry.unwrap().path());
    let named = ["quick", "smoke", "world", "claims", "claims-s4"].map(|name| root.join(format!("experiments/{name}.toml")));
    let files: Vec<PathBuf> = studies.chain(named).collect();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let results = tempfile::tempdir().unwrap();
        let ran = Command::new(env!("CARGO_BIN_EXE_peftbench"))
            .current_dir(&root)
            .args(["plan", file.to_str().unwrap(), "--results", results.path().to_str().unwrap()])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&ran.stderr));
    }
}

/// Every shipped claims file is read, and its selections name what exists; without runs nothing can be compared.
#[test]
fn every_claims_file_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let results = tempfile::tempdir().unwrap();
    let smoke = ["sweep", "experiments/smoke.toml", "--max-runs", "1", "--no-report", "--results"];
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_peftbench")).current_dir(&root).args(arguments).arg(results.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&smoke);
    let board: serde_json::Value = serde_json::from_str(&run(&["claims", "--json", "--results"])).unwrap();
    let papers = board["papers"].as_array().unwrap();
    assert_eq!(papers.iter().map(|paper| paper["id"].as_str().unwrap()).collect::<Vec<_>>(), ["ist", "ssm-peft"]);
    let lines: Vec<&serde_json::Value> = papers.iter().flat_map(|paper| paper["lines"].as_array().unwrap()).collect();
    assert!(
        lines.len() >= 20
            && lines.iter().all(|line| line["here"]["verdict"] == "not_comparable" && line["own"]["verdict"] == "not_comparable")
    );
    assert!(lines.iter().filter(|line| !line["reported"].as_array().unwrap().is_empty()).count() >= 7);
}
