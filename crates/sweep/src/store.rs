//! The folder of a sweep.
//!
//! ```text
//! results/<sweep>/store.json            version of this layout
//! results/<sweep>/.lock                 held by the one process that runs the sweep
//! results/<sweep>/sweep.toml            the sweep file, as written
//! results/<sweep>/select.json           what was chosen by `[select]`, and from which runs
//! results/<sweep>/slurm/<n>/            what was handed to Slurm: submit.sh, runs.txt, job, logs
//! results/<sweep>/runs/<id>/.lock       held by the one process that works on the run
//! results/<sweep>/runs/<id>/manifest.toml  state.json  events.jsonl  run.log  …
//! ```
//!
//! A run is *done* when its state says so and the last event of its last attempt is `finished`. A state left `running` by a process that
//! is no more counts as interrupted.

use crate::atomic;
use crate::choose::{Score, Validation};
use crate::error::StoreError;
use crate::state::{State, Status, now};
use peftbench_spec::event::{Chance, EvalRecord, MetricValue};
use peftbench_spec::lr_selection::SelectionRecord;
use peftbench_spec::{Event, Manifest, RunId, SpecError, SweepSpec};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Version of the folder's layout.
pub const STORE_VERSION: u32 = 1;

/// The folder of one sweep. Opening and reading it writes nothing.
#[derive(Debug, Clone)]
pub struct Store {
    sweep: String,
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Version {
    store_version: u32,
}

/// The right to change a folder, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Locks the file at `path` and writes into it who did; nothing where it is locked.
    fn take(path: &Path) -> Result<Option<Self>, StoreError> {
        // Not truncated on opening: until the lock is ours, the text is another's.
        let open = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(StoreError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
        }
        let text = format!("pid {}, since {}\n", std::process::id(), now());
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(StoreError::io("write", path))?;
        Ok(Some(Self { file }))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock with a child that another thread forked and that has not yet begun its program. An error
        // changes nothing: the file is closed next.
        let _ = self.file.unlock();
    }
}

impl Store {
    /// The folder of `sweep` below `root`, which need not exist yet. A folder written by a newer program is refused.
    pub fn open(root: &Path, sweep: &str) -> Result<Self, StoreError> {
        let store = Self { sweep: sweep.to_owned(), folder: root.join(sweep) };
        for folder in [root, &store.folder] {
            if folder.exists() && !folder.is_dir() {
                return Err(StoreError::NotAFolder { path: folder.to_owned() });
            }
        }
        let path = store.version_path();
        if let Some(text) = read_if_there(&path)? {
            let version: Version = serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
                path: path.clone(),
                problem: error.to_string(),
                way_out: format!("expected {{\"store_version\":{STORE_VERSION}}}; delete the file if this is a folder of peftbench"),
            })?;
            if version.store_version > STORE_VERSION {
                return Err(StoreError::Newer { path, found: version.store_version, known: STORE_VERSION });
            }
        }
        Ok(store)
    }

    /// Names of the sweeps below `root`, sorted: the folders that hold runs.
    pub fn sweeps(root: &Path) -> Result<Vec<String>, StoreError> {
        let is_sweep = |name: &String| root.join(name).join("runs").is_dir();
        let mut names: Vec<String> = folder_names(root)?.into_iter().filter(is_sweep).collect();
        names.sort();
        Ok(names)
    }

    /// Name of the sweep.
    pub fn sweep(&self) -> &str {
        &self.sweep
    }

    /// `results/<sweep>`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `results/<sweep>/runs/<id>`.
    pub fn run_dir(&self, id: &RunId) -> PathBuf {
        self.folder.join("runs").join(id.as_str())
    }

    fn version_path(&self) -> PathBuf {
        self.folder.join("store.json")
    }

    /// Ids of all runs in the folder, sorted.
    pub fn runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut ids: Vec<RunId> = folder_names(&self.folder.join("runs"))?.iter().filter_map(|name| RunId::parse(name).ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Takes the sweep for this process, making its folder where needed; an error names the process that has it.
    pub fn lock(&self) -> Result<FolderLock, StoreError> {
        atomic::make_folder(&self.folder)?;
        let path = self.folder.join(".lock");
        let Some(lock) = FolderLock::take(&path)? else {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let holder = if text.trim().is_empty() { "it has not said its name" } else { text.trim() };
            return Err(StoreError::Locked { sweep: self.sweep.clone(), holder: holder.to_owned(), path });
        };
        let version = format!("{}\n", serde_json::json!(Version { store_version: STORE_VERSION }));
        atomic::write(&self.version_path(), version.as_bytes())?;
        Ok(lock)
    }

    /// Takes one run for this process; nothing where another has it, here or on another machine that shares the folder.
    pub fn lock_run(&self, id: &RunId) -> Result<Option<FolderLock>, StoreError> {
        let folder = self.run_dir(id);
        atomic::make_folder(&folder)?;
        FolderLock::take(&folder.join(".lock"))
    }

    /// Keeps the sweep file, as written.
    pub fn write_sweep(&self, sweep: &SweepSpec) -> Result<(), StoreError> {
        atomic::write(&self.folder.join("sweep.toml"), sweep.source.as_bytes())
    }

    /// The manifest of a run, if it has one.
    pub fn manifest(&self, id: &RunId) -> Result<Option<Manifest>, StoreError> {
        let path = self.run_dir(id).join("manifest.toml");
        match path.exists() {
            true => Ok(Some(Manifest::read(&path)?)),
            false => Ok(None),
        }
    }

    /// Writes a run's manifest.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        atomic::write(&self.run_dir(&manifest.run_id).join("manifest.toml"), manifest.to_toml()?.as_bytes())
    }

    /// The state of a run, if it has one.
    pub fn state(&self, id: &RunId) -> Result<Option<State>, StoreError> {
        let path = self.run_dir(id).join("state.json");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let state = serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
            path,
            problem: error.to_string(),
            way_out: "delete the file to have the run planned again".to_owned(),
        })?;
        Ok(Some(state))
    }

    /// Writes a run's state.
    pub fn write_state(&self, id: &RunId, state: &State) -> Result<(), StoreError> {
        let path = self.run_dir(id).join("state.json");
        let text = serde_json::to_string_pretty(state).map_err(|error| SpecError::at("state", error.to_string()))?;
        atomic::write(&path, format!("{text}\n").as_bytes())
    }

    /// Whether a run is finished: its state says so, and the last event of its last attempt is `finished`.
    pub fn is_done(&self, id: &RunId) -> Result<bool, StoreError> {
        let says_so = self.state(id)?.is_some_and(|state| state.status == Status::Done);
        Ok(says_so && matches!(self.last_event(id)?, Some(Event::Finished(_))))
    }

    /// The last line of a run's `events.jsonl`, if it is a whole event. Attempts follow each other in the file, so this is the last event
    /// of the last attempt.
    pub fn last_event(&self, id: &RunId) -> Result<Option<Event>, StoreError> {
        let path = self.run_dir(id).join("events.jsonl");
        let line = match last_line(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            line => line.map_err(StoreError::io("read", &path))?,
        };
        Ok(serde_json::from_slice(&line).ok())
    }

    /// What a finished run scored on validation at the epoch that was best there.
    pub fn validation(&self, id: &RunId) -> Result<Option<Validation>, StoreError> {
        let Some(Event::Finished(summary)) = self.last_event(id)? else { return Ok(None) };
        let path = self.run_dir(id).join("events.jsonl");
        let text = fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
        // An attempt that went on from a checkpoint may have evaluated an epoch again, to the same end.
        let best =
            text.lines().rev().filter(|line| line.contains("\"event\":\"eval\"")).find_map(|line| match serde_json::from_str(line) {
                Ok(Event::Eval(record)) if record.split == "valid" && record.epoch == summary.best_epoch => Some(record),
                _ => None,
            });
        let chance =
            text.lines().rev().filter(|line| line.contains("\"event\":\"setup\"")).find_map(|line| match serde_json::from_str(line) {
                Ok(Event::Setup(setup)) => setup.valid_chance,
                _ => None,
            });
        let chance = chance.and_then(|Chance { value, stderr }| Some(Score { value, stderr: stderr? }));
        Ok(best.and_then(|EvalRecord { metrics, loss, .. }| {
            let MetricValue { name, value, stderr, higher_is_better, .. } = metrics.into_iter().next()?;
            Some(Validation { metric: name, higher_is_better, value, stderr, chance, loss })
        }))
    }

    /// What was chosen of what `[select]` leaves open; nothing where no sweep here chooses anything.
    pub fn selection(&self) -> Result<SelectionRecord, StoreError> {
        let path = self.selection_path();
        let Some(text) = read_if_there(&path)? else { return Ok(SelectionRecord::default()) };
        serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
            path,
            problem: error.to_string(),
            way_out: "give the same `peftbench sweep` again, which makes the choices anew from the recorded probes".to_owned(),
        })
    }

    /// Writes what was chosen.
    pub fn write_selection(&self, record: &SelectionRecord) -> Result<(), StoreError> {
        let text = serde_json::to_string_pretty(record).map_err(|error| SpecError::at("select", error.to_string()))?;
        atomic::write(&self.selection_path(), format!("{text}\n").as_bytes())
    }

    fn selection_path(&self) -> PathBuf {
        self.folder.join("select.json")
    }

    /// Removes all that a run has left behind but its log, so that the next attempt is its first.
    pub fn reset_run(&self, id: &RunId) -> Result<(), StoreError> {
        let folder = self.run_dir(id);
        // The state goes first: whatever happens on the way, the rest is then no record of a finished run.
        self.write_state(id, &State::planned())?;
        for entry in fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let path = entry.map_err(StoreError::io("read", &folder))?.path();
            let kept = [".lock", "state.json", "run.log"].iter().any(|name| path.ends_with(name));
            let removed = match (kept, path.is_dir()) {
                (true, _) => Ok(()),
                (false, true) => fs::remove_dir_all(&path),
                (false, false) => fs::remove_file(&path),
            };
            removed.map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// Names of the folders in `folder`; none if it is not there.
fn folder_names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("read", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", folder))?;
        if let (true, Ok(name)) = (entry.path().is_dir(), entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The last non-empty line of a file, read from its end: events files grow large and only their end is asked for.
fn last_line(path: &Path) -> io::Result<Vec<u8>> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = File::open(path)?;
    let mut start = file.metadata()?.len();
    let mut tail = Vec::new();
    loop {
        let from = start.saturating_sub(BLOCK);
        let mut block = vec![0; (start - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        block.append(&mut tail);
        tail = block;
        start = from;
        let line = tail.trim_ascii_end();
        let newline = line.iter().rposition(|&byte| byte == b'\n');
        match newline {
            Some(position) => return Ok(line[position + 1..].to_vec()),
            None if start == 0 => return Ok(line.to_vec()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append_event, finished, run_spec, store};

    #[test]
    fn only_one_holds_a_sweep_and_the_other_is_told_who() {
        let (_root, store) = store();
        let lock = store.lock().unwrap();
        let message = store.lock().unwrap_err().to_string();
        assert!(message.contains(&format!("held by another process (pid {}, since 2", std::process::id())), "{message}");
        drop(lock);
        store.lock().unwrap();
    }

    #[test]
    fn a_newer_store_is_refused_and_opening_writes_nothing() {
        let (root, store) = store();
        assert!(!store.folder().exists());
        drop(store.lock().unwrap());
        Store::open(root.path(), "s").unwrap();
        fs::write(store.version_path(), r#"{"store_version": 7, "more": true}"#).unwrap();
        let message = Store::open(root.path(), "s").unwrap_err().to_string();
        assert!(message.contains("store version 7 is newer than this program's 1"), "{message}");
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("s"), "").unwrap();
        let message = Store::open(root.path(), "s").unwrap_err().to_string();
        assert!(message.contains("expected a folder, found a file"), "{message}");
        let message = Store::open(&root.path().join("s"), "t").unwrap_err().to_string();
        assert!(message.contains("/s: expected a folder, found a file"), "{message}");
    }

    #[test]
    #[cfg(unix)]
    fn a_read_only_folder_is_named_with_the_way_out() {
        use std::os::unix::fs::PermissionsExt;
        let (root, store) = store();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o555)).unwrap();
        // The superuser writes wherever he likes; then there is nothing to see here.
        let forbidden = fs::write(root.path().join("probe"), "").is_err();
        let locked = store.lock();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if forbidden {
            let message = locked.unwrap_err().to_string();
            assert!(message.contains("choose a results folder that you may write to"), "{message}");
        }
    }

    #[test]
    fn done_needs_the_state_and_the_last_event() {
        let (_root, store) = store();
        let id = RunId::of(&run_spec(0)).unwrap();
        let running = State::planned().next_attempt();
        let says = |status| store.write_state(&id, &running.ended(status, None)).unwrap();
        assert!(!store.is_done(&id).unwrap(), "nothing there");
        says(Status::Done);
        assert!(!store.is_done(&id).unwrap(), "no events");
        append_event(&store, &id, &finished());
        assert!(store.is_done(&id).unwrap());
        says(Status::Interrupted);
        assert!(!store.is_done(&id).unwrap(), "the state says no");
        says(Status::Done);
        append_event(&store, &id, &Event::Checkpoint { step: 3 });
        assert!(!store.is_done(&id).unwrap(), "a later attempt is under way");
        fs::write(store.run_dir(&id).join("events.jsonl"), "{\"event\":\"checkpoint\",\"step\":1}\n{\"event\":\"fini").unwrap();
        assert!(!store.is_done(&id).unwrap(), "the last line is torn");
    }

    #[test]
    fn the_last_line_is_found_behind_lines_longer_than_a_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        for (text, last) in [
            (String::new(), String::new()),
            ("one".to_owned(), "one".to_owned()),
            ("one\ntwo\n\n".to_owned(), "two".to_owned()),
            (format!("one\n{}\n", "x".repeat(200_000)), "x".repeat(200_000)),
            (format!("{}\nshort\n", "x".repeat(65_530)), "short".to_owned()),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(last_line(&path).unwrap(), last.as_bytes());
        }
    }

    #[test]
    fn a_damaged_state_says_the_way_out_and_a_reset_leaves_the_log() {
        let (_root, store) = store();
        let id = RunId::of(&run_spec(0)).unwrap();
        append_event(&store, &id, &finished());
        fs::create_dir_all(store.run_dir(&id).join("checkpoint")).unwrap();
        fs::write(store.run_dir(&id).join("run.log"), "log").unwrap();
        fs::write(store.run_dir(&id).join("state.json"), "{").unwrap();
        let message = store.state(&id).unwrap_err().to_string();
        assert!(message.contains("delete the file to have the run planned again"), "{message}");
        store.reset_run(&id).unwrap();
        assert_eq!(store.state(&id).unwrap().unwrap().status, Status::Planned);
        let mut left: Vec<_> = fs::read_dir(store.run_dir(&id)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["run.log", "state.json"]);
    }
}
