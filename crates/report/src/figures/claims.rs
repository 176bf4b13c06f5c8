//! The papers' statements with what was measured: a forest plot.

use super::dots::{Block, Column, Points, RowLabel, draw, plain};
use super::{Drawing, Figure, Value};
use crate::axis::{decimals, range_of};
use crate::canvas::{Canvas, Key};
use crate::claims::{Judgement, Line, PaperBoard, Scoreboard, Verdict};
use crate::csv_text::{CsvText, field};
use crate::data::{Cell, Data};
use crate::scene::{Color, GRAY};
use crate::style::{Look, Marker};

/// How far each statement's difference is from its margin, measured and reported.
pub(super) struct Claims;

/// What a paper's own cells say.
const REPORTED: Look = Look { color: GRAY, marker: Marker::Diamond };

impl Figure for Claims {
    fn id(&self) -> &'static str {
        "claims"
    }

    fn title(&self) -> &'static str {
        "The papers' statements, and what was measured here"
    }

    fn reading(&self) -> &'static str {
        "A row a statement; to the right of the dashed line it holds, to the left it does not. A difference is turned into the statement's direction, and its margin is \
         taken off. Diamonds are what the paper reports, on models and data of another size: they share the row, not the scale of what can be reached."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let board = &data.claims.as_ref()?.scoreboard;
        let lines = || board.papers.iter().flat_map(|paper| &paper.lines);
        let compared = lines().filter(|line| line.is_compared()).count();
        if compared == 0 {
            return None;
        }
        let cells: Vec<&Cell> = data.trained().collect();
        let mut canvas = Canvas::new(self.title(), &data.subtitle(cells.into_iter()));
        canvas.legend(&legend(board));
        let mut blocks: Vec<Block<'_>> =
            board.papers.iter().flat_map(|paper| [false, true].map(|relative| block(paper, relative))).flatten().collect();
        for second in (1..blocks.len()).rev() {
            if blocks[second].title == blocks[second - 1].title {
                blocks[second].title.clear();
            }
        }
        draw(&mut canvas, &blocks);
        let all = lines().count();
        let others = if compared < all { "; for the others there are no runs here" } else { "" };
        let note = format!(
            "{compared} of the {all} statements{others}. Measured: mean paired difference over models, tasks and seeds, whiskers its 95 % interval \
             (Student's t, from the variance over seeds and over paired test items), not corrected for there being several statements; the verdicts are. Hollow: too few \
             seeds for an interval. Reported: mean over the paper's cells, whiskers their range. Learning rates are each side's own."
        );
        Some(Drawing { scene: canvas.finish(&note), csv: numbers(board) })
    }
}

/// The look of a verdict.
fn look(verdict: Verdict) -> Look {
    let (color, marker) = match verdict {
        Verdict::Holds => (0x009e73, Marker::Disc),
        Verdict::Fails => (0xd55e00, Marker::Square),
        Verdict::NotEnoughEvidence | Verdict::NotComparable => (0x0072b2, Marker::Up),
    };
    Look { color: Color::hex(color), marker }
}

fn legend(board: &Scoreboard) -> Vec<(Key, String)> {
    let lines = || board.papers.iter().flat_map(|paper| &paper.lines);
    let shown =
        |verdict: &Verdict| lines().any(|line| [&line.here, &line.own].into_iter().any(|j| j.verdict == *verdict && !j.cells.is_empty()));
    let mut legend: Vec<(Key, String)> = Verdict::ALL
        .into_iter()
        .filter(shown)
        .map(|verdict| (Key::Method(look(verdict)), format!("measured: {}", verdict.name())))
        .collect();
    if lines().any(|line| !line.reported.is_empty()) {
        legend.push((Key::Method(REPORTED), "reported by the paper".to_owned()));
    }
    legend.push((Key::Dashed, "the statement's margin".to_owned()));
    legend
}

/// A paper's statements whose differences are shares, or are not.
fn block(paper: &PaperBoard, relative: bool) -> Option<Block<'static>> {
    let lines: Vec<&Line> = paper.lines.iter().filter(|line| line.measure().relative == relative && line.is_compared()).collect();
    if lines.is_empty() {
        return None;
    }
    let points: Vec<Vec<(Look, Value)>> = lines.iter().map(|line| points(line)).collect();
    let extents = || points.iter().flatten().flat_map(|(_, value)| value.extent());
    // Room on both sides of the margin, so that its line is seen.
    let least = 0.05 * extents().map(f64::abs).fold(0.0, f64::max);
    let range = range_of(extents().chain([-least, least]));
    let (kind, axis): (_, &str) = match relative {
        true => ("relative differences", "beyond the margin, in the statement's direction, % of the other side"),
        false => ("differences", "beyond the margin, in the statement's direction"),
    };
    let column = Column {
        title: kind.to_owned(),
        axis: axis.to_owned(),
        range,
        reference: Some(Value::bare(0.0)),
        chance: None,
        format: if relative { &percent } else { &plain },
        cells: points.into_iter().map(Points::Some).collect(),
    };
    let rows = lines.iter().map(|line| RowLabel { group: String::new(), look: None, label: label(line) }).collect();
    Some(Block { title: format!("{} · {}", paper.id, paper.reference), rows, columns: vec![column] })
}

fn percent(value: f64, step: f64) -> String {
    decimals(100.0 * value, 100.0 * step)
}

fn label(line: &Line) -> String {
    let margin = if line.margin == 0.0 { String::new() } else { format!(" (margin {})", line.measure().write_difference(line.margin)) };
    format!("{}{margin}", line.text)
}

/// What was measured here, on the paper's own models, and what the paper reports.
fn points(line: &Line) -> Vec<(Look, Value)> {
    let judged = |judgement: &Judgement| {
        let center = judgement.difference.map(|difference| difference.mean).or(judgement.bare_difference)?;
        let enough = judgement.difference.filter(|_| judgement.p_value.is_some());
        let ends = enough.map(|difference| (difference.low, difference.high));
        Some((look(judgement.verdict), Value { center, ends }))
    };
    let measured = [&line.here, &line.own].into_iter().filter_map(judged);
    measured.chain(reported(line).map(|value| (REPORTED, value))).map(|(look, value)| (look, turned(line, value))).collect()
}

/// The mean of a paper's differences with their range.
fn reported(line: &Line) -> Option<Value> {
    let differences: Vec<f64> = line.reported.iter().map(|reported| reported.difference).collect();
    let center = peftbench_results::statistics::mean(&differences)?;
    let low = differences.iter().copied().fold(f64::INFINITY, f64::min);
    let high = differences.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(Value { center, ends: Some((low, high)) })
}

/// Turned into the statement's direction, its margin taken off.
fn turned(line: &Line, value: Value) -> Value {
    let at = |x: f64| if line.higher { x - line.margin } else { line.margin - x };
    Value { center: at(value.center), ends: value.ends.map(|(low, high)| (at(low).min(at(high)), at(low).max(at(high)))) }
}

fn numbers(board: &Scoreboard) -> CsvText {
    let mut csv = CsvText::new(&[
        "paper",
        "statement",
        "measure",
        "test",
        "on",
        "verdict",
        "reason",
        "left",
        "right",
        "difference",
        "ci95_low",
        "ci95_high",
        "n_pairs",
        "n_seeds",
        "p_value",
        "p_value_holm",
        "reported_mean",
        "reported_low",
        "reported_high",
    ]);
    for (paper, line) in board.papers.iter().flat_map(|paper| paper.lines.iter().map(move |line| (paper, line))) {
        let reported = reported(line);
        for (on, judgement) in [("here", &line.here), ("own", &line.own)] {
            let mut row = [&paper.id, &line.id].map(String::clone).to_vec();
            row.extend([line.measure, &line.test, on, judgement.verdict.name(), &judgement.reason].map(str::to_owned));
            let difference = judgement.difference.map(|difference| difference.mean).or(judgement.bare_difference);
            let numbers = [
                judgement.left.map(|left| left.mean),
                judgement.right.map(|right| right.mean),
                difference,
                judgement.difference.map(|difference| difference.low),
                judgement.difference.map(|difference| difference.high),
            ];
            row.extend(numbers.map(field));
            row.extend([judgement.n_pairs, judgement.n_seeds].map(|count| count.to_string()));
            let low = reported.and_then(|value| value.ends).map(|(low, _)| low);
            let high = reported.and_then(|value| value.ends).map(|(_, high)| high);
            row.extend([judgement.p_value, judgement.p_value_holm, reported.map(|value| value.center), low, high].map(field));
            csv.push(row);
        }
    }
    csv
}
