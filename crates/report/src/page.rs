//! `report/index.html`: one static page that opens offline. Figures are inlined; links lead to the files beside it.

use crate::axis::mebibytes;
use crate::claims::{Judgement, Line, PaperBoard};
use crate::data::Data;
use crate::error::Result;
use crate::tables::results::{score, settings, settings_vary, sorted_rows};
use minijinja::Environment;
use minijinja::value::Serde;
use peftbench_results::rows::Status;
use peftbench_results::{RunRow, SelectRow};
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
    claims: Vec<ClaimRow>,
    missing: Vec<Missing>,
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
}

#[derive(Serialize)]
struct RunLink {
    id: String,
    seed: u64,
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

/// The page.
///
/// # Errors
/// The template cannot be filled.
pub fn html(data: &Data, figures: &[PageFigure]) -> Result<String> {
    let mut environment = Environment::new();
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
        "metric",
        "test score",
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
    let text = |text: String| SortField { text, sort: None };
    let number = |value: Option<f64>, places: usize| SortField {
        text: value.map_or_else(|| "–".to_owned(), |value| thousands(&format!("{value:.places$}"))),
        sort: Some(value.unwrap_or(f64::NEG_INFINITY)).filter(|v| v.is_finite()),
    };
    let row = |(place, row): (crate::data::Place, &peftbench_results::AggregateRow)| {
        let mut fields: Vec<SortField> = [place.model, place.task, place.method, place.targets, place.layers].map(text).into();
        if vary {
            fields.push(SortField { text: settings(row), sort: Some(row.lr) });
        }
        let peak = row.train_peak_bytes_median.filter(|_| !row.is_zero_shot()).map(mebibytes);
        fields.push(text(row.primary_metric.clone()));
        fields.push(SortField { text: score(row), sort: Some(row.mean) });
        fields.extend([
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

/// Puts thin spaces between thousands.
fn thousands(number: &str) -> String {
    let (whole, rest) = number.split_once('.').map_or((number, String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let digits: Vec<char> = whole.chars().collect();
    let mut grouped = String::new();
    for (index, digit) in digits.iter().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits[index - 1].is_ascii_digit() {
            grouped.push('\u{202f}');
        }
        grouped.push(*digit);
    }
    grouped + &rest
}

fn claims(data: &Data) -> Vec<ClaimRow> {
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
    papers.flat_map(|paper| paper.lines.iter().map(move |line| row(paper, line))).collect()
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
        numbers.push(format!("{} pairs", judgement.n_pairs));
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
        ("data (BLAKE3)", list(&|run| run.dataset_hash.as_ref().map(|hash| format!("{} {}", run.task, short(hash))))),
        ("first start, last end (UTC)", [first, last].into_iter().flatten().collect::<Vec<_>>().join(" – ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            ["1\u{202f}234\u{202f}567", "999", "12\u{202f}345.6", "-123"],
            ["1234567", "999", "12345.6", "-123"].map(thousands).each_ref().map(String::as_str)
        );
    }
}
