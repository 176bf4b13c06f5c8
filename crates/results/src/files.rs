//! Writing files so that a reader never sees half of one.

use crate::error::{Result, ResultsError};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `path` through a temporary file beside it: written, synced, renamed, and the folder synced. After a kill at any moment the
/// old content or the new one is there, never a mixture. Missing folders are made.
///
/// # Errors
/// Whatever the system refuses, and whatever `write` returns.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| ResultsError::io("make", folder, e))?;
    let temporary = temporary_name(path);
    let mut file = File::create(&temporary).map_err(|e| ResultsError::io("write", &temporary, e))?;
    let written = write(&mut file).and_then(|()| file.sync_all().map_err(|e| ResultsError::io("sync", &temporary, e)));
    if let Err(error) = written {
        // The error that matters is the first one; a left-over temporary file is only untidy.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path).map_err(|e| ResultsError::io("rename to", path, e))?;
    // A folder can be synced on Unix only; elsewhere the rename is as durable as the system makes it.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Writes `bytes` to `path` with [`write_atomically`].
///
/// # Errors
/// Whatever the system refuses.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.write_all(bytes).map_err(|e| ResultsError::io("write", path, e)))
}

/// A name beside `path` that no other process writes to.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_rubbish() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/file.txt");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomically(&path, |file| {
            file.write_all(b"ne").unwrap();
            Err(ResultsError::table(&path, "disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
