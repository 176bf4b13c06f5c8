//! `peftbench doctor`: whether this machine is ready.

use crate::args::{InputArgs, ResultsArgs};
use crate::exit::Exit;
use crate::{machine, model_files, output};
use clap::Args;
use peftbench_datasets::tasks::TASKS;
use peftbench_report::fonts;
use peftbench_runner::Environment;
use peftbench_spec::Component;
use peftbench_sweep::units::Bytes;
use std::path::Path;

/// Checks what runs need: processor, memory, models, data, fonts, a results folder that can be written
///
/// Ends with 0 if sweeps can run, 7 if no model is found, 1 if something else is wrong. Real data are optional.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    inputs: InputArgs,
}

/// What was found about one thing.
struct Finding {
    what: &'static str,
    detail: String,
    /// The exit code if this is all that is wrong.
    exit: Exit,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, detail: detail.into(), exit: Exit::Done }
    }

    fn bad(what: &'static str, detail: impl Into<String>, exit: Exit) -> Self {
        Self { what, detail: detail.into(), exit }
    }
}

/// Checks everything and prints what was found.
pub fn run(verb: &Doctor) -> anyhow::Result<Exit> {
    let environment = verb.inputs.environment(0);
    let findings = [
        Finding::good("threads", machine::cores().to_string()),
        Finding::good("processor", machine::processor().unwrap_or_else(|| "not known".to_owned())),
        Finding::good("vectors", machine::vector_instructions()),
        memory(),
        models(&environment),
        data(&environment),
        font(),
        results(&verb.results.results),
    ];
    for finding in &findings {
        let mark = if finding.exit == Exit::Done { "ok   " } else { "wrong" };
        output::print(&format!("{mark}  {:<9}  {}\n", finding.what, finding.detail))?;
    }
    let wrong = findings.iter().map(|finding| finding.exit).find(|&exit| exit != Exit::Done);
    Ok(wrong.unwrap_or(Exit::Done))
}

fn memory() -> Finding {
    let detail = match machine::memory() {
        Some((total, free)) => format!("{} in all, {} free", Bytes(total), Bytes(free)),
        None => "not known".to_owned(),
    };
    Finding::good("memory", detail)
}

fn models(environment: &Environment) -> Finding {
    let found = model_files::found(environment);
    let folders: Vec<String> = environment.models.iter().map(|folder| folder.display().to_string()).collect();
    if found.is_empty() {
        let detail = format!("none in {}; go to the folder of the repository, or give `--models DIR`", folders.join(", "));
        return Finding::bad("models", detail, Exit::MissingInput);
    }
    let broken = found.iter().find_map(|(name, path)| model_files::shapes(path).err().map(|error| format!("{name}: {error}")));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    match broken {
        Some(problem) => Finding::bad("models", problem, Exit::MissingInput),
        None => Finding::good("models", names.join(", ")),
    }
}

/// Loads every task over real data, as a run would.
fn data(environment: &Environment) -> Finding {
    let Some(folder) = &environment.data else {
        return Finding::good("data", "no folder given (`--data DIR`): only the tasks of the invented world work");
    };
    if !folder.is_dir() {
        return Finding::bad("data", format!("{} is no folder", folder.display()), Exit::MissingInput);
    }
    let source = environment.data_source();
    let (mut ready, mut wrong) = (Vec::new(), Vec::new());
    for entry in TASKS.iter().filter(|entry| !entry.name.starts_with("world/")) {
        let loaded = (entry.build)(&Component::named(entry.name)).map(|task| task.load(&source));
        match loaded {
            Ok(Ok(splits)) => ready.push(format!("{} ({}/{}/{})", entry.name, splits.train.len(), splits.valid.len(), splits.test.len())),
            Ok(Err(error)) => wrong.push(error.to_string()),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    match (ready.is_empty(), wrong.first()) {
        (true, Some(problem)) => Finding::bad("data", problem.clone(), Exit::MissingInput),
        (_, Some(_)) => Finding::good("data", format!("{}; not there: {} tasks", ready.join(", "), wrong.len())),
        (_, None) => Finding::good("data", ready.join(", ")),
    }
}

fn font() -> Finding {
    match fonts::register() {
        Ok(()) => Finding::good("fonts", "DejaVu Sans, built in"),
        Err(problem) => Finding::bad("fonts", problem, Exit::Internal),
    }
}

/// Tries to write a file in the folder, or where it would be made, and takes it away again.
fn results(folder: &Path) -> Finding {
    let there = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    let probe = there.join(format!(".doctor-{}.tmp", std::process::id()));
    match std::fs::write(&probe, "probe").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => Finding::good("results", format!("{} can be written", folder.display())),
        Err(error) => Finding::bad("results", format!("{} cannot be written: {error}", folder.display()), Exit::Internal),
    }
}
