//! Which sweep of the results folder is meant.

use crate::exit::{Exit, Problem};
use peftbench_sweep::Store;
use std::path::Path;

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

/// The error for a folder without sweeps.
pub fn none(results: &Path, what: &str) -> Problem {
    Problem::new(Exit::NothingSelected, format!("{what} in {}", results.display()))
        .hint("`peftbench sweep` makes one; `--results DIR` looks elsewhere")
}
