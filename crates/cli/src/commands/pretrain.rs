//! `peftbench pretrain`: a small base model, from nothing.

use crate::exit::Exit;
use crate::{interrupt, output};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use peftbench_runner::pretrain::{PretrainProgress, PretrainSpec, pretrain};
use peftbench_sweep::units::{Count, Seconds};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pre-trains a small base model on text of the invented world, as its TOML file says
#[derive(Debug, Args)]
pub struct Pretrain {
    /// Spec of the base model, e.g. experiments/bases/tiny-mamba.toml
    #[arg(value_name = "SPEC")]
    spec: PathBuf,
    /// Folder of the model; what is in it is replaced once training is done
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Trains and writes the model's folder.
pub fn run(verb: &Pretrain) -> anyhow::Result<Exit> {
    let stop = interrupt::watch()?;
    let spec = PretrainSpec::read(&verb.spec)?;
    let mut progress = Progress::new(spec.train.steps);
    let finished = pretrain(&spec, &verb.out, &stop, &mut |step| progress.take(step))?;
    progress.bar.finish_and_clear();
    if !finished {
        eprintln!("stopped: nothing was written");
        return Ok(Exit::Interrupted);
    }
    output::print(&format!("{}\n", verb.out.display()))?;
    Ok(Exit::Done)
}

/// A bar on a terminal, a line every few seconds elsewhere.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    begun: Instant,
    tokens: u64,
    last: Instant,
}

impl Progress {
    fn new(steps: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new(steps) };
        bar.set_style(ProgressStyle::with_template("{bar:16} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, plain, begun: Instant::now(), tokens: 0, last: Instant::now() }
    }

    fn take(&mut self, step: PretrainProgress) {
        self.tokens += step.tokens;
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = Count((self.tokens as f64 / seconds) as u64);
        let left = Seconds(seconds / step.step as f64 * step.total.saturating_sub(step.step) as f64);
        let line = format!("step {}/{}  loss {:.4}  {rate} tok/s  about {left} left", step.step, step.total, step.loss);
        let due = self.last.elapsed() > Duration::from_secs(5) || step.step == step.total;
        if self.plain && due {
            self.last = Instant::now();
            eprintln!("{line}");
        }
        self.bar.set_position(step.step);
        self.bar.set_message(line);
    }
}
