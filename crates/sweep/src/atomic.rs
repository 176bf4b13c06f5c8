//! Files that appear whole or not at all, through a crash of the program or of the machine: written to a temporary name in the same
//! folder, synced, renamed, and the folder synced.

use crate::error::StoreError;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path`, replacing what is there. Missing folders above it are made.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes what `fill` writes to `path`, replacing what is there. If `fill` fails, `path` is as it was.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    make_folder(folder)?;
    let temporary = temporary_name(path);
    let written = fill_and_rename(&temporary, path, fill);
    if written.is_err() {
        // The first error is the one to report; a leftover is taken away by the next claim.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_folder(folder)).map_err(StoreError::io("write", path))
}

fn fill_and_rename(temporary: &Path, path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(temporary)?);
    fill(&mut writer)?;
    writer.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    fs::rename(temporary, path)
}

/// Makes a folder and those above it. The empty path is the current folder.
pub fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::NotAFolder { path: folder.to_owned() },
        _ => StoreError::io("make the folder", folder)(error),
    })
}

/// Removes temporary files that a killed process left in `folder`. Call it only while nobody writes there.
pub fn remove_leftovers(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let path = entry.map_err(StoreError::io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Hidden, in the same folder so that the rename stays within one file system, and with the process's id so that two processes never
/// write to one file.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Makes a rename within `folder` durable.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// Folders cannot be synced here; the rename itself is atomic.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_and_a_failed_one_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/state.json");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(b"three, in par")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failed.unwrap_err().to_string().contains("free some space"));
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["state.json"]);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".state.json.1.tmp", "run.log", ".lock", "x.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        assert_eq!(names(folder.path()), [".lock", "run.log", "x.tmp"]);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results");
        fs::write(&file, "").unwrap();
        for path in [file.join("state.json"), file.join("deep/er/state.json")] {
            let message = write(&path, b"").unwrap_err().to_string();
            assert_eq!(message, StoreError::NotAFolder { path: file.clone() }.to_string());
        }
    }
}
