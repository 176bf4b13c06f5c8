//! Typed reading of a sweep's merged tables.

use crate::aggregates::AggregateRow;
use crate::error::{Result, ResultsError};
use crate::rows::{Column, DimensionRow, EvalRow, LayerRow, MemoryRow, ParamRow, PredictionRow, Row, RunRow, SelectRow, StepRow};
use crate::store::Table;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The file of a merged table: `<sweep_dir>/tables/<table>.parquet`.
pub fn table_path<R: Row>(sweep_dir: &Path) -> PathBuf {
    sweep_dir.join("tables").join(format!("{}.parquet", R::TABLE))
}

/// Reads any table of known schema. Columns that an older version did not write take their default.
///
/// # Errors
/// The file is missing, damaged, or of a newer version.
pub fn read<R: Row>(path: &Path) -> Result<Vec<R>> {
    Table::read(path)?.rows(path)
}

fn read_merged<R: Row>(sweep_dir: &Path) -> Result<Vec<R>> {
    let path = table_path::<R>(sweep_dir);
    match read(&path) {
        Err(ResultsError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(ResultsError::NoRuns { path: sweep_dir.to_owned() })
        }
        other => other,
    }
}

/// A merged table, whatever its rows are.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyTable {
    /// Its columns, in order.
    pub columns: &'static [Column],
    /// An object a row, with a value for each column; null where one is missing.
    pub rows: Vec<Map<String, Value>>,
}

/// Reads a merged table of a sweep.
pub type ReadAny = fn(&Path) -> Result<AnyTable>;

/// Every merged table by its name.
pub const ALL: [(&str, ReadAny); 10] = [
    (RunRow::TABLE, any::<RunRow>),
    (AggregateRow::TABLE, any::<AggregateRow>),
    (StepRow::TABLE, any::<StepRow>),
    (EvalRow::TABLE, any::<EvalRow>),
    (MemoryRow::TABLE, any::<MemoryRow>),
    (LayerRow::TABLE, any::<LayerRow>),
    (DimensionRow::TABLE, any::<DimensionRow>),
    (ParamRow::TABLE, any::<ParamRow>),
    (PredictionRow::TABLE, any::<PredictionRow>),
    (SelectRow::TABLE, any::<SelectRow>),
];

fn any<R: Row>(sweep_dir: &Path) -> Result<AnyTable> {
    let object = |row: R| match serde_json::to_value(row) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ResultsError::table(&table_path::<R>(sweep_dir), "a row is no table of columns")),
        Err(error) => Err(ResultsError::table(&table_path::<R>(sweep_dir), error)),
    };
    Ok(AnyTable { columns: R::COLUMNS, rows: read_merged::<R>(sweep_dir)?.into_iter().map(object).collect::<Result<_>>()? })
}

/// Every run of the sweep, sorted by run id.
///
/// # Errors
/// As [`read`]; a sweep without tables is named as such. The same holds for every function below.
pub fn read_runs(sweep_dir: &Path) -> Result<Vec<RunRow>> {
    read_merged(sweep_dir)
}

/// Every configuration over its seeds.
///
/// # Errors
/// As [`read_runs`].
pub fn read_aggregates(sweep_dir: &Path) -> Result<Vec<AggregateRow>> {
    read_merged(sweep_dir)
}

/// Every optimizer step.
///
/// # Errors
/// As [`read_runs`].
pub fn read_steps(sweep_dir: &Path) -> Result<Vec<StepRow>> {
    read_merged(sweep_dir)
}

/// Every evaluation, a metric a row.
///
/// # Errors
/// As [`read_runs`].
pub fn read_evals(sweep_dir: &Path) -> Result<Vec<EvalRow>> {
    read_merged(sweep_dir)
}

/// Every phase with its memory.
///
/// # Errors
/// As [`read_runs`].
pub fn read_memory(sweep_dir: &Path) -> Result<Vec<MemoryRow>> {
    read_merged(sweep_dir)
}

/// What policies said about layers.
///
/// # Errors
/// As [`read_runs`].
pub fn read_layers(sweep_dir: &Path) -> Result<Vec<LayerRow>> {
    read_merged(sweep_dir)
}

/// What methods selected of state spaces.
///
/// # Errors
/// As [`read_runs`].
pub fn read_dimensions(sweep_dir: &Path) -> Result<Vec<DimensionRow>> {
    read_merged(sweep_dir)
}

/// Every tensor of every run.
///
/// # Errors
/// As [`read_runs`].
pub fn read_params(sweep_dir: &Path) -> Result<Vec<ParamRow>> {
    read_merged(sweep_dir)
}

/// Every item's outcome.
///
/// # Errors
/// As [`read_runs`].
pub fn read_predictions(sweep_dir: &Path) -> Result<Vec<PredictionRow>> {
    read_merged(sweep_dir)
}

/// Every probe of every choice of a learning rate; none where the sweep chose none.
///
/// # Errors
/// As [`read_runs`].
pub fn read_select(sweep_dir: &Path) -> Result<Vec<SelectRow>> {
    match read_merged(sweep_dir) {
        // Tables of a version that knew no selection.
        Err(ResultsError::NoRuns { .. }) => Ok(Vec::new()),
        other => other,
    }
}
