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

/// Prints the status of one sweep, or of all.
pub fn run(verb: &Status) -> anyhow::Result<Exit> {
    let results = &verb.results.results;
    let stores = match &verb.sweep {
        Some(name) => vec![sweep_choice::choose(results, Some(name))?],
        None => Store::sweeps(results)?.iter().map(|name| Store::open(results, name)).collect::<Result<_, _>>()?,
    };
    if stores.is_empty() {
        return Err(sweep_choice::none(results, "no sweep").into());
    }
    let texts = stores.iter().map(|store| Ok(status::status(store)?.render())).collect::<anyhow::Result<Vec<_>>>()?;
    output::print(&texts.join("\n"))?;
    Ok(Exit::Done)
}
