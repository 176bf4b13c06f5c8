//! Which sweep, or sweeps, of the results folder are meant.

use crate::commands;
use crate::exit::{Exit, Problem};
use peftbench_report::{ReportError, current_tables};
use peftbench_results::ResultsError;
use peftbench_sweep::Store;
use std::path::{Path, PathBuf};

/// The sweep called `name` below `results`, or the only one there is.
pub fn choose(results: &Path, name: Option<&str>) -> anyhow::Result<Store> {
    let names = Store::sweeps(results)?;
    let name = match (name, names.as_slice()) {
        // A committed reference has tables and no runs.
        (Some(name), _) if results.join(name).join("tables").is_dir() => name,
        (Some(name), _) if names.iter().any(|known| known == name) => name,
        (Some(name), []) => return Err(none(results, &format!("no sweep `{name}`")).into()),
        (Some(name), _) => {
            let hint = peftbench_spec::suggest::hint(name, names.iter().map(String::as_str).collect::<Vec<_>>());
            return Err(Problem::new(Exit::NothingSelected, format!("no sweep `{name}` in {}; {hint}", results.display())).into());
        }
        (None, [only]) => only,
        (None, []) => return Err(none(results, "no sweep").into()),
        (None, several) => {
            let list = several.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let problem = format!("{} has {} sweeps: {list}", results.display(), several.len());
            return Err(Problem::new(Exit::Usage, problem).hint("name the one you mean").into());
        }
    };
    Ok(Store::open(results, name)?)
}

/// The folders of sweeps that are named, or of all there are, their tables up to date. Of all, those without a run are passed over.
pub fn folders(results: &Path, names: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let all = names.is_empty();
    let names = if all { Store::sweeps(results)? } else { names.to_vec() };
    if names.is_empty() {
        return Err(none(results, "no sweep").into());
    }
    let mut folders = Vec::new();
    for name in &names {
        let store = choose(results, Some(name))?;
        match current_tables(store.folder()) {
            Ok(collected) => commands::collect::warn_of_damage(&collected),
            Err(ReportError::Results(ResultsError::NoRuns { .. })) if all => continue,
            Err(error) => return Err(error.into()),
        }
        folders.push(store.folder().to_owned());
    }
    Ok(folders)
}

/// The error for a folder without sweeps.
pub fn none(results: &Path, what: &str) -> Problem {
    Problem::new(Exit::NothingSelected, format!("{what} in {}", results.display()))
        .hint("`peftbench sweep` makes one; `--results DIR` looks elsewhere")
}
