//! Disks that are full, and folders that cannot be written.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;

use common::Playground;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LORA: &str = "method = \"lora\"\n[axes]\nseed = [0, 1]";

/// A small file system in memory, taken away when dropped.
struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// None where this process may not mount: then there is nothing to be tried.
    fn new(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&path).output().ok()?;
        mounted.status.success().then_some(Self { path })
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.path).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

fn fill(folder: &Path, leave: usize) {
    let path = folder.join("filler");
    let mut size = 1 << 20;
    let mut bytes = Vec::new();
    while size >= 4096 {
        bytes.resize(bytes.len() + size, 0u8);
        if fs::write(&path, &bytes).is_err() {
            bytes.truncate(bytes.len() - size);
            size /= 2;
        }
    }
    bytes.truncate(bytes.len().saturating_sub(leave));
    fs::write(&path, &bytes).unwrap();
}

#[test]
fn a_disk_that_fills_up_ends_in_a_clear_error_and_the_same_command_goes_on_once_there_is_room() {
    let playground = Playground::new();
    playground.sweep_file("s", LORA);
    let Some(disk) = Mounted::new(playground.path("results"), "size=2m") else { return };
    // Room for the plan, not for the runs.
    fill(&disk.path, 96 * 1024);
    let ran = playground.run(&["sweep", "s.toml", "-j", "1", "--no-report"]);
    assert!([1, 5].contains(&ran.code), "{} {}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    // No room at all.
    fs::remove_file(disk.path.join("filler")).unwrap();
    fill(&disk.path, 0);
    let ran = playground.expect(1, &["sweep", "s.toml", "-j", "1", "--no-report"]);
    assert!(ran.error().contains("No space left on device") && ran.error().contains("free some space"), "{}", ran.stderr);
    fs::remove_file(disk.path.join("filler")).unwrap();
    disk.remount("size=64m");
    playground.expect(0, &["sweep", "s.toml"]);
}

#[test]
fn a_read_only_results_folder_is_named_with_the_way_out() {
    let playground = Playground::new();
    playground.sweep_file("s", LORA);
    let Some(disk) = Mounted::new(playground.path("results"), "size=2m") else { return };
    disk.remount("ro");
    let ran = playground.expect(1, &["sweep", "s.toml"]);
    assert!(ran.error().starts_with("error: could not make the folder results/s: Read-only file system"), "{}", ran.stderr);
    assert!(ran.error().contains("choose a results folder that you may write to"), "{}", ran.stderr);
    let ran = playground.expect(1, &["doctor"]);
    assert!(ran.stdout.contains("wrong  results"), "{}", ran.stdout);
    disk.remount("rw");
    playground.expect(0, &["sweep", "s.toml", "--no-report"]);
}

#[test]
fn a_file_in_place_of_the_results_folder_is_named() {
    let playground = Playground::new();
    playground.sweep_file("s", LORA);
    playground.write("results", "");
    let ran = playground.expect(1, &["sweep", "s.toml"]);
    assert!(ran.error().starts_with("error: results: expected a folder, found a file"), "{}", ran.stderr);
}
