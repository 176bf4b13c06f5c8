//! Aligned columns for the terminal.

/// A column: its heading, and whether its numbers stand to the right.
pub struct Column {
    heading: &'static str,
    right: bool,
}

/// A column of text.
pub const fn text(heading: &'static str) -> Column {
    Column { heading, right: false }
}

/// A column of numbers.
pub const fn number(heading: &'static str) -> Column {
    Column { heading, right: true }
}

/// The rows under their headings; each row has a cell a column.
pub fn render(columns: &[Column], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = columns.iter().map(|column| column.heading.to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&headings).chain(rows).collect();
    let widths: Vec<usize> = (0..columns.len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for line in lines {
        let cells = line.iter().zip(columns).zip(&widths);
        let padded: Vec<String> = cells
            .map(|((cell, column), &width)| if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        table += padded.join("  ").trim_end();
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = render(&[text("name"), number("n")], &[vec!["mambä".into(), "1".into()], vec!["s4".into(), "10".into()]]);
        assert_eq!(table, "name    n\nmambä   1\ns4     10\n");
    }
}
