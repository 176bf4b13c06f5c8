//! Any table of a sweep as text, for other programs and for papers.

use crate::data::Data;
use crate::error::{ReportError, Result};
use crate::tables::{Heading, TABLES, TextTable, latex, markdown};
use peftbench_results::rows::{Column, Kind};
use peftbench_results::{Collected, tables};
use peftbench_spec::suggest;
use serde_json::{Map, Value};
use std::path::Path;

/// A format of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// A JSON object a line.
    JsonLines,
    /// A GitHub Markdown table.
    Markdown,
    /// A LaTeX table.
    Latex,
}

/// Names of all tables: those of the report, as printed there, and the Parquet tables, value by value.
pub fn names() -> Vec<&'static str> {
    TABLES.iter().map(|(name, _)| *name).chain(tables::ALL.iter().map(|(name, _)| *name)).collect()
}

/// The table `name` of a sweep, of which [`current_tables`](crate::current_tables) has `collected` the runs. `columns` are those to show, in their order; all where there are none.
///
/// # Errors
/// There is no such table or column, there are no results yet, or a file cannot be read.
pub fn export(sweep_dir: &Path, collected: &Collected, name: &str, columns: &[String], format: ExportFormat) -> Result<String> {
    let mut sheet = Sheet::read(sweep_dir, collected, name)?;
    if !columns.is_empty() {
        sheet = sheet.with_columns(name, columns)?;
    }
    Ok(match format {
        ExportFormat::Csv => sheet.printed().csv().text(),
        ExportFormat::JsonLines => sheet.lines(),
        ExportFormat::Markdown => markdown(&sheet.printed()),
        ExportFormat::Latex => latex(&sheet.printed()),
    })
}

/// A table of values.
struct Sheet {
    caption: String,
    note: String,
    columns: Vec<Heading>,
    rows: Vec<Vec<Value>>,
}

impl Sheet {
    fn read(sweep_dir: &Path, collected: &Collected, name: &str) -> Result<Self> {
        if let Some((_, read)) = tables::ALL.iter().find(|(known, _)| *known == name) {
            let table = read(sweep_dir)?;
            let row = |mut row: Map<String, Value>| {
                table.columns.iter().map(|column| row.get_mut(column.name).map_or(Value::Null, Value::take)).collect()
            };
            return Ok(Self {
                caption: format!("The table {name}."),
                note: String::new(),
                columns: table.columns.iter().map(heading).collect(),
                rows: table.rows.into_iter().map(row).collect(),
            });
        }
        let Some((_, make)) = TABLES.iter().find(|(known, _)| *known == name) else {
            return Err(ReportError::UnknownTable { asked: name.to_owned(), hint: suggest::hint(name, names()) });
        };
        let Some(TextTable { caption, columns, rows, note }) = make(&Data::read(sweep_dir, collected)?) else {
            return Err(ReportError::EmptyTable { table: name.to_owned(), path: sweep_dir.to_owned() });
        };
        let rows = rows.into_iter().map(|row| row.into_iter().map(Value::from).collect()).collect();
        Ok(Self { caption, note, columns, rows })
    }

    fn with_columns(self, table: &str, asked: &[String]) -> Result<Self> {
        let known = || self.columns.iter().map(|column| column.title.as_str());
        let place = |asked: &String| {
            known().position(|title| title == asked).ok_or_else(|| ReportError::UnknownColumn {
                table: table.to_owned(),
                asked: asked.clone(),
                hint: suggest::hint(asked, known().collect::<Vec<_>>()),
            })
        };
        let places = asked.iter().map(place).collect::<Result<Vec<usize>>>()?;
        let rows = self.rows.iter().map(|row| places.iter().map(|&at| row[at].clone()).collect()).collect();
        Ok(Self { columns: places.iter().map(|&at| self.columns[at].clone()).collect(), rows, ..self })
    }

    fn printed(self) -> TextTable {
        let field = |value: Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text,
            value => value.to_string(),
        };
        let rows = self.rows.into_iter().map(|row| row.into_iter().map(field).collect()).collect();
        TextTable { caption: self.caption, columns: self.columns, rows, note: self.note }
    }

    fn lines(self) -> String {
        let object = |row: Vec<Value>| {
            let fields = self.columns.iter().map(|column| column.title.clone()).zip(row);
            format!("{}\n", Value::Object(fields.collect()))
        };
        self.rows.into_iter().map(object).collect()
    }
}

fn heading(column: &Column) -> Heading {
    Heading { title: column.name.to_owned(), numeric: matches!(column.kind, Kind::Count | Kind::Number) }
}
