//! The shipped experiment files that need nothing but the shipped bases are understood: an option that is renamed is renamed there too.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_experiment_on_the_shipped_bases_can_be_planned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let studies = std::fs::read_dir(root.join("experiments/studies")).unwrap().map(|entry| entry.unwrap().path());
    let named = ["quick", "smoke", "world"].map(|name| root.join(format!("experiments/{name}.toml")));
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
