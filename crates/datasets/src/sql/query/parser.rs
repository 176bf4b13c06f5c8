//! The grammar, rule by rule as in `process_sql.py`. Every rule takes the place where it starts and gives the place behind it.

use super::*;
use crate::metrics::python;
use std::collections::HashMap;

const CLAUSES: [&str; 9] = ["select", "from", "where", "group", "order", "limit", "intersect", "union", "except"];
const JOINS: [&str; 3] = ["join", "on", "as"];
/// Nested queries; Python gives up at about three times as many.
const DEEPEST: usize = 100;

type Parsed<T> = Result<(usize, T), Unparsable>;

struct Parser<'a> {
    schema: &'a Schema,
    /// Alias, or table, to table.
    tables: HashMap<&'a str, &'a str>,
}

pub(super) fn parse(words: &[String], schema: &Schema) -> Result<Query, Unparsable> {
    let mut tables = HashMap::new();
    for at in (0..words.len()).filter(|&at| words[at] == "as") {
        let alias = words.get(at + 1).ok_or(Unparsable)?;
        tables.insert(alias.as_str(), words.get(at.wrapping_sub(1)).ok_or(Unparsable)?.as_str());
    }
    for (table, _) in &schema.tables {
        if tables.insert(table, table).is_some() {
            return Err(Unparsable);
        }
    }
    Parser { schema, tables }.query(words, 0, 0).map(|(_, query)| query)
}

fn word(words: &[String], at: usize) -> Result<&str, Unparsable> {
    words.get(at).map(String::as_str).ok_or(Unparsable)
}

fn is(words: &[String], at: usize, wanted: &str) -> bool {
    words.get(at).is_some_and(|word| word == wanted)
}

fn expect(words: &[String], at: usize, wanted: &str) -> Result<usize, Unparsable> {
    if is(words, at, wanted) { Ok(at + 1) } else { Err(Unparsable) }
}

fn starts_clause(word: &str) -> bool {
    CLAUSES.contains(&word)
}

fn ends_clause(word: &str) -> bool {
    starts_clause(word) || word == ")" || word == ";"
}

/// A bracket that opens here, and the place behind it.
fn opening(words: &[String], at: usize) -> Result<(bool, usize), Unparsable> {
    Ok(if word(words, at)? == "(" { (true, at + 1) } else { (false, at) })
}

fn closing(words: &[String], at: usize, open: bool) -> Result<usize, Unparsable> {
    if open { expect(words, at, ")") } else { Ok(at) }
}

impl<'a> Parser<'a> {
    fn column(&self, words: &[String], at: usize, defaults: &[String]) -> Parsed<String> {
        let name = word(words, at)?;
        if name == "*" {
            return Ok((at + 1, "__all__".to_owned()));
        }
        let key = match name.split_once('.') {
            Some((_, column)) if column.contains('.') => return Err(Unparsable),
            Some((alias, column)) => format!("{}.{column}", self.tables.get(alias).ok_or(Unparsable)?),
            None => {
                let has = |table: &&String| self.schema.columns(table).is_some_and(|columns| columns.iter().any(|column| column == name));
                format!("{}.{name}", defaults.iter().find(has).ok_or(Unparsable)?)
            }
        };
        Ok((at + 1, self.schema.id(&key).ok_or(Unparsable)?))
    }

    fn column_unit(&self, words: &[String], at: usize, defaults: &[String]) -> Parsed<ColumnUnit> {
        let (open, mut at) = opening(words, at)?;
        let mut distinct = false;
        let mut take_distinct = |at: usize| -> Result<usize, Unparsable> {
            distinct = word(words, at)? == "distinct";
            Ok(at + usize::from(distinct))
        };
        if let Some(aggregate) = place(&AGGREGATES, word(words, at)?) {
            at = take_distinct(expect(words, at + 1, "(")?)?;
            let (at, column) = self.column(words, at, defaults)?;
            // A bracket around the whole is left to the caller.
            return Ok((expect(words, at, ")")?, ColumnUnit { aggregate, column, distinct: Some(distinct) }));
        }
        at = take_distinct(at)?;
        let (at, column) = self.column(words, at, defaults)?;
        Ok((closing(words, at, open)?, ColumnUnit { aggregate: 0, column, distinct: Some(distinct) }))
    }

    fn value_unit(&self, words: &[String], at: usize, defaults: &[String]) -> Parsed<ValueUnit> {
        let (open, at) = opening(words, at)?;
        let (mut at, first) = self.column_unit(words, at, defaults)?;
        let (mut operator, mut second) = (0, None);
        if let Some(found) = words.get(at).and_then(|word| place(&UNIT_OPERATORS, word)) {
            let (behind, unit) = self.column_unit(words, at + 1, defaults)?;
            (at, operator, second) = (behind, found, Some(unit));
        }
        Ok((closing(words, at, open)?, ValueUnit { operator, first, second }))
    }

    fn operand(&self, words: &[String], start: usize, defaults: &[String], depth: usize) -> Parsed<Operand> {
        let (open, at) = opening(words, start)?;
        let first = word(words, at)?;
        let (at, value) = if first == "select" {
            let (at, query) = self.query(words, at, depth + 1)?;
            (at, Operand::Query(Box::new(query)))
        } else if first.contains('"') {
            (at + 1, Operand::Text(first.to_owned()))
        } else if let Some(number) = python::float(first) {
            (at + 1, Operand::Number(number))
        } else {
            let stops = |word: &String| matches!(word.as_str(), "," | ")" | "and") || starts_clause(word) || JOINS.contains(&word.as_str());
            let end = words[at..].iter().position(stops).map_or(words.len(), |length| at + length);
            // From the bracket on, if there is one: it then finds no end, and the query is not read.
            let (_, unit) = self.column_unit(&words[start..end], 0, defaults)?;
            (end, Operand::Column(unit))
        };
        Ok((closing(words, at, open)?, value))
    }

    fn conditions(&self, words: &[String], mut at: usize, defaults: &[String], depth: usize) -> Parsed<Conditions> {
        let mut conditions = Conditions::default();
        while at < words.len() {
            if conditions.units.len() > conditions.connectors.len() {
                // Two conditions with nothing between them: the evaluator reads on, and compares nonsense.
                return Err(Unparsable);
            }
            let (behind, left) = self.value_unit(words, at, defaults)?;
            let negated = word(words, behind)? == "not";
            at = behind + usize::from(negated);
            let operator = place(&CONDITION_OPERATORS, word(words, at)?).ok_or(Unparsable)?;
            let (behind, first) = self.operand(words, at + 1, defaults, depth)?;
            at = behind;
            let mut second = None;
            if CONDITION_OPERATORS[operator] == "between" {
                let (behind, operand) = self.operand(words, expect(words, at, "and")?, defaults, depth)?;
                (at, second) = (behind, Some(operand));
            }
            conditions.units.push(Condition { negated, operator, left, first: Some(first), second });
            match words.get(at).map(String::as_str) {
                Some(next) if ends_clause(next) || JOINS.contains(&next) => break,
                Some(next @ ("and" | "or")) => {
                    conditions.connectors.push(next.to_owned());
                    at += 1;
                }
                _ => {}
            }
        }
        Ok((at, conditions))
    }

    fn select(&self, words: &[String], at: usize, defaults: &[String]) -> Parsed<(bool, Vec<Selected>)> {
        let mut at = expect(words, at, "select")?;
        let distinct = is(words, at, "distinct");
        at += usize::from(distinct);
        let mut selected = Vec::new();
        while words.get(at).is_some_and(|word| !starts_clause(word)) {
            let aggregate = place(&AGGREGATES, &words[at]);
            let (behind, value) = self.value_unit(words, at + usize::from(aggregate.is_some()), defaults)?;
            selected.push(Selected { aggregate: aggregate.unwrap_or(0), value });
            at = behind + usize::from(is(words, behind, ","));
        }
        Ok((at, (distinct, selected)))
    }

    fn from(&self, words: &[String], start: usize, depth: usize) -> Parsed<(Vec<TableUnit>, Conditions, Vec<String>)> {
        let mut at = 1 + start + words.get(start..).unwrap_or_default().iter().position(|word| word == "from").ok_or(Unparsable)?;
        let (mut tables, mut joins, mut defaults) = (Vec::new(), Conditions::default(), Vec::new());
        while at < words.len() {
            let (open, inside) = opening(words, at)?;
            at = inside;
            if word(words, at)? == "select" {
                let (behind, query) = self.query(words, at, depth + 1)?;
                tables.push(TableUnit::Query(Box::new(query)));
                at = behind;
            } else {
                at += usize::from(is(words, at, "join"));
                let table = self.tables.get(word(words, at)?).ok_or(Unparsable)?;
                tables.push(TableUnit::Table(self.schema.id(table).ok_or(Unparsable)?));
                defaults.push((*table).to_owned());
                at += if is(words, at + 1, "as") { 3 } else { 1 };
            }
            if is(words, at, "on") {
                let (behind, more) = self.conditions(words, at + 1, &defaults, depth)?;
                if !joins.units.is_empty() {
                    joins.connectors.push("and".to_owned());
                }
                joins.units.extend(more.units);
                joins.connectors.extend(more.connectors);
                at = behind;
            }
            at = closing(words, at, open)?;
            if words.get(at).is_some_and(|word| ends_clause(word)) {
                break;
            }
        }
        Ok((at, (tables, joins, defaults)))
    }

    /// Conditions behind `keyword`, if it stands here.
    fn clause(&self, words: &[String], at: usize, keyword: &str, defaults: &[String], depth: usize) -> Parsed<Conditions> {
        match is(words, at, keyword) {
            true => self.conditions(words, at + 1, defaults, depth),
            false => Ok((at, Conditions::default())),
        }
    }

    fn group_by(&self, words: &[String], at: usize, defaults: &[String]) -> Parsed<Vec<ColumnUnit>> {
        let mut units = Vec::new();
        if !is(words, at, "group") {
            return Ok((at, units));
        }
        let mut at = expect(words, at + 1, "by")?;
        while words.get(at).is_some_and(|word| !ends_clause(word)) {
            let (behind, unit) = self.column_unit(words, at, defaults)?;
            units.push(unit);
            at = behind;
            if !is(words, at, ",") {
                break;
            }
            at += 1;
        }
        Ok((at, units))
    }

    fn order_by(&self, words: &[String], at: usize, defaults: &[String]) -> Parsed<Option<OrderBy>> {
        if !is(words, at, "order") {
            return Ok((at, None));
        }
        let mut order = OrderBy { direction: "asc".to_owned(), values: Vec::new() };
        let mut at = expect(words, at + 1, "by")?;
        while words.get(at).is_some_and(|word| !ends_clause(word)) {
            let (behind, value) = self.value_unit(words, at, defaults)?;
            order.values.push(value);
            at = behind;
            if let Some(direction @ ("desc" | "asc")) = words.get(at).map(String::as_str) {
                direction.clone_into(&mut order.direction);
                at += 1;
            }
            if !is(words, at, ",") {
                break;
            }
            at += 1;
        }
        Ok((at, Some(order)))
    }

    fn query(&self, words: &[String], start: usize, depth: usize) -> Parsed<Query> {
        if depth > DEEPEST {
            return Err(Unparsable);
        }
        let (open, at) = opening(words, start)?;
        let (behind, (from, joins, defaults)) = self.from(words, start, depth)?;
        let (_, (distinct, select)) = self.select(words, at, &defaults)?;
        let (at, filter) = self.clause(words, behind, "where", &defaults, depth)?;
        let (at, group_by) = self.group_by(words, at, &defaults)?;
        let (at, having) = self.clause(words, at, "having", &defaults, depth)?;
        let (mut at, order_by) = self.order_by(words, at, &defaults)?;
        let limit = is(words, at, "limit");
        if limit {
            // Which number it is does not matter to the evaluator.
            word(words, at + 1)?;
            at += 2;
        }
        let skip = |mut at: usize| {
            while is(words, at, ";") {
                at += 1;
            }
            at
        };
        at = skip(closing(words, skip(at), open)?);
        let (distinct, intersect, except, union) = (Some(distinct), None, None, None);
        let mut query = Query { distinct, select, from, joins, filter, group_by, order_by, having, limit, intersect, except, union };
        let set = words.get(at).map(String::as_str).unwrap_or_default();
        if matches!(set, "intersect" | "except" | "union") {
            let (behind, other) = self.query(words, at + 1, depth + 1)?;
            let place = match set {
                "intersect" => &mut query.intersect,
                "except" => &mut query.except,
                _ => &mut query.union,
            };
            *place = Some(Box::new(other));
            at = behind;
        }
        Ok((at, query))
    }
}
