//! Writing files so that a kill at any moment leaves the old content or the new, never a part.

use crate::error::{Result, RunError};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` under a temporary name, syncs, renames.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|e| RunError::file("write", path, e))?;
    file.finish()
}

/// A file that is written piece by piece under a temporary name until it is finished.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    /// Begins `path` and creates its folder.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| RunError::file("create the folder", folder, e))?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let file = BufWriter::new(File::create(&temporary).map_err(|e| RunError::file("write", path, e))?);
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    /// Syncs and renames.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        let put = |mut file: BufWriter<File>| {
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&self.temporary, &path)
        };
        put(self.file).map_err(|e| RunError::file("write", &path, e))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
