//! Which adapter the command line means, and which base.

use crate::exit::{Exit, Problem};
use peftbench_adapters::AdapterFolder;
use peftbench_runner::RunError;
use peftbench_sweep::ids;
use std::path::{Path, PathBuf};

/// The folder of an adapter: itself, that in a run's folder, or that of a run by its id.
pub fn folder(text: &str, results: &Path) -> anyhow::Result<PathBuf> {
    let path = Path::new(text);
    if path.is_dir() {
        let within = path.join("adapter");
        return Ok(if within.is_dir() { within } else { path.to_owned() });
    }
    let (store, id) = ids::find_run(results, text)?;
    let folder = store.run_dir(&id).join("adapter");
    if folder.is_dir() {
        return Ok(folder);
    }
    let problem = format!("run {id} has no adapter: it is not finished, or trained nothing");
    Err(Problem::new(Exit::NothingSelected, problem).hint("`peftbench status` shows which runs are done").into())
}

/// The name of the base: the one that is given, or the adapter's own.
pub fn base(adapter: &AdapterFolder, given: Option<&str>, folder: &Path) -> anyhow::Result<String> {
    let Some(given) = given else {
        return adapter.base_model().map(str::to_owned).ok_or_else(|| {
            let problem = format!("the adapter {} does not say its base", folder.display());
            Problem::new(Exit::Usage, problem).hint("give it with `--model MODEL`").into()
        });
    };
    // Another path of the same model is a name of its own.
    adapter.check_base(given).map_err(RunError::from)?;
    Ok(given.to_owned())
}
