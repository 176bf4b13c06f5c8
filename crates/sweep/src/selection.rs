//! Planning with `[select.lr]`: probes first, then choices, then the cells that take the chosen rates.

use crate::choose::{self, ProbeResult, Tried};
use crate::error::PlanError;
use crate::expand::{Cell, at_place};
use crate::plan::{Context, Crashes, Plan, PlanStatus, RunList, WaitingCell};
use crate::probes;
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::event::FailureKind;
use peftbench_spec::lr_selection::{Candidate, Decision, LrChoice, SelectionRecord};
use peftbench_spec::{LrSelection, RunId, RunSpec, SpecError};
use std::collections::HashMap;

/// A cell with its run, whose learning rate is a choice's unless it has none.
struct Rated<'a> {
    cell: &'a Cell,
    /// With the lowest rate of the grid.
    resolved: RunSpec,
    /// Index of its choice; none where no rate changes the run.
    choice: Option<usize>,
}

/// The plan of the cells of a sweep that chooses learning rates.
pub(crate) fn plan_cells(context: &Context<'_>, selection: &LrSelection, cells: &[Cell], crashes: Crashes) -> Result<Plan, PlanError> {
    let mut choices = Choices {
        context,
        selection,
        first_seed: cells[0].spec.seed,
        probes: RunList::default(),
        made: Vec::new(),
        indices: HashMap::new(),
    };
    let rated = cells.iter().map(|cell| choices.rate(cell)).collect::<Result<Vec<_>, PlanError>>()?;
    choices.check_fields()?;
    choices.decide(crashes)?;
    let mut runs = RunList::default();
    let mut waiting: Vec<WaitingCell> = Vec::new();
    for Rated { cell, mut resolved, choice } in rated {
        match choice.map(|index| (index, choices.made[index].lr())) {
            None => {
                context.add(&mut runs, cell, resolved)?;
            }
            Some((index, Some(lr))) => {
                resolved.train.lr = lr;
                let id = context.add(&mut runs, cell, resolved)?;
                add_once(&mut choices.made[index].runs, id);
            }
            Some((index, None)) => {
                if waiting.iter().all(|other| other.spec != resolved) {
                    let estimate = context.estimate(cell, &resolved)?;
                    waiting.push(WaitingCell { spec: resolved, axes: cell.axes(), estimate, choice: index });
                }
            }
        }
    }
    let warnings = choices.made.iter().filter_map(LrChoice::warning).collect();
    let selection = SelectionRecord { lr: choices.made };
    Ok(Plan { probes: choices.probes.runs, selection, runs: runs.runs, waiting, warnings, ..Plan::default() })
}

fn add_once(ids: &mut Vec<RunId>, id: RunId) {
    if !ids.contains(&id) {
        ids.push(id);
    }
}

/// The choices of a sweep, gathered from its cells.
struct Choices<'a> {
    context: &'a Context<'a>,
    selection: &'a LrSelection,
    first_seed: u64,
    probes: RunList,
    made: Vec<LrChoice>,
    /// What the cells of a choice agree in, as canonical JSON, and its index.
    indices: HashMap<String, usize>,
}

impl<'a> Choices<'a> {
    /// Resolves a cell and adds its probes.
    fn rate(&mut self, cell: &'a Cell) -> Result<Rated<'a>, PlanError> {
        let (context, selection) = (self.context, self.selection);
        // Errors are the cell's own, which knows of no rate.
        let at =
            |index| context.resolve(&Cell { choices: cell.choices.clone(), ..probes::with_rate(context.sweep, selection, cell, index)? });
        let (resolved, other) = (at(0)?, at(1)?);
        // Where two rates come to the same run, nothing trains by a rate.
        if resolved == other {
            return Ok(Rated { cell, resolved, choice: None });
        }
        if !resolved.evaluate_test {
            let problem = "a cell whose learning rate is chosen is scored on the test split: leave out `evaluate_test`";
            return Err(cell.blame(context.sweep, SpecError::at("evaluate_test", problem)).into());
        }
        let index = self.choice_of(&resolved)?;
        for probe in probes::probe_cells(context.sweep, selection, cell, self.first_seed)? {
            let lowest = context.resolve(&probe)?;
            for (position, &lr) in selection.grid.iter().enumerate() {
                let mut spec = lowest.clone();
                spec.train.lr = lr;
                let id = context.add(&mut self.probes, &probe, spec)?;
                add_once(&mut self.made[index].candidates[position].probes, id);
            }
        }
        Ok(Rated { cell, resolved, choice: Some(index) })
    }

    /// The choice for a resolved run, begun where there is none yet.
    fn choice_of(&mut self, resolved: &RunSpec) -> Result<usize, SpecError> {
        let cells_with = probes::cells_with(self.selection, resolved)?;
        let next = self.made.len();
        let index = *self.indices.entry(canonical_json(&cells_with)?).or_insert(next);
        if index == next {
            let label = probes::label(self.selection, &cells_with, resolved);
            let candidates = self.selection.grid.iter().map(|&lr| Candidate { lr, probes: Vec::new() }).collect();
            self.made.push(LrChoice { label, cells_with, candidates, decision: Decision::Waiting, runs: Vec::new() });
        }
        Ok(index)
    }

    /// Every field of `per` is one that some cell has: options of components are known only once they are resolved.
    fn check_fields(&self) -> Result<(), SpecError> {
        for (i, field) in self.selection.per.iter().flatten().enumerate() {
            let is_missing = |choice: &LrChoice| match &choice.cells_with[field] {
                serde_json::Value::Array(values) => values.iter().all(serde_json::Value::is_null),
                value => value.is_null(),
            };
            if !self.made.is_empty() && self.made.iter().all(is_missing) {
                let problem = format!("no cell has a field `{field}`; `peftbench show RUN` lists the fields of a run");
                return Err(at_place(self.context.sweep, &format!("select.lr.per[{i}]"), problem));
            }
        }
        Ok(())
    }

    /// Makes every choice whose probes have ended.
    fn decide(&mut self, crashes: Crashes) -> Result<(), PlanError> {
        for choice in &mut self.made {
            let mut tried = Vec::with_capacity(choice.candidates.len());
            for Candidate { lr, probes } in &choice.candidates {
                let result = |id: &RunId| Ok((id.clone(), result(self.context, id, self.probes.status(id), crashes)?));
                tried.push(Tried { lr: *lr, probes: probes.iter().map(result).collect::<Result<_, PlanError>>()? });
            }
            choice.decision = choose::choose(&tried);
        }
        Ok(())
    }
}

/// How far a probe has come.
fn result(context: &Context<'_>, id: &RunId, status: PlanStatus, crashes: Crashes) -> Result<ProbeResult, PlanError> {
    Ok(match status {
        PlanStatus::New | PlanStatus::Running | PlanStatus::Interrupted(_) => ProbeResult::Waiting,
        status if status.is_crash() && crashes == Crashes::TriedAgain => ProbeResult::Waiting,
        PlanStatus::Failed(kind) => ProbeResult::Failed(kind),
        // A record without a validation score is as good as none.
        PlanStatus::Done | PlanStatus::Changed => {
            context.store.validation(id)?.map_or(ProbeResult::Failed(FailureKind::Crash), ProbeResult::Scored)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use crate::state::{Failure, State, Status};
    use crate::store::Store;
    use crate::testing::{TestResolver, append_event, store, sweep_spec};
    use peftbench_spec::event::{EvalRecord, Event, MetricValue, Summary};
    use peftbench_spec::lr_selection::Edge;
    use serde_json::json;

    const SELECT: &str = "[select.lr]\ngrid = [1e-4, 1e-2, 1e-3]\nprobe = { train.epochs = 1, train.train_samples = 20 }\n";

    fn planned(store: &Store, text: &str) -> Plan {
        plan(&sweep_spec(text), store, &TestResolver::default()).unwrap()
    }

    fn error(text: &str) -> String {
        let (_root, store) = store();
        plan(&sweep_spec(text), &store, &TestResolver::default()).unwrap_err().to_string()
    }

    /// Ends a probe with this accuracy on validation, or by diverging.
    fn end(store: &Store, id: &RunId, score: Option<f64>) {
        let state = State::planned().next_attempt();
        let Some(value) = score else {
            let failure = Failure { kind: FailureKind::NanLoss, message: "the loss is NaN".into() };
            return store.write_state(id, &state.ended(Status::Failed, Some(failure))).unwrap();
        };
        for (epoch, value) in [(1, value), (2, 0.99)] {
            let metric = MetricValue { name: "accuracy".into(), value, stderr: None, n_items: 10, higher_is_better: true };
            append_event(
                store,
                id,
                &Event::Eval(EvalRecord { epoch, split: "valid".into(), metrics: vec![metric], ..EvalRecord::default() }),
            );
        }
        append_event(store, id, &Event::Finished(Box::new(Summary { best_epoch: 1, ..Summary::default() })));
        store.write_state(id, &state.ended(Status::Done, None)).unwrap();
    }

    #[test]
    fn cells_wait_for_their_probes_and_then_take_the_best_rate() {
        let (_root, store) = store();
        let text = format!("seeds = [4, 5]\n[axes]\nmethod = [\"full\", \"none\", \"lora\"]\n{SELECT}");
        let first = planned(&store, &text);
        // Zero-shot trains by no rate: it is a run at once, a seed each in this resolver.
        assert_eq!(first.runs.iter().map(|run| run.spec.method_label()).collect::<Vec<_>>(), ["none", "none"]);
        assert_eq!((first.probes.len(), first.waiting.len(), first.selection.lr.len(), first.cells), (6, 4, 2, 6));
        for probe in &first.probes {
            let spec = &probe.spec;
            assert_eq!((spec.evaluate_test, spec.seed, spec.train.epochs, spec.train.train_samples), (false, 4, 1, 20));
        }
        assert_eq!(first.selection.lr[0].label, "m · t · full");
        let table = first.render_table(2, Default::default());
        assert!(table.contains("chosen from 3 probes"), "{table}");
        assert!(table.contains("6 probes: 6 new\n6 runs: 2 new, 4 waiting for probes\n12 to run, about 6 min"), "{table}");
        assert!(table.contains("(3 min 12 s of it for 6 probes)"), "{table}");
        let rows = first.rows().unwrap();
        assert_eq!(rows.iter().map(|row| row.role).collect::<Vec<_>>(), [vec!["probe"; 6], vec!["cell"; 6]].concat());
        assert_eq!((rows[11].run_id.as_deref(), rows[11].lr, rows[11].status.as_str()), (None, None, "waiting"));

        let (full, lora) = first.probes.split_at(3);
        end(&store, &full[0].id, Some(0.5));
        end(&store, &full[1].id, Some(0.7));
        end(&store, &full[2].id, None);
        end(&store, &lora[0].id, Some(0.5));
        end(&store, &lora[1].id, Some(0.7));
        let half = planned(&store, &text);
        assert_eq!((half.runs.len(), half.waiting.len()), (4, 2), "a probe of lora has yet to end");
        end(&store, &lora[2].id, Some(0.8));
        let done = planned(&store, &text);
        assert!(done.waiting.is_empty());
        let rates: Vec<_> = done.runs.iter().map(|run| (run.spec.method_label(), run.spec.train.lr, run.spec.train.epochs)).collect();
        let expected = [("full", 1e-3), ("full", 1e-3), ("none", 1e-3), ("none", 1e-3), ("lora", 1e-2), ("lora", 1e-2)];
        assert_eq!(rates, expected.map(|(method, lr)| (method.to_owned(), lr, 3)));
        let [first, second] = done.selection.lr.as_slice() else { panic!("two choices") };
        assert_eq!(first.decision, Decision::Chosen { lr: 1e-3, at_edge: None, within_noise_of: None });
        assert_eq!(second.decision, Decision::Chosen { lr: 1e-2, at_edge: Some(Edge::Highest), within_noise_of: None });
        assert_eq!(second.runs, [done.runs[4].id.clone(), done.runs[5].id.clone()]);
        assert_eq!(
            done.warnings,
            ["m · t · lora: the best rate, 1e-2, is the highest of the grid; a higher one may be better: extend `select.lr.grid`"]
        );
        let fixed = planned(&store, "seeds = [4, 5]\n[axes]\nmethod = [\"full\"]\ntrain.lr = [1e-3]");
        assert_eq!(fixed.runs[0].id, done.runs[0].id, "a chosen rate is a rate like any other");
    }

    #[test]
    fn where_every_probe_failed_there_is_no_rate_and_the_runs_are_named() {
        let (_root, store) = store();
        let plan = planned(&store, &format!("seeds = [0]\n{SELECT}"));
        plan.probes.iter().for_each(|probe| end(&store, &probe.id, None));
        let plan = planned(&store, &format!("seeds = [0]\n{SELECT}"));
        assert_eq!((plan.runs.len(), plan.waiting.len()), (0, 1));
        let warning = &plan.warnings[0];
        assert!(warning.starts_with("m · t · full: no learning rate: no rate has a score"), "{warning}");
        assert!(plan.probes.iter().all(|probe| warning.contains(&format!("{} (nan_loss)", probe.id))), "{warning}");
        let table = plan.render_table(1, Default::default());
        assert!(table.contains("1 run: 1 without a learning rate\nnothing to run\n"), "{table}");
    }

    #[test]
    fn a_probe_that_crashed_is_waited_for_until_it_was_tried_again() {
        let (_root, store) = store();
        let sweep = sweep_spec(&format!("seeds = [0]\n{SELECT}"));
        let probes = planned(&store, &format!("seeds = [0]\n{SELECT}")).probes;
        end(&store, &probes[0].id, Some(0.5));
        end(&store, &probes[1].id, Some(0.6));
        let failure = Failure { kind: FailureKind::Crash, message: "killed".into() };
        store.write_state(&probes[2].id, &State::planned().next_attempt().ended(Status::Failed, Some(failure))).unwrap();
        let chosen = |crashes| {
            let plan = crate::plan::plan_with(&sweep, &store, &TestResolver::default(), crashes).unwrap();
            plan.selection.lr[0].lr()
        };
        assert_eq!((chosen(Crashes::TriedAgain), chosen(Crashes::Lost)), (None, Some(1e-3)));
    }

    #[test]
    fn cells_that_agree_in_the_named_fields_share_a_choice() {
        let (_root, store) = store();
        let grid =
            "seeds = [0, 1]\n[axes]\ntask = [\"a\", \"b\"]\nmethod = [{ type = \"lora\", r = 2 }, { type = \"lora\", r = 4 }, \"full\"]\n";
        let choices = |more: &str| {
            let plan = planned(&store, &format!("{grid}[select.lr]\ngrid = [1e-4, 1e-2]\n{more}"));
            let probes = |choice: &LrChoice| choice.candidates[0].probes.len();
            plan.selection.lr.iter().map(|choice| (choice.label.clone(), probes(choice))).collect::<Vec<_>>()
        };
        let named = |pairs: &[(&str, usize)]| pairs.iter().map(|(label, probes)| ((*label).to_owned(), *probes)).collect::<Vec<_>>();
        assert_eq!(choices("").len(), 6);
        assert_eq!(choices("per = [\"task\"]"), named(&[("a", 3), ("b", 3)]));
        assert_eq!(choices("per = [\"method.type\"]"), named(&[("method.type [\"lora\"]", 4), ("method.type [\"full\"]", 2)]));
        assert_eq!(choices("per = [\"model\"]\nseeds = [7, 8, 9]"), named(&[("m", 18)]));
        // Probes that are set alike are one run.
        assert_eq!(choices("per = [\"method\"]\nprobe = { task.type = \"a\" }"), named(&[("lora r=2", 1), ("lora r=4", 1), ("full", 1)]));
    }

    #[test]
    fn a_rate_that_is_given_twice_and_fields_that_are_not_there_are_errors_with_both_places() {
        let both = "the learning rate is also chosen, by `[select.lr]` in line";
        let message = error(&format!("[axes]\ntrain.lr = [1e-3]\n{SELECT}"));
        assert_eq!(message, format!("s.toml:4: `axes.train.lr`: {both} 5: leave out one of the two"));
        let message = error(&format!("[[zip]]\ntrain = [{{ epochs = 2 }}, {{ lr = 1e-3 }}]\n{SELECT}"));
        assert!(message.starts_with("s.toml:4: `zip[0].train`: the learning rate is also chosen"), "{message}");
        let mut sweep = sweep_spec(SELECT);
        sweep.base.insert("train".into(), json!({"lr": 1e-3}));
        let (_root, store) = store();
        let message = plan(&sweep, &store, &TestResolver::default()).unwrap_err().to_string();
        assert!(message.contains("`base.train.lr`: the learning rate is also chosen"), "{message}");
        for (more, expected) in [
            (
                "probe = { train.epoch = 1 }",
                "s.toml:5: `select.lr.probe.train.epoch`: `epoch` is not a field of `train`; did you mean `epochs`?",
            ),
            ("probe = { train.lr = 1 }", "s.toml:5: `select.lr.probe.train.lr`: `train.lr` has no place here: it is what is chosen"),
            ("probe = { seed = 1 }", "s.toml:5: `select.lr.probe.seed`: `seed` has no place here: probes have `select.lr.seeds`"),
            ("probe = { evaluate_test = true }", "s.toml:5: `select.lr.probe.evaluate_test`: `evaluate_test` has no place here"),
            ("probe = { train.epochs = 0 }", "s.toml:5: `select.lr.probe.train.epochs`: expected at least 1, found 0"),
            ("per = [\"modell\"]", "s.toml:5: `select.lr.per[0]`: `modell` is not a field of a run; did you mean `model`?"),
            ("per = [\"model\", \"seed\"]", "s.toml:5: `select.lr.per[1]`: `seed` has no place here"),
            ("per = [\"method.rank\"]", "s.toml:5: `select.lr.per[0]`: no cell has a field `method.rank`"),
        ] {
            let message = error(&format!("[select.lr]\ngrid = [1e-4, 1e-2]\n{more}\n"));
            assert!(message.starts_with(expected), "{message}");
        }
        let message = error(&format!("axes = {{ evaluate_test = [false] }}\n{SELECT}"));
        assert!(message.contains("a cell whose learning rate is chosen is scored on the test split"), "{message}");
    }
}
