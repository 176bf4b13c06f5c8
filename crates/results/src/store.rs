//! The only place that knows polars: rows of the project's own types in, Parquet out, and back.
//!
//! Rows pass through JSON objects, so that a table is described once, by its struct and its list of columns, and a missing value, a
//! NaN and an infinity all become null.

use crate::error::{Result, ResultsError};
use crate::files::write_atomically;
use crate::rows::{Column, Kind, Row};
use jiff::Timestamp;
use peftbench_spec::event::SCHEMA_VERSION;
use polars::prelude::{
    Column as PolarsColumn, DataFrame, DataType, IntoSeries, NamedFrom, ParquetReader, ParquetWriter, SerReader, Series, TimeUnit,
};
use serde_json::{Map, Number, Value};
use std::fs::File;
use std::path::Path;

/// A table in memory.
#[derive(Clone)]
pub(crate) struct Table {
    frame: DataFrame,
}

impl Table {
    /// A table of `rows`.
    pub(crate) fn of<R: Row>(rows: &[R]) -> Result<Self> {
        let objects: Vec<Map<String, Value>> = rows.iter().map(object_of).collect::<Result<_>>()?;
        Self::of_objects(R::COLUMNS.iter().map(|column| (column.name, column.kind)), &objects)
    }

    /// A table with these columns; a key that an object lacks is null, a key that is no column is left out.
    pub(crate) fn of_objects<'a>(columns: impl Iterator<Item = (&'a str, Kind)>, objects: &[Map<String, Value>]) -> Result<Self> {
        let series: Vec<PolarsColumn> =
            columns.map(|(name, kind)| series_of(name, kind, objects).map(PolarsColumn::from)).collect::<Result<_>>()?;
        let frame = DataFrame::new(objects.len(), series).map_err(|e| ResultsError::table(Path::new("table"), e))?;
        Ok(Self { frame })
    }

    /// Number of rows.
    pub(crate) fn height(&self) -> usize {
        self.frame.height()
    }

    /// Names of its columns, in order.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<&str> {
        self.frame.columns().iter().map(|column| column.name().as_str()).collect()
    }

    /// Whether the table has exactly the columns of `R`, by name, kind and order.
    pub(crate) fn has_columns_of<R: Row>(&self) -> bool {
        let columns = self.frame.columns();
        columns.len() == R::COLUMNS.len()
            && columns
                .iter()
                .zip(R::COLUMNS)
                .all(|(found, expected)| found.name().as_str() == expected.name && *found.dtype() == data_type(expected.kind))
    }

    /// Puts the rows of `other`, which has the same columns, below these.
    pub(crate) fn append(&mut self, other: &Self, path: &Path) -> Result<()> {
        self.frame.vstack_mut(&other.frame).map(|_| ()).map_err(|e| ResultsError::table(path, e))
    }

    /// The rows. Columns the table lacks take the row's default; further columns are passed over.
    pub(crate) fn rows<R: Row>(&self, path: &Path) -> Result<Vec<R>> {
        let mut objects = vec![Map::new(); self.height()];
        for column in R::COLUMNS {
            if let Ok(found) = self.frame.column(column.name) {
                fill(column, found.as_materialized_series(), &mut objects).map_err(|e| ResultsError::table(path, e))?;
            }
        }
        let newest = objects.iter().filter_map(|object| object.get("schema_version")?.as_u64()).max().unwrap_or(0);
        if newest > u64::from(SCHEMA_VERSION) {
            return Err(ResultsError::Newer { path: path.to_owned(), found: newest, known: u64::from(SCHEMA_VERSION) });
        }
        let read = |object| serde_json::from_value(Value::Object(object)).map_err(|e| ResultsError::table(path, e));
        objects.into_iter().map(read).collect()
    }

    /// Writes Parquet (zstd), atomically. Equal tables give equal bytes.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut frame = self.frame.clone();
        // Chunks come from the fragments that were merged; one chunk makes the bytes depend on the rows only.
        frame.rechunk_mut();
        write_atomically(path, |file| ParquetWriter::new(file).finish(&mut frame).map(|_| ()).map_err(|e| ResultsError::table(path, e)))
    }

    /// Reads Parquet.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| ResultsError::io("read", path, e))?;
        let frame = ParquetReader::new(file).finish().map_err(|e| ResultsError::table(path, e))?;
        Ok(Self { frame })
    }
}

fn object_of<R: Row>(row: &R) -> Result<Map<String, Value>> {
    match serde_json::to_value(row) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(mismatch("row", "an object", &other)),
        Err(error) => Err(ResultsError::Value { column: "row".into(), expected: "an object", found: error.to_string() }),
    }
}

fn mismatch(column: &str, expected: &'static str, found: &Value) -> ResultsError {
    ResultsError::Value { column: column.to_owned(), expected, found: found.to_string() }
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Count => DataType::UInt64,
        Kind::Number => DataType::Float64,
        Kind::Text => DataType::String,
        Kind::Flag => DataType::Boolean,
        Kind::Time => DataType::Datetime(TimeUnit::Microseconds, None),
    }
}

/// One column of the objects; an error names the first value that does not fit.
fn series_of(column: &str, kind: Kind, objects: &[Map<String, Value>]) -> Result<Series> {
    let name = column.into();
    Ok(match kind {
        Kind::Count => Series::new(name, values(column, objects, "a whole number", Value::as_u64)?),
        Kind::Number => Series::new(name, values(column, objects, "a number", Value::as_f64)?),
        Kind::Text => Series::new(name, values(column, objects, "a string", |v| v.as_str().map(str::to_owned))?),
        Kind::Flag => Series::new(name, values(column, objects, "true or false", Value::as_bool)?),
        Kind::Time => {
            let microseconds = |v: &Value| v.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
            let numbers = Series::new(name, values(column, objects, "an RFC 3339 time", microseconds)?);
            let numbers = numbers.i64().map_err(|e| ResultsError::table(Path::new(column), e))?.clone();
            numbers.into_datetime(TimeUnit::Microseconds, None).into_series()
        }
    })
}

fn values<T>(
    column: &str,
    objects: &[Map<String, Value>],
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<Option<T>>> {
    let one = |object: &Map<String, Value>| match object.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| mismatch(column, expected, value)),
    };
    objects.iter().map(one).collect()
}

/// Puts one column into the objects; nulls are left out.
fn fill(column: &Column, series: &Series, objects: &mut [Map<String, Value>]) -> polars::prelude::PolarsResult<()> {
    let mut put = |values: &mut dyn Iterator<Item = Option<Value>>| {
        for (object, value) in objects.iter_mut().zip(values) {
            if let Some(value) = value {
                object.insert(column.name.to_owned(), value);
            }
        }
    };
    match column.kind {
        Kind::Count => put(&mut series.u64()?.iter().map(|v| v.map(Value::from))),
        Kind::Number => put(&mut series.f64()?.iter().map(|v| v.and_then(Number::from_f64).map(Value::Number))),
        Kind::Text => put(&mut series.str()?.iter().map(|v| v.map(Value::from))),
        Kind::Flag => put(&mut series.bool()?.iter().map(|v| v.map(Value::from))),
        Kind::Time => put(&mut series.datetime()?.physical().iter().map(|v| {
            let time = v.and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok());
            time.map(|time| Value::from(time.to_string()))
        })),
    }
    Ok(())
}
