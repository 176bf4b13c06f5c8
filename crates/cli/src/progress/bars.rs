//! Bars on a terminal: one for the sweep, one for each worker.

use super::{Display, Tracker};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use peftbench_sweep::units::Seconds;
use std::time::{Duration, Instant};

/// Resolution of a bar.
const UNITS: u64 = 1000;

/// How often bars change at most.
const EVERY: Duration = Duration::from_millis(100);

/// The bars of one sweep.
pub struct Bars {
    all: MultiProgress,
    sweep: ProgressBar,
    workers: Vec<ProgressBar>,
    begun: Instant,
    last: Option<Instant>,
}

impl Bars {
    /// Empty bars.
    pub fn new(tracker: &Tracker) -> Self {
        let all = MultiProgress::new();
        let bar = |template: &str| {
            let bar = all.add(ProgressBar::new(UNITS));
            // A template that does not parse would be a slip in the lines below; the default is a bar too.
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
            bar
        };
        let sweep = bar("{bar:16.cyan} {wide_msg}");
        let workers = tracker.workers.iter().map(|_| bar("{bar:16} {wide_msg}")).collect();
        Self { all, sweep, workers, begun: Instant::now(), last: None }
    }
}

impl Display for Bars {
    fn refresh(&mut self, tracker: &Tracker) {
        if self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let show = |bar: &ProgressBar, fraction: f64, message: String| {
            bar.set_position((fraction * UNITS as f64) as u64);
            bar.set_message(message);
        };
        show(&self.sweep, tracker.fraction(), format!("{} ({})", tracker.summary(), Seconds(self.begun.elapsed().as_secs_f64())));
        for (bar, work) in self.workers.iter().zip(&tracker.workers) {
            match work {
                Some(work) => show(bar, work.fraction(), format!("{}  {}", work.detail(), work.label)),
                None => show(bar, 0.0, String::new()),
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.all.suspend(|| eprintln!("{line}"));
    }

    /// Bars show it; hundreds of lines would push everything else off the screen.
    fn say_done(&mut self, _line: &str) {}

    fn close(&mut self) {
        self.workers.iter().for_each(ProgressBar::finish_and_clear);
        self.sweep.finish_and_clear();
    }
}
