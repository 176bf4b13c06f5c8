//! A query as the official evaluator parses it (`process_sql.py` of `taoyds/spider`): the subset of SQL that Spider's queries use.
//!
//! The parser is a faithful copy of its rules, narrow as they are: what it cannot read there it cannot read here. Numbers, operators and
//! aggregates are told apart by their places in its lists, so that what it takes for equal is equal here.

mod parser;

use super::Schema;
use super::tokens::tokenize;

/// Operators of conditions.
pub(super) const CONDITION_OPERATORS: [&str; 12] = ["not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists"];
/// Operators between two columns.
pub(super) const UNIT_OPERATORS: [&str; 5] = ["none", "-", "+", "*", "/"];
/// Aggregates.
pub(super) const AGGREGATES: [&str; 6] = ["none", "max", "min", "count", "sum", "avg"];

/// A query that the evaluator's grammar does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the query is not of the form that Spider's evaluator reads")]
pub struct Unparsable;

/// A query, clause by clause.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub(super) distinct: Option<bool>,
    pub(super) select: Vec<Selected>,
    pub(super) from: Vec<TableUnit>,
    pub(super) joins: Conditions,
    pub(super) filter: Conditions,
    pub(super) group_by: Vec<ColumnUnit>,
    pub(super) order_by: Option<OrderBy>,
    pub(super) having: Conditions,
    pub(super) limit: bool,
    pub(super) intersect: Option<Box<Query>>,
    pub(super) except: Option<Box<Query>>,
    pub(super) union: Option<Box<Query>>,
}

/// A column or an expression of two, under an aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Selected {
    pub(super) aggregate: usize,
    pub(super) value: ValueUnit,
}

/// A column under an aggregate of its own. `distinct` is forgotten where the comparison does not look at it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ColumnUnit {
    pub(super) aggregate: usize,
    pub(super) column: String,
    pub(super) distinct: Option<bool>,
}

/// One column, or two with an operator between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ValueUnit {
    pub(super) operator: usize,
    pub(super) first: ColumnUnit,
    pub(super) second: Option<ColumnUnit>,
}

/// What a condition compares with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Number(f64),
    Text(String),
    Column(ColumnUnit),
    Query(Box<Query>),
}

/// One condition. An operand that the comparison does not look at is `None`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub(super) negated: bool,
    pub(super) operator: usize,
    pub(super) left: ValueUnit,
    pub(super) first: Option<Operand>,
    pub(super) second: Option<Operand>,
}

/// Conditions, and the `and` and `or` between them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conditions {
    pub(super) units: Vec<Condition>,
    pub(super) connectors: Vec<String>,
}

/// A table, by its identifier, or a query in its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TableUnit {
    Table(String),
    Query(Box<Query>),
}

/// Columns to sort by, all in the last direction named.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OrderBy {
    pub(super) direction: String,
    pub(super) values: Vec<ValueUnit>,
}

impl Query {
    /// Reads `query`, whose names are those of `schema`.
    pub fn parse(query: &str, schema: &Schema) -> Result<Self, Unparsable> {
        parser::parse(&tokenize(query)?, schema)
    }

    /// All conditions but those of nested queries: of joins, of WHERE and of HAVING.
    pub(super) fn conditions(&self) -> impl Iterator<Item = &Conditions> {
        [&self.joins, &self.filter, &self.having].into_iter()
    }
}

/// The place of an operator in its list.
pub(super) fn place(list: &[&str], word: &str) -> Option<usize> {
    list.iter().position(|&known| known == word)
}
