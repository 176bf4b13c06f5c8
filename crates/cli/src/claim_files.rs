//! The claims files: what papers report and say.

use crate::exit::{Exit, Problem};
use clap::Args;
use peftbench_adapters::methods::METHODS;
use peftbench_adapters::policies::POLICIES;
use peftbench_datasets::numbers::NUMBER_TASKS;
use peftbench_datasets::tasks::TASKS;
use peftbench_report::claims::{Names, Paper};
use std::path::{Path, PathBuf};

/// Where claims files lie, relative to the current folder.
const OWN_CLAIMS: &str = "experiments/claims";

/// The names that a selection of runs may have.
pub fn names() -> Names<'static> {
    Names {
        methods: METHODS.iter().map(|method| method.name).collect(),
        policies: POLICIES.iter().map(|policy| policy.name).collect(),
        tasks: TASKS.iter().map(|task| task.name).chain(NUMBER_TASKS.iter().map(|task| task.name)).collect(),
    }
}

/// Which claims files are read.
#[derive(Debug, Clone, Default, Args)]
pub struct ClaimArgs {
    /// Folder of claims files, a paper a file [default: experiments/claims, if it is there]
    #[arg(long, value_name = "DIR")]
    claims: Option<PathBuf>,
}

impl ClaimArgs {
    /// The papers; none where no folder is named and the usual one is not there.
    pub fn papers(&self) -> anyhow::Result<Vec<Paper>> {
        let names = names();
        match &self.claims {
            Some(folder) => Ok(Paper::read_all(folder, &names)?),
            None if Path::new(OWN_CLAIMS).is_dir() => Ok(Paper::read_all(Path::new(OWN_CLAIMS), &names)?),
            None => Ok(Vec::new()),
        }
    }

    /// The papers, of which there must be one.
    pub fn some_papers(&self) -> anyhow::Result<Vec<Paper>> {
        let papers = self.papers()?;
        if papers.is_empty() {
            let folder = self.claims.as_deref().unwrap_or(Path::new(OWN_CLAIMS));
            let problem = Problem::new(Exit::NothingSelected, format!("no claims file in {}", folder.display()));
            return Err(problem.hint("go to the folder of the repository, or name a folder with `--claims DIR`").into());
        }
        Ok(papers)
    }
}
