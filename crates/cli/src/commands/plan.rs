//! `peftbench plan`: what a sweep would run.

use crate::args::{InputArgs, ResultsArgs, SpecArgs, WorkerArgs};
use crate::exit::Exit;
use crate::output;
use crate::resolver::RunnerResolver;
use clap::Args;
use peftbench_sweep::{Selection, Store};

/// Shows the runs of a sweep file: what each is, whether it is done, and what it will take
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    workers: WorkerArgs,
    /// The plan as JSON, an object a run
    #[arg(long)]
    json: bool,
}

/// Plans and prints; writes nothing.
pub fn run(verb: &Plan) -> anyhow::Result<Exit> {
    let sweep = verb.spec.read()?;
    let store = Store::open(&verb.results.results, &sweep.name)?;
    let resolver = RunnerResolver::new(verb.inputs.environment(verb.workers.threads()), verb.results.results.clone());
    let plan = peftbench_sweep::plan(&sweep, &store, &resolver).map_err(|error| resolver.explain(error))?;
    if verb.json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&plan.rows()?)?))?;
    } else {
        output::print(&plan.render_table(verb.workers.workers(), Selection::default()))?;
    }
    Ok(Exit::Done)
}
