//! Whether a process that a file names still lives.

use serde::{Deserialize, Serialize};

/// A process, told apart from a later one that got the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// The system's number of the process.
    pub pid: u32,
    /// When it started, in the system's clock ticks since boot, where the system tells.
    #[serde(default)]
    pub started: Option<u64>,
}

impl ProcessMark {
    /// The mark of the running process `pid`.
    pub fn of(pid: u32) -> Self {
        Self { pid, started: started(pid) }
    }

    /// Whether this very process still runs on this machine.
    pub fn is_alive(&self) -> bool {
        lives(self.pid) && (self.started.is_none() || started(self.pid) == self.started)
    }
}

/// Fields of `/proc/<pid>/stat` from the third on (proc(5)). The second, the command, may itself hold spaces and parentheses.
#[cfg(target_os = "linux")]
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// A zombie has ended: only its parent has not asked yet.
#[cfg(target_os = "linux")]
fn lives(pid: u32) -> bool {
    stat(pid).and_then(|fields| fields.first().cloned()).is_some_and(|state| state != "Z" && state != "X")
}

/// Field 22 of proc(5), `starttime`.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn lives(pid: u32) -> bool {
    use std::process::{Command, Stdio};
    let probe = Command::new("kill").args(["-0", &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

#[cfg(not(target_os = "linux"))]
fn started(_pid: u32) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_the_dead_and_the_reborn() {
        let own = ProcessMark::of(std::process::id());
        assert!(own.is_alive());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mark = ProcessMark::of(child.id());
        assert!(mark.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!mark.is_alive());
        if let Some(started) = own.started {
            assert!(!ProcessMark { started: Some(started + 1), ..own }.is_alive(), "a later process with the same number");
        }
    }
}
