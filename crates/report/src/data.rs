//! What figures and tables are made from: a sweep's tables, read once, with labels, looks and cells worked out.

use crate::axis::thousands;
use crate::claims::{Paper, Scoreboard};
use crate::error::{ReportError, Result};
use crate::labels::Labels;
use crate::style::Look;
use peftbench_results::rows::{DimensionRow, LayerRow, Role, SelectRow, Status};
use peftbench_results::{AggregateRow, Collected, EvalRow, RunRow, StepRow, tables};
use peftbench_spec::SweepSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A sweep's results.
pub struct Data {
    /// Its name.
    pub sweep: String,
    /// What it is for.
    pub description: String,
    /// Every run that is a cell of the grid.
    pub runs: Vec<RunRow>,
    /// Every run that tries out a learning rate.
    pub probes: Vec<RunRow>,
    /// What the probes are part of.
    pub select: Vec<SelectRow>,
    /// Every configuration with a result.
    pub aggregates: Vec<AggregateRow>,
    /// Every optimizer step.
    pub steps: Vec<StepRow>,
    /// Every evaluation.
    pub evals: Vec<EvalRow>,
    /// What policies said about layers.
    pub layers: Vec<LayerRow>,
    /// What methods selected of state spaces.
    pub dimensions: Vec<DimensionRow>,
    /// Runs that could not be read, and the record of choices if that could not: id or file, and reason.
    pub damaged: Vec<(String, String)>,
    /// Display cells, sorted.
    pub cells: Vec<Cell>,
    /// What papers claim, judged by these results, where claims files were given.
    pub claims: Option<Claims>,
    names: Names,
    /// Those of the probes, which may differ from their cells' in options.
    probe_names: Names,
    methods: Vec<String>,
}

/// Papers and the verdicts on what they say.
pub struct Claims {
    /// The claims files.
    pub papers: Vec<Paper>,
    /// Their statements with verdicts.
    pub scoreboard: Scoreboard,
}

/// The labels of models, tasks, methods and policies.
struct Names {
    models: Labels,
    tasks: Labels,
    methods: Labels,
    policies: Labels,
}

impl Names {
    fn of(runs: &[RunRow]) -> Self {
        Self {
            models: Labels::of(runs.iter().map(|r| (r.model.as_str(), r.model_json.as_str()))),
            tasks: Labels::of(runs.iter().map(|r| (r.task.as_str(), r.task_json.as_str()))),
            methods: Labels::of(runs.iter().map(|r| (r.method.as_str(), r.method_json.as_str()))),
            policies: Labels::of(runs.iter().map(|r| (r.policy.as_str(), r.policy_json.as_str()))),
        }
    }

    fn place(&self, [model, task, method, targets, layers, policy, policy_json]: [&String; 7]) -> Place {
        let layers = match policy.as_str() {
            "static" => layers.clone(),
            _ => format!("{layers} · {}", self.policies.get(policy_json)),
        };
        Place {
            model: self.models.get(model).to_owned(),
            task: self.tasks.get(task).to_owned(),
            method: self.methods.get(method).to_owned(),
            targets: targets.clone(),
            layers,
        }
    }
}

/// Where a run or configuration has its place in figures.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Label of the model.
    pub model: String,
    /// Label of the task.
    pub task: String,
    /// Label of the method.
    pub method: String,
    /// Targets.
    pub targets: String,
    /// Layers, with the policy behind them where it is not `static`.
    pub layers: String,
}

/// A place in figures and the configuration shown there.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Where it is shown.
    pub place: Place,
    /// What is shown: of several training settings the one best on validation.
    pub row: AggregateRow,
    /// How many training settings it was chosen from.
    pub chosen_from: usize,
}

/// The targets of a configuration that leaves them to its method.
pub const DEFAULT_TARGETS: &str = "default";

/// The layers of a configuration that restricts nothing.
pub const ALL_LAYERS: &str = "all";

impl Data {
    /// Reads the tables of a sweep.
    ///
    /// # Errors
    /// A table cannot be read, or no run has a result.
    pub fn read(sweep_dir: &Path, collected: &Collected) -> Result<Self> {
        let (runs, probes): (Vec<_>, Vec<_>) = tables::read_runs(sweep_dir)?.into_iter().partition(|run| run.role == Role::Cell);
        let aggregates = tables::read_aggregates(sweep_dir)?;
        if aggregates.is_empty() {
            return Err(nothing_finished(sweep_dir, &runs, probes.len()));
        }
        let names = Names::of(&runs);
        let sweep = SweepSpec::read(&sweep_dir.join("sweep.toml")).ok();
        let zero_shot: BTreeSet<&str> = runs.iter().filter(|r| r.is_zero_shot()).map(|r| names.methods.get(&r.method_json)).collect();
        let methods = names.methods.all().into_iter().filter(|label| !zero_shot.contains(label)).map(str::to_owned).collect();
        let mut data = Self {
            sweep: sweep.as_ref().map_or_else(|| runs[0].sweep.clone(), |sweep| sweep.name.clone()),
            description: sweep.map(|sweep| sweep.description).unwrap_or_default(),
            steps: tables::read_steps(sweep_dir)?,
            evals: tables::read_evals(sweep_dir)?,
            layers: tables::read_layers(sweep_dir)?,
            dimensions: tables::read_dimensions(sweep_dir)?,
            damaged: damaged(collected),
            cells: Vec::new(),
            claims: None,
            names,
            methods,
            probe_names: Names::of(&probes),
            select: tables::read_select(sweep_dir)?,
            runs,
            probes,
            aggregates,
        };
        data.cells = data.choose_cells();
        Ok(data)
    }

    /// One cell a place: of several training settings the best on validation (test results choose nothing).
    fn choose_cells(&self) -> Vec<Cell> {
        let mut places: BTreeMap<Place, Vec<&AggregateRow>> = BTreeMap::new();
        for row in &self.aggregates {
            places.entry(self.place_of_aggregate(row)).or_default().push(row);
        }
        let merit = |row: &AggregateRow| {
            let value = row.valid_mean.unwrap_or(f64::NEG_INFINITY);
            if row.primary_higher_is_better { value } else { -value }
        };
        let best = |(place, rows): (Place, Vec<&AggregateRow>)| {
            let chosen_from = rows.len();
            let row = rows.into_iter().max_by(|a, b| merit(a).total_cmp(&merit(b)))?.clone();
            Some(Cell { place, row, chosen_from })
        };
        places.into_iter().filter_map(best).collect()
    }

    /// The place of a configuration.
    pub fn place_of_aggregate(&self, row: &AggregateRow) -> Place {
        self.names.place([&row.model_json, &row.task_json, &row.method_json, &row.targets, &row.layers, &row.policy, &row.policy_json])
    }

    /// The place of a run.
    pub fn place_of_run(&self, row: &RunRow) -> Place {
        self.names.place([&row.model_json, &row.task_json, &row.method_json, &row.targets, &row.layers, &row.policy, &row.policy_json])
    }

    /// The place of a run that tries out a learning rate: that of its cell, as far as the two agree.
    pub fn place_of_probe(&self, row: &RunRow) -> Place {
        let fields = [&row.model_json, &row.task_json, &row.method_json, &row.targets, &row.layers, &row.policy, &row.policy_json];
        let (own, cell) = (self.probe_names.place(fields), self.place_of_run(row));
        // A method that no cell has in this form has no name among theirs.
        let method = if self.methods.contains(&cell.method) { cell.method } else { own.method };
        Place { method, ..own }
    }

    /// The look of a method.
    pub fn look(&self, method: &str) -> Look {
        Look::of(self.methods.iter().position(|known| known == method).unwrap_or(self.methods.len()))
    }

    /// Methods that train something, in the order of their colours.
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// Models with a result or a failed run, sorted.
    pub fn models(&self) -> Vec<&str> {
        self.names.models.all().into_iter().collect()
    }

    /// Tasks, sorted.
    pub fn tasks(&self) -> Vec<&str> {
        self.names.tasks.all().into_iter().collect()
    }

    /// The zero-shot reference of a model on a task.
    pub fn zero_shot(&self, model: &str, task: &str) -> Option<&AggregateRow> {
        let here = |cell: &&Cell| cell.place.model == model && cell.place.task == task && cell.row.is_zero_shot();
        self.cells.iter().find(here).map(|cell| &cell.row)
    }

    /// Cells that train something.
    pub fn trained(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| !cell.row.is_zero_shot())
    }

    /// Of the trained cells, those that stand for their method and targets: on all layers where there is such a one.
    pub fn main_cells(&self) -> Vec<&Cell> {
        let mut chosen: BTreeMap<(&str, &str, &str, &str), &Cell> = BTreeMap::new();
        for cell in self.trained() {
            let place = &cell.place;
            let slot = chosen.entry((&place.model, &place.task, &place.method, &place.targets)).or_insert(cell);
            if place.layers == ALL_LAYERS {
                *slot = cell;
            }
        }
        chosen.into_values().collect()
    }

    /// Why a place has no result, in a few words.
    pub fn absence(&self, model: &str, task: &str, method: &str, targets: &str) -> Option<String> {
        let here = |run: &&RunRow| {
            let place = self.place_of_run(run);
            place.model == model && place.task == task && place.method == method && place.targets == targets
        };
        let mut reasons = BTreeSet::new();
        for run in self.runs.iter().filter(here) {
            reasons.insert(match run.status {
                Status::Failed => format!("failed: {}", run.failure_kind.as_deref().unwrap_or("unknown")),
                other => other.name().to_owned(),
            });
        }
        (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// What the cells of a figure share: models, tasks, data, budget, seeds, device.
    pub fn subtitle<'a>(&self, cells: impl Iterator<Item = &'a Cell> + Clone) -> String {
        let list = |read: &dyn Fn(&Cell) -> String| {
            let values: BTreeSet<String> = cells.clone().map(read).collect();
            values.into_iter().collect::<Vec<_>>()
        };
        // A dozen tasks are told apart in the figure itself.
        let few = |values: Vec<String>, noun| if values.len() > 6 { counted(values.len(), noun) } else { values.join(", ") };
        let range = |read: &dyn Fn(&AggregateRow) -> Option<u64>| span(cells.clone().filter_map(|cell| read(&cell.row)));
        let seeds: BTreeSet<u64> = cells.clone().flat_map(|cell| cell.row.seeds.split(',')).filter_map(|s| s.parse().ok()).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let device = list(&|cell| {
            let device = cell.row.device.as_deref().unwrap_or("unknown device");
            cell.row.threads.map_or_else(|| device.to_owned(), |threads| format!("{device} with {}", counted(threads, "thread")))
        })
        .join(", ");
        let mut parts = vec![
            few(list(&|cell| cell.place.model.clone()), "model"),
            few(list(&|cell| cell.place.task.clone()), "task"),
            format!("{} train / {} test examples", range(&|r| r.train_samples.filter(|_| !r.is_zero_shot())), range(&|r| r.test_samples)),
            format!("{}, {}", counted(range(&|r| Some(r.epochs)), "epoch"), counted(range(&|r| r.total_steps), "step")),
            format!("{} {}", if seeds.len() == 1 { "seed" } else { "seeds" }, seeds.join(", ")),
            device,
        ];
        let settings = cells.map(|cell| cell.chosen_from).max().unwrap_or(1);
        if settings > 1 {
            parts.push(format!("of up to {settings} training settings a configuration, the best on validation"));
        }
        parts.join(" · ")
    }
}

/// What could not be read, and why.
fn damaged(collected: &Collected) -> Vec<(String, String)> {
    let choices = collected.choices_problem.iter().map(|problem| ("select.json".to_owned(), problem.clone()));
    collected.damaged.iter().map(|run| (run.run_id.clone(), run.problem.clone())).chain(choices).collect()
}

/// `1 epoch`, `3 epochs`, `1–3 epochs`.
fn counted(count: impl std::fmt::Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A range of counts as text: `160`, `160–2000`, or `?` for none.
fn span(values: impl Iterator<Item = u64>) -> String {
    let values: BTreeSet<u64> = values.collect();
    match (values.first(), values.last()) {
        (Some(low), Some(high)) if low == high => thousands(&low.to_string()),
        (Some(low), Some(high)) => format!("{}–{}", thousands(&low.to_string()), thousands(&high.to_string())),
        _ => "?".to_owned(),
    }
}

fn nothing_finished(sweep_dir: &Path, runs: &[RunRow], probes: usize) -> ReportError {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for run in runs {
        *counts.entry(run.status.name()).or_default() += 1;
    }
    let listed: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let failed = runs.iter().filter(|run| run.status == Status::Failed);
    let failure = failed.filter_map(|run| run.failure_message.as_deref()).next().map(|m| format!("; an error: {m}")).unwrap_or_default();
    let listed = listed.into_iter().chain((probes > 0).then(|| format!("{probes} probes of learning rates"))).collect::<Vec<_>>();
    let reasons = format!(" ({}{failure})", listed.join(", "));
    ReportError::NothingFinished { path: sweep_dir.to_owned(), runs: runs.len(), reasons }
}
