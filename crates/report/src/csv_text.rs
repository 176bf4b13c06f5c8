//! Rows of text as CSV: the numbers behind a figure, or a table for a spreadsheet.

/// A header and rows of as many fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsvText {
    /// Column names.
    pub header: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

impl CsvText {
    /// No rows yet.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The text, quoted where needed (RFC 4180, with `\n`).
    pub fn text(&self) -> String {
        let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        // Writing to memory cannot fail, and rows may be of any length.
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let _ = writer.write_record(row);
        }
        writer.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// A number for CSV, empty where missing.
pub fn field<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
