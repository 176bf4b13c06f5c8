//! SQL: databases that queries run against in a sandbox, and the comparison of queries and of their results by the rules of Spider's
//! official evaluators (Yu et al. 2018; Zhong et al. 2020: `taoyds/spider` and `taoyds/test-suite-sql-eval`).
//!
//! * [`Database`]: a file or a script, and its foreign keys; [`spider_databases`] reads Spider's.
//! * [`Sandbox`]: runs one hostile query, read-only, within limits.
//! * [`results`]: whether two results say the same. [`query`], [`exact_set`] and [`hardness`]: queries as the evaluator parses, compares
//!   and grades them.

mod database;
pub mod exact_set;
pub mod hardness;
pub mod query;
pub mod results;
mod sandbox;
mod tokens;

pub use database::{Database, Schema, spider_databases};
pub use sandbox::{Limits, QueryError, Rows, Sandbox, Value};
