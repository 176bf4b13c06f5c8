//! `state.json`: how far a run has come. Only the supervisor writes it.

use crate::process::ProcessMark;
use peftbench_spec::event::FailureKind;
use serde::{Deserialize, Serialize};

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where the run stands.
    pub status: Status,
    /// Attempts begun so far; 0 before the first.
    pub attempt: u32,
    /// The process of the attempt, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessMark>,
    /// When this was written: UTC, RFC 3339.
    pub updated_at: String,
    /// Optimizer steps in the last checkpoint: where a resumed run goes on.
    pub step: u64,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In the plan, not begun.
    Planned,
    /// A process works on it, or died without a word.
    Running,
    /// Finished.
    Done,
    /// Ended without a result.
    Failed,
    /// Stopped on request; resumable.
    Interrupted,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The error, with its causes.
    pub message: String,
}

impl State {
    /// The state of a run that was never begun.
    pub fn planned() -> Self {
        Self { status: Status::Planned, attempt: 0, process: None, updated_at: now(), step: 0, failure: None }
    }

    /// The state of the next attempt of a run that was in this one.
    pub fn next_attempt(&self) -> Self {
        Self { status: Status::Running, attempt: self.attempt + 1, process: None, updated_at: now(), step: self.step, failure: None }
    }

    /// The state of an ended attempt.
    pub fn ended(&self, status: Status, failure: Option<Failure>) -> Self {
        Self { status, process: None, updated_at: now(), failure, ..self.clone() }
    }

    /// Whether the process of a running attempt still lives.
    pub fn is_alive(&self) -> bool {
        self.status == Status::Running && self.process.is_some_and(|process| process.is_alive())
    }
}

/// The present moment: UTC, RFC 3339, to the second.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
