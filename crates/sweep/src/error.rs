//! Errors of the store and of the plan: each names the path, what was found, and the way out.

use peftbench_spec::SpecError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What can go wrong with a results folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process works on the sweep. The command line ends with exit code 8.
    #[error(
        "sweep `{sweep}` is held by another process ({holder}): wait until it ends or stop it; what it has finished is kept (lock file: {path})",
        path = path.display()
    )]
    Locked {
        /// The sweep.
        sweep: String,
        /// What the lock file says about its holder.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
    /// A newer program wrote the folder. The command line ends with exit code 8.
    #[error("{path}: store version {found} is newer than this program's {known}: use a newer peftbench, or another results folder", path = path.display())]
    Newer {
        /// The file that holds the version.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version this program knows.
        known: u32,
    },
    /// A file stands where a folder is needed.
    #[error("{path}: expected a folder, found a file: move the file away, or choose another results folder", path = path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A file of the store does not say what it should.
    #[error("{path}: {problem}: {way_out}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        way_out: String,
    },
    /// The system refused to read or write.
    #[error("could not {action} {path}: {source}{hint}", path = path.display(), hint = way_out(source))]
    Io {
        /// What was tried, as in "could not ACTION".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A manifest of the store is unreadable, or a spec cannot be written as one.
    #[error(transparent)]
    Manifest(#[from] SpecError),
}

impl StoreError {
    /// For `map_err`: the error of trying to `action` the `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            ErrorKind::NotADirectory => Self::NotAFolder { path: file_above(&path) },
            _ => Self::Io { action, path, source },
        }
    }
}

/// The file that stands in the way of `path`: the nearest ancestor that exists and is no folder.
fn file_above(path: &Path) -> PathBuf {
    path.ancestors().find(|above| above.exists() && !above.is_dir()).unwrap_or(path).to_owned()
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            ": choose a results folder that you may write to, or change its permissions"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            ": free some space and give the same command again; finished runs are kept"
        }
        _ => "",
    }
}

/// What can keep a sweep from being planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The sweep file is wrong, or asks for what cannot be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The store is unreadable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_and_forbidden_folders_say_the_way_out() {
        let error = |kind: ErrorKind| StoreError::io("write", Path::new("r/s/state.json"))(kind.into()).to_string();
        assert!(error(ErrorKind::StorageFull).starts_with("could not write r/s/state.json: "));
        assert!(error(ErrorKind::StorageFull).ends_with("free some space and give the same command again; finished runs are kept"));
        assert!(error(ErrorKind::ReadOnlyFilesystem).contains("choose a results folder that you may write to"));
    }
}
