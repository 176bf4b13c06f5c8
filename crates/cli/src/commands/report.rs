//! `peftbench report`: figures, tables and the page of a sweep.

use crate::args::ResultsArgs;
use crate::claim_files::ClaimArgs;
use crate::exit::Exit;
use crate::{commands, output, sweep_choice};
use clap::Args;
use peftbench_report::{ReportOptions, write_report};

/// Draws the figures of a sweep and writes its tables and its page, from what is finished so far
#[derive(Debug, Args)]
pub struct Report {
    /// Name of the sweep [default: the only one]
    #[arg(value_name = "SWEEP")]
    sweep: Option<String>,
    /// Only this figure or table (`peftbench ls figures` names them); the page stays as it is
    #[arg(long, value_name = "FIGURE")]
    only: Option<String>,
    #[command(flatten)]
    claims: ClaimArgs,
    #[command(flatten)]
    results: ResultsArgs,
}

/// Writes the report and prints what was written.
pub fn run(verb: &Report) -> anyhow::Result<Exit> {
    let store = sweep_choice::choose(&verb.results.results, verb.sweep.as_deref())?;
    let written = write_report(store.folder(), &ReportOptions { only: verb.only.clone(), papers: verb.claims.papers()? })?;
    commands::collect::warn_of_damage(&written.collected);
    for figure in &written.empty {
        eprintln!("note: these results have nothing to show in the figure `{figure}`");
    }
    let paths = written.figures.iter().chain(&written.tables).chain(&written.page);
    output::print(&paths.map(|path| format!("{}\n", path.display())).collect::<String>())?;
    Ok(Exit::Done)
}
