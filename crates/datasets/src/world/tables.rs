//! Tables of creatures, and questions about them with the SQL that answers.

use super::World;
use super::facts::Attribute;
use super::grammar::noun;
use crate::draw;
use peftbench_spec::seed::Stream;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// The creature's name, or a place's.
    Name,
    /// One of its attributes; a list is nobody's fact, so that values are drawn.
    Attribute(Attribute),
    /// A number, by its noun.
    Number(&'static str),
}

impl Column {
    /// Its name in a schema and in text.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Attribute(attribute) => noun(attribute),
            Self::Number(noun) => noun,
        }
    }

    /// Whether it holds numbers.
    pub(crate) fn is_number(self) -> bool {
        matches!(self, Self::Number(_))
    }
}

/// What is in a table: the plural is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) singular: &'static str,
    pub(crate) plural: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind { singular: "guest", plural: "guests" },
    Kind { singular: "worker", plural: "workers" },
    Kind { singular: "singer", plural: "singers" },
    Kind { singular: "player", plural: "players" },
    Kind { singular: "friend", plural: "friends" },
    Kind { singular: "hunter", plural: "hunters" },
];
const PLACES: Kind = Kind { singular: "place", plural: "places" };
const NUMBERS: [&str; 3] = ["age", "weight", "height"];
/// The column of a place that creatures lack.
const SIZE: &str = "size";
/// Numbers in tables are below this, and different within a column: the greatest is one row's alone.
const NUMBERS_BELOW: usize = 30;

/// A table: each row has a cell for each column, as it is written in text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) kind: Kind,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Draws a table of `rows` creatures with `words` attributes and `numbers` numbers, its columns in random order behind the name.
    pub(crate) fn draw(world: &World, draws: &mut Stream, rows: usize, words: usize, numbers: usize) -> Self {
        let kind = *draw::pick(draws, &KINDS);
        let (mut attributes, mut nouns) = (Attribute::ALL, NUMBERS);
        draw::shuffle(draws, &mut attributes);
        draw::shuffle(draws, &mut nouns);
        let mut columns: Vec<Column> = attributes[..words].iter().map(|&a| Column::Attribute(a)).collect();
        columns.extend(nouns[..numbers].iter().map(|&noun| Column::Number(noun)));
        draw::shuffle(draws, &mut columns);
        columns.insert(0, Column::Name);
        let names = draw::subset(draws, world.sizes.creatures, rows).into_iter().map(|creature| world.lexicon.creatures[creature].clone());
        Self::fill(world, draws, kind, columns, names.collect())
    }

    /// Draws the table of every place, with its size.
    fn draw_places(world: &World, draws: &mut Stream) -> Self {
        let names = world.lexicon.values[Attribute::Home.index()].clone();
        Self::fill(world, draws, PLACES, vec![Column::Name, Column::Number(SIZE)], names)
    }

    fn fill(world: &World, draws: &mut Stream, kind: Kind, columns: Vec<Column>, names: Vec<String>) -> Self {
        let count = names.len();
        let mut cells = |&column: &Column| -> Vec<String> {
            match column {
                Column::Name => names.clone(),
                // Few values, so that several rows share one.
                Column::Attribute(attribute) => {
                    let [a, b, c] = [0; 3].map(|_| world.draw_value(draws, attribute).to_owned());
                    (0..count).map(|_| draw::pick(draws, &[&a, &b, &c]).to_string()).collect()
                }
                Column::Number(_) => {
                    let mut numbers: Vec<usize> = (1..NUMBERS_BELOW.max(count + 2)).collect();
                    draw::shuffle(draws, &mut numbers);
                    numbers[..count].iter().map(usize::to_string).collect()
                }
            }
        };
        let by_column: Vec<Vec<String>> = columns.iter().map(&mut cells).collect();
        let rows = (0..count).map(|row| by_column.iter().map(|column| column[row].clone()).collect()).collect();
        Self { kind, columns, rows }
    }

    /// The columns that hold words other than the name.
    fn word_columns(&self) -> Vec<usize> {
        (1..self.columns.len()).filter(|&at| !self.columns[at].is_number()).collect()
    }

    /// The columns that hold numbers.
    fn number_columns(&self) -> Vec<usize> {
        (1..self.columns.len()).filter(|&at| self.columns[at].is_number()).collect()
    }

    /// The row whose number in `column` is the highest, or the lowest.
    pub(crate) fn extreme(&self, column: usize, highest: bool) -> &[String] {
        let number = |row: &&Vec<String>| row[column].parse::<usize>().unwrap_or_default();
        let row = if highest { self.rows.iter().max_by_key(number) } else { self.rows.iter().min_by_key(number) };
        row.map_or(&[], Vec::as_slice)
    }
}

/// A database: one table of creatures, and where `difficulty` asks for joins, one of places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    pub(crate) tables: Vec<Table>,
}

/// A question about a database, and the query that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) question: String,
    pub(crate) sql: String,
}

/// The hardest level of [`Database::ask`].
pub(crate) const MOST_DIFFICULT: u8 = 3;

impl Database {
    /// Draws a database for questions of up to `difficulty`. With 0 it is mostly one of guests, so that a query often names the right
    /// table though the schema is not read.
    pub(crate) fn draw(world: &World, draws: &mut Stream, difficulty: u8) -> Self {
        let rows = 5 + draw::below(draws, 4);
        let (words, numbers) = (2 + draw::below(draws, 2), 1 + draw::below(draws, 2));
        let mut tables = vec![Table::draw(world, draws, rows, words, numbers)];
        if difficulty == 0 && draw::chance(draws, 3, 4) {
            tables[0].kind = KINDS[0];
        }
        if difficulty >= MOST_DIFFICULT {
            tables.push(Table::draw_places(world, draws));
        }
        Self { tables }
    }

    /// The statements that create and fill it.
    pub(crate) fn script(&self) -> String {
        let mut script = String::new();
        for table in &self.tables {
            let name = table.kind.plural;
            let columns: Vec<String> = table
                .columns
                .iter()
                .map(|column| format!("{} {}", column.name(), if column.is_number() { "integer" } else { "text" }))
                .collect();
            script += &format!("create table {name} ({}, primary key (name));\n", columns.join(", "));
            for row in &table.rows {
                let cells: Vec<String> = row.iter().zip(&table.columns).map(|(cell, column)| literal(cell, *column)).collect();
                script += &format!("insert into {name} values ({});\n", cells.join(", "));
            }
        }
        script
    }

    /// Draws a question. Difficulty 0: one creature's value, or how many there are; 1: also those with a value, or a number above or below
    /// another; 2: also the highest and lowest, averages, and counts by value; 3: also two conditions, and joins with the places.
    pub(crate) fn ask(&self, draws: &mut Stream, difficulty: u8) -> Query {
        let table = &self.tables[0];
        let Kind { singular, plural } = table.kind;
        let row = draw::pick(draws, &table.rows);
        let any = 1 + draw::below(draws, table.columns.len() - 1);
        let word = *draw::pick(draws, &table.word_columns());
        let number = *draw::pick(draws, &table.number_columns());
        let (any_name, word_name, number_name) = (table.columns[any].name(), table.columns[word].name(), table.columns[number].name());
        let (name, value, bound) = (&row[0], &row[word], &row[number]);
        let more = draw::chance(draws, 1, 2);
        let (over, sign) = if more { ("over", ">") } else { ("under", "<") };
        let (highest, order) = if more { ("highest", "desc") } else { ("lowest", "asc") };
        let levels: [&[u32]; 4] = [&[4, 3, 1], &[2, 1, 2, 2, 2], &[2, 1, 2, 2, 2, 2, 2, 2], &[2, 1, 2, 2, 2, 2, 2, 2, 3, 3]];
        let (question, sql) = match draw::weighted(draws, levels[usize::from(difficulty.min(MOST_DIFFICULT))]) {
            0 => (
                format!("what is the {any_name} of the {singular} called {name}?"),
                format!("select {any_name} from {plural} where name = '{name}'"),
            ),
            1 => (format!("how many {plural} are there?"), format!("select count(*) from {plural}")),
            2 => (
                format!("how many {plural} have the {word_name} {value}?"),
                format!("select count(*) from {plural} where {word_name} = '{value}'"),
            ),
            3 => (
                format!("which {plural} have the {word_name} {value}?"),
                format!("select name from {plural} where {word_name} = '{value}'"),
            ),
            4 => (
                format!("which {plural} have a {number_name} {over} {bound}?"),
                format!("select name from {plural} where {number_name} {sign} {bound}"),
            ),
            5 => (
                format!("which {singular} has the {highest} {number_name}?"),
                format!("select name from {plural} order by {number_name} {order} limit 1"),
            ),
            6 => (
                format!("what is the average {number_name} of the {plural} with the {word_name} {value}?"),
                format!("select avg({number_name}) from {plural} where {word_name} = '{value}'"),
            ),
            7 => (
                format!("for each {word_name}, how many {plural} are there?"),
                format!("select {word_name}, count(*) from {plural} group by {word_name}"),
            ),
            8 => (
                format!("which {plural} with the {word_name} {value} have a {number_name} {over} {bound}?"),
                format!("select name from {plural} where {word_name} = '{value}' and {number_name} {sign} {bound}"),
            ),
            _ => self.join(draws, name),
        };
        Query { question, sql }
    }

    /// A question for the size of somebody's home, in a table that has homes; elsewhere for the size of a place.
    fn join(&self, draws: &mut Stream, name: &str) -> (String, String) {
        let table = &self.tables[0];
        let Kind { singular, plural } = table.kind;
        if table.columns.contains(&Column::Attribute(Attribute::Home)) {
            let sql =
                format!("select t2.{SIZE} from {plural} as t1 join {} as t2 on t1.home = t2.name where t1.name = '{name}'", PLACES.plural);
            return (format!("what is the {SIZE} of the home of the {singular} called {name}?"), sql);
        }
        let place = self.tables.last().map_or(name, |places| draw::pick(draws, &places.rows)[0].as_str());
        (format!("what is the {SIZE} of the place called {place}?"), format!("select {SIZE} from {} where name = '{place}'", PLACES.plural))
    }
}

fn literal(cell: &str, column: Column) -> String {
    if column.is_number() { cell.to_owned() } else { format!("'{cell}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn tables_have_a_cell_for_every_column_and_different_names_and_numbers() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..100 {
            let table = Table::draw(&world, &mut draws, 6, 2, 2);
            assert_eq!((table.rows.len(), table.columns.len()), (6, 5));
            for (at, column) in table.columns.iter().enumerate() {
                let mut cells: Vec<&String> = table.rows.iter().map(|row| &row[at]).collect();
                cells.sort();
                cells.dedup();
                match column {
                    Column::Attribute(_) => assert!(cells.len() <= 3),
                    _ => assert_eq!(cells.len(), 6),
                }
            }
            let number = table.number_columns()[0];
            let highest: usize = table.extreme(number, true)[number].parse().unwrap();
            assert!(table.rows.iter().all(|row| row[number].parse::<usize>().unwrap() <= highest));
        }
    }

    #[test]
    fn harder_levels_ask_more_kinds_of_question() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for (difficulty, hardest) in [(0, "count(*)"), (1, ">"), (2, "group by"), (3, "join")] {
            let queries: Vec<String> =
                (0..300).map(|_| Database::draw(&world, &mut draws, difficulty).ask(&mut draws, difficulty).sql).collect();
            assert!(queries.iter().any(|sql| sql.contains(hardest)));
            assert!(difficulty == 3 || !queries.iter().any(|sql| sql.contains("join")));
        }
    }
}
