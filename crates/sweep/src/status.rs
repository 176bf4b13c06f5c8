//! What a store holds: counts, failures by kind, one line a run.

use crate::error::StoreError;
use crate::ids;
use crate::plan::{self, PlanStatus};
use crate::store::Store;
use peftbench_spec::event::FailureKind;
use peftbench_spec::lr_selection::LrChoice;
use peftbench_spec::{Event, RunId};
use std::collections::BTreeMap;

/// A sweep's store at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreStatus {
    /// Name of the sweep.
    pub sweep: String,
    /// Every run in the store, by id.
    pub runs: Vec<RunStatus>,
    /// Failed runs, together where kind and first line of the message agree; the most frequent first.
    pub failures: Vec<FailureGroup>,
    /// The choices of learning rates, as the last sweep left them.
    pub choices: Vec<LrChoice>,
    /// Files that could not be read, each with the reason and the way out. A run of which that is so is not among `runs`.
    pub unreadable: Vec<String>,
}

/// One run in a store.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStatus {
    /// Its id.
    pub id: RunId,
    /// Model, task, method and so on, on one line.
    pub label: String,
    /// Where it stands; never `Changed`, which only a plan can tell.
    pub status: PlanStatus,
    /// Attempts begun.
    pub attempt: u32,
    /// Optimizer steps: done, while it runs; in the checkpoint, otherwise.
    pub step: u64,
    /// Name and test value of the primary metric, once it is done.
    pub result: Option<(String, f64)>,
    /// Why it failed.
    pub message: Option<String>,
}

/// Runs that failed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// The kind.
    pub kind: FailureKind,
    /// The message of the first of them.
    pub message: String,
    /// The runs.
    pub runs: Vec<RunId>,
}

/// Reads the status of every run in `store`. A status shows what can be shown: a file that cannot be read hides nothing else.
pub fn status(store: &Store) -> Result<StoreStatus, StoreError> {
    let mut unreadable = Vec::new();
    let mut readable = |error: StoreError| unreadable.push(error.to_string());
    let runs: Vec<RunStatus> = store.runs()?.into_iter().filter_map(|id| run_status(store, id).map_err(&mut readable).ok()).collect();
    let choices = store.selection().map_err(&mut readable).unwrap_or_default().lr;
    Ok(StoreStatus { sweep: store.sweep().to_owned(), failures: group(&runs), choices, unreadable, runs })
}

fn run_status(store: &Store, id: RunId) -> Result<RunStatus, StoreError> {
    let state = store.state(&id)?;
    let status = plan::stored_status(store, &id, state.as_ref())?;
    let last = store.last_event(&id)?;
    // A run with a damaged manifest is still a run.
    let label = match store.manifest(&id) {
        Ok(Some(manifest)) => plan::label(&manifest.spec),
        Ok(None) => "no manifest".to_owned(),
        Err(error) => error.to_string(),
    };
    let (attempt, checkpoint, failure) = state.map_or((0, 0, None), |state| (state.attempt, state.step, state.failure));
    let step = match (&last, status) {
        (Some(Event::Step(record)), PlanStatus::Running) => record.step,
        (Some(Event::Eval(record)), PlanStatus::Running) => record.step,
        (Some(Event::Finished(summary)), PlanStatus::Done) => summary.steps_done,
        _ => checkpoint,
    };
    let result = match (last, status) {
        (Some(Event::Finished(summary)), PlanStatus::Done) => Some(summary.score()),
        _ => None,
    };
    let message = failure.filter(|_| matches!(status, PlanStatus::Failed(_))).map(|failure| failure.message);
    Ok(RunStatus { id, label, status, attempt, step, result, message })
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or("")
}

fn group(runs: &[RunStatus]) -> Vec<FailureGroup> {
    let mut groups: Vec<FailureGroup> = Vec::new();
    for run in runs {
        let PlanStatus::Failed(kind) = run.status else { continue };
        let message = run.message.as_deref().unwrap_or("");
        match groups.iter_mut().find(|group| group.kind == kind && first_line(&group.message) == first_line(message)) {
            Some(group) => group.runs.push(run.id.clone()),
            None => groups.push(FailureGroup { kind, message: message.to_owned(), runs: vec![run.id.clone()] }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.runs.len()));
    groups
}

impl StoreStatus {
    /// How many runs stand where, by [`PlanStatus::name`].
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for run in &self.runs {
            *counts.entry(run.status.name()).or_default() += 1;
        }
        counts
    }

    /// The learning rates, a line each.
    fn render_choices(&self) -> String {
        let line = |choice: &LrChoice| format!("    {}\n", choice.describe());
        match self.choices.is_empty() {
            true => String::new(),
            false => format!("\nlearning rates:\n{}", self.choices.iter().map(line).collect::<String>()),
        }
    }

    /// The status for people: counts, failures, learning rates, then a line a run.
    pub fn render(&self) -> String {
        let counts: Vec<String> = self.counts().into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        let counts = if counts.is_empty() { "no runs".to_owned() } else { counts.join(", ") };
        let mut text = format!("{}: {counts}\n", self.sweep);
        text += &self.unreadable.iter().map(|problem| format!("\ncould not be read: {problem}\n")).collect::<String>();
        let width = ids::short_length(&self.runs.iter().map(|run| run.id.clone()).collect::<Vec<_>>());
        for group in &self.failures {
            let runs: Vec<&str> = group.runs.iter().map(|id| &id.as_str()[..width]).collect();
            text += &format!("\n{} ({}):\n", group.kind.name(), runs.join(", "));
            text += &group.message.lines().map(|line| format!("    {line}\n")).collect::<String>();
        }
        text += &self.render_choices();
        let statuses: Vec<String> = self.runs.iter().map(|run| run.status.to_string()).collect();
        let status_width = statuses.iter().map(String::len).max().unwrap_or(0);
        text += if self.runs.is_empty() { "" } else { "\n" };
        for (run, status) in self.runs.iter().zip(&statuses) {
            let detail = match (&run.result, run.status) {
                (Some((metric, value)), _) => format!("  {metric} {value:.4}"),
                (None, PlanStatus::Running) => format!("  step {}", run.step),
                (None, PlanStatus::Failed(_)) => format!("  {}", first_line(run.message.as_deref().unwrap_or(""))),
                _ => String::new(),
            };
            text += &format!("{}  {status:<status_width$}  {}{detail}\n", &run.id.as_str()[..width], run.label);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Failure, State, Status};
    use crate::testing::{append_event, run_spec, store};
    use peftbench_spec::Manifest;
    use peftbench_spec::event::Summary;

    fn put(store: &Store, seed: u64, status: Status, failure: Option<Failure>) -> RunId {
        let manifest = Manifest::new("s", run_spec(seed)).unwrap();
        store.write_manifest(&manifest).unwrap();
        store.write_state(&manifest.run_id, &State::planned().next_attempt().ended(status, failure)).unwrap();
        manifest.run_id
    }

    #[test]
    fn counts_failures_and_lines() {
        let (_root, store) = store();
        assert_eq!(status(&store).unwrap().render(), "s: no runs\n");
        let oom = |detail: &str| Some(Failure { kind: FailureKind::Oom, message: format!("out of memory\n{detail}") });
        let done = put(&store, 0, Status::Done, None);
        let summary = Summary { primary_metric: "accuracy".into(), primary_value: 0.91234, n_items: 100, ..Summary::default() };
        append_event(&store, &done, &Event::Finished(Box::new(summary)));
        let failed = [put(&store, 1, Status::Failed, oom("at step 3")), put(&store, 2, Status::Failed, oom("at step 4"))];
        let crash = Some(Failure { kind: FailureKind::Crash, message: "killed by signal 11".into() });
        put(&store, 3, Status::Failed, crash);
        put(&store, 4, Status::Planned, None);
        let status = status(&store).unwrap();
        assert_eq!(status.counts(), BTreeMap::from([("done", 1), ("failed", 3), ("new", 1)]));
        assert_eq!(status.failures.len(), 2);
        assert_eq!(status.failures[0].runs.iter().collect::<std::collections::BTreeSet<_>>(), failed.iter().collect());
        let text = status.render();
        assert!(text.starts_with("s: 1 done, 3 failed, 1 new\n\noom ("), "{text}");
        assert!(text.contains("\ncrash ("), "{text}");
        assert!(text.contains(&format!("{}  done            m · t · full · seed 0  accuracy 0.9123\n", &done.as_str()[..6])), "{text}");
        assert!(text.contains("failed (oom)    m · t · full · seed 2  out of memory\n"), "{text}");
    }

    #[test]
    fn a_damaged_manifest_does_not_hide_the_other_runs() {
        let (_root, store) = store();
        let broken = put(&store, 0, Status::Planned, None);
        put(&store, 1, Status::Planned, None);
        std::fs::write(store.run_dir(&broken).join("manifest.toml"), "run_id = ").unwrap();
        let text = status(&store).unwrap().render();
        assert!(text.contains("not valid TOML") && text.contains("seed 1"), "{text}");
    }

    #[test]
    fn a_damaged_state_or_record_of_choices_is_named_and_hides_nothing_else() {
        let (_root, store) = store();
        let broken = put(&store, 0, Status::Planned, None);
        put(&store, 1, Status::Planned, None);
        std::fs::write(store.run_dir(&broken).join("state.json"), "{").unwrap();
        std::fs::write(store.folder().join("select.json"), "[").unwrap();
        let text = status(&store).unwrap().render();
        assert!(text.starts_with("s: 1 new\n\ncould not be read: ") && text.contains("seed 1"), "{text}");
        for (file, way_out) in
            [("state.json: EOF", "delete the file to have the run planned again"), ("select.json: EOF", "again, which makes")]
        {
            assert!(text.lines().any(|line| line.contains(file) && line.contains(way_out)), "{text}");
        }
    }
}
