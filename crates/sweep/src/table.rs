//! A plan as people read it: aligned columns, totals below.

use crate::ids;
use crate::plan::{Estimate, Plan, PlanStatus, PlannedRun, Selection, WaitingCell, is_static};
use crate::schedule;
use crate::units::{Bytes, Count, Seconds};
use peftbench_spec::{RunId, RunSpec};
use std::collections::BTreeMap;

/// A column: its heading, and whether its numbers stand to the right.
struct Column<'a> {
    heading: &'a str,
    right: bool,
    cells: Vec<String>,
}

/// A line of the table: a run, or a cell that is to become one.
struct Line<'a> {
    run: String,
    status: String,
    spec: &'a RunSpec,
    axes: &'a [(String, String)],
    lr: String,
    estimate: &'a Estimate,
}

impl Plan {
    /// The plan as a table, with totals for `workers` processes at a time over the runs that `selection` takes. Columns in which no run
    /// has anything to say are left out; an axis that no column shows has one of its own. Probes have a table of their own, before the cells.
    pub fn render_table(&self, workers: usize, selection: Selection) -> String {
        let ids: Vec<RunId> = self.probes.iter().chain(&self.runs).map(|run| run.id.clone()).collect();
        let width = ids::short_length(&ids);
        let probes: Vec<Line<'_>> = self.probes.iter().map(|run| Line::of_run(run, width)).collect();
        let runs = self.runs.iter().map(|run| Line::of_run(run, width));
        let cells: Vec<Line<'_>> = runs.chain(self.waiting.iter().map(|cell| self.line_of_waiting(cell))).collect();
        let tables = match probes.is_empty() {
            true => align(&columns(&cells)),
            false => format!(
                "probes of learning rates, scored on validation:\n{}\ncells:\n{}",
                align(&columns(&probes)),
                align(&columns(&cells))
            ),
        };
        format!("{tables}\n{}", self.totals(workers, selection))
    }

    fn line_of_waiting<'a>(&'a self, cell: &'a WaitingCell) -> Line<'a> {
        let choice = &self.selection.lr[cell.choice];
        let probes: usize = choice.candidates.iter().map(|candidate| candidate.probes.len()).sum();
        let (status, lr) = match choice.is_failed() {
            true => ("no learning rate", "-".to_owned()),
            false => ("waiting", format!("chosen from {}", number(probes, "probe"))),
        };
        Line { run: "-".to_owned(), status: status.to_owned(), spec: &cell.spec, axes: &cell.axes, lr, estimate: &cell.estimate }
    }

    fn totals(&self, workers: usize, selection: Selection) -> String {
        let mut text = String::new();
        if !self.probes.is_empty() {
            text += &format!("{}: {}\n", number(self.probes.len(), "probe"), counts(&self.probes).join(", "));
        }
        let (without_rate, waiting): (Vec<_>, Vec<_>) = self.waiting.iter().partition(|cell| self.selection.lr[cell.choice].is_failed());
        let mut parts = counts(&self.runs);
        let others = [(waiting.len(), "waiting for probes"), (without_rate.len(), "without a learning rate")];
        parts.extend(others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        let runs = self.runs.len() + self.waiting.len();
        let from = if self.cells == runs { String::new() } else { format!(" from {} cells", self.cells) };
        text += &format!("{}{from}: {}\n", number(runs, "run"), parts.join(", "));
        text += &self.remaining(workers, selection, &waiting);
        if !self.stale.is_empty() {
            text += &format!("{} in the store no longer in the plan\n", number(self.stale.len(), "run"));
        }
        text + &self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>()
    }

    /// What is left: the probes first, then all else.
    fn remaining(&self, workers: usize, selection: Selection, waiting: &[&WaitingCell]) -> String {
        let estimates = |runs: &[PlannedRun]| selection.of(runs).into_iter().map(|run| run.estimate).collect::<Vec<_>>();
        let probes = estimates(&self.probes);
        let cells: Vec<Estimate> = estimates(&self.runs).into_iter().chain(waiting.iter().map(|cell| cell.estimate)).collect();
        let all = || probes.iter().chain(&cells);
        if all().next().is_none() {
            return "nothing to run\n".to_owned();
        }
        let wall = |stage: &[Estimate]| schedule::wall_seconds(&stage.iter().map(|estimate| estimate.seconds).collect::<Vec<_>>(), workers);
        let mut text = format!("{} to run", all().count());
        if let (Some(first), Some(second)) = (wall(&probes), wall(&cells)) {
            text += &format!(", about {} with {}", Seconds(first + second), number(workers, "worker"));
            if !probes.is_empty() && !cells.is_empty() {
                text += &format!(" ({} of it for {})", Seconds(first), number(probes.len(), "probe"));
            }
        }
        if let Some(bytes) = all().filter_map(|estimate| estimate.memory_bytes).max() {
            text += &format!(", up to {} each", Bytes(bytes));
        }
        text + "\n"
    }
}

impl<'a> Line<'a> {
    /// A run, with so many digits of its id.
    fn of_run(run: &'a PlannedRun, width: usize) -> Self {
        Self {
            run: run.id.as_str()[..width].to_owned(),
            status: run.status.to_string(),
            spec: &run.spec,
            axes: &run.axes,
            lr: format!("{:?}", run.spec.train.lr),
            estimate: &run.estimate,
        }
    }
}

fn columns<'a>(lines: &'a [Line<'_>]) -> Vec<Column<'a>> {
    let column = |heading, right, cell: &dyn Fn(&Line<'_>) -> String| Column { heading, right, cells: lines.iter().map(cell).collect() };
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut columns = vec![
        column("run", false, &|line| line.run.clone()),
        column("status", false, &|line| line.status.clone()),
        column("model", false, &|line| line.spec.model.name.clone()),
        column("task", false, &|line| line.spec.task.name.clone()),
        column("method", false, &|line| line.spec.method_label()),
        column("targets", false, &|line| line.spec.targets.label()),
        column("layers", false, &|line| line.spec.layers.to_string()),
    ];
    if lines.iter().any(|line| !is_static(&line.spec.policy)) {
        columns.push(column("policy", false, &|line| line.spec.policy.name.clone()));
    }
    for field in other_axes(lines) {
        let value = |line: &Line<'_>| line.axes.iter().find(|(name, _)| name == field).map(|(_, value)| value.clone());
        columns.push(column(field, false, &|line| known(value(line))));
    }
    columns.push(column("seed", true, &|line| line.spec.seed.to_string()));
    columns.push(column("lr", true, &|line| line.lr.clone()));
    let estimates = [
        column("trainable", true, &|line| known(line.estimate.trainable_params.map(|count| Count(count).to_string()))),
        column("memory", true, &|line| known(line.estimate.memory_bytes.map(|bytes| Bytes(bytes).to_string()))),
        column("time", true, &|line| known(line.estimate.seconds.map(|seconds| Seconds(seconds).to_string()))),
    ];
    columns.extend(estimates.into_iter().filter(|column| column.cells.iter().any(|cell| cell != "-")));
    columns
}

/// Fields that vary and that no fixed column shows.
fn other_axes<'a>(lines: &'a [Line<'_>]) -> Vec<&'a str> {
    const SHOWN: [&str; 10] = ["model", "task", "method", "method.type", "method.r", "targets", "layers", "policy", "seed", "train.lr"];
    let mut fields: Vec<&str> = Vec::new();
    for (field, _) in lines.iter().flat_map(|line| line.axes) {
        if !SHOWN.contains(&field.as_str()) && !fields.contains(&field.as_str()) {
            fields.push(field);
        }
    }
    fields
}

/// How many runs stand where: `3 new`, `1 failed (oom)`.
fn counts(runs: &[PlannedRun]) -> Vec<String> {
    let mut counts: BTreeMap<PlanStatus, usize> = BTreeMap::new();
    for run in runs {
        // Interrupted runs count together, whatever their step.
        let status = if matches!(run.status, PlanStatus::Interrupted(_)) { PlanStatus::Interrupted(0) } else { run.status };
        *counts.entry(status).or_default() += 1;
    }
    let name = |status: PlanStatus| if matches!(status, PlanStatus::Failed(_)) { status.to_string() } else { status.name().to_owned() };
    counts.into_iter().map(|(status, count)| format!("{count} {}", name(status))).collect()
}

fn number(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn align(columns: &[Column<'_>]) -> String {
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let width =
        |column: &Column<'_>| column.cells.iter().map(String::as_str).chain([column.heading]).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in 0..=rows {
        let mut line = String::new();
        for column in columns {
            let width = width(column).unwrap_or(0);
            let cell = if row == 0 { column.heading } else { &column.cells[row - 1] };
            line += &if column.right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestResolver, append_event, finished, store, sweep_spec};
    use crate::{State, Status, plan};

    #[test]
    fn a_plan_is_a_table_with_totals() {
        let (_root, store) = store();
        let sweep = sweep_spec(
            "seeds = [0]\n[axes]\nmethod = [{ type = \"lora\", r = 8 }, \"none\"]\ntrain.lr = [1e-3, 1e-5]\ntrain.epochs = [2]\n[[exclude]]\nmatch = { seed = 3 }",
        );
        let first = plan(&sweep, &store, &TestResolver::default()).unwrap();
        let id = first.runs[0].id.clone();
        append_event(&store, &id, &finished());
        store.write_state(&id, &State::planned().next_attempt().ended(Status::Done, None)).unwrap();
        let plan = plan(&sweep, &store, &TestResolver::default()).unwrap();
        let ids: Vec<_> = plan.runs.iter().map(|run| &run.id.as_str()[..6]).collect();
        let expected = format!(
            "\
run     status  model  task  method    targets  layers  train.epochs  seed     lr  trainable   memory   time
{}  done    m      t     lora r=8  default  all     2                0  0.001      1.3 k  212 MiB  1 min
{}  new     m      t     lora r=8  default  all     2                0   1e-5      1.3 k  212 MiB  1 min
{}  new     m      t     none      default  all     2                0  0.001          0  212 MiB  1 min

3 runs from 4 cells: 2 new, 1 done
2 to run, about 1 min with 2 workers, up to 212 MiB each
warning: s.toml: `exclude[0]` leaves out no cell: seed = 3
",
            ids[0], ids[1], ids[2]
        );
        assert_eq!(plan.render_table(2, Selection::default()), expected);
    }

    #[test]
    fn unknown_estimates_and_an_empty_rest_are_said_plainly() {
        let (_root, store) = store();
        let mut plan = plan(&sweep_spec("axes.policy = [\"ist\"]\nseeds = [1]"), &store, &TestResolver::default()).unwrap();
        plan.runs[0].estimate = Default::default();
        plan.runs[0].status = PlanStatus::Interrupted(40);
        let table = plan.render_table(1, Selection::default());
        assert!(
            table.starts_with("run     status                  model  task  method  targets  layers  policy  seed     lr\n"),
            "{table}"
        );
        assert!(table.ends_with("1 run: 1 interrupted\n1 to run\n"), "{table}");
        plan.runs[0].status = PlanStatus::Failed(peftbench_spec::event::FailureKind::Oom);
        assert!(plan.render_table(1, Selection::default()).ends_with("1 run: 1 failed (oom)\nnothing to run\n"));
        assert!(plan.render_table(1, Selection { failed: true, changed: false }).ends_with("1 to run\n"));
    }
}
