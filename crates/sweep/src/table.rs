//! A plan as people read it: aligned columns, totals below.

use crate::ids;
use crate::plan::{Plan, PlanStatus, PlannedRun, Selection, is_static};
use crate::schedule;
use crate::units::{Bytes, Count, Seconds};
use std::collections::BTreeMap;

/// A column: its heading, and whether its numbers stand to the right.
struct Column<'a> {
    heading: &'a str,
    right: bool,
    cells: Vec<String>,
}

impl Plan {
    /// The plan as a table, with totals for `workers` processes at a time over the runs that `selection` takes. Columns in which no run
    /// has anything to say are left out; an axis that no column shows has one of its own.
    pub fn render_table(&self, workers: usize, selection: Selection) -> String {
        format!("{}\n{}", align(&self.columns()), self.totals(workers, selection))
    }

    fn columns(&self) -> Vec<Column<'_>> {
        let width = ids::short_length(&self.runs.iter().map(|run| run.id.clone()).collect::<Vec<_>>());
        let column =
            |heading, right, cell: &dyn Fn(&PlannedRun) -> String| Column { heading, right, cells: self.runs.iter().map(cell).collect() };
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let mut columns = vec![
            column("run", false, &|run| run.id.as_str()[..width].to_owned()),
            column("status", false, &|run| run.status.to_string()),
            column("model", false, &|run| run.spec.model.name.clone()),
            column("task", false, &|run| run.spec.task.name.clone()),
            column("method", false, &|run| run.spec.method_label()),
            column("targets", false, &|run| run.spec.targets.label()),
            column("layers", false, &|run| run.spec.layers.to_string()),
        ];
        if self.runs.iter().any(|run| !is_static(&run.spec.policy)) {
            columns.push(column("policy", false, &|run| run.spec.policy.name.clone()));
        }
        for field in self.other_axes() {
            columns
                .push(column(field, false, &|run| known(run.axes.iter().find(|(name, _)| name == field).map(|(_, value)| value.clone()))));
        }
        columns.push(column("seed", true, &|run| run.spec.seed.to_string()));
        columns.push(column("lr", true, &|run| format!("{:?}", run.spec.train.lr)));
        let estimates = [
            column("trainable", true, &|run| known(run.estimate.trainable_params.map(|count| Count(count).to_string()))),
            column("memory", true, &|run| known(run.estimate.memory_bytes.map(|bytes| Bytes(bytes).to_string()))),
            column("time", true, &|run| known(run.estimate.seconds.map(|seconds| Seconds(seconds).to_string()))),
        ];
        columns.extend(estimates.into_iter().filter(|column| column.cells.iter().any(|cell| cell != "-")));
        columns
    }

    /// Fields that vary and that no fixed column shows.
    fn other_axes(&self) -> Vec<&str> {
        const SHOWN: [&str; 10] = ["model", "task", "method", "method.type", "method.r", "targets", "layers", "policy", "seed", "train.lr"];
        let mut fields: Vec<&str> = Vec::new();
        for (field, _) in self.runs.iter().flat_map(|run| &run.axes) {
            if !SHOWN.contains(&field.as_str()) && !fields.contains(&field.as_str()) {
                fields.push(field);
            }
        }
        fields
    }

    fn totals(&self, workers: usize, selection: Selection) -> String {
        let mut counts: BTreeMap<PlanStatus, usize> = BTreeMap::new();
        for run in &self.runs {
            // Interrupted runs count together, whatever their step.
            let status = if matches!(run.status, PlanStatus::Interrupted(_)) { PlanStatus::Interrupted(0) } else { run.status };
            *counts.entry(status).or_default() += 1;
        }
        let name = |status: PlanStatus| if matches!(status, PlanStatus::Failed(_)) { status.to_string() } else { status.name().to_owned() };
        let counts: Vec<String> = counts.into_iter().map(|(status, count)| format!("{count} {}", name(status))).collect();
        let from = if self.cells == self.runs.len() { String::new() } else { format!(" from {} cells", self.cells) };
        let mut text = format!("{}{from}: {}\n", number(self.runs.len(), "run"), counts.join(", "));
        text += &self.remaining(workers, selection);
        if !self.stale.is_empty() {
            text += &format!("{} in the store no longer in the plan\n", number(self.stale.len(), "run"));
        }
        text + &self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>()
    }

    fn remaining(&self, workers: usize, selection: Selection) -> String {
        let runs = self.to_run(selection);
        if runs.is_empty() {
            return "nothing to run\n".to_owned();
        }
        let seconds: Vec<_> = runs.iter().map(|run| run.estimate.seconds).collect();
        let mut text = format!("{} to run", runs.len());
        if let Some(wall) = schedule::wall_seconds(&seconds, workers) {
            text += &format!(", about {} with {}", Seconds(wall), number(workers, "worker"));
        }
        if let Some(bytes) = runs.iter().filter_map(|run| run.estimate.memory_bytes).max() {
            text += &format!(", up to {} each", Bytes(bytes));
        }
        text + "\n"
    }
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
