//! Exact-set match (`eval_exact_match` of the official evaluator): clause by clause, without order where SQL has none, without values,
//! and with columns that a foreign key makes the same taken for one.

use super::Database;
use super::query::{CONDITION_OPERATORS, ColumnUnit, Conditions, Operand, Query, TableUnit, ValueUnit};
use std::collections::{BTreeSet, HashMap};

/// Whether `predicted` asks what `gold` asks of `database`.
pub fn same_query(gold: &Query, predicted: &Query, database: &Database) -> bool {
    let prepared = |query: &Query| {
        let mut query = query.clone();
        forget_values(&mut query);
        let tables = table_prefixes(&query);
        unify(&tables, &mut query, &database.same_column);
        query
    };
    matches(&prepared(predicted), &prepared(gold))
}

impl Query {
    fn set_operations(&mut self) -> impl Iterator<Item = &mut Query> {
        [&mut self.intersect, &mut self.except, &mut self.union].into_iter().filter_map(Option::as_deref_mut)
    }
}

/// The tables of FROM, by their identifiers without the closing `__`.
fn table_prefixes(query: &Query) -> Vec<String> {
    let prefix = |table: &TableUnit| match table {
        TableUnit::Table(id) => id.strip_suffix("__").map(str::to_owned),
        TableUnit::Query(_) => None,
    };
    query.from.iter().filter_map(prefix).collect()
}

/// Values in conditions do not count. Queries in FROM keep theirs.
fn forget_values(query: &mut Query) {
    for conditions in [&mut query.joins, &mut query.having, &mut query.filter] {
        for condition in &mut conditions.units {
            for operand in [&mut condition.first, &mut condition.second] {
                match operand {
                    Some(Operand::Query(nested)) => forget_values(nested),
                    other => *other = None,
                }
            }
        }
    }
    query.set_operations().for_each(forget_values);
}

/// Columns of the outermost query's tables are replaced by the first of their class, and DISTINCT does not count. Queries in conditions and
/// in FROM stay as they are.
fn unify(tables: &[String], query: &mut Query, same: &HashMap<String, String>) {
    query.distinct = None;
    let of_tables = |column: &str| column.split_once('.').is_some_and(|(table, _)| tables.iter().any(|prefix| prefix == table));
    let column = |unit: &mut ColumnUnit| {
        unit.distinct = None;
        if let Some(first) = same.get(&unit.column).filter(|_| of_tables(&unit.column)) {
            unit.column.clone_from(first);
        }
    };
    let value = |unit: &mut ValueUnit| {
        column(&mut unit.first);
        unit.second.iter_mut().for_each(column);
    };
    query.select.iter_mut().for_each(|selected| value(&mut selected.value));
    for conditions in [&mut query.joins, &mut query.filter, &mut query.having] {
        conditions.units.iter_mut().for_each(|condition| value(&mut condition.left));
    }
    query.group_by.iter_mut().for_each(column);
    query.order_by.iter_mut().flat_map(|order| &mut order.values).for_each(value);
    for nested in query.set_operations() {
        unify(tables, nested, same);
    }
}

fn matches(predicted: &Query, gold: &Query) -> bool {
    same_multiset(&predicted.select, &gold.select)
        && same_multiset(&predicted.filter.units, &gold.filter.units)
        && same_groups(predicted, gold)
        && same_order(predicted, gold)
        && connectors(&predicted.filter) == connectors(&gold.filter)
        && [(&predicted.intersect, &gold.intersect), (&predicted.except, &gold.except), (&predicted.union, &gold.union)].into_iter().all(
            |pair| match pair {
                (Some(predicted), Some(gold)) => matches(predicted, gold),
                (predicted, gold) => predicted.is_none() && gold.is_none(),
            },
        )
        && keywords(predicted) == keywords(gold)
        && (gold.from.is_empty() || same_tables(&predicted.from, &gold.from))
}

fn same_multiset<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    let count = |list: &[T], item: &T| list.iter().filter(|other| *other == item).count();
    a.len() == b.len() && a.iter().all(|item| count(a, item) == count(b, item))
}

/// GROUP BY by the names of its columns alone; with HAVING, by whole columns in order.
fn same_groups(predicted: &Query, gold: &Query) -> bool {
    let names = |query: &Query| -> Vec<String> {
        query.group_by.iter().map(|unit| unit.column.split('.').nth(1).unwrap_or(&unit.column).to_owned()).collect()
    };
    let columns = |query: &Query| -> Vec<String> { query.group_by.iter().map(|unit| unit.column.clone()).collect() };
    let same_names = same_multiset(&names(predicted), &names(gold));
    same_names && (gold.group_by.is_empty() || (columns(predicted) == columns(gold) && predicted.having == gold.having))
}

fn same_order(predicted: &Query, gold: &Query) -> bool {
    predicted.order_by == gold.order_by && (gold.order_by.is_none() || predicted.limit == gold.limit)
}

fn connectors(conditions: &Conditions) -> BTreeSet<&str> {
    conditions.connectors.iter().map(String::as_str).collect()
}

/// The evaluator sorts tables, and cannot sort two queries among them: nothing matches those.
fn same_tables(predicted: &[TableUnit], gold: &[TableUnit]) -> bool {
    let nested = |tables: &[TableUnit]| tables.iter().filter(|table| matches!(table, TableUnit::Query(_))).count();
    nested(predicted) < 2 && nested(gold) < 2 && same_multiset(predicted, gold)
}

fn keywords(query: &Query) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let present = [
        ("where", !query.filter.units.is_empty()),
        ("group", !query.group_by.is_empty()),
        ("having", !query.having.units.is_empty()),
        ("order", query.order_by.is_some()),
        ("limit", query.limit),
        ("except", query.except.is_some()),
        ("union", query.union.is_some()),
        ("intersect", query.intersect.is_some()),
        ("or", query.conditions().any(|conditions| conditions.connectors.iter().any(|word| word == "or"))),
        ("not", query.conditions().any(|conditions| conditions.units.iter().any(|unit| unit.negated))),
    ];
    found.extend(present.into_iter().filter(|(_, present)| *present).map(|(word, _)| word));
    found.extend(query.order_by.iter().map(|order| order.direction.as_str()));
    let operators = query.conditions().flat_map(|conditions| &conditions.units).map(|unit| CONDITION_OPERATORS[unit.operator]);
    found.extend(operators.filter(|operator| matches!(*operator, "in" | "like")));
    found
}
