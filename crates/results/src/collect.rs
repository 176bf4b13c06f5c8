//! Merges the runs of a sweep into `tables/*.parquet`.
//!
//! Idempotent: the same runs give the same bytes, in whatever order they finished. A fragment that is missing, damaged, of another
//! schema or behind its events is made again from the events; a run for which that fails is named and left out, the others stand.

use crate::aggregates::{aggregate, item_scores};
use crate::error::{Result, ResultsError};
use crate::fragments::{RunRows, fragment_path, write_fragments};
use crate::rows::{
    DimensionRow, EvalRow, LayerRow, LrSource, MemoryRow, ParamRow, PredictionRow, Role, Row, RunRow, SelectRow, Status, StepRow,
};
use crate::store::Table;
use crate::tables::table_path;
use peftbench_spec::RunId;
use peftbench_spec::lr_selection::{LrChoice, SelectionRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What [`collect`] found and wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Cells' runs by status.
    pub runs: BTreeMap<Status, usize>,
    /// Probes by status.
    pub probes: BTreeMap<Status, usize>,
    /// Configurations with a result.
    pub configurations: usize,
    /// Runs whose files could not be read, with the reason. They are in no table.
    pub damaged: Vec<Damaged>,
    /// Why the record of chosen learning rates, `select.json`, could not be read, and the way out. The table `select` is then empty.
    pub choices_problem: Option<String>,
    /// Runs whose tables were made (again) from their events.
    pub rebuilt: Vec<String>,
    /// The tables written.
    pub tables: Vec<PathBuf>,
}

/// A run left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Name of its folder, the run id.
    pub run_id: String,
    /// The error.
    pub problem: String,
}

impl Collected {
    /// How many cells' runs have this status.
    pub fn count(&self, status: Status) -> usize {
        self.runs.get(&status).copied().unwrap_or(0)
    }
}

/// Merges every run under `<sweep_dir>/runs` into `<sweep_dir>/tables`: `runs`, `steps`, `evals`, `memory`, `layers`, `dimensions`, `params`,
/// `predictions` and `aggregates`, each sorted by run id, and `select` with the choices of learning rates in their order. Failed and unfinished
/// runs are in `runs` with their status and error.
///
/// # Errors
/// There is no folder `runs`, no run in it, or a table cannot be written. A damaged run is no error, nor is a damaged record of choices: see
/// [`Collected::damaged`] and [`Collected::choices_problem`].
pub fn collect(sweep_dir: &Path) -> Result<Collected> {
    let mut collected = Collected::default();
    let folders = run_folders(sweep_dir)?;
    let mut merged = Fragments::empty()?;
    for folder in &folders {
        let run_id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match Fragments::of_run(folder) {
            Ok((fragments, rebuilt)) => {
                merged.append(&fragments, folder)?;
                collected.rebuilt.extend(rebuilt.then_some(run_id));
            }
            Err(error) => collected.damaged.push(Damaged { run_id, problem: error.to_string() }),
        }
    }
    if merged.run.height() == 0 && collected.damaged.is_empty() {
        return Err(ResultsError::NoRuns { path: sweep_dir.to_owned() });
    }
    merged.write(sweep_dir, &mut collected)?;
    Ok(collected)
}

/// The run folders, by name: those with a manifest.
fn run_folders(sweep_dir: &Path) -> Result<Vec<PathBuf>> {
    let runs = sweep_dir.join("runs");
    let entries = match std::fs::read_dir(&runs) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ResultsError::NoRuns { path: sweep_dir.to_owned() }),
        other => other.map_err(|e| ResultsError::io("list", &runs, e))?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| ResultsError::io("list", &runs, e))?.path();
        // A folder that cannot be looked into is a run until it is read, and then a damaged one.
        if !matches!(path.join("manifest.toml").try_exists(), Ok(false)) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The tables of one run, or of several merged.
struct Fragments {
    run: Table,
    steps: Table,
    evals: Table,
    memory: Table,
    layers: Table,
    dimensions: Table,
    params: Table,
    predictions: Table,
}

impl Fragments {
    fn empty() -> Result<Self> {
        Ok(Self {
            run: Table::of::<RunRow>(&[])?,
            steps: Table::of::<StepRow>(&[])?,
            evals: Table::of::<EvalRow>(&[])?,
            memory: Table::of::<MemoryRow>(&[])?,
            layers: Table::of::<LayerRow>(&[])?,
            dimensions: Table::of::<DimensionRow>(&[])?,
            params: Table::of::<ParamRow>(&[])?,
            predictions: Table::of::<PredictionRow>(&[])?,
        })
    }

    /// The fragments of a run, and whether they had to be made again.
    fn of_run(folder: &Path) -> Result<(Self, bool)> {
        let kept = Self::read(folder);
        match kept.and_then(|fragments| fragments.check_current(folder).map(|()| fragments)) {
            Ok(fragments) => Ok((fragments, false)),
            Err(_) => {
                write_fragments(folder)?;
                Ok((Self::read(folder)?, true))
            }
        }
    }

    fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            run: read_fragment::<RunRow>(folder)?,
            steps: read_fragment::<StepRow>(folder)?,
            evals: read_fragment::<EvalRow>(folder)?,
            memory: read_fragment::<MemoryRow>(folder)?,
            layers: read_fragment::<LayerRow>(folder)?,
            dimensions: read_fragment::<DimensionRow>(folder)?,
            params: read_fragment::<ParamRow>(folder)?,
            predictions: read_fragment::<PredictionRow>(folder)?,
        })
    }

    /// Whether the fragments were made from all of the events, and from this folder's run. Where the events were put away to save
    /// space, the fragments stand alone.
    fn check_current(&self, folder: &Path) -> Result<()> {
        let path = fragment_path::<RunRow>(folder);
        let rows: Vec<RunRow> = self.run.rows(&path)?;
        let [row] = rows.as_slice() else {
            return Err(ResultsError::table(&path, format!("expected one row, found {}", rows.len())));
        };
        let current = match std::fs::metadata(folder.join("events.jsonl")) {
            // A run without a result can change in other ways too: its end may stand in `state.json` only.
            Ok(metadata) if row.status == Status::Done => metadata.len() == row.events_bytes,
            Err(_) if row.events_bytes > 0 => true,
            _ => RunRows::read(folder)?.run == *row,
        };
        match current {
            true => Ok(()),
            false => Err(ResultsError::table(&path, "behind its events")),
        }
    }

    fn append(&mut self, other: &Self, folder: &Path) -> Result<()> {
        self.run.append(&other.run, folder)?;
        self.steps.append(&other.steps, folder)?;
        self.evals.append(&other.evals, folder)?;
        self.memory.append(&other.memory, folder)?;
        self.layers.append(&other.layers, folder)?;
        self.dimensions.append(&other.dimensions, folder)?;
        self.params.append(&other.params, folder)?;
        self.predictions.append(&other.predictions, folder)
    }

    fn write(&self, sweep_dir: &Path, collected: &mut Collected) -> Result<()> {
        let mut put = |table: &Table, path: PathBuf| table.write(&path).map(|()| collected.tables.push(path));
        put(&self.steps, table_path::<StepRow>(sweep_dir))?;
        put(&self.evals, table_path::<EvalRow>(sweep_dir))?;
        put(&self.memory, table_path::<MemoryRow>(sweep_dir))?;
        put(&self.layers, table_path::<LayerRow>(sweep_dir))?;
        put(&self.dimensions, table_path::<DimensionRow>(sweep_dir))?;
        put(&self.params, table_path::<ParamRow>(sweep_dir))?;
        put(&self.predictions, table_path::<PredictionRow>(sweep_dir))?;
        let runs_path = table_path::<RunRow>(sweep_dir);
        let mut runs: Vec<RunRow> = self.run.rows(&runs_path)?;
        let choices = choices(sweep_dir).unwrap_or_else(|error| {
            collected.choices_problem = Some(error.to_string());
            runs.iter_mut().filter(|run| run.role == Role::Cell).for_each(|run| run.lr_source = LrSource::Unknown);
            Vec::new()
        });
        let selected: BTreeSet<&str> = choices.iter().flat_map(|choice| &choice.runs).map(RunId::as_str).collect();
        for run in runs.iter_mut().filter(|run| selected.contains(run.run_id.as_str())) {
            run.lr_source = LrSource::Selected;
        }
        let rows: Vec<Vec<SelectRow>> = choices.iter().map(|choice| SelectRow::of_choice(choice, &runs)).collect::<Result<_>>()?;
        put(&Table::of(&rows.concat())?, table_path::<SelectRow>(sweep_dir))?;
        let predictions: Vec<PredictionRow> = self.predictions.rows(&table_path::<PredictionRow>(sweep_dir))?;
        let aggregates = aggregate(&runs, &item_scores(&predictions));
        put(&Table::of(&aggregates)?, table_path::<crate::AggregateRow>(sweep_dir))?;
        put(&Table::of(&runs)?, runs_path)?;
        collected.configurations = aggregates.len();
        for run in &runs {
            let counts = if run.role == Role::Probe { &mut collected.probes } else { &mut collected.runs };
            *counts.entry(run.status).or_default() += 1;
        }
        Ok(())
    }
}

/// The choices of learning rates that the sweep has recorded.
fn choices(sweep_dir: &Path) -> Result<Vec<LrChoice>> {
    let path = sweep_dir.join("select.json");
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        text => {
            let text = text.map_err(|e| ResultsError::io("read", &path, e))?;
            let record: SelectionRecord =
                serde_json::from_slice(&text).map_err(|error| ResultsError::Choices { path: path.clone(), problem: error.to_string() })?;
            Ok(record.lr)
        }
    }
}

fn read_fragment<R: Row>(folder: &Path) -> Result<Table> {
    let path = fragment_path::<R>(folder);
    let table = Table::read(&path)?;
    match table.has_columns_of::<R>() {
        true => Ok(table),
        false => Err(ResultsError::table(&path, format!("expected the columns of table `{}`", R::TABLE))),
    }
}
