//! `peftbench completions`: for the shell's Tab key.

use crate::args::Cli;
use crate::exit::Exit;
use crate::output;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Prints a completion script for a shell
///
/// E.g. `peftbench completions bash > ~/.local/share/bash-completion/completions/peftbench`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
pub fn run(verb: &Completions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(verb.shell, &mut Cli::command(), "peftbench", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
