//! Which database a query is asked of.

use crate::error::{DataError, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A database, and which of its columns hold the same by foreign keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    pub(super) content: Content,
    /// `__table.column__`, lower case, to the first column of its class.
    pub(super) same_column: HashMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    File(PathBuf),
    Script(String),
}

impl Database {
    /// A SQLite file. It is opened read-only when the first query needs it.
    pub fn file(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), content: Content::File(path.into()), same_column: HashMap::new() }
    }

    /// A database in memory, made by `script` (trusted: `CREATE TABLE …; INSERT …`).
    pub fn script(name: impl Into<String>, script: impl Into<String>) -> Self {
        Self { name: name.into(), content: Content::Script(script.into()), same_column: HashMap::new() }
    }

    /// The same with foreign keys: pairs of indices into `columns`, which are (table, column). Each key joins the first class of columns
    /// that has one of its two; the column with the lowest index stands for its class.
    #[must_use]
    pub fn with_foreign_keys(mut self, columns: &[(String, String)], keys: &[[usize; 2]]) -> Self {
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for key in keys {
            match classes.iter_mut().find(|class| key.iter().any(|column| class.contains(column))) {
                Some(class) => class.extend(key),
                None => classes.push(key.to_vec()),
            }
        }
        let name = |&column: &usize| columns.get(column).map(|(table, column)| format!("__{table}.{column}__").to_lowercase());
        for class in &classes {
            let Some(first) = class.iter().min().and_then(name) else { continue };
            self.same_column.extend(class.iter().filter_map(name).map(|column| (column, first.clone())));
        }
        self
    }
}

/// Tables and their columns, in lower case, in the order of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// (table, its columns).
    pub tables: Vec<(String, Vec<String>)>,
}

impl Schema {
    /// The columns of `table`.
    pub(super) fn columns(&self, table: &str) -> Option<&[String]> {
        self.tables.iter().find(|(name, _)| name == table).map(|(_, columns)| &columns[..])
    }

    /// The evaluator's identifier of `*`, `table` or `table.column`.
    pub(super) fn id(&self, key: &str) -> Option<String> {
        if key == "*" {
            return Some("__all__".to_owned());
        }
        let is_column =
            |(table, column): (&str, &str)| self.columns(table).is_some_and(|columns| columns.iter().any(|name| name == column));
        let known = self.columns(key).is_some() || key.split_once('.').is_some_and(is_column);
        known.then(|| format!("__{key}__"))
    }
}

/// A schema of Spider's `tables.json`.
#[derive(Deserialize)]
struct SpiderSchema {
    db_id: String,
    column_names_original: Vec<(i64, String)>,
    table_names_original: Vec<String>,
    foreign_keys: Vec<[usize; 2]>,
}

/// The databases of Spider's folder, by name: `tables.json` and `database/NAME/NAME.sqlite`. A file that does not exist is found missing
/// when its first query comes.
pub fn spider_databases(folder: &Path) -> Result<BTreeMap<String, Database>> {
    let path = folder.join("tables.json");
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => DataError::missing("spider", path.clone()),
        _ => DataError::Io { action: "read", path: path.clone(), problem: error.to_string() },
    })?;
    let schemas: Vec<SpiderSchema> = serde_json::from_str(&text).map_err(|error| DataError::Io {
        action: "read",
        path: path.clone(),
        problem: format!("it is not Spider's list of schemas ({error})"),
    })?;
    let database = |schema: SpiderSchema| {
        let table = |index: i64| usize::try_from(index).ok().and_then(|index| schema.table_names_original.get(index)).cloned();
        let columns: Vec<(String, String)> =
            schema.column_names_original.iter().map(|(of, column)| (table(*of).unwrap_or_default(), column.clone())).collect();
        let file = folder.join("database").join(&schema.db_id).join(format!("{}.sqlite", schema.db_id));
        (schema.db_id.clone(), Database::file(schema.db_id, file).with_foreign_keys(&columns, &schema.foreign_keys))
    };
    Ok(schemas.into_iter().map(database).collect())
}
