//! Layer selections by the importance that another run has found: `importance:RUN:top:8` becomes the indices of those layers.

use peftbench_results::rows::{LayerRow, ParamRow, Row};
use peftbench_results::{ResultsError, tables};
use peftbench_spec::layers::Ranked;
use peftbench_spec::{LayerSelection, RunSpec, SpecError};
use peftbench_sweep::ids;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The spec with every such selection replaced, those of entries of `combined`, too. What is left names no other run.
///
/// # Errors
/// There is no such run below `results`, its policy gave the layers no importance, or fewer layers have one than are asked for.
pub fn resolve(spec: &RunSpec, results: &Path) -> Result<RunSpec, SpecError> {
    let mut resolved = spec.clone();
    if let LayerSelection::Importance(ranked) = &spec.layers {
        resolved.layers = LayerSelection::Indices(chosen(ranked, results)?);
    }
    for (i, method) in resolved.method.iter_mut().enumerate() {
        in_options(&mut method.options, results).map_err(|error| error.below(&format!("method[{i}]")))?;
    }
    Ok(resolved)
}

/// Replaces the value of every key `layers` that is such a selection.
fn in_options(options: &mut Map<String, Value>, results: &Path) -> Result<(), SpecError> {
    for (key, value) in options {
        match value {
            Value::String(text) if key == "layers" => {
                if let Ok(LayerSelection::Importance(ranked)) = text.parse() {
                    *text = LayerSelection::Indices(chosen(&ranked, results)?).to_string();
                }
            }
            Value::Object(table) => in_options(table, results).map_err(|error| error.below(key))?,
            Value::Array(entries) => {
                for (i, entry) in entries.iter_mut().enumerate() {
                    if let Value::Object(table) = entry {
                        in_options(table, results).map_err(|error| error.below(&format!("{key}[{i}]")))?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn chosen(ranked: &Ranked, results: &Path) -> Result<Vec<usize>, SpecError> {
    let wrong = |problem: String| SpecError::at("layers", format!("`{ranked}`: {problem}"));
    let way_out = "it must be run before; `peftbench status` shows the ids of runs";
    let (store, id) = ids::find_run(results, &ranked.run).map_err(|error| wrong(format!("{error}; {way_out}")))?;
    let folder = store.run_dir(&id);
    if !table::<LayerRow>(&folder).is_file() {
        return Err(wrong(format!("run {id} is not finished; run it first")));
    }
    let importance = importance(&folder).map_err(|error| wrong(error.to_string()))?;
    if importance.is_empty() {
        let way_out = "take a run with the policy `ist`, `greedy` or `surgical`";
        return Err(wrong(format!("the policy of run {id} gave its layers no importance; {way_out}")));
    }
    ranked.choose(&importance)
}

/// One of a run's own tables.
fn table<R: Row>(folder: &Path) -> PathBuf {
    folder.join(format!("{}.parquet", R::TABLE))
}

/// The importance at the last step at which the run recorded one, of each layer that trained in it.
fn importance(folder: &Path) -> Result<BTreeMap<usize, f64>, ResultsError> {
    let rows: Vec<LayerRow> = tables::read(&table::<LayerRow>(folder))?;
    let params: Vec<ParamRow> = tables::read(&table::<ParamRow>(folder))?;
    let trained: BTreeSet<u64> = params.iter().filter(|param| param.trainable).filter_map(|param| param.layer).collect();
    let known = || rows.iter().filter(|row| trained.contains(&row.layer)).filter_map(|row| Some((row, row.importance?)));
    let last = known().map(|(row, _)| row.step).max();
    Ok(known().filter(|(row, _)| Some(row.step) == last).map(|(row, value)| (row.layer as usize, value)).collect())
}
