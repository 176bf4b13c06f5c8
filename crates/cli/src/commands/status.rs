//! `peftbench status`: where the runs of a sweep stand.

use crate::args::ResultsArgs;
use crate::exit::Exit;
use crate::{output, sweep_choice};
use clap::Args;
use peftbench_sweep::{Store, status};

/// Shows where every run of a sweep stands, and why runs failed
#[derive(Debug, Args)]
pub struct Status {
    /// Name of the sweep [default: all]
    #[arg(value_name = "SWEEP")]
    sweep: Option<String>,
    #[command(flatten)]
    results: ResultsArgs,
}

/// Prints the status of one sweep, or of all. One that cannot be read is the verb's error once the others are shown.
pub fn run(verb: &Status) -> anyhow::Result<Exit> {
    let results = &verb.results.results;
    let names = match &verb.sweep {
        Some(name) => vec![sweep_choice::choose(results, Some(name))?.sweep().to_owned()],
        None => Store::sweeps(results)?,
    };
    if names.is_empty() {
        return Err(sweep_choice::none(results, "no sweep").into());
    }
    let (mut texts, mut unreadable) = (Vec::new(), None);
    for name in &names {
        match Store::open(results, name).and_then(|store| status::status(&store)) {
            Ok(status) => texts.push(status.render()),
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    output::print(&texts.join("\n"))?;
    unreadable.map_or(Ok(Exit::Done), |error| Err(error.into()))
}
