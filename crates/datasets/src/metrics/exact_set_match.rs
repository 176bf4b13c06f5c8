//! Spider's exact-set match: the fraction of queries that ask the same, clause by clause.

use super::standard_error::{proportion, proportion_of};
use super::{Item, Metric, MetricEntry, NoOptions, Scores};
use crate::error::{DataError, Result};
use crate::sql::exact_set::same_query;
use crate::sql::hardness::Hardness;
use crate::sql::query::Query;
use crate::sql::{Database, Limits, Sandbox, Schema};
use peftbench_spec::event::MetricValue;
use std::collections::HashMap;

/// `exact_set_match`.
pub const EXACT_SET_MATCH: MetricEntry = MetricEntry {
    name: "exact_set_match",
    summary: "fraction of SQL queries that equal the reference clause by clause (Spider)",
    higher_is_better: true,
    range: "0 to 1",
    definition: "The fraction of queries whose clauses are those of the first reference: as sets where SQL has no order, without the values in \
                 conditions, with columns joined by foreign keys taken for one. Beside it, the fraction within each hardness class \
                 (`exact_set_match.easy`, …). Standard error √(p(1−p)/n).",
    reference: "Spider's official evaluator, `--etype match`",
    options: &[],
    build: |metric| metric.parse_options::<NoOptions>().map(|_| Box::new(ExactSetMatch) as Box<dyn Metric>),
    resolve: |metric| metric.resolved(&metric.parse_options::<NoOptions>()?),
};

struct ExactSetMatch;

impl Metric for ExactSetMatch {
    fn name(&self) -> &'static str {
        EXACT_SET_MATCH.name
    }

    fn score(&self, items: &[Item<'_>]) -> Result<Scores> {
        let mut schemas: HashMap<&str, Schema> = HashMap::new();
        let (mut right, mut classes) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let database = database_of(self.name(), index, item)?;
            if !schemas.contains_key(&*database.name) {
                schemas.insert(&database.name, Sandbox::open(database, Limits::default())?.schema().clone());
            }
            let schema = &schemas[&*database.name];
            let gold = Query::parse(item.label(), schema).map_err(|error| DataError::GoldQuery {
                item: index,
                query: item.label().to_owned(),
                problem: error.to_string(),
            })?;
            right.push(Query::parse(item.prediction, schema).is_ok_and(|predicted| same_query(&gold, &predicted, database)));
            classes.push(Some(Hardness::of(&gold)));
        }
        let mut scores = proportion_of(self.name(), right.iter().copied());
        scores.values.extend(by_hardness(self.name(), &right, &classes));
        Ok(scores)
    }
}

/// The database of an item.
pub(super) fn database_of<'a>(metric: &'static str, item: usize, of: &Item<'a>) -> Result<&'a Database> {
    of.database.ok_or(DataError::ItemLacks { metric, item, what: "the database that its query is asked of" })
}

/// The fraction that is right within each class that occurs.
pub(super) fn by_hardness(name: &str, right: &[bool], classes: &[Option<Hardness>]) -> Vec<MetricValue> {
    let of_class = |class: Hardness| {
        let of_it: Vec<bool> = right.iter().zip(classes).filter(|(_, of)| **of == Some(class)).map(|(&right, _)| right).collect();
        let hits = of_it.iter().filter(|&&right| right).count();
        (!of_it.is_empty()).then(|| proportion(&format!("{name}.{}", class.name()), hits, of_it.len()))
    };
    Hardness::ALL.into_iter().filter_map(of_class).collect()
}
