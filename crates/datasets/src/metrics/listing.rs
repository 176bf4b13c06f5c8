//! The table of metrics as Markdown: `docs/metrics.md` and `peftbench ls metrics --full` are this text.

use super::{METRICS, MetricEntry, resolve};
use peftbench_spec::{Component, SpecError};
use std::fmt::Write;

/// All metrics, as Markdown.
///
/// # Errors
/// None, as long as every metric can be built without options.
pub fn document() -> Result<String, SpecError> {
    let mut text = "# Metrics\n\nWhat each metric computes, and the implementation that it is held to. This file is written by the program, from the table \
                    that `peftbench score` reads.\n\nA standard error is over the items, with the model held fixed. A bootstrap draws items with \
                    replacement 500 times from a fixed random stream, so that equal items give equal numbers.\n"
        .to_owned();
    for entry in METRICS {
        section(&mut text, entry)?;
    }
    Ok(text)
}

fn section(text: &mut String, entry: &MetricEntry) -> Result<(), SpecError> {
    let direction = if entry.higher_is_better { "higher" } else { "lower" };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n## `{}`\n\n{}: {}; {direction} is better.\n\n{}\n\nReference: {}.\n",
        entry.name,
        capitalised(entry.summary),
        entry.range,
        entry.definition,
        entry.reference
    );
    if entry.options.is_empty() {
        return Ok(());
    }
    let defaults = resolve(&Component::named(entry.name))?.options;
    text.push_str("\n| option | default | what it does |\n|---|---|---|\n");
    for (name, meaning) in entry.options {
        let default = defaults.get(*name).map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(text, "| `{name}` | {default} | {meaning} |");
    }
    Ok(())
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_committed_document_is_what_the_program_writes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let text = document().unwrap();
        if std::env::var_os("PEFTBENCH_WRITE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/metrics.md is stale: run this test with PEFTBENCH_WRITE_DOCS=1 and commit what it writes");
    }
}
