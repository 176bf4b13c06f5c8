//! `events.jsonl`: one event a line, appended whole.

use anyhow::Context;
use peftbench_spec::Event;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The open record of a run.
pub struct EventLog {
    file: File,
}

impl EventLog {
    /// Opens the record at `path` to write on behind what is there. A line that a kill tore is ended, so that the next begins its own.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || -> io::Result<File> {
            let torn = matches!(std::fs::read(path), Ok(bytes) if !bytes.is_empty() && !bytes.ends_with(b"\n"));
            let mut file = File::options().create(true).append(true).open(path)?;
            if torn {
                file.write_all(b"\n")?;
            }
            Ok(file)
        };
        Ok(Self { file: open().with_context(|| format!("could not open {}", path.display()))? })
    }

    /// Writes one event, whole or not at all.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(&line) {
            // On a full disk a part of the line may be there. If it cannot be taken back, readers know how to pass over it.
            let _ = self.file.set_len(before);
            return Err(error);
        }
        match event {
            // From now on the run counts as done: its record must outlive the machine too.
            Event::Finished(_) => self.file.sync_all(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_stays_on_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, "{\"event\":\"checkpoint\",\"step\":1}\n{\"event\":\"che").unwrap();
        EventLog::open(&path).unwrap().append(&Event::Checkpoint { step: 2 }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>()[1..], ["{\"event\":\"che", "{\"event\":\"checkpoint\",\"step\":2}"]);
    }

    /// Every write to this device fails as on a full disk.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error() {
        let mut log = EventLog { file: File::options().append(true).open("/dev/full").unwrap() };
        let error = log.append(&Event::Checkpoint { step: 1 }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
