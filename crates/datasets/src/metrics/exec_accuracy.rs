//! Execution accuracy: the fraction of queries that give what the reference gives.

use super::exact_set_match::{by_hardness, database_of};
use super::standard_error::proportion_of;
use super::{Item, Metric, MetricEntry, Scores};
use crate::error::{DataError, Result};
use crate::sql::hardness::Hardness;
use crate::sql::query::Query;
use crate::sql::results::same_result;
use crate::sql::{Limits, Sandbox};
use peftbench_spec::{Component, SpecError};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::LazyLock;

/// `exec_accuracy`.
pub const EXEC_ACCURACY: MetricEntry = MetricEntry {
    name: "exec_accuracy",
    summary: "fraction of SQL queries that give the reference's rows (Spider)",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The fraction of queries whose rows are those of a reference, run on the item's database: as often, under some order of the \
                 columns, and in order where the reference has ORDER BY. DISTINCT is dropped on both sides unless kept, as the evaluator \
                 does. A query that fails, does anything but select, or goes beyond a limit is wrong; so is one with several statements, of \
                 which the evaluator runs the first. Beside it, the fraction within each hardness class of the first reference \
                 (`exec_accuracy.easy`, …). Standard error √(p(1−p)/n).",
    reference: "Spider's official test-suite evaluator, `--etype exec`, on one database",
    options: &[
        ("keep_distinct", "whether DISTINCT counts"),
        ("time_limit_seconds", "after how long a query is cut off"),
        ("max_rows", "how many rows a query may give"),
    ],
    build: |metric| Ok(Box::new(ExecAccuracy { options: Options::parse(metric)? })),
    resolve: |metric| metric.resolved(&Options::parse(metric)?),
};

/// Options of `exec_accuracy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    keep_distinct: bool,
    time_limit_seconds: f64,
    max_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        let limits = Limits::default();
        Self { keep_distinct: false, time_limit_seconds: limits.seconds, max_rows: limits.rows }
    }
}

impl Options {
    fn parse(metric: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = metric.parse_options()?;
        match (options.time_limit_seconds, options.max_rows) {
            (seconds, _) if !(seconds > 0.0 && seconds <= 3600.0) => {
                Err(SpecError::at("time_limit_seconds", format!("expected a number above 0, at most 3600, found {seconds}")))
            }
            (_, 0) => Err(SpecError::at("max_rows", "expected at least 1, found 0")),
            _ => Ok(options),
        }
    }

    /// The query as it is run.
    fn prepare(&self, query: &str) -> String {
        let query = query.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=");
        let query = CURRENT_YEAR.iter().fold(query, |query, rule| rule.replace_all(&query, "2020").into_owned());
        if self.keep_distinct { query } else { remove_distinct(&query) }
    }
}

/// What MySQL calls this year, which the evaluator takes for 2020. One expression, or none were it wrong.
static CURRENT_YEAR: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[yY][eE][aA][rR]\s*\(\s*[cC][uU][rR][dD][aA][tT][eE]\s*\(\s*\)\s*\)\s*").ok());

/// Drops every word `distinct` outside quotation marks and comments.
fn remove_distinct(query: &str) -> String {
    let mut out = String::with_capacity(query.len());
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let end = match first {
            '\'' | '"' | '`' => rest[1..].find(first).map(|at| at + 2),
            '-' if rest.starts_with("--") => rest.find('\n'),
            '/' if rest.starts_with("/*") => rest.find("*/").map(|at| at + 2),
            c if is_word(c) => rest.find(|c| !is_word(c)),
            c => Some(c.len_utf8()),
        };
        let (part, behind) = rest.split_at(end.unwrap_or(rest.len()));
        if !part.eq_ignore_ascii_case("distinct") {
            out.push_str(part);
        }
        rest = behind;
    }
    out
}

struct ExecAccuracy {
    options: Options,
}

impl ExecAccuracy {
    fn is_right(&self, sandbox: &Sandbox, index: usize, item: &Item<'_>) -> Result<bool> {
        let predicted = sandbox.run(&self.options.prepare(item.prediction));
        let mut right = false;
        for reference in item.references {
            // The reference is run in any case: one that fails would otherwise go unnoticed.
            let gold = sandbox.run(&self.options.prepare(reference)).map_err(|error| DataError::GoldQuery {
                item: index,
                query: reference.clone(),
                problem: error.to_string(),
            })?;
            let ordered = reference.to_lowercase().contains("order by");
            right |= predicted.as_ref().is_ok_and(|predicted| same_result(&gold, predicted, ordered));
        }
        Ok(right)
    }
}

impl Metric for ExecAccuracy {
    fn name(&self) -> &'static str {
        EXEC_ACCURACY.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let limits = Limits { seconds: self.options.time_limit_seconds, rows: self.options.max_rows, ..Limits::default() };
        let mut sandboxes: HashMap<&str, Sandbox> = HashMap::new();
        let (mut right, mut classes) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let database = database_of(self.name(), index, item)?;
            if !sandboxes.contains_key(&*database.name) {
                sandboxes.insert(&database.name, Sandbox::open(database, limits)?);
            }
            let sandbox = &sandboxes[&*database.name];
            right.push(self.is_right(sandbox, index, item)?);
            classes.push(Query::parse(item.label(), sandbox.schema()).ok().map(|gold| Hardness::of(&gold)));
        }
        let mut scores = proportion_of(self.name(), right.iter().copied());
        scores.values.extend(by_hardness(self.name(), &right, &classes));
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_prepared_as_the_evaluator_does() {
        let dropping = Options::default();
        assert_eq!(
            dropping.prepare("SELECT DISTINCT a, 'distinct', \"distinct\" FROM distinct_t"),
            "SELECT  a, 'distinct', \"distinct\" FROM distinct_t"
        );
        assert_eq!(
            dropping.prepare("select count(Distinct t.a) -- distinct\n, 'it''s distinct'"),
            "select count( t.a) -- distinct\n, 'it''s distinct'"
        );
        assert_eq!(dropping.prepare("a > = 1 and b = Year( CurDate() )"), "a >= 1 and b = 2020");
        assert_eq!(Options { keep_distinct: true, ..dropping }.prepare("select distinct 'é"), "select distinct 'é");
        assert!(CURRENT_YEAR.is_some());
    }
}
