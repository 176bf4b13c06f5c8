//! The verbs, one a file: each has its arguments and the function that does it.

pub mod array_task;
pub mod claims;
pub mod collect;
pub mod compare;
pub mod completions;
pub mod doctor;
pub mod export;
pub mod fetch;
pub mod import_peft;
pub mod inspect;
pub mod ls;
pub mod merge;
pub mod plan;
pub mod pretrain;
pub mod profile;
pub mod report;
pub mod rerun;
pub mod run;
pub mod score;
pub mod show;
pub mod status;
pub mod sweep;
pub mod worker;

use crate::args::{Cli, Verb};
use crate::exit::Exit;

/// Does what the command line asks for.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.verb {
        Verb::Sweep(verb) => sweep::run(&verb),
        Verb::Plan(verb) => plan::run(&verb),
        Verb::Run(verb) => run::run(&verb),
        Verb::Merge(verb) => merge::run(&verb),
        Verb::ImportPeft(verb) => import_peft::run(&verb),
        Verb::Rerun(verb) => rerun::run(&verb),
        Verb::Status(verb) => status::run(&verb),
        Verb::Collect(verb) => collect::run(&verb),
        Verb::Report(verb) => report::run(&verb),
        Verb::Compare(verb) => compare::run(&verb),
        Verb::Export(verb) => export::run(&verb),
        Verb::Claims(verb) => claims::run(&verb),
        Verb::Score(verb) => score::run(&verb),
        Verb::Show(verb) => show::run(&verb),
        Verb::Inspect(verb) => inspect::run(&verb),
        Verb::Fetch(verb) => fetch::run(&verb),
        Verb::Ls(verb) => ls::run(&verb),
        Verb::Pretrain(verb) => pretrain::run(&verb),
        Verb::Profile(verb) => profile::run(&verb),
        Verb::ProfileCell(verb) => profile::run_cell(&verb),
        Verb::Doctor(verb) => doctor::run(&verb),
        Verb::Completions(verb) => completions::run(&verb),
        Verb::Worker(verb) => worker::run(&verb),
        Verb::ArrayTask(verb) => array_task::run(&verb),
    }
}
