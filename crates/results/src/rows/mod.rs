//! What each table holds: one struct a table, one row a thing, units in the names.
//!
//! Every table begins with `schema_version`, `run_id` and `attempt`. Missing is `None`, null in Parquet, never a sentinel. Fractions
//! are from 0 to 1. Times are UTC, RFC 3339 here and microseconds in Parquet.

mod details;
mod run;
mod select;

pub use details::{DimensionRow, EvalRow, LayerRow, MemoryRow, ParamRow, PredictionRow, StepRow};
pub use run::{LrSource, Role, RunRow, Status};
pub use select::SelectRow;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned 64-bit integer.
    Count,
    /// 64-bit float.
    Number,
    /// Text.
    Text,
    /// True or false.
    Flag,
    /// UTC time in microseconds.
    Time,
}

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name, the row's field.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
}

/// A row of a table with a fixed schema.
pub trait Row: Serialize + DeserializeOwned + Clone + Default {
    /// Name of the table: `runs`, `steps`, … The merged file is `tables/<name>.parquet`.
    const TABLE: &'static str;
    /// Its columns, in order; each is a field of the row.
    const COLUMNS: &'static [Column];
}

pub(crate) mod columns {
    //! Short constructors, so that a list of columns reads as one.

    use super::{Column, Kind};

    pub(crate) const fn count(name: &'static str) -> Column {
        Column { name, kind: Kind::Count }
    }

    pub(crate) const fn number(name: &'static str) -> Column {
        Column { name, kind: Kind::Number }
    }

    pub(crate) const fn text(name: &'static str) -> Column {
        Column { name, kind: Kind::Text }
    }

    pub(crate) const fn flag(name: &'static str) -> Column {
        Column { name, kind: Kind::Flag }
    }

    pub(crate) const fn time(name: &'static str) -> Column {
        Column { name, kind: Kind::Time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_are_columns<R: Row>() {
        let value = serde_json::to_value(R::default()).unwrap();
        let fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let columns: Vec<_> = R::COLUMNS.iter().map(|c| c.name).collect();
        assert_eq!(fields, columns, "{}", R::TABLE);
    }

    #[test]
    fn every_field_is_a_column_in_order() {
        fields_are_columns::<RunRow>();
        fields_are_columns::<StepRow>();
        fields_are_columns::<EvalRow>();
        fields_are_columns::<MemoryRow>();
        fields_are_columns::<LayerRow>();
        fields_are_columns::<DimensionRow>();
        fields_are_columns::<ParamRow>();
        fields_are_columns::<PredictionRow>();
        fields_are_columns::<SelectRow>();
        fields_are_columns::<crate::AggregateRow>();
    }
}
