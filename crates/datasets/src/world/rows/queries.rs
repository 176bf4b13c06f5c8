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
        // What a prompt shows: databases of two splits may have one schema.
        let columns: Vec<&str> = tables.tables[0].columns.iter().map(|column| column.name()).collect();
        (format!("{} {}", query.question, columns.join(" ")), QueryRow { id, database, query, tables })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_split_has_databases_of_its_own_and_they_repeat() {
        let world = World::new(0);
        for difficulty in 0..=super::super::MOST_DIFFICULT {
            let rows = queries(&world, COUNTS, difficulty).unwrap();
            let scripts = |rows: &[QueryRow]| rows.iter().map(|row| row.tables.script()).collect::<HashSet<_>>();
            let (train, valid, test) = (scripts(&rows.train), scripts(&rows.valid), scripts(&rows.test));
            assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test));
            assert!(train.len() >= COUNTS.train / (QUESTIONS + 1));
            assert_eq!(queries(&world, COUNTS, difficulty).unwrap().test, rows.test);
        }
    }
}
