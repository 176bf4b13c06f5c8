//! Tables as GitHub Markdown.

use super::TextTable;

/// The table as Markdown, columns padded so that the text reads well too.
pub fn markdown(table: &TextTable) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;");
    let header: Vec<String> = table.columns.iter().map(|column| escape(&column.title)).collect();
    let rows: Vec<Vec<String>> = table.rows.iter().map(|row| row.iter().map(|field| escape(field)).collect()).collect();
    let lengths = |column: usize| rows.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..header.len()).map(lengths).collect();
    let line = |row: &[String]| {
        let pad = |(index, field): (usize, &String)| {
            let space = " ".repeat(widths[index] - field.chars().count());
            if table.columns[index].numeric { format!("{space}{field}") } else { format!("{field}{space}") }
        };
        format!("| {} |\n", row.iter().enumerate().map(pad).collect::<Vec<_>>().join(" | "))
    };
    let rule = |(index, width): (usize, &usize)| match table.columns[index].numeric {
        true => format!("{}:", "-".repeat(width - 1)),
        false => "-".repeat(*width),
    };
    let rules = widths.iter().enumerate().map(rule).collect::<Vec<_>>().join(" | ");
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{}\n\n{}| {rules} |\n{body}\n{}\n", table.caption, line(&header), table.note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Heading;

    #[test]
    fn bars_are_escaped_and_numbers_set_to_the_right() {
        let heading = |title: &str, numeric| Heading { title: title.into(), numeric };
        let table = TextTable {
            caption: "Results.".into(),
            columns: vec![heading("a|b", false), heading("n", true)],
            rows: vec![vec!["*".into(), "12345".into()]],
            note: "Note.".into(),
        };
        assert_eq!(markdown(&table), "Results.\n\n| a\\|b |     n |\n| ---- | ----: |\n| \\*   | 12345 |\n\nNote.\n");
    }
}
