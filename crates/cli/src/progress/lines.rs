//! Plain lines, for logs.

use super::{Display, Tracker};
use std::time::{Duration, Instant};

/// How often a line says how far the sweep is.
const EVERY: Duration = Duration::from_secs(5);

/// One line a run that ends, and one every few seconds.
pub struct Lines {
    last: Instant,
}

impl Default for Lines {
    fn default() -> Self {
        Self { last: Instant::now() }
    }
}

impl Display for Lines {
    fn refresh(&mut self, tracker: &Tracker) {
        if self.last.elapsed() < EVERY {
            return;
        }
        self.last = Instant::now();
        eprintln!("{}", tracker.summary());
        for work in tracker.workers.iter().flatten() {
            eprintln!("        {}: {}", work.label, work.detail());
        }
    }

    fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }

    fn say_done(&mut self, line: &str) {
        eprintln!("{line}");
    }

    fn close(&mut self) {}
}
