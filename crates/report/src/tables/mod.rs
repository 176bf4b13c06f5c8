//! Tables of text, and one writer a format.

pub mod activations;
mod latex;
mod markdown;
pub mod results;

pub use latex::latex;
pub use markdown::markdown;

use crate::csv_text::CsvText;
use crate::data::Data;

/// Makes a table; none where the results have nothing for it.
pub type MakeTable = fn(&Data) -> Option<TextTable>;

/// Every table: its file's name without extension, and how it is made. A new one is a file here and a line in this list.
pub const TABLES: [(&str, MakeTable); 2] = [(results::ID, |data| Some(results::table(data))), (activations::ID, activations::table)];

/// A table ready to print.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextTable {
    /// What it shows, one sentence.
    pub caption: String,
    /// Columns.
    pub columns: Vec<Heading>,
    /// Rows of as many fields.
    pub rows: Vec<Vec<String>>,
    /// What a reader must know of the numbers.
    pub note: String,
}

/// A column's heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// Its words, with the unit.
    pub title: String,
    /// Whether it holds numbers, set to the right.
    pub numeric: bool,
}

impl TextTable {
    /// The table as CSV, as printed.
    pub fn csv(&self) -> CsvText {
        CsvText { header: self.columns.iter().map(|column| column.title.clone()).collect(), rows: self.rows.clone() }
    }
}
