//! Questions about tables, with the queries that answer them.

use super::super::World;
use super::super::tables::{Database, Query};
use super::{Counts, Result, SplitRows, draw_splits};
use peftbench_spec::seed::{Stream, stream};

/// A question about a database of its split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryRow {
    pub(crate) id: String,
    /// Name of the database; no split has one of another's.
    pub(crate) database: String,
    pub(crate) query: Query,
    pub(crate) tables: Database,
}

/// Questions that are asked of one database.
const QUESTIONS: usize = 4;

/// Questions about small databases; see [`Database::ask`] for the levels of difficulty.
pub(crate) fn queries(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<QueryRow>> {
    draw_splits(world, "queries", counts, |draws, id, index| {
        let split = id.split(':').next().unwrap_or_default();
        let database = format!("{split}_{}", index / QUESTIONS);
        let mut own: Stream = stream(world.seed, &format!("world/queries/{database}"));
        let tables = Database::draw(world, &mut own, difficulty);
        let query = tables.ask(draws, difficulty);
        (format!("{database} {}", query.question), QueryRow { id, database, query, tables })
    })
}
