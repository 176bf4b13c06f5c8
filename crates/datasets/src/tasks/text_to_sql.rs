//! Questions put to a database: `spider`, and `world/queries` in its image.
//!
//! Format of the SSM-PEFT paper's code: an instruction as a prefix, the question, the schema of its database, `###`, and the query in lower
//! case with an end token. Its slips are kept because every result was made with them: `\Schema:` for a line break, two spaces behind
//! the commas between columns, and tables' names in their own case where all else is lower. Examples longer than `train.max_length` (1536
//! there) are left out of every split with `ssm-peft`.

use super::loading::{Loaded, SplitFiles, load_files};
use super::published::{Form, Published, PublishedSplit, as_they_are};
use super::twin::{Twin, WorldOptions};
use super::{Answers, GREEDY, SSM_PEFT, Task, TaskEntry, WHOLE_SPLIT, generated};
use crate::error::{DataError, Result};
use crate::example::{Example, Splits};
use crate::format::{Format, Options, Truncation, fill};
use crate::hold_out::{HoldOut, Validation};
use crate::metrics::{Scores, exact_match, exact_set_match, exec_accuracy};
use crate::source::{DataSource, Row};
use crate::sql::{Database, spider_databases};
use crate::world::rows::queries::QueryRow;
use crate::world::rows::{self, SplitRows};
use crate::world::tables;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::OnceLock;

/// `spider`: Spider (Yu et al. 2018).
pub const SPIDER: TaskEntry = TaskEntry {
    name: "spider",
    summary: "questions put to a database in SQL (Spider); the official dev set is the test; queries and predictions in lower case, unless `lower_case = false`",
    protocols: PROTOCOLS,
    published: Some(&Published {
        hub: "xlangai/spider",
        revision: "main",
        licence: "CC BY-SA 4.0; databases and tables.json come from Spider's own site",
        splits: &[PublishedSplit { file: "train", from: "spider/train-" }, PublishedSplit { file: "dev", from: "spider/validation-" }],
        columns: &["db_id", "question", "query"],
        form: Form::Text(as_they_are),
    }),
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse(task)?;
        let task = TextToSql::new(SPIDER.name, format, move |source| load_spider(source, own));
        Ok(Box::new(TextToSql { lower_case: own.lower_case, ..task }))
    },
    resolve: |task| parse(task)?.resolved(task),
};

/// `world/queries`: the same with tables of the invented world's creatures.
pub const WORLD: TaskEntry = TaskEntry {
    name: "world/queries",
    summary: "questions put to small databases of the invented world, in the format of spider",
    protocols: &[],
    published: None,
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse_world(task)?;
        Ok(Box::new(TextToSql::new(WORLD.name, format, move |_| load_world(&own))))
    },
    resolve: |task| parse_world(task)?.resolved(task),
};

static QUERIES: Twin<QueryRow> =
    Twin { name: WORLD.name, sizes: [1000, 100, 200], difficulty: 1, most_difficult: tables::MOST_DIFFICULT, rows: rows::queries::queries };

fn parse_world(task: &Component) -> std::result::Result<Options<WorldOptions>, SpecError> {
    // No instruction, because the models for this world are tiny.
    let format = |_| Format { prefix: String::new(), max_new_tokens: 64, ..format(GREEDY) };
    QUERIES.parse(task, &[], format, PLACEHOLDERS)
}

const PROTOCOLS: &[&str] = &[GREEDY, SSM_PEFT];
const PLACEHOLDERS: &[&str] = &["question", "schema", "query"];

/// Options of `spider` that have a format besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpiderOptions {
    /// Whether queries are put in lower case, constants too: those to learn, and in scoring both sides, as the paper's code does. Constants of
    /// another case then find nothing on either side.
    pub lower_case: bool,
    /// Most rows held out of the training file for validation; never more than a fifth of it, which is what the paper holds out.
    pub valid: usize,
    /// Which rows are held out.
    pub hold_out: HoldOut,
}

fn parse(task: &Component) -> std::result::Result<Options<SpiderOptions>, SpecError> {
    let options = Options::parse(task, PROTOCOLS, |protocol| {
        let (valid, hold_out) = match protocol {
            SSM_PEFT => (WHOLE_SPLIT, HoldOut::TrainTestSplit),
            _ => (1000, HoldOut::Grouped),
        };
        Options { own: SpiderOptions { lower_case: true, valid, hold_out }, format: format(protocol) }
    })?;
    options.format.check(PLACEHOLDERS)?;
    Ok(options)
}

fn format(protocol: &str) -> Format {
    Format {
        prefix: "Create a sql request for the following question and schema:\n###".to_owned(),
        prompt: "Question: {question}\\Schema: {schema}\n###".to_owned(),
        answer: "{query}".to_owned(),
        truncation: if protocol == SSM_PEFT { Truncation::Drop } else { Truncation::PromptStart },
        metrics: [exec_accuracy::EXEC_ACCURACY.name, exact_set_match::EXACT_SET_MATCH.name, exact_match::NAME]
            .map(Component::named)
            .to_vec(),
        ..generated(protocol, 128)
    }
}

/// A database as `tables.json` describes it. Columns are (index of their table, name); the one at 0, `*`, belongs to no table.
#[derive(Debug, Deserialize)]
struct Schema {
    db_id: String,
    table_names_original: Vec<String>,
    column_names_original: Vec<(i64, String)>,
    column_types: Vec<String>,
    primary_keys: Vec<Value>,
    foreign_keys: Vec<(usize, usize)>,
}

impl Schema {
    /// That of a database of the invented world: tables are known by the names in their first column.
    fn of_world(database: &tables::Database) -> Self {
        let mut schema = Self {
            db_id: String::new(),
            table_names_original: database.tables.iter().map(|table| table.kind.plural.to_owned()).collect(),
            column_names_original: vec![(-1, "*".to_owned())],
            column_types: vec!["text".to_owned()],
            primary_keys: Vec::new(),
            foreign_keys: Vec::new(),
        };
        for (table, content) in database.tables.iter().enumerate() {
            schema.primary_keys.push(schema.column_types.len().into());
            for column in &content.columns {
                schema.column_names_original.push((table as i64, column.name().to_owned()));
                schema.column_types.push(if column.is_number() { "number" } else { "text" }.to_owned());
            }
        }
        schema
    }

    /// The text of the schema: tables joined by ` | `.
    fn text(&self) -> Option<String> {
        let tables: Option<Vec<String>> = (0..self.table_names_original.len()).map(|table| self.table(table)).collect();
        Some(tables?.join(" | "))
    }

    fn table(&self, table: usize) -> Option<String> {
        let belongs = |column: usize| self.column_names_original.get(column).is_some_and(|(owner, _)| *owner == table as i64);
        let name = |column: usize| self.column_names_original.get(column).map(|(_, name)| name.as_str());
        let columns = self.column_names_original.iter().zip(&self.column_types).filter(|((owner, _), _)| *owner == table as i64);
        let mut parts: Vec<String> = columns.map(|((_, name), kind)| format!("{name} {kind}")).collect();
        let mut foreign = Vec::new();
        for (_, to) in self.foreign_keys.iter().filter(|(from, _)| belongs(*from)) {
            let (owner, column) = self.column_names_original.get(*to)?;
            let target = self.table_names_original.get(usize::try_from(*owner).ok()?)?;
            foreign.push(format!("{column} from {target}"));
        }
        // A key of several columns is a list; the code has single ones only.
        let keys = self.primary_keys.iter().flat_map(|key| match key {
            Value::Array(columns) => columns.clone(),
            single => vec![single.clone()],
        });
        let keys: Vec<usize> = keys.filter_map(|key| usize::try_from(key.as_u64()?).ok()).filter(|&key| belongs(key)).collect();
        let primary: Option<Vec<&str>> = keys.into_iter().map(name).collect();
        parts.push(format!("foreign: {}", foreign.join(" , ")));
        parts.push(format!("primary: {}", primary?.join(" , ")));
        Some(format!("{}: {}", self.table_names_original[table], parts.join(" ,  ").to_lowercase()))
    }
}

/// The schema text of every database.
fn schemas(source: &DataSource) -> Result<HashMap<String, String>> {
    let path = tables_path(source)?;
    let wrong = |problem: String| DataError::Io { action: "read", path: path.clone(), problem };
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let schemas: Vec<Schema> = serde_json::from_str(&text).map_err(|error| wrong(format!("not Spider's tables.json: {error}")))?;
    let named = |schema: Schema| {
        let text = schema.text().ok_or_else(|| wrong(format!("a key of `{}` names a column that it has not", schema.db_id)))?;
        Ok((schema.db_id, text))
    };
    schemas.into_iter().map(named).collect()
}

fn tables_path(source: &DataSource) -> Result<PathBuf> {
    let folder = source.folder.as_ref().ok_or_else(|| DataError::NoFolder { task: SPIDER.name.to_owned() })?;
    let path = folder.join("spider/tables.json");
    if path.is_file() { Ok(path) } else { Err(DataError::missing(SPIDER.name, path)) }
}

/// Questions from wherever, with what they are asked of.
type LoadRows = dyn Fn(&DataSource) -> Result<(Loaded<QuestionRow>, BTreeMap<String, Database>)> + Send + Sync;

struct TextToSql {
    name: &'static str,
    format: Format,
    /// Whether predictions are put in lower case, as the queries have been.
    lower_case: bool,
    load: Box<LoadRows>,
    /// Those of the examples that were loaded.
    databases: OnceLock<BTreeMap<String, Database>>,
}

struct QuestionRow {
    id: String,
    database: String,
    question: String,
    query: String,
    schema: String,
}

impl TextToSql {
    fn new(
        name: &'static str,
        format: Format,
        load: impl Fn(&DataSource) -> Result<(Loaded<QuestionRow>, BTreeMap<String, Database>)> + Send + Sync + 'static,
    ) -> Self {
        Self { name, format, lower_case: false, load: Box::new(load), databases: OnceLock::new() }
    }

    fn example(&self, row: QuestionRow, training: bool) -> Example {
        Example {
            id: row.id,
            group: row.database,
            prefix: self.format.prefix.clone(),
            prompt: fill(self.format.prompt_for(training), &[("question", &row.question), ("schema", &row.schema)]),
            answer: fill(&self.format.answer, &[("query", &row.query)]),
            references: vec![row.query],
            ..Example::default()
        }
    }
}

impl Task for TextToSql {
    fn name(&self) -> &str {
        self.name
    }

    fn format(&self) -> &Format {
        &self.format
    }

    fn load(&self, source: &DataSource) -> Result<Splits> {
        let (loaded, databases) = (self.load)(source)?;
        // Loaded again, they are the same.
        let _ = self.databases.set(databases);
        Ok(loaded.into_splits(|row, training| [self.example(row, training)]))
    }

    fn score(&self, examples: &[Example], predictions: &[String]) -> Result<Scores> {
        let databases = self.databases.get().ok_or_else(|| DataError::NoFolder { task: self.name.to_owned() })?;
        let lower = |text: &String| if self.lower_case { text.to_lowercase() } else { text.clone() };
        let predictions: Vec<String> = predictions.iter().map(lower).collect();
        Answers::read(&self.format, examples, &predictions)?.score(&self.format.metrics, databases)
    }
}

fn load_spider(source: &DataSource, options: SpiderOptions) -> Result<(Loaded<QuestionRow>, BTreeMap<String, Database>)> {
    let schemas = schemas(source)?;
    let databases = match &source.folder {
        Some(folder) => spider_databases(&folder.join("spider"))?,
        None => BTreeMap::new(),
    };
    let files = SplitFiles { folder: "spider", train: "train", valid: None, test: "dev", test_alone: false };
    let read = |row: &Row| {
        let database = row.text("db_id")?;
        let schema = schemas.get(database).ok_or_else(|| row.wrong("db_id", "a database of tables.json", row.get("db_id")))?;
        let query = row.text("query")?.trim();
        Ok(QuestionRow {
            id: row.id(),
            database: database.to_owned(),
            question: row.text("question")?.to_owned(),
            query: if options.lower_case { query.to_lowercase() } else { query.to_owned() },
            schema: schema.clone(),
        })
    };
    // A question that is worded twice for one query stays on one side.
    let group = |_, row: &QuestionRow| format!("{} {}", row.database, row.query);
    let validation = Validation { most: options.valid, by: options.hold_out };
    Ok((load_files(source, SPIDER.name, files, validation, read, group)?, databases))
}

fn load_world(options: &WorldOptions) -> Result<(Loaded<QuestionRow>, BTreeMap<String, Database>)> {
    let Loaded { dataset_id, revision, rows } = QUERIES.load(options)?;
    let mut databases = BTreeMap::new();
    let mut asked = |rows: Vec<QueryRow>| -> Vec<QuestionRow> {
        let question = |QueryRow { id, database, query, tables }: QueryRow| {
            let schema = Schema::of_world(&tables).text().unwrap_or_default();
            databases.entry(database.clone()).or_insert_with(|| Database::script(&database, tables.script()));
            QuestionRow { id, database, question: query.question, query: query.sql, schema }
        };
        rows.into_iter().map(question).collect()
    };
    let rows = SplitRows { train: asked(rows.train), valid: asked(rows.valid), test: asked(rows.test) };
    Ok((Loaded { dataset_id, revision, rows }, databases))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;
    use serde_json::json;

    const TABLES: &str = r#"[{"db_id": "zoo", "table_names_original": ["Animal", "Keeper"],
        "column_names_original": [[-1, "*"], [0, "ID"], [0, "Name"], [0, "Keeper_ID"], [1, "ID"]],
        "column_types": ["text", "number", "text", "number", "number"], "primary_keys": [1, 4], "foreign_keys": [[3, 4]]}]"#;

    fn load(task: Value, row: &str) -> Result<Splits> {
        Ok(task_and_splits(task, row)?.1)
    }

    fn task_and_splits(task: Value, row: &str) -> Result<(Box<dyn Task>, Splits)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("spider")).unwrap();
        std::fs::write(folder.path().join("spider/tables.json"), TABLES).unwrap();
        for file in ["train", "dev"] {
            std::fs::write(folder.path().join(format!("spider/{file}.jsonl")), row).unwrap();
        }
        let task = build(&Component::from_value(&task).unwrap()).unwrap();
        let splits = task.load(&DataSource { folder: Some(folder.path().to_owned()) })?;
        Ok((task, splits))
    }

    const ROW: &str = r#"{"db_id": "zoo", "question": "Who is Bo?", "query": "SELECT Name FROM Animal WHERE Name = 'Bo' "}"#;

    #[test]
    fn the_prompt_is_the_reference_codes() {
        let example = load(json!("spider"), ROW).unwrap().test.remove(0);
        assert_eq!(example.prefix, "Create a sql request for the following question and schema:\n###");
        // What `table_to_str` and `get_schema` of the paper's code make of these tables.
        assert_eq!(
            example.prompt,
            "Question: Who is Bo?\\Schema: Animal: id number ,  name text ,  keeper_id number ,  foreign: id from keeper ,  primary: id | \
             Keeper: id number ,  foreign:  ,  primary: id\n###"
        );
        assert_eq!((example.answer.as_str(), example.group.as_str()), ("select name from animal where name = 'bo'", "zoo"));
        let cased = load(json!({"type": "spider", "lower_case": false}), ROW).unwrap().test.remove(0);
        assert_eq!(cased.references, ["SELECT Name FROM Animal WHERE Name = 'Bo'"]);
    }

    #[test]
    fn predictions_are_put_in_lower_case_where_queries_are() {
        let predictions = ["SELECT Name FROM Animal WHERE Name = 'Bo'".to_owned()];
        for (lower_case, prediction, score) in
            [(true, &predictions, 1.0), (false, &predictions, 1.0), (false, &[predictions[0].to_lowercase()], 0.0)]
        {
            let (task, splits) =
                task_and_splits(json!({"type": "spider", "lower_case": lower_case, "metrics": ["exact_match"]}), ROW).unwrap();
            assert_eq!(task.score(&splits.test, prediction).unwrap().values[0].value, score, "{lower_case} {prediction:?}");
        }
    }

    #[test]
    fn a_database_that_is_not_described_is_named() {
        let error = load(json!("spider"), &ROW.replace("zoo", "farm")).unwrap_err().to_string();
        assert!(error.contains("train.jsonl:1: field `db_id`: expected a database of tables.json, found \"farm\""), "{error}");
    }
}
