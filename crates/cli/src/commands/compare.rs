//! `peftbench compare`: two ways of fine-tuning, two runs or two sweeps, item by item.

use crate::args::ResultsArgs;
use crate::exit::{Exit, Problem};
use crate::text_table::{self, number, text};
use crate::{claim_files, output, sweep_choice};
use clap::Args;
use peftbench_adapters::methods::METHODS;
use peftbench_report::claims::measure::{Measure, by_name};
use peftbench_report::claims::{Evidence, Selection, check_names};
use peftbench_report::compare::{self, Row};
use peftbench_spec::RunId;
use peftbench_spec::suggest::nearest;
use peftbench_sweep::Store;
use peftbench_sweep::ids::{self, IdError};
use serde_json::{Value, json};
use std::path::Path;

/// Rows whose corrected p-value is below this are said to differ.
const LEVEL: f64 = 0.05;

/// Compares two methods, two selections of runs, two runs or two sweeps, by paired tests
///
/// LEFT and RIGHT are two methods (`lora`), two selections of runs as claims have them (`'method = { type = "lora", r = 8 }'`, `'layers = "first:25%"'`), the
/// ids of two runs, or the names of two sweeps of the same runs. Runs are paired that agree in all but what LEFT and RIGHT ask for differently,
/// and the learning rate; of several configurations in one cell the best on validation counts. A zero-shot run (`none`) has no seed: its test
/// items are paired with those of every seed of the other side.
#[derive(Debug, Args)]
pub struct Compare {
    /// A method, a selection of runs, a run's id, or a sweep
    #[arg(value_name = "LEFT")]
    left: String,
    /// Another of the same kind; differences are left less right
    #[arg(value_name = "RIGHT")]
    right: String,
    /// Sweep whose runs are compared; repeatable [default: all]
    #[arg(long = "sweep", value_name = "SWEEP")]
    sweeps: Vec<String>,
    /// By what: `score`, `error`, `peak_memory`, `activation_memory`, `trainable_parameters`, `tokens_per_second`, `train_seconds`, …
    #[arg(long, value_name = "MEASURE", default_value = "score")]
    measure: String,
    /// Write JSON with all numbers instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    results: ResultsArgs,
}

/// One side of a comparison.
enum Side {
    Runs(Selection),
    Sweep(String),
    Run(RunId),
}

/// Compares and prints.
pub fn run(verb: &Compare) -> anyhow::Result<Exit> {
    let results = &verb.results.results;
    let measure = by_name(&verb.measure).map_err(|problem| Problem::new(Exit::Usage, problem))?;
    let evidence = |sweeps: &[String]| anyhow::Ok(Evidence::read(&sweep_choice::folders(results, sweeps)?)?);
    let rows = match (side(&verb.left, results)?, side(&verb.right, results)?) {
        (Side::Runs(left), Side::Runs(right)) => {
            let evidence = evidence(&verb.sweeps)?;
            for (text, side) in [(&verb.left, &left), (&verb.right, &right)] {
                if !compare::has_runs(&evidence, side, measure) {
                    let problem = format!("no finished run of `{text}` has the measure `{}`", measure.name);
                    return Err(Problem::new(Exit::NothingSelected, problem).hint("`peftbench status` lists the runs there are").into());
                }
            }
            compare::selections(&evidence, left, right, measure)
        }
        (Side::Sweep(left), Side::Sweep(right)) => compare::sweeps(&evidence(&[left])?, &evidence(&[right])?, measure),
        (Side::Run(left), Side::Run(right)) => compare::runs(&evidence(&verb.sweeps)?, left.as_str(), right.as_str(), measure),
        _ => {
            let problem = format!("`{}` and `{}` are of different kinds", verb.left, verb.right);
            return Err(Problem::new(Exit::Usage, problem).hint("name two methods or selections, two runs, or two sweeps").into());
        }
    };
    if rows.is_empty() {
        let problem =
            format!("no finished runs of `{}` and `{}` agree in all else and have the measure `{}`", verb.left, verb.right, measure.name);
        let hint = "narrow both sides by the fields in which they may differ, e.g. `'method = \"lora\", layers = \"all\"'`";
        return Err(Problem::new(Exit::NothingSelected, problem).hint(hint).into());
    }
    let whole = json!({ "measure": measure.name, "left": verb.left, "right": verb.right, "rows": rows });
    output::print(&if verb.json { format!("{}\n", serde_json::to_string_pretty(&whole)?) } else { describe(&rows, measure) })?;
    Ok(Exit::Done)
}

/// What the text of a side means.
fn side(text: &str, results: &Path) -> anyhow::Result<Side> {
    let select = |table: Value| serde_json::from_value(table).map_err(|error| Problem::new(Exit::Usage, format!("`{text}`: {error}")));
    if text.contains('=') {
        let table: toml::Table = toml::from_str(&format!("side = {{ {text} }}")).map_err(|error| {
            Problem::new(Exit::Usage, format!("`{text}`: {}", error.message()))
                .hint("write it as in TOML: `'method = { type = \"lora\", r = 8 }'`")
        })?;
        let selection: Selection = select(serde_json::to_value(&table["side"])?)?;
        check_names(&selection, &claim_files::names()).map_err(|error| Problem::new(Exit::Usage, error.to_string()))?;
        return Ok(Side::Runs(selection));
    }
    if METHODS.iter().any(|method| method.name == text) {
        return Ok(Side::Runs(select(json!({ "method": text }))?));
    }
    let sweeps = Store::sweeps(results)?;
    if sweeps.iter().any(|name| name == text) {
        return Ok(Side::Sweep(text.to_owned()));
    }
    let found = ids::find_run(results, text).map_err(|error| match error {
        IdError::Unknown { .. } => {
            let problem = match nearest(text, METHODS.iter().map(|method| method.name).chain(sweeps.iter().map(String::as_str))) {
                Some(near) => format!("`{text}` is no method, sweep or run; did you mean `{near}`?"),
                None => format!("`{text}` is no method and no sweep, and {error}"),
            };
            Problem::new(Exit::NothingSelected, problem).hint("`peftbench ls methods` lists the methods").into()
        }
        other => anyhow::Error::from(other),
    })?;
    Ok(Side::Run(found.1))
}

/// What is to be known of rows with a zero-shot side.
const ZERO_SHOT: &str = "none: a zero-shot run has no seed, so that seeds are not paired. Its test items, where they are kept, are paired with those of every \
    seed of the other side; `seeds` are that side's.\n";

/// The rows for people.
fn describe(rows: &[Row], measure: &Measure) -> String {
    let columns = [
        text("model"),
        text("task"),
        text("left"),
        text("right"),
        number("left"),
        number("right"),
        number("difference"),
        number("95 %"),
        number("p (Holm)"),
        number("seeds"),
        number("items"),
        text("test"),
        text("left is"),
    ];
    let shared = rows.iter().any(|row| !row.shared.is_empty());
    let columns: Vec<_> = columns.into_iter().chain(shared.then(|| text("where"))).collect();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, measure, shared)).collect();
    let zero_shot = if rows.iter().any(|row| row.zero_shot) { ZERO_SHOT } else { "" };
    format!("{}\n{}: {}\n{zero_shot}", text_table::render(&columns, &cells), measure.name, measure.label)
}

fn cells(row: &Row, measure: &Measure, shared: bool) -> Vec<String> {
    let dash = || "-".to_owned();
    let verdict = match (row.p_value_holm, row.difference) {
        (None, _) => "-",
        (Some(p), difference) if p < LEVEL => {
            if difference > 0.0 {
                "higher"
            } else {
                "lower"
            }
        }
        _ => "not told apart",
    };
    let mut cells = vec![
        row.model.clone(),
        row.task.clone(),
        row.left.clone(),
        row.right.clone(),
        measure.write(row.left_mean),
        measure.write(row.right_mean),
        measure.write_difference(row.difference),
        row.interval.map_or_else(dash, |[low, high]| format!("{} .. {}", measure.write_difference(low), measure.write_difference(high))),
        row.p_value_holm.map_or_else(dash, |p| if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }),
        row.seeds.len().to_string(),
        if row.items == 0 { dash() } else { row.items.to_string() },
        row.test.describe().to_owned(),
        verdict.to_owned(),
    ];
    cells.extend(shared.then(|| row.shared.iter().map(|(field, value)| format!("{field} = {value}")).collect::<Vec<_>>().join(", ")));
    cells
}
