//! `peftbench claims`: what papers say, judged by results.

use crate::args::ResultsArgs;
use crate::claim_files::ClaimArgs;
use crate::exit::{Exit, Problem};
use crate::text_table::{self, number, text};
use crate::{output, sweep_choice};
use anyhow::Context;
use clap::Args;
use peftbench_report::claims::{CellJudgement, Evidence, Judgement, Line, PaperBoard, Scoreboard, Verdict, judge};
use peftbench_sweep::units::Count;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Judges the papers' statements by the results: holds, fails, not enough evidence, or not comparable
///
/// Each statement has two verdicts: on what was measured here, and on runs of the paper's own models, data and budget.
#[derive(Debug, Args)]
pub struct Claims {
    /// Names of sweeps whose results count [default: all]
    #[arg(value_name = "SWEEP")]
    sweeps: Vec<String>,
    #[command(flatten)]
    claims: ClaimArgs,
    /// Write JSON with all numbers instead of tables
    #[arg(long)]
    json: bool,
    /// Compare the verdicts with those that `--json` wrote to a file before; ends with exit code 6 if one is another
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    #[command(flatten)]
    results: ResultsArgs,
}

/// Reads claims and results, judges, prints.
pub fn run(verb: &Claims) -> anyhow::Result<Exit> {
    let papers = verb.claims.some_papers()?;
    let board = judge(&papers, &Evidence::read(&sweep_choice::folders(&verb.results.results, &verb.sweeps)?)?);
    output::print(&if verb.json { format!("{}\n", serde_json::to_string_pretty(&board)?) } else { describe(&board) })?;
    match &verb.check {
        Some(record) => check(&board, record),
        None => Ok(Exit::Done),
    }
}

/// Whether every verdict is the recorded one.
fn check(board: &Scoreboard, record: &Path) -> anyhow::Result<Exit> {
    let unreadable = || format!("could not read the verdicts in {}; `peftbench claims --json` writes such a file", record.display());
    let recorded: Value = std::fs::read(record)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .with_context(unreadable)?;
    let (before, now) = (verdicts(&recorded), verdicts(&serde_json::to_value(board)?));
    let differs = |key: &&String| before.get(*key) != now.get(*key);
    let name = |verdict: Option<&String>| verdict.map_or_else(|| "not there".to_owned(), |verdict| format!("`{verdict}`"));
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let changes: Vec<String> = keys
        .into_iter()
        .filter(differs)
        .map(|key| format!("{key}: recorded {}, now {}", name(before.get(key)), name(now.get(key))))
        .collect();
    match changes.is_empty() {
        true => Ok(Exit::Done),
        false => Err(Problem::new(Exit::Differs, format!("the verdicts differ from {}: {}", record.display(), changes.join("; "))).into()),
    }
}

/// Paper, statement and side → verdict, of what `--json` writes.
fn verdicts(board: &Value) -> BTreeMap<String, String> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut verdicts = BTreeMap::new();
    for paper in list(board, "papers") {
        for line in list(&paper, "lines") {
            for side in ["here", "own"] {
                verdicts.insert(format!("{}/{} ({side})", word(&paper["id"]), word(&line["id"])), word(&line[side]["verdict"]));
            }
        }
    }
    verdicts
}

/// The scoreboard for people.
fn describe(board: &Scoreboard) -> String {
    board.papers.iter().map(describe_paper).collect::<Vec<_>>().join("\n")
}

fn describe_paper(paper: &PaperBoard) -> String {
    let columns = [
        text("statement"),
        text("measured here"),
        number("difference"),
        number("95 %"),
        number("margin"),
        number("pairs"),
        number("reported"),
        text("on its own models"),
    ];
    let rows: Vec<Vec<String>> = paper.lines.iter().map(row).collect();
    let mut parts = vec![format!("{}: {} ({})\n\n{}", paper.id, paper.title, paper.reference, text_table::render(&columns, &rows))];
    let reasons = |judgement: fn(&Line) -> &Judgement| {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in paper.lines.iter().filter(|line| !judgement(line).reason.is_empty()) {
            reasons.entry(&judgement(line).reason).or_default().push(&line.id);
        }
        reasons.into_iter().map(|(reason, lines)| format!("  {}: {reason}\n", lines.join(", "))).collect::<String>()
    };
    for (heading, reasons) in [("measured here", reasons(|line| &line.here)), ("on its own models", reasons(|line| &line.own))] {
        if !reasons.is_empty() {
            parts.push(format!("{heading}: remarks\n{reasons}"));
        }
    }
    let measured: BTreeSet<String> = paper.lines.iter().flat_map(|line| &line.here.cells).map(setup).collect();
    if !measured.is_empty() {
        parts.push(format!("measured here: on what\n{}", measured.into_iter().map(|setup| format!("  {setup}\n")).collect::<String>()));
    }
    parts.join("\n")
}

fn row(line: &Line) -> Vec<String> {
    let (measure, here) = (line.measure(), &line.here);
    let dash = || "-".to_owned();
    let difference = here.difference.map(|difference| difference.mean).or(here.bare_difference);
    let tested = here.difference.filter(|_| here.p_value.is_some());
    let sign = if line.higher { '>' } else { '<' };
    vec![
        line.id.clone(),
        here.verdict.name().to_owned(),
        difference.map_or_else(dash, |difference| measure.write_difference(difference)),
        tested.map_or_else(dash, |d| format!("{} .. {}", measure.write_difference(d.low), measure.write_difference(d.high))),
        format!("{sign} {}", if line.margin == 0.0 { "0".to_owned() } else { measure.write_difference(line.margin) }),
        if here.n_pairs == 0 { dash() } else { here.n_pairs.to_string() },
        line.reported_range().unwrap_or_else(dash),
        if line.own.verdict == Verdict::NotComparable { dash() } else { line.own.verdict.name().to_owned() },
    ]
}

/// Model, data and budget of a cell.
fn setup(cell: &CellJudgement) -> String {
    let known = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| Count(count).to_string());
    format!(
        "{} ({} parameters) on {}: {} examples, {} steps, {}",
        cell.model,
        known(cell.model_num_params),
        cell.task,
        known(cell.train_samples),
        known(cell.steps),
        cell.metric
    )
}
