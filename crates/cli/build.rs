//! Records what the program is built from: commit, compiler, and the locked versions of its dependencies.
//!
//! Works outside git too: then there is no commit to record.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let sources = "../..";
    println!("cargo::rerun-if-changed=build.rs");
    let git = commit(sources);
    println!("cargo::rustc-env=PEFTBENCH_GIT={}", git.as_deref().unwrap_or_default());
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let shown = git.as_deref().map(|git| format!("{version} ({git})")).unwrap_or(version);
    println!("cargo::rustc-env=PEFTBENCH_VERSION={shown}");
    let compiler = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    println!("cargo::rustc-env=PEFTBENCH_RUSTC={}", output(&compiler, &["--version"]).unwrap_or_default());
    keep_lock_file(&Path::new(sources).join("Cargo.lock"))
}

/// The commit, with `-dirty` where a source file differs from it.
fn commit(sources: &str) -> Option<String> {
    let git = |arguments: &[&str]| output("git", &[&["-C", sources], arguments].concat());
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // A new commit, another branch, or a changed source may change the answer.
    for name in ["HEAD", "logs/HEAD"] {
        let path = PathBuf::from(sources).join(git(&["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    println!("cargo::rerun-if-changed={sources}/crates");
    let dirty = !git(&["status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.toml", "Cargo.lock"])?.is_empty();
    Some(if dirty { format!("{commit}-dirty") } else { commit })
}

/// The program hashes this copy when it runs: a build script has no BLAKE3 of its own.
fn keep_lock_file(lock: &Path) -> io::Result<()> {
    let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("Cargo.lock");
    match lock.exists() {
        true => {
            println!("cargo::rerun-if-changed={}", lock.display());
            fs::copy(lock, copy).map(drop)
        }
        false => fs::write(copy, ""),
    }
}

/// What a program prints, if it ends well.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
