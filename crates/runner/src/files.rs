//! Writing files so that a kill at any moment leaves the old content or the new, never a part.

use crate::error::{Result, RunError};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Writes `bytes` under a temporary name, syncs, renames.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| RunError::file("write", path, e);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| RunError::file("create the folder", folder, e))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
