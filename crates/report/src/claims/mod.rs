//! Claims of papers as tests over results: `experiments/claims/*.toml` in, verdicts out.
//!
//! * [`paper`]: a claims file, what it may say, and how it is checked; [`selection`] and [`fields`]: which runs a row means.
//! * [`evidence`]: the finished runs; [`pairs`]: which of them a statement compares; [`mod@measure`]: by what.
//! * [`verdict`]: statistics and verdict. Each statement has two: on runs of the paper's own models, data and budget, and on what else was
//!   measured here.
//!
//! `docs/claims.md` is the description for people.

mod evidence;
pub(crate) mod fields;
pub mod measure;
pub(crate) mod pairs;
pub mod paper;
mod selection;
pub mod verdict;

pub use evidence::Evidence;
pub use paper::{Names, Paper, check_names};
pub use selection::Selection;
pub use verdict::{CellJudgement, Estimate, Judgement, Verdict};

use fields::Fields;
use measure::Measure;
use pairs::{Sides, comparisons};
use paper::{Cell, Statement};
use peftbench_results::RunRow;
use serde::Serialize;

/// Every statement of some papers with its verdicts.
#[derive(Debug, Clone, Serialize)]
pub struct Scoreboard {
    /// Paper by paper.
    pub papers: Vec<PaperBoard>,
}

/// The statements of a paper.
#[derive(Debug, Clone, Serialize)]
pub struct PaperBoard {
    /// Its short name.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Where to find it.
    pub reference: String,
    /// Its statements, in the order of the file.
    pub lines: Vec<Line>,
}

/// A statement with its verdicts.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Its short name.
    pub id: String,
    /// The claim in words.
    pub text: String,
    /// Where it is said, and how good that is as a source.
    pub source: String,
    /// The rows that are compared, as the paper calls them.
    pub sides: Vec<String>,
    /// Name of the measure.
    pub measure: &'static str,
    /// The test in words: `left - right > 0`.
    pub test: String,
    /// Whether the left side is said to be higher.
    pub higher: bool,
    /// The margin.
    pub margin: f64,
    /// What the paper's own cells say.
    pub reported: Vec<Reported>,
    /// On runs of the paper's own models, data and budget.
    pub own: Judgement,
    /// On what else was measured here.
    pub here: Judgement,
    #[serde(skip)]
    by: &'static Measure,
}

/// A difference between two of a paper's cells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reported {
    /// Model and data.
    pub on: String,
    /// The difference, as the statement's measure has it.
    pub difference: f64,
}

impl Line {
    /// Whether there were runs to compare.
    pub fn is_compared(&self) -> bool {
        [&self.here, &self.own].into_iter().any(|judgement| !judgement.cells.is_empty())
    }

    /// What is compared.
    pub fn measure(&self) -> &'static Measure {
        self.by
    }

    /// Least and greatest of the reported differences in words; `None` where there are none.
    pub fn reported_range(&self) -> Option<String> {
        let differences = || self.reported.iter().map(|reported| reported.difference);
        let (low, high) = (differences().min_by(f64::total_cmp)?, differences().max_by(f64::total_cmp)?);
        let write = |difference| self.by.write_difference(difference);
        Some(if low == high { write(low) } else { format!("{} .. {}", write(low), write(high)) })
    }
}

/// Judges every statement.
pub fn judge(papers: &[Paper], evidence: &Evidence) -> Scoreboard {
    Scoreboard { papers: papers.iter().map(|paper| judge_paper(paper, evidence)).collect() }
}

fn judge_paper(paper: &Paper, evidence: &Evidence) -> PaperBoard {
    let mut lines: Vec<Line> = paper.statements.iter().map(|statement| line(paper, statement, evidence)).collect();
    verdict::conclude(&mut lines.iter_mut().map(|line| &mut line.own).collect::<Vec<_>>());
    verdict::conclude(&mut lines.iter_mut().map(|line| &mut line.here).collect::<Vec<_>>());
    let about = &paper.paper;
    PaperBoard { id: about.id.clone(), title: about.title.clone(), reference: about.reference.clone(), lines }
}

fn line(paper: &Paper, statement: &Statement, evidence: &Evidence) -> Line {
    let setups = setups(paper, statement);
    let is_own = |fields: &Fields| setups.iter().any(|setup| setup.selects(fields));
    let sides = Sides::of(paper, statement);
    let judge = |own: bool| {
        let found = comparisons(&sides, statement.terms(), evidence, &|fields| is_own(fields) == own);
        (found.iter().any(|comparison| !comparison.pairs.is_empty())).then(|| Judgement::of(statement, evidence, &found))
    };
    let label = |row: &String| paper.rows.get(row).map_or_else(|| row.clone(), |row| row.label.clone());
    let source = paper.sources.get(&statement.source);
    let grade = statement.grade.as_ref().or(source.map(|source| &source.grade));
    let means = grade.and_then(|grade| paper.grades.get(grade)).map_or("", |grade| grade.means.as_str());
    Line {
        id: statement.id.clone(),
        text: statement.text.clone(),
        source: format!("{} [{}: {means}]", source.map_or("", |source| &source.place), grade.map_or("", String::as_str)),
        sides: std::iter::once(&statement.left).chain(&statement.right).map(label).collect(),
        measure: statement.measure.name,
        test: test_in_words(statement),
        higher: statement.expect == paper::Expect::Higher,
        margin: statement.margin,
        reported: reported(paper, statement),
        own: judge(true).unwrap_or_else(|| Judgement::not_comparable(why_not_own(paper, statement, evidence))),
        here: judge(false).unwrap_or_else(|| Judgement::not_comparable(sides.why_not(statement, evidence))),
        by: statement.measure,
    }
}

/// What the runs of a paper's own are like, of the models and columns that show a statement.
fn setups(paper: &Paper, statement: &Statement) -> Vec<Selection> {
    let models = || statement.models.iter().filter_map(|model| paper.models.get(model)?.select.as_ref());
    let columns = statement.columns.iter().filter_map(|column| paper.columns.get(column)?.select.as_ref());
    columns.flat_map(|column| models().map(move |model| model.and(column))).collect()
}

fn test_in_words(statement: &Statement) -> String {
    let sign = if statement.expect == paper::Expect::Higher { '>' } else { '<' };
    let margin = match statement.measure.relative {
        true => format!("{} %", 100.0 * statement.margin),
        false => statement.margin.to_string(),
    };
    let what = match (&statement.right, statement.measure.relative) {
        (None, _) => statement.left.clone(),
        (Some(right), false) => format!("{} - {right}", statement.left),
        (Some(right), true) => format!("{} / {right} - 1", statement.left),
    };
    format!("{what} {sign} {margin}")
}

/// The differences between the paper's cells, where both sides have one.
fn reported(paper: &Paper, statement: &Statement) -> Vec<Reported> {
    let Some(right) = &statement.right else { return Vec::new() };
    let places = statement.models.iter().flat_map(|model| statement.columns.iter().map(move |column| (model, column)));
    let at = |(model, name): (&String, &String)| {
        let column = paper.columns.get(name).filter(|column| column.measure == Some(statement.measure))?;
        let find = |row: &String, against: Option<&String>| {
            let here = |cell: &Cell<'_>| {
                cell.column == name && cell.line.model == *model && cell.line.row == *row && cell.line.against.as_ref() == against
            };
            paper.shown_cells().find(here).map(|cell| column.unit.factor() * cell.value)
        };
        let difference = match (find(&statement.left, None), find(right, None)) {
            (Some(left), Some(right)) => statement.measure.difference(left, right),
            _ => find(&statement.left, Some(right))?,
        };
        let model = &paper.models.get(model)?.label;
        Some(Reported { on: format!("{}, {model}", column.data), difference })
    };
    places.filter_map(at).collect()
}

/// Which of model, data and budget of the paper's own no run has, in words.
fn why_not_own(paper: &Paper, statement: &Statement, evidence: &Evidence) -> String {
    let setups = setups(paper, statement);
    if setups.is_empty() {
        return "what the paper ran it on is not known here".to_owned();
    }
    let runs = || evidence.with_fields().map(|(fields, _)| fields);
    let any = |fields: &[&str]| setups.iter().any(|setup| runs().any(|run| fields.iter().all(|field| setup.holds(field, run))));
    let models = statement.models.iter().filter_map(|name| paper.models.get(name).filter(|model| model.select.is_some()));
    let listed = models.map(|model| model.label.as_str()).collect::<Vec<_>>().join(" or ");
    match (any(&["model"]), any(&["model", "task"])) {
        (false, _) => format!("no run on the paper's own model, {listed}"),
        (true, false) => "no run of the paper's own model on its data".to_owned(),
        (true, true) => "the runs on the paper's own model and data have another budget, or lack a side".to_owned(),
    }
}

impl Sides {
    /// Which side has no run, or that none can be paired.
    fn why_not(&self, statement: &Statement, evidence: &Evidence) -> String {
        let [left, right] = self.are_there(statement.measure, evidence);
        match (left, right) {
            (false, false) => "no such runs".to_owned(),
            (false, true) => "no run of the left side".to_owned(),
            (true, false) => "no run of the right side".to_owned(),
            (true, true) => "both sides were run, but no two runs agree in all else".to_owned(),
        }
    }
}

/// The configuration of a run in figures: the row's runs among those given.
pub(crate) fn selects(row: &Selection, family: &Selection, run: &RunRow) -> bool {
    family.and(row).selects(&Fields::of(run))
}
