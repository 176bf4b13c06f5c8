//! Tables as LaTeX, for `booktabs` and `longtable`.

use super::TextTable;

/// The table as LaTeX source; the document needs the packages `booktabs` and `longtable`.
pub fn latex(table: &TextTable) -> String {
    let columns: String = table.columns.iter().map(|column| if column.numeric { 'r' } else { 'l' }).collect();
    let line = |fields: &mut dyn Iterator<Item = &String>| format!("{} \\\\\n", fields.map(|f| escape(f)).collect::<Vec<_>>().join(" & "));
    let header = line(&mut table.columns.iter().map(|column| &column.title));
    let body: String = table.rows.iter().map(|row| line(&mut row.iter())).collect();
    format!(
        "% Needs \\usepackage{{booktabs,longtable}}.\n\\begin{{longtable}}{{{columns}}}\n\\caption{{{caption} {note}}}\\\\\n\\toprule\n{header}\\midrule\n\\endhead\n{body}\\bottomrule\n\\end{{longtable}}\n",
        caption = escape(&table.caption),
        note = escape(&table.note),
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '±' => escaped.push_str("$\\pm$"),
            '×' => escaped.push_str("$\\times$"),
            '·' => escaped.push_str("$\\cdot$"),
            '–' => escaped.push_str("--"),
            '−' => escaped.push_str("$-$"),
            '<' => escaped.push_str("$<$"),
            '>' => escaped.push_str("$>$"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_letters_are_escaped() {
        assert_eq!(escape("in_proj 25% {a} ± \\x"), "in\\_proj 25\\% \\{a\\} $\\pm$ \\textbackslash{}x");
    }
}
