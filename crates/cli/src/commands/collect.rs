//! `peftbench collect`: the tables of a sweep from its runs.

use crate::args::ResultsArgs;
use crate::exit::Exit;
use crate::{output, sweep_choice};
use clap::Args;
use peftbench_results::{Collected, collect};

/// Merges the runs of a sweep into its Parquet tables; `sweep` and `report` do it themselves
#[derive(Debug, Args)]
pub struct Collect {
    /// Name of the sweep [default: the only one]
    #[arg(value_name = "SWEEP")]
    sweep: Option<String>,
    #[command(flatten)]
    results: ResultsArgs,
}

/// Collects and says what was found.
pub fn run(verb: &Collect) -> anyhow::Result<Exit> {
    let store = sweep_choice::choose(&verb.results.results, verb.sweep.as_deref())?;
    let collected = collect(store.folder())?;
    warn_of_damage(&collected);
    let counts: Vec<String> = collected.runs.iter().map(|(status, count)| format!("{count} {}", status.name())).collect();
    let probes: Vec<String> = collected.probes.iter().map(|(status, count)| format!("{count} {}", status.name())).collect();
    let probes = if probes.is_empty() { String::new() } else { format!("; probes: {}", probes.join(", ")) };
    let configurations = collected.configurations;
    output::print(&format!("{}: {}; {configurations} configurations with a result{probes}\n", store.sweep(), counts.join(", ")))?;
    let tables: String = collected.tables.iter().map(|path| format!("{}\n", path.display())).collect();
    output::print(&tables)?;
    Ok(Exit::Done)
}

/// Names the runs that are in no table, and says if the choices of learning rates are not.
pub fn warn_of_damage(collected: &Collected) {
    for run in &collected.damaged {
        eprintln!("warning: run {} is left out: {}", run.run_id, run.problem);
    }
    if let Some(problem) = &collected.choices_problem {
        eprintln!("warning: {problem}");
    }
}
