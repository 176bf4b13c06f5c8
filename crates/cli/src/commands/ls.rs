//! `peftbench ls`: what there is to choose from.

use crate::args::InputArgs;
use crate::exit::Exit;
use crate::text_table::{self, number, text};
use crate::{model_files, output};
use clap::{Args, ValueEnum};
use peftbench_adapters::methods::METHODS;
use peftbench_adapters::policies::POLICIES;
use peftbench_datasets::metrics::{self, METRICS};
use peftbench_datasets::numbers::NUMBER_TASKS;
use peftbench_datasets::tasks::TASKS;
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
    #[command(flatten)]
    inputs: InputArgs,
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

/// Prints a list, one entry a line.
pub fn run(verb: &Ls) -> anyhow::Result<Exit> {
    let text = match verb.what {
        What::Models => models(&verb.inputs.environment(0))?,
        What::Methods => list(METHODS.iter().map(|method| (method.name, method.summary.to_owned()))),
        What::Policies => list(POLICIES.iter().map(|policy| (policy.name, policy.summary.to_owned()))),
        What::Tasks => {
            let words = TASKS.iter().map(|task| (task.name, task.summary.to_owned()));
            list(words.chain(NUMBER_TASKS.iter().map(|task| (task.name, task.summary.to_owned()))))
        }
        What::Metrics => metric_list()?,
        What::Figures => list(FIGURES.iter().map(|make| (make().id(), make().title().to_owned()))),
    };
    output::print(&text)?;
    Ok(Exit::Done)
}

/// The metrics, first in short and then in full.
fn metric_list() -> anyhow::Result<String> {
    let short = list(METRICS.iter().map(|metric| {
        let direction = if metric.higher_is_better { "higher" } else { "lower" };
        (metric.name, format!("{} ({direction} is better)", metric.summary))
    }));
    Ok(format!("{short}\n{}", metrics::listing::document()?))
}

fn list<'a>(entries: impl Iterator<Item = (&'a str, String)>) -> String {
    let entries: Vec<_> = entries.collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    entries.iter().map(|(name, summary)| format!("{name:<width$}  {summary}\n")).collect()
}

/// The models that are found, then the architectures that can be loaded, first in short and then in full.
fn models(environment: &Environment) -> anyhow::Result<String> {
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
    Ok(format!("{models}\narchitectures (`model_type` of config.json):\n{architectures}\n{}", listing::document()?))
}
