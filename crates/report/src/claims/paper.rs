//! A claims file: what a paper reports, and what it says, as data.

use super::measure::{self, Measure};
use super::selection::Selection;
use super::{fields, selection::is_like};
use peftbench_spec::{SpecError, locate, suggest, sweep_spec};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A paper's cells and statements. The names of rows, columns, grades and sources are the file's own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Which paper it is.
    pub paper: About,
    /// How good a source is: grade → what it means.
    #[serde(default)]
    pub grades: BTreeMap<String, Grade>,
    /// Where something is said, with the numbers that are reported there.
    #[serde(default)]
    pub sources: BTreeMap<String, Source>,
    /// What was trained, and how.
    #[serde(default)]
    pub rows: BTreeMap<String, Entry>,
    /// What it was trained from.
    #[serde(default)]
    pub models: BTreeMap<String, Entry>,
    /// On which data it was measured, and by what.
    #[serde(default)]
    pub columns: BTreeMap<String, Column>,
    /// What is claimed.
    #[serde(default)]
    pub statements: Vec<Statement>,
}

/// Which paper it is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// A short name.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Where to find it.
    pub reference: String,
    /// The runs that statements speak of, unless they say so themselves: the family of models.
    #[serde(default, rename = "where")]
    pub family: Selection,
}

/// How good a source is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grade {
    /// What it means.
    pub means: String,
    /// Whether figures and verdicts show numbers of this grade; those of other grades are only kept.
    pub shown: bool,
}

/// A table, a figure, a script: a place where something is said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Which it is.
    pub place: String,
    /// How good it is, where a number or a statement of it says nothing else.
    pub grade: String,
    /// The numbers, a line a row and model.
    #[serde(default)]
    pub cells: Vec<CellLine>,
}

/// The numbers of a row for a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellLine {
    /// The row.
    pub row: String,
    /// The model.
    pub model: String,
    /// Column → number, in the column's unit.
    pub values: BTreeMap<String, f64>,
    /// The row of which the numbers are the difference from, as a share of it, where that is what is reported.
    #[serde(default)]
    pub against: Option<String>,
    /// How good these numbers are, where not as the source.
    #[serde(default)]
    pub grade: Option<String>,
    /// What else is to be known.
    #[serde(default)]
    pub note: String,
}

/// A reported number with its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// Its line.
    pub line: &'a CellLine,
    /// Name of the column.
    pub column: &'a str,
    /// The number, in the column's unit.
    pub value: f64,
    /// How good it is.
    pub grade: &'a str,
}

/// A row of a paper's tables, or a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the paper calls it.
    pub label: String,
    /// The runs here that are the same; without one, none can be.
    #[serde(default)]
    pub select: Option<Selection>,
}

/// A column of a paper's tables.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The data.
    pub data: String,
    /// What was measured, in words: `METEOR`, `accuracy`.
    pub metric: String,
    /// The measure here that it is; without one the numbers are only kept.
    #[serde(default, deserialize_with = "measure::named_or_none")]
    pub measure: Option<&'static Measure>,
    /// The unit of the numbers.
    pub unit: Unit,
    /// The runs that have the paper's data and budget; without one, none can have.
    #[serde(default)]
    pub select: Option<Selection>,
}

/// The unit of a reported number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// From 0 to 100.
    Percent,
    /// A number as it is.
    One,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// What a number of it is times this, as the harness has it.
    pub fn factor(self) -> f64 {
        if self == Self::Percent { 0.01 } else { 1.0 }
    }

    /// Behind a number.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Percent => " %",
            Self::One => "",
            Self::Seconds => " s",
        }
    }
}

/// What a paper claims, as a test over runs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// A short name.
    pub id: String,
    /// The claim in words.
    pub text: String,
    /// Where it is said.
    pub source: String,
    /// How good that is, where not as the source.
    #[serde(default)]
    pub grade: Option<String>,
    /// The row that is said to be more or less.
    pub left: String,
    /// The row it is compared with; without one, the measure itself is compared with the margin.
    #[serde(default)]
    pub right: Option<String>,
    /// What is compared.
    #[serde(deserialize_with = "measure::named")]
    pub measure: &'static Measure,
    /// Which way.
    pub expect: Expect,
    /// The difference from which on the claim holds, of a relative measure as a share: 0 for "more", below 0 for "no less than".
    #[serde(default)]
    pub margin: f64,
    /// The runs it speaks of, instead of the paper's `where`.
    #[serde(default, rename = "where")]
    pub family: Option<Selection>,
    /// Fields that must be equal on both sides, though they belong to what differs: `method.r` of LoRA and DoRA.
    #[serde(default)]
    pub equal: Vec<String>,
    /// Neither side may train more than so many times the parameters of the other.
    #[serde(default)]
    pub max_parameter_ratio: Option<f64>,
    /// The models that show it.
    #[serde(default)]
    pub models: Vec<String>,
    /// The columns that show it.
    #[serde(default)]
    pub columns: Vec<String>,
}

/// The direction of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Left is higher.
    Higher,
    /// Left is lower.
    Lower,
}

/// Names that a run may have, which only the crates that build things know.
#[derive(Debug, Clone, Default)]
pub struct Names<'a> {
    /// PEFT methods.
    pub methods: Vec<&'a str>,
    /// Layer policies.
    pub policies: Vec<&'a str>,
    /// Tasks.
    pub tasks: Vec<&'a str>,
}

impl Paper {
    /// Reads and checks a claims file.
    ///
    /// # Errors
    /// Not TOML, an unknown key or field, or a name that stands for nothing: with file, line, and the nearest right name.
    pub fn read(path: &Path, names: &Names<'_>) -> Result<Self, SpecError> {
        let unreadable = |error: std::io::Error| SpecError::Unreadable { path: path.to_owned(), problem: error.to_string() };
        Self::parse(path, &std::fs::read_to_string(path).map_err(unreadable)?, names)
    }

    /// The same from the text of a file; `path` serves error messages only.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str, names: &Names<'_>) -> Result<Self, SpecError> {
        let value = sweep_spec::parse_toml(path, text)?;
        let read = || {
            let paper: Self = locate::deserialize(value)?;
            paper.check(names)?;
            Ok(paper)
        };
        read().map_err(|error: SpecError| error.located(path, text))
    }

    /// Every claims file in a folder, sorted by name.
    ///
    /// # Errors
    /// The folder or a file in it cannot be read, or is wrong.
    pub fn read_all(folder: &Path, names: &Names<'_>) -> Result<Vec<Self>, SpecError> {
        let unreadable = |error: std::io::Error| SpecError::Unreadable { path: folder.to_owned(), problem: error.to_string() };
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(unreadable)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        paths.iter().map(|path| Self::read(path, names)).collect()
    }

    fn check(&self, names: &Names<'_>) -> Result<(), SpecError> {
        let select = |place: String, select: Option<&Selection>| {
            select.map_or(Ok(()), |select| check_names(select, names)).map_err(|error| error.below(&place))
        };
        select("paper.where".to_owned(), Some(&self.paper.family))?;
        for (name, row) in &self.rows {
            select(format!("rows.{name}.select"), row.select.as_ref())?;
        }
        for (name, model) in &self.models {
            select(format!("models.{name}.select"), model.select.as_ref())?;
        }
        for (name, column) in &self.columns {
            select(format!("columns.{name}.select"), column.select.as_ref())?;
        }
        for (name, source) in &self.sources {
            known("grade", "grade", &source.grade, &self.grades).map_err(|error| error.below(&format!("sources.{name}")))?;
            for (index, line) in source.cells.iter().enumerate() {
                self.check_line(line).map_err(|error| error.below(&format!("sources.{name}.cells[{index}]")))?;
            }
        }
        for (index, statement) in self.statements.iter().enumerate() {
            let place = format!("statements[{index}]");
            select(format!("{place}.where"), statement.family.as_ref())?;
            self.check_statement(statement).map_err(|error| error.below(&place))?;
            if self.statements[..index].iter().any(|before| before.id == statement.id) {
                return Err(SpecError::at(format!("{place}.id"), format!("two statements are called `{}`", statement.id)));
            }
        }
        Ok(())
    }

    fn check_line(&self, line: &CellLine) -> Result<(), SpecError> {
        known("row", "row", &line.row, &self.rows)?;
        known("model", "model", &line.model, &self.models)?;
        line.values.keys().try_for_each(|column| known(&format!("values.{column}"), "column", column, &self.columns))?;
        line.against.iter().try_for_each(|row| known("against", "row", row, &self.rows))?;
        line.grade.iter().try_for_each(|grade| known("grade", "grade", grade, &self.grades))
    }

    fn check_statement(&self, statement: &Statement) -> Result<(), SpecError> {
        for (key, row) in [("left", Some(&statement.left)), ("right", statement.right.as_ref())] {
            let Some(row) = row else { continue };
            known(key, "row", row, &self.rows)?;
            if self.rows.get(row).is_none_or(|row| row.select.is_none()) {
                return Err(SpecError::at(key, format!("the row `{row}` has no `select`, so that no run can be meant")));
            }
        }
        known("source", "source", &statement.source, &self.sources)?;
        statement.grade.iter().try_for_each(|grade| known("grade", "grade", grade, &self.grades))?;
        statement.models.iter().try_for_each(|model| known("models", "model", model, &self.models))?;
        statement.columns.iter().try_for_each(|column| known("columns", "column", column, &self.columns))?;
        for field in &statement.equal {
            fields::check(field).map_err(|problem| SpecError::at("equal", problem))?;
        }
        match statement.max_parameter_ratio {
            Some(ratio) if ratio < 1.0 => Err(SpecError::at("max_parameter_ratio", format!("expected a number from 1, found {ratio}"))),
            _ => Ok(()),
        }
    }

    /// Every reported number.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.sources.iter().flat_map(|(source, said)| {
            said.cells.iter().flat_map(move |line| {
                let grade = line.grade.as_deref().unwrap_or(&said.grade);
                line.values.iter().map(move |(column, value)| Cell { source, line, column, value: *value, grade })
            })
        })
    }

    /// The reported numbers of a grade that is shown.
    pub fn shown_cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.cells().filter(|cell| self.grades.get(cell.grade).is_some_and(|grade| grade.shown))
    }
}

/// Whether the file has the thing of this kind that `key` names.
fn known<T>(key: &str, kind: &str, name: &str, there: &BTreeMap<String, T>) -> Result<(), SpecError> {
    is_one_of(key, kind, name, there.keys().map(String::as_str).collect())
}

fn is_one_of(key: &str, kind: &str, name: &str, there: Vec<&str>) -> Result<(), SpecError> {
    match there.contains(&name) {
        true => Ok(()),
        false => Err(SpecError::at(key, format!("there is no {kind} `{name}`; {}", suggest::hint(name, there)))),
    }
}

/// Whether methods, policies and tasks of a selection exist.
/// Whether there are such methods, policies and tasks as a selection names.
///
/// # Errors
/// Names the field, and the nearest name that there is.
pub fn check_names(select: &Selection, names: &Names<'_>) -> Result<(), SpecError> {
    let entries = select.names("method").flat_map(|name| name.split(" + "));
    let methods = entries.map(|name| ("method", name, &names.methods));
    let policies = select.names("policy").map(|name| ("policy", name, &names.policies));
    let tasks = select.names("task").map(|name| ("task", name, &names.tasks));
    for (kind, name, there) in methods.chain(policies).chain(tasks) {
        if !there.iter().any(|existing| is_like(existing, name)) {
            is_one_of(kind, kind, name, there.clone())?;
        }
    }
    Ok(())
}
