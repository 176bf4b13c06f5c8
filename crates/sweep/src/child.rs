//! The process of one attempt at a run.
//!
//! Protocol: the child says one JSON [`Event`] a line on its standard output; any other line, and its standard error, go to `run.log`.
//! A line `stop` on its standard input, or the end of that input (the supervisor died), asks it to write a checkpoint and end. Exit
//! codes: 0 finished, 130 interrupted, all else failed.

use crate::error::StoreError;
use crate::process::ProcessMark;
use crate::state::{Failure, Status, now};
use peftbench_spec::Event;
use peftbench_spec::event::FailureKind;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The exit code of a run that stopped on request and can go on.
pub const INTERRUPTED: i32 = 130;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Done,
    /// Without one.
    Failed(Failure),
    /// On request.
    Interrupted,
}

impl Outcome {
    /// The status that goes with it, and why it failed.
    pub fn into_parts(self) -> (Status, Option<Failure>) {
        match self {
            Self::Done => (Status::Done, None),
            Self::Failed(failure) => (Status::Failed, Some(failure)),
            Self::Interrupted => (Status::Interrupted, None),
        }
    }

    /// A failure of this kind.
    pub fn failed(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed(Failure { kind, message: message.into() })
    }
}

/// A started process and its log.
pub(crate) struct Attempt {
    child: Child,
    log: File,
    log_path: PathBuf,
    /// Where this attempt's part of the log begins.
    log_start: u64,
    /// The last `failed` event.
    failure: Option<Failure>,
}

/// Why a process did not start.
pub(crate) enum StartError {
    /// The log cannot be written.
    Store(StoreError),
    /// The program cannot be run.
    Program(String),
}

impl Attempt {
    /// Starts `command` with its channels in place.
    pub(crate) fn start(mut command: Command, folder: &Path, attempt: u32) -> Result<Self, StartError> {
        let log_path = folder.join("run.log");
        let open = || -> std::io::Result<(File, File, u64)> {
            let mut log = File::options().create(true).append(true).open(&log_path)?;
            writeln!(log, "--- attempt {attempt}, {}", now())?;
            let errors = log.try_clone()?;
            let start = log.metadata()?.len();
            Ok((log, errors, start))
        };
        let (log, errors, log_start) = open().map_err(StoreError::io("write", &log_path)).map_err(StartError::Store)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        // Ctrl-C reaches the whole foreground group of a terminal. In a group of its own the child hears of it from its supervisor only.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|error| StartError::Program(format!("could not start `{program}`: {error}")))?;
        Ok(Self { child, log, log_path, log_start, failure: None })
    }

    /// The process, as the state names it.
    pub(crate) fn mark(&self) -> ProcessMark {
        ProcessMark::of(self.child.id())
    }

    /// The pipe on which the child hears `stop`; once.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Hands every event to `hear` until the child closes its output. What is not an event goes to the log.
    pub(crate) fn listen(&mut self, mut hear: impl FnMut(Event)) {
        let Some(stdout) = self.child.stdout.take() else { return };
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        // A broken pipe is no news of its own: how the process ended is asked next.
        while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) => {
                    if let Event::Failed { kind, message } = &event {
                        self.failure = Some(Failure { kind: *kind, message: message.clone() });
                    }
                    hear(event);
                }
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => {
                    if !line.ends_with(b"\n") {
                        line.push(b'\n');
                    }
                    // A log that cannot be written is no reason to end a run that can.
                    let _ = self.log.write_all(&line);
                }
            }
            line.clear();
        }
    }

    /// Waits for the process to end and judges how it did. `finished`: whether the run's record ends with a `finished` event; `told`:
    /// whether the child was asked to stop.
    pub(crate) fn end(
        mut self,
        finished: impl FnOnce() -> Result<bool, StoreError>,
        told: impl FnOnce() -> bool,
    ) -> Result<Outcome, StoreError> {
        let status = self.child.wait().map_err(StoreError::io("wait for the process that writes", &self.log_path))?;
        let told = told();
        if status.success() {
            return Ok(match finished()? {
                true => Outcome::Done,
                false => Outcome::failed(
                    FailureKind::Crash,
                    self.with_log("ended with exit code 0, but the last event of its events.jsonl is not `finished`"),
                ),
            });
        }
        if status.code() == Some(INTERRUPTED) || asked_to_end(status) && told {
            return Ok(Outcome::Interrupted);
        }
        Ok(match self.failure.take() {
            Some(failure) if failure.kind == FailureKind::Interrupted => Outcome::Interrupted,
            Some(failure) => Outcome::Failed(failure),
            None => Outcome::failed(FailureKind::Crash, self.with_log(&cause(status))),
        })
    }

    fn with_log(&self, message: &str) -> String {
        match last_lines(&self.log_path, self.log_start) {
            lines if lines.is_empty() => format!("{message}; it wrote nothing to run.log"),
            lines => format!("{message}; last lines of run.log:\n{lines}"),
        }
    }
}

/// The last few lines written to the log since `start`.
fn last_lines(path: &Path, start: u64) -> String {
    const BYTES: u64 = 8 * 1024;
    const LINES: usize = 8;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // Only an ornament of a message: without the log there is none.
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// What ended a process that said nothing itself.
fn cause(status: ExitStatus) -> String {
    match (signal(status), status.code()) {
        (Some(9), _) => "killed by signal 9 (SIGKILL), most likely by the system because memory ran out".to_owned(),
        (Some(signal), _) => format!("killed by signal {signal}{}", signal_name(signal)),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => format!("ended without an exit code ({status})"),
    }
}

/// SIGHUP, SIGINT and SIGTERM: somebody asked the process to end.
fn asked_to_end(status: ExitStatus) -> bool {
    matches!(signal(status), Some(1 | 2 | 15))
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}

/// Names of the signals whose number is the same on every Unix.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        8 => " (SIGFPE)",
        11 => " (SIGSEGV: a bug, or a stack that ran out)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// The way to tell a worker's child to stop, from any thread.
#[derive(Default)]
pub(crate) struct StopPipe {
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    stdin: Option<ChildStdin>,
    told: bool,
}

impl StopPipe {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new child listens on `stdin`.
    pub(crate) fn connect(&self, stdin: Option<ChildStdin>) {
        *self.slot() = Slot { stdin, told: false };
    }

    /// Tells the child to stop, the first time.
    pub(crate) fn tell(&self) {
        let mut slot = self.slot();
        if slot.told {
            return;
        }
        if let Some(stdin) = &mut slot.stdin {
            // A child that closed its end is about to end anyway.
            let _ = stdin.write_all(b"stop\n").and_then(|()| stdin.flush());
            slot.told = true;
        }
    }

    /// The child is to hear no more; whether it was told to stop.
    pub(crate) fn disconnect(&self) -> bool {
        std::mem::take(&mut *self.slot()).told
    }
}
