//! How hard a query is, by the official evaluator's count of its parts (`eval_hardness`).

use super::query::{CONDITION_OPERATORS, Operand, Query};

/// Spider's four classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hardness {
    /// One clause at most.
    Easy,
    /// A few clauses.
    Medium,
    /// Many clauses, or one nested query.
    Hard,
    /// The rest.
    Extra,
}

impl Hardness {
    /// Every class, the easiest first.
    pub const ALL: [Self; 4] = [Self::Easy, Self::Medium, Self::Hard, Self::Extra];

    /// Its name in Spider and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
            Self::Extra => "extra",
        }
    }

    /// The class of `query`.
    pub fn of(query: &Query) -> Self {
        match (clauses(query), nested(query), others(query)) {
            (0..=1, 0, 0) => Self::Easy,
            (0..=1, 0, 0..=2) | (0..=2, 0, 0..=1) => Self::Medium,
            (0..=2, 0, 3..) | (3, 0, 0..=2) | (0..=1, 0..=1, 0) => Self::Hard,
            _ => Self::Extra,
        }
    }
}

/// WHERE, GROUP BY, ORDER BY, LIMIT, each join, OR and LIKE.
fn clauses(query: &Query) -> usize {
    let present = [!query.filter.units.is_empty(), !query.group_by.is_empty(), query.order_by.is_some(), query.limit];
    let ors = query.conditions().flat_map(|conditions| &conditions.connectors).filter(|word| *word == "or").count();
    let likes =
        query.conditions().flat_map(|conditions| &conditions.units).filter(|unit| CONDITION_OPERATORS[unit.operator] == "like").count();
    present.into_iter().filter(|&present| present).count() + query.from.len().saturating_sub(1) + ors + likes
}

/// Queries in conditions and behind INTERSECT, EXCEPT and UNION; those in FROM do not count.
fn nested(query: &Query) -> usize {
    let operands = query.conditions().flat_map(|conditions| &conditions.units).flat_map(|unit| [&unit.first, &unit.second]);
    let in_conditions = operands.filter(|operand| matches!(operand, Some(Operand::Query(_)))).count();
    in_conditions + [&query.intersect, &query.except, &query.union].into_iter().flatten().count()
}

/// More than one aggregate, selected column, condition or grouped column.
fn others(query: &Query) -> usize {
    let order =
        query.order_by.iter().flat_map(|order| &order.values).flat_map(|value| [Some(&value.first), value.second.as_ref()]).flatten();
    // The evaluator counts the first field of whatever it finds: a NOT counts as an aggregate, and so does an AND or OR in HAVING.
    let aggregates = query.select.iter().filter(|selected| selected.aggregate > 0).count()
        + query.filter.units.iter().filter(|unit| unit.negated).count()
        + query.group_by.iter().chain(order).filter(|unit| unit.aggregate > 0).count()
        + query.having.units.iter().filter(|unit| unit.negated).count()
        + query.having.connectors.len();
    let conditions = query.filter.units.len() + query.filter.connectors.len();
    [aggregates, query.select.len(), conditions, query.group_by.len()].into_iter().filter(|&count| count > 1).count()
}
