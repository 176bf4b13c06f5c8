//! `peftbench score`: what a file of predictions is worth, whoever made it.

use crate::exit::{Exit, Problem};
use crate::output;
use crate::text_table::{self, number, text};
use clap::{Args, ValueEnum};
use peftbench_datasets::metrics::{self, Item};
use peftbench_datasets::predictions::{self, Joined, Predicted};
use peftbench_datasets::sql::{Database, spider_databases};
use peftbench_datasets::{DataError, DataSource, tasks};
use peftbench_spec::Component;
use peftbench_spec::event::MetricValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Scores a file of predictions against a task, or by metrics of your choice
///
/// Each line of the file is an object with `id` and `prediction`. With a task, the ids are those of its items (as in
/// predictions.parquet of a run); a line's own `reference` or `references` take the place of the task's. With metrics alone, every line has its
/// own, and `database` for the metrics of SQL: the name of one of Spider's in the data folder.
#[derive(Debug, Args)]
pub struct Score {
    /// Task, by name or as a table such as `{ type = "world/sentiment", test = 100 }`
    #[arg(long, value_name = "TASK", required_unless_present = "metric", conflicts_with = "metric")]
    task: Option<String>,
    /// Metric, by name or as a table such as `{ type = "rouge", stemmer = true }`; repeatable
    #[arg(long, value_name = "METRIC")]
    metric: Vec<String>,
    /// File of predictions, one JSON object a line
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// Split of the task
    #[arg(long, value_enum, default_value = "test", conflicts_with = "metric")]
    split: Split,
    /// Score only the items that the file has; otherwise a missing prediction counts as an empty one
    #[arg(long, conflicts_with = "metric")]
    only_given: bool,
    /// Folder of real data sets; without one only the tasks of the invented world work
    #[arg(long, value_name = "DIR", env = "PEFTBENCH_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
    /// Write JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Split {
    Valid,
    Test,
}

/// Reads, scores and prints.
pub fn run(verb: &Score) -> anyhow::Result<Exit> {
    if !verb.predictions.is_file() {
        let problem = Problem::new(Exit::MissingInput, format!("there is no file {}", verb.predictions.display()));
        return Err(problem.hint("each of its lines is an object such as {\"id\": \"test.jsonl:1\", \"prediction\": \"…\"}").into());
    }
    let predicted = predictions::read(&verb.predictions)?;
    let source = DataSource { folder: verb.data.clone() };
    let scored = match &verb.task {
        Some(task) => by_task(verb, task, &source, &predicted)?,
        None => by_metrics(verb, &source, &predicted)?,
    };
    output::print(&if verb.json { format!("{}\n", serde_json::to_string_pretty(&scored.json())?) } else { scored.text() })?;
    Ok(Exit::Done)
}

/// What was scored, and the values.
struct Scored {
    /// The task and the split, where there is one.
    task: Option<(Component, &'static str)>,
    items: usize,
    missing: Vec<String>,
    unknown: Vec<String>,
    /// Whether missing items were left out.
    only_given: bool,
    values: Vec<MetricValue>,
}

fn by_task(verb: &Score, task: &str, source: &DataSource, predicted: &[Predicted]) -> anyhow::Result<Scored> {
    let task = Component::parse(task).and_then(|task| tasks::resolve(&task)).map_err(|error| error.below("--task"))?;
    let built = tasks::build(&task)?;
    let splits = built.load(source)?;
    let (split, examples) = match verb.split {
        Split::Valid => ("valid", &splits.valid),
        Split::Test => ("test", &splits.test),
    };
    let Joined { examples: scored, predictions, missing, unknown } = predictions::join(examples, predicted, verb.only_given);
    if unknown.len() == predicted.len() {
        let problem =
            Problem::new(Exit::NothingSelected, format!("no id of {} is one of {split} of {}", verb.predictions.display(), task.name));
        let like = examples.first().map_or("", |example| &example.id);
        return Err(problem.hint(format!("its ids look like `{like}`, the file's like `{}`", predicted[0].id)).into());
    }
    let values = built.score(&scored, &predictions)?.values;
    let task = Some((task, split));
    Ok(Scored { task, items: scored.len(), missing, unknown, only_given: verb.only_given, values })
}

fn by_metrics(verb: &Score, source: &DataSource, predicted: &[Predicted]) -> anyhow::Result<Scored> {
    let build = |text: &String| Component::parse(text).and_then(|metric| metrics::build(&metric)).map_err(|error| error.below("--metric"));
    let chosen = verb.metric.iter().map(build).collect::<Result<Vec<_>, _>>()?;
    let databases = databases(source, predicted)?;
    let lacking = |line: &Predicted| {
        let problem =
            Problem::new(Exit::MissingInput, format!("{}: the line of `{}` has no reference", verb.predictions.display(), line.id));
        problem.hint("give every line `reference` or `references`, or name the task with --task")
    };
    let mut items = Vec::with_capacity(predicted.len());
    for line in predicted {
        let references = line.references.as_deref().ok_or_else(|| lacking(line))?;
        let unknown = |name: &str| Problem::new(Exit::MissingInput, format!("database `{name}` is none of Spider's tables.json"));
        let database = line.database.as_ref().map(|name| databases.get(name).ok_or_else(|| unknown(name))).transpose()?;
        items.push(Item { database, ..Item::new(&line.prediction, references) });
    }
    let mut values = Vec::new();
    for metric in &chosen {
        values.extend(metric.score(&items)?.values);
    }
    Ok(Scored { task: None, items: items.len(), missing: Vec::new(), unknown: Vec::new(), only_given: true, values })
}

/// Spider's databases, where a line names one.
fn databases(source: &DataSource, predicted: &[Predicted]) -> Result<BTreeMap<String, Database>, DataError> {
    match (&source.folder, predicted.iter().any(|line| line.database.is_some())) {
        (_, false) => Ok(BTreeMap::new()),
        (Some(folder), true) => spider_databases(&folder.join("spider")),
        (None, true) => Err(DataError::NoFolder { task: "spider".to_owned() }),
    }
}

impl Scored {
    fn text(&self) -> String {
        let head = match &self.task {
            Some((task, split)) => {
                let fate = if self.only_given { "left out" } else { "scored as empty" };
                format!(
                    "{split} of {}: {} items scored; {} missing ({fate}), {} unknown (left out){}\n\n",
                    task.name,
                    self.items,
                    self.missing.len(),
                    self.unknown.len(),
                    self.unknown.first().map(|id| format!(", the first `{id}`")).unwrap_or_default()
                )
            }
            None => format!("{} items scored\n\n", self.items),
        };
        let row = |value: &MetricValue| {
            let error = value.stderr.map_or_else(|| "-".to_owned(), |error| format!("{error:.4}"));
            vec![value.name.clone(), format!("{:.4}", value.value), error, value.n_items.to_string()]
        };
        let columns = [text("metric"), number("value"), number("standard error"), number("items")];
        head + &text_table::render(&columns, &self.values.iter().map(row).collect::<Vec<_>>())
    }

    fn json(&self) -> Value {
        let task = self.task.as_ref().map(|(task, _)| task.to_value());
        let split = self.task.as_ref().map(|(_, split)| *split);
        json!({
            "task": task, "split": split, "items": self.items, "missing": self.missing, "unknown": self.unknown,
            "missing_scored_as_empty": !self.only_given, "metrics": self.values,
        })
    }
}
