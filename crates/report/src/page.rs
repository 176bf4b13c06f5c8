//! `report/index.html`: one static page that opens offline. Figures are inlined; links lead to the files beside it.

use crate::axis::{mebibytes, thousands};
use crate::claims::{Judgement, Line, PaperBoard};
use crate::data::Data;
use crate::error::Result;
use crate::tables::TextTable;
use crate::tables::results::{score, settings, settings_vary, sorted_rows};
use minijinja::value::{Serde, Value};
use minijinja::{Environment, HtmlEscape};
use peftbench_results::rows::Status;
use peftbench_results::{RunRow, SelectRow, tables};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

const TEMPLATE: &str = include_str!("../templates/index.html");

/// A figure as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub struct PageFigure {
    /// File name without extension.
    pub id: String,
    /// Title.
    pub title: String,
    /// How to read it.
    pub reading: String,
    /// The SVG element.
    pub svg: String,
}

/// All that the template shows.
#[derive(Serialize)]
struct Page<'a> {
    sweep: &'a str,
    description: &'a str,
    counts: BTreeMap<&'a str, usize>,
    n_runs: usize,
    n_probes: usize,
    figures: &'a [PageFigure],
    columns: Vec<&'static str>,
    rows: Vec<ResultRow>,
    claims: Vec<ClaimTable>,
    missing: Vec<Missing>,
    tables: Vec<PageTable<'a>>,
    parquet: Vec<&'static str>,
    damaged: &'a [(String, String)],
    provenance: Vec<(&'static str, String)>,
    example: Option<&'a str>,
    version: &'static str,
}

/// A row of the table of results; numbers beside their text are what the page sorts by.
#[derive(Serialize)]
struct ResultRow {
    fields: Vec<SortField>,
    runs: Vec<RunLink>,
}

#[derive(Serialize)]
struct SortField {
    text: String,
    sort: Option<f64>,
    /// Whether a narrow page may break it into lines.
    words: bool,
}

#[derive(Serialize)]
struct RunLink {
    id: String,
    seed: u64,
}

/// A text table as the page lists it.
#[derive(Serialize)]
struct PageTable<'a> {
    id: &'static str,
    caption: &'a str,
    note: &'a str,
}

/// Statements with runs to compare; or, behind a summary, those without.
#[derive(Serialize)]
struct ClaimTable {
    summary: String,
    open: bool,
    rows: Vec<ClaimRow>,
}

/// A statement of a paper.
#[derive(Serialize)]
struct ClaimRow {
    paper: String,
    text: String,
    here: Judged,
    own: Judged,
    reported: String,
    reported_in_full: String,
    source: String,
}

/// A verdict with its numbers in words.
#[derive(Serialize)]
struct Judged {
    verdict: &'static str,
    numbers: String,
    reason: String,
}

/// A run without a result.
#[derive(Serialize)]
struct Missing {
    id: String,
    what: String,
    seed: u64,
    status: &'static str,
    kind: String,
    message: String,
}

/// The page, with links to the text tables named.
///
/// # Errors
/// The template cannot be filled.
pub fn html(data: &Data, figures: &[PageFigure], text_tables: &[(&'static str, TextTable)]) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_filter("breakable", breakable);
    environment.add_template("index.html", TEMPLATE)?;
    let counts: BTreeMap<&str, usize> = data.runs.iter().fold(BTreeMap::new(), |mut counts, run| {
        *counts.entry(run.status.name()).or_default() += 1;
        counts
    });
    let example = data.runs.iter().find(|run| run.status == Status::Done).map(|run| run.run_id.as_str());
    let page = Page {
        sweep: &data.sweep,
        description: &data.description,
        counts,
        n_runs: data.runs.len(),
        n_probes: data.probes.len(),
        figures,
        columns: columns(data),
        rows: rows(data),
        claims: claims(data),
        missing: missing(data),
        tables: text_tables.iter().map(|(id, table)| PageTable { id, caption: &table.caption, note: &table.note }).collect(),
        parquet: tables::ALL.iter().map(|(name, _)| *name).collect(),
        damaged: &data.damaged,
        provenance: provenance(&data.runs),
        example,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(environment.get_template("index.html")?.render(Serde(&page))?)
}

fn columns(data: &Data) -> Vec<&'static str> {
    let mut columns = vec!["model", "task", "method", "targets", "layers"];
    if settings_vary(data) {
        columns.push("training");
    }
    columns.extend([
        "test score",
        "metric",
        "valid score",
        "trainable params",
        "% of model",
        "peak memory (MiB)",
        "tokens/s",
        "train time (s)",
    ]);
    columns
}

fn rows(data: &Data) -> Vec<ResultRow> {
    let vary = settings_vary(data);
    let mut runs_of: BTreeMap<&str, Vec<RunLink>> = BTreeMap::new();
    for run in data.runs.iter().filter(|run| run.status == Status::Done) {
        runs_of.entry(&run.group_id).or_default().push(RunLink { id: run.run_id.clone(), seed: run.seed });
    }
    let text = |text: String| SortField { text, sort: None, words: true };
    let number = |value: Option<f64>, places: usize| SortField {
        text: value.map_or_else(|| "–".to_owned(), |value| thousands(&format!("{value:.places$}"))),
        sort: Some(value.unwrap_or(f64::NEG_INFINITY)).filter(|v| v.is_finite()),
        words: false,
    };
    let row = |(place, row): (crate::data::Place, &peftbench_results::AggregateRow)| {
        let mut fields: Vec<SortField> = [place.model, place.task, place.method, place.targets, place.layers].map(text).into();
        if vary {
            fields.push(SortField { text: settings(row), sort: Some(row.lr), words: false });
        }
        let peak = row.train_peak_bytes_median.filter(|_| !row.is_zero_shot()).map(mebibytes);
        fields.push(SortField { text: score(row), sort: Some(row.mean), words: false });
        fields.extend([
            text(row.primary_metric.clone()),
            number(row.valid_mean, 3),
            number(row.num_trainable_params.map(|count| count as f64), 0),
            number(row.trainable_fraction.map(|fraction| 100.0 * fraction), 3),
            number(peak, 1),
            number(row.train_tokens_per_second_median, 0),
            number(row.train_seconds_median, 1),
        ]);
        let mut runs = runs_of.remove(row.group_id.as_str()).unwrap_or_default();
        runs.sort_by_key(|run| run.seed);
        ResultRow { fields, runs }
    };
    sorted_rows(data).into_iter().map(row).collect()
}

/// Escaped text that may be broken into lines behind the marks that join the parts of a name.
fn breakable(text: &str) -> Value {
    let piece = |letter: char| {
        let end = if matches!(letter, '/' | ',' | '_' | ':') { "<wbr>" } else { "" };
        format!("{}{end}", HtmlEscape(letter.encode_utf8(&mut [0; 4])))
    };
    Value::from_safe_string(text.chars().map(piece).collect())
}

fn claims(data: &Data) -> Vec<ClaimTable> {
    let row = |paper: &PaperBoard, line: &Line| ClaimRow {
        paper: paper.id.clone(),
        text: line.text.clone(),
        here: judged(line, &line.here),
        own: judged(line, &line.own),
        reported: line.reported_range().unwrap_or_default(),
        reported_in_full: line
            .reported
            .iter()
            .map(|r| format!("{}: {}", r.on, line.measure().write_difference(r.difference)))
            .collect::<Vec<_>>()
            .join("; "),
        source: line.source.clone(),
    };
    let papers = data.claims.iter().flat_map(|claims| &claims.scoreboard.papers);
    let (compared, others): (Vec<_>, Vec<_>) =
        papers.flat_map(|paper| paper.lines.iter().map(move |line| (paper, line))).partition(|(_, line)| line.is_compared());
    let rows = |lines: &[(&PaperBoard, &Line)]| lines.iter().map(|(paper, line)| row(paper, line)).collect();
    let summary = format!("{} {}statements have no runs to compare here", others.len(), if compared.is_empty() { "" } else { "other " });
    let tables = [
        ClaimTable { summary: String::new(), open: true, rows: rows(&compared) },
        ClaimTable { summary, open: compared.is_empty(), rows: rows(&others) },
    ];
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn judged(line: &Line, judgement: &Judgement) -> Judged {
    let measure = line.measure();
    let side = |(label, side): (&String, Option<crate::claims::Estimate>)| Some(format!("{label}: {}", measure.write(side?.mean)));
    let difference = judgement.difference.map(|difference| difference.mean).or(judgement.bare_difference);
    let mut numbers: Vec<String> = difference.map(|difference| measure.write_difference(difference)).into_iter().collect();
    if let (Some(difference), Some(p)) = (judgement.difference, judgement.p_value_holm) {
        let ends = [difference.low, difference.high].map(|end| measure.write_difference(end));
        let p = if p < 0.001 { "< 0.001".to_owned() } else { format!("= {p:.3}") };
        numbers.push(format!("95 % {} to {}, corrected p {p}", ends[0], ends[1]));
    }
    numbers.extend(line.sides.iter().zip([judgement.left, judgement.right]).filter_map(side));
    if judgement.n_pairs > 0 {
        numbers.push(format!("{} {}", judgement.n_pairs, if judgement.n_pairs == 1 { "pair" } else { "pairs" }));
    }
    Judged { verdict: judgement.verdict.name(), numbers: numbers.join("; "), reason: judgement.reason.clone() }
}

fn missing(data: &Data) -> Vec<Missing> {
    let row = |run: &RunRow| {
        let place = data.place_of_run(run);
        Missing {
            id: run.run_id.clone(),
            what: [place.model, place.task, place.method, place.targets, place.layers].join(" · "),
            seed: run.seed,
            status: run.status.name(),
            kind: run.failure_kind.clone().unwrap_or_default(),
            message: run.failure_message.clone().unwrap_or_default(),
        }
    };
    // A choice that could not be made leaves cells that never became runs; the first of its probes stands for it.
    let failed: BTreeMap<&str, &SelectRow> =
        data.select.iter().rev().filter(|row| row.decision == "failed").map(|row| (row.choice_id.as_str(), row)).collect();
    let without_rate = failed.into_values().map(|probe| Missing {
        id: probe.run_id.clone(),
        what: probe.chosen_for.clone(),
        seed: probe.seed,
        status: "no learning rate",
        kind: probe.failure_kind.clone().unwrap_or_default(),
        message: probe.problem.clone().unwrap_or_default(),
    });
    let runs = data.runs.iter().filter(|run| run.status != Status::Done).map(row);
    let mut rows: Vec<Missing> = runs.chain(without_rate).collect();
    rows.sort_by(|a, b| (a.status, &a.what, a.seed).cmp(&(b.status, &b.what, b.seed)));
    rows
}

/// What the runs were made with: label and its values.
fn provenance(runs: &[RunRow]) -> Vec<(&'static str, String)> {
    let list = |read: &dyn Fn(&RunRow) -> Option<String>| {
        let values: BTreeSet<String> = runs.iter().filter_map(read).filter(|value| !value.is_empty()).collect();
        if values.is_empty() { "not recorded".to_owned() } else { values.into_iter().collect::<Vec<_>>().join(", ") }
    };
    let short = |hash: &String| hash.chars().take(16).collect::<String>();
    let first = runs.iter().filter_map(|run| run.created_at.clone()).min();
    let last = runs.iter().filter_map(|run| run.finished_at.clone()).max();
    vec![
        ("peftbench", list(&|run| Some(run.version.clone()))),
        ("git", list(&|run| run.git.clone())),
        ("compiler", list(&|run| Some(run.rustc.clone()))),
        ("Cargo.lock (BLAKE3)", list(&|run| Some(short(&run.cargo_lock_hash)))),
        ("platform", list(&|run| Some(run.platform.clone()))),
        ("processor", list(&|run| run.cpu.clone())),
        ("device", list(&|run| run.device.clone())),
        ("threads", list(&|run| run.threads.map(|threads| threads.to_string()))),
        ("models (BLAKE3)", list(&|run| run.model_hash.as_ref().map(|hash| format!("{} {}", run.model, short(hash))))),
        ("examples read (BLAKE3)", list(&|run| run.dataset_hash.as_ref().map(|hash| format!("{} {}", run.task, short(hash))))),
        (
            "first start, last end (UTC)",
            [first, last].into_iter().flatten().map(|time| to_the_second(&time)).collect::<Vec<_>>().join(" – "),
        ),
    ]
}

/// `2026-01-31 12:34:56` of an RFC 3339 time in UTC.
fn to_the_second(time: &str) -> String {
    time.split(['.', 'Z']).next().unwrap_or(time).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_break_behind_their_joints_and_stay_escaped() {
        assert_eq!(breakable("q_proj,<b>").to_string(), "q_<wbr>proj,<wbr>&lt;b&gt;");
    }

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(["2026-11-25T18:42:54.849656Z", "2026-11-25T18:42:54Z"].map(to_the_second), ["2026-11-25 18:42:54"; 2]);
    }
}
