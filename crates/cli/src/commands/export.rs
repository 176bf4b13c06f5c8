//! `peftbench export`: a table of a sweep as text.

use crate::args::ResultsArgs;
use crate::commands::collect::warn_of_damage;
use crate::exit::Exit;
use crate::{output, sweep_choice};
use anyhow::Context;
use clap::{Args, ValueEnum};
use peftbench_report::current_tables;
use peftbench_report::export::{ExportFormat, export};
use peftbench_results::files::write_bytes;
use std::path::PathBuf;

/// Writes a table of a sweep as CSV, JSON Lines, Markdown or LaTeX
#[derive(Debug, Args)]
pub struct Export {
    /// Name of the sweep [default: the only one]
    #[arg(value_name = "SWEEP")]
    sweep: Option<String>,
    /// Which table: `results` and `activations` as the report has them; `runs`, `aggregates`, `steps`, `evals`, `memory`, `layers`, `dimensions`,
    /// `params`, `predictions` and `select` as the Parquet files have them
    #[arg(long, value_name = "TABLE", default_value = "results")]
    table: String,
    /// These columns only, in this order, separated by commas
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    columns: Vec<String>,
    /// Format of the text
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    results: ResultsArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Comma-separated values, with a header
    Csv,
    /// A JSON object a line
    Jsonl,
    /// A Markdown table
    #[value(alias = "markdown")]
    Md,
    /// A LaTeX table (packages `booktabs` and `longtable`)
    #[value(alias = "latex")]
    Tex,
}

/// Writes the table.
pub fn run(verb: &Export) -> anyhow::Result<Exit> {
    let store = sweep_choice::choose(&verb.results.results, verb.sweep.as_deref())?;
    let format = match verb.format {
        Format::Csv => ExportFormat::Csv,
        Format::Jsonl => ExportFormat::JsonLines,
        Format::Md => ExportFormat::Markdown,
        Format::Tex => ExportFormat::Latex,
    };
    let collected = current_tables(store.folder())?;
    warn_of_damage(&collected);
    let text = export(store.folder(), &collected, &verb.table, &verb.columns, format)?;
    match &verb.out {
        None => output::print(&text)?,
        Some(path) => write_bytes(path, text.as_bytes()).with_context(|| format!("could not write the table to {}", path.display()))?,
    }
    Ok(Exit::Done)
}
