//! `peftbench ls`: what there is to choose from.

use crate::args::ModelArgs;
use crate::exit::{Exit, Problem};
use crate::text_table::{self, number, text};
use crate::{model_files, output};
use clap::{Args, ValueEnum};
use peftbench_adapters::methods::METHODS;
use peftbench_adapters::policies::POLICIES;
use peftbench_datasets::metrics::{self, METRICS};
use peftbench_datasets::numbers::NUMBER_TASKS;
use peftbench_datasets::tasks::{self, TASKS};
use peftbench_models::listing;
use peftbench_models::model::ARCHITECTURES;
use peftbench_report::figures::FIGURES;
use peftbench_runner::Environment;
use peftbench_sweep::units::Count;

/// Lists what a sweep file can name, and the figures of a report
#[derive(Debug, Args)]
pub struct Ls {
    /// What to list
    #[arg(value_name = "WHAT", value_enum)]
    what: What,
    /// Describe each at length: architectures, tasks and metrics as in docs/, figures with how to read them
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    models: ModelArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Models,
    Methods,
    Policies,
    Tasks,
    Metrics,
    Figures,
}

/// Prints a list, one entry a line, or at length.
pub fn run(verb: &Ls) -> anyhow::Result<Exit> {
    let text = if verb.full { at_length(verb.what)? } else { in_short(verb.what, &verb.models.environment()) };
    output::print(&text)?;
    Ok(Exit::Done)
}

fn in_short(what: What, environment: &Environment) -> String {
    match what {
        What::Models => models(environment),
        What::Methods => list(METHODS.iter().map(|method| (method.name, method.summary.to_owned()))),
        What::Policies => list(POLICIES.iter().map(|policy| (policy.name, policy.summary.to_owned()))),
        What::Tasks => {
            let words = TASKS.iter().map(|task| (task.name, task.summary.to_owned()));
            list(words.chain(NUMBER_TASKS.iter().map(|task| (task.name, task.summary.to_owned()))))
        }
        What::Metrics => list(METRICS.iter().map(|metric| {
            let direction = if metric.higher_is_better { "higher" } else { "lower" };
            (metric.name, format!("{} ({direction} is better)", metric.summary))
        })),
        What::Figures => list(FIGURES.iter().map(|make| (make().id(), make().title().to_owned()))),
    }
}

fn at_length(what: What) -> anyhow::Result<String> {
    match what {
        What::Models => Ok(listing::document()?),
        What::Tasks => Ok(tasks::listing::document()?),
        What::Metrics => Ok(metrics::listing::document()?),
        What::Figures => {
            let figure = |id: &str, title: &str, reading: &str| format!("{id}: {title}\n    {reading}\n");
            Ok(FIGURES.iter().map(|make| make()).map(|made| figure(made.id(), made.title(), made.reading())).collect())
        }
        What::Methods | What::Policies => {
            let problem = Problem::new(Exit::Usage, "methods and policies have no longer form here".to_owned());
            Err(problem
                .hint("docs/methods has a page of each method; a policy is described in its file under crates/adapters/src/policies")
                .into())
        }
    }
}

fn list<'a>(entries: impl Iterator<Item = (&'a str, String)>) -> String {
    let entries: Vec<_> = entries.collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    entries.iter().map(|(name, summary)| format!("{name:<width$}  {summary}\n")).collect()
}

/// The models that are found, then the architectures that can be loaded.
fn models(environment: &Environment) -> String {
    let found = model_files::found(environment);
    let row = |(name, path): &(String, std::path::PathBuf)| {
        let (arch, layers, params) = match model_files::shapes(path) {
            Ok(mut model) => {
                (model.arch().to_owned(), model.num_layers().to_string(), Count(model_files::num_params(&mut *model)).to_string())
            }
            Err(error) => (error.to_string(), "-".to_owned(), "-".to_owned()),
        };
        vec![name.clone(), layers, params, path.display().to_string(), arch]
    };
    let folders: Vec<String> = environment.models.iter().map(|folder| folder.display().to_string()).collect();
    let models = match found.is_empty() {
        true => format!("no model in {}\n", folders.join(", ")),
        false => {
            let columns = [text("model"), number("layers"), number("parameters"), text("where"), text("architecture")];
            text_table::render(&columns, &found.iter().map(row).collect::<Vec<_>>())
        }
    };
    let architectures = list(ARCHITECTURES.iter().map(|arch| (arch.model_type, arch.summary.to_owned())));
    format!("{models}\narchitectures (`model_type` of config.json):\n{architectures}")
}
