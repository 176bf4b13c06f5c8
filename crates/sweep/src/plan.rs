//! From cells to runs: resolved, named by their hash, and set against what the store already holds.

use crate::error::{PlanError, StoreError};
use crate::expand::{self, Cell, plain};
use crate::selection;
use crate::state::{State, Status};
use crate::store::Store;
use peftbench_spec::event::FailureKind;
use peftbench_spec::lr_selection::SelectionRecord;
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{Component, RunId, RunSpec, SpecError, SweepSpec};
use std::collections::{HashMap, HashSet};

/// What the plan must ask of the crates that know models, tasks and methods.
pub trait Resolver {
    /// The run with every default filled in and every name and option checked. A field that the method does not use takes its default,
    /// so that cells which differ only there become one run. Errors name the run's field, e.g. `method[0].r`.
    fn resolve(&self, spec: &RunSpec) -> Result<RunSpec, SpecError>;

    /// What a resolved run will take. Errors are those of a run that cannot be: a target that matches nothing, a layer out of range.
    fn estimate(&self, spec: &RunSpec) -> Result<Estimate, SpecError>;

    /// Hashes of the inputs as they are now; none where they are not at hand.
    fn fingerprint(&self, spec: &RunSpec) -> Option<Inputs>;
}

/// What a run will take, as far as is known before it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// Scalars of the model with its adapters.
    pub total_params: Option<u64>,
    /// Scalars that train.
    pub trainable_params: Option<u64>,
    /// Highest live bytes.
    pub memory_bytes: Option<u64>,
    /// Wall time from start to end.
    pub seconds: Option<f64>,
}

/// The runs of a sweep.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Name of the sweep.
    pub sweep: String,
    /// Runs that try out learning rates for the cells; none where the file gives the rate.
    pub probes: Vec<PlannedRun>,
    /// The choices of learning rates, made or not.
    pub selection: SelectionRecord,
    /// Distinct runs, in the order of their first cells.
    pub runs: Vec<PlannedRun>,
    /// Cells that are no runs yet: their learning rate is not chosen.
    pub waiting: Vec<WaitingCell>,
    /// Cells of the grid; more than runs where several cells come to the same.
    pub cells: usize,
    /// Runs in the store that are no longer in the plan; they stay there.
    pub stale: Vec<RunId>,
    /// What is not wrong but most likely not meant.
    pub warnings: Vec<String>,
}

/// One run of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// Hash of `spec`.
    pub id: RunId,
    /// The resolved run.
    pub spec: RunSpec,
    /// What sets its first cell apart: dotted field and value.
    pub axes: Vec<(String, String)>,
    /// Where it stands in the store.
    pub status: PlanStatus,
    /// Whether its model, tokenizer or dataset is no longer what an earlier attempt recorded. Such an attempt cannot go on: the run starts
    /// afresh.
    pub inputs_changed: bool,
    /// What it will take.
    pub estimate: Estimate,
}

/// A cell that becomes a run as soon as its learning rate is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingCell {
    /// The resolved run, with the lowest rate of the grid in place of its own.
    pub spec: RunSpec,
    /// What sets it apart, as in [`PlannedRun::axes`].
    pub axes: Vec<(String, String)>,
    /// What it will take.
    pub estimate: Estimate,
    /// Index of its choice in [`Plan::selection`].
    pub choice: usize,
}

/// Where a planned run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlanStatus {
    /// Never begun.
    New,
    /// Finished.
    Done,
    /// Begun, and resumable from the checkpoint at this optimizer step.
    Interrupted(u64),
    /// The last attempt failed.
    Failed(FailureKind),
    /// A process works on it now.
    Running,
    /// Finished, with a model or a dataset that has changed since.
    Changed,
}

impl PlanStatus {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Done => "done",
            Self::Interrupted(_) => "interrupted",
            Self::Failed(_) => "failed",
            Self::Running => "running",
            Self::Changed => "changed",
        }
    }

    /// Whether the last attempt ended by something from outside: the process was killed, the disk was full.
    pub fn is_crash(self) -> bool {
        matches!(self, Self::Failed(FailureKind::Crash | FailureKind::Io))
    }
}

impl std::fmt::Display for PlanStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interrupted(step) => f.pad(&format!("interrupted at step {step}")),
            Self::Failed(kind) => f.pad(&format!("failed ({})", kind.name())),
            other => f.pad(other.name()),
        }
    }
}

/// Which runs, beyond those never finished, are to run. Runs whose failure came from outside (the process was killed, the disk was full)
/// count as never finished, so that a sweep ends the same whoever was killed on the way. A panic is among them: by its kind it cannot be
/// told from a kill. A run that failed by itself (a loss that is no number, a damaged model) would only fail again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    /// Also runs whose last attempt failed by itself.
    pub failed: bool,
    /// Also finished runs whose inputs have changed since; their results are replaced.
    pub changed: bool,
}

impl Selection {
    /// Whether `run` is to run.
    pub fn takes(self, run: &PlannedRun) -> bool {
        match run.status {
            // A run that is running although its sweep is ours belongs to a supervisor that died; it is waited for, then taken up.
            PlanStatus::New | PlanStatus::Interrupted(_) | PlanStatus::Running => true,
            status if status.is_crash() => true,
            PlanStatus::Failed(_) => self.failed,
            PlanStatus::Changed => self.changed,
            PlanStatus::Done => false,
        }
    }

    /// Those of `runs` that are to run, in their order.
    pub fn of(self, runs: &[PlannedRun]) -> Vec<&PlannedRun> {
        runs.iter().filter(|run| self.takes(run)).collect()
    }
}

/// Plans `sweep`: expands it, resolves every cell, merges cells that come to the same run, and looks up where each run stands. A cell whose
/// learning rate is to be chosen is a run once the probes have ended, and waits for them until then.
pub fn plan(sweep: &SweepSpec, store: &Store, resolver: &dyn Resolver) -> Result<Plan, PlanError> {
    plan_with(sweep, store, resolver, Crashes::TriedAgain)
}

/// As [`plan`], with a word on probes that crashed.
pub(crate) fn plan_with(sweep: &SweepSpec, store: &Store, resolver: &dyn Resolver, crashes: Crashes) -> Result<Plan, PlanError> {
    let expansion = expand::expansion(sweep)?;
    let context = Context { sweep, store, resolver };
    let mut plan = match &sweep.select_lr {
        Some(selection) => selection::plan_cells(&context, selection, &expansion.cells, crashes)?,
        None => {
            let mut runs = RunList::default();
            for cell in &expansion.cells {
                context.add(&mut runs, cell, context.resolve(cell)?)?;
            }
            Plan { runs: runs.runs, ..Plan::default() }
        }
    };
    let planned: HashSet<&RunId> = plan.probes.iter().chain(&plan.runs).map(|run| &run.id).collect();
    plan.stale = store.runs()?.into_iter().filter(|id| !planned.contains(id)).collect();
    let warn = |i: &usize| {
        let conditions = sweep.exclude[*i].iter().map(|(field, value)| format!("{field} = {}", plain(value)));
        format!("{}: `exclude[{i}]` leaves out no cell: {}", sweep.file.display(), conditions.collect::<Vec<_>>().join(", "))
    };
    plan.warnings.extend(expansion.idle_excludes.iter().map(warn));
    Ok(Plan { sweep: sweep.name.clone(), cells: expansion.cells.len(), ..plan })
}

/// Whether a probe that crashed (its process was killed, the disk was full) is still to be waited for: such runs are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crashes {
    /// It is tried again.
    TriedAgain,
    /// It was tried again, and its rate has lost.
    Lost,
}

/// What planning asks.
pub(crate) struct Context<'a> {
    pub(crate) sweep: &'a SweepSpec,
    pub(crate) store: &'a Store,
    pub(crate) resolver: &'a dyn Resolver,
}

/// Distinct runs, in the order in which they were added.
#[derive(Default)]
pub(crate) struct RunList {
    pub(crate) runs: Vec<PlannedRun>,
    places: HashMap<RunId, usize>,
}

impl RunList {
    /// Where a run stands that was added.
    pub(crate) fn status(&self, id: &RunId) -> PlanStatus {
        self.places.get(id).map_or(PlanStatus::New, |&index| self.runs[index].status)
    }
}

impl Context<'_> {
    /// The run of a cell.
    pub(crate) fn resolve(&self, cell: &Cell) -> Result<RunSpec, SpecError> {
        self.resolver.resolve(&cell.spec).map_err(|error| cell.blame(self.sweep, error))
    }

    /// What the resolved run of a cell will take.
    pub(crate) fn estimate(&self, cell: &Cell, resolved: &RunSpec) -> Result<Estimate, SpecError> {
        self.resolver.estimate(resolved).map_err(|error| cell.blame(self.sweep, error))
    }

    /// Adds the resolved run of a cell, unless it is there.
    pub(crate) fn add(&self, list: &mut RunList, cell: &Cell, resolved: RunSpec) -> Result<RunId, PlanError> {
        let id = RunId::of(&resolved)?;
        if !list.places.contains_key(&id) {
            let estimate = self.estimate(cell, &resolved)?;
            let (status, inputs_changed) = standing(self.store, &id, &resolved, self.resolver)?;
            list.places.insert(id.clone(), list.runs.len());
            list.runs.push(PlannedRun { id: id.clone(), spec: resolved, axes: cell.axes(), status, inputs_changed, estimate });
        }
        Ok(id)
    }
}

/// Where a run stands, and whether its inputs have changed since.
fn standing(store: &Store, id: &RunId, spec: &RunSpec, resolver: &dyn Resolver) -> Result<(PlanStatus, bool), StoreError> {
    let status = stored_status(store, id, store.state(id)?.as_ref())?;
    if matches!(status, PlanStatus::New | PlanStatus::Running) {
        return Ok((status, false));
    }
    let recorded = store.manifest(id)?.map(|manifest| manifest.inputs).unwrap_or_default();
    let changed = recorded != Inputs::default() && resolver.fingerprint(spec).is_some_and(|now| differ(&recorded, &now));
    match status {
        PlanStatus::Done if changed => Ok((PlanStatus::Changed, true)),
        status => Ok((status, changed)),
    }
}

/// Where a run stands by what the store says of it.
pub(crate) fn stored_status(store: &Store, id: &RunId, state: Option<&State>) -> Result<PlanStatus, StoreError> {
    Ok(match state {
        None => PlanStatus::New,
        Some(state) => match (state.status, &state.failure) {
            (Status::Planned, _) => PlanStatus::New,
            (Status::Running, _) if state.is_alive() => PlanStatus::Running,
            (Status::Done, _) if store.is_done(id)? => PlanStatus::Done,
            (Status::Failed, failure) => PlanStatus::Failed(failure.as_ref().map_or(FailureKind::Crash, |failure| failure.kind)),
            _ => PlanStatus::Interrupted(state.step),
        },
    })
}

/// Whether a hash that both know is not the same.
fn differ(recorded: &Inputs, now: &Inputs) -> bool {
    let pairs = [(&recorded.model, &now.model), (&recorded.tokenizer, &now.tokenizer), (&recorded.dataset, &now.dataset)];
    pairs.iter().any(|(recorded, now)| matches!((recorded, now), (Some(recorded), Some(now)) if recorded != now))
}

impl PlannedRun {
    /// The run on one line: `tiny-mamba · world/sentiment · lora r=8 · seed 0`.
    pub fn label(&self) -> String {
        label(&self.spec)
    }
}

/// A run on one line: model, task, method, what of targets, layers and policy is not the default, the seed, and the learning rate of a run
/// that tries it out.
pub fn label(spec: &RunSpec) -> String {
    let mut parts = vec![setting(spec), format!("seed {}", spec.seed)];
    if !spec.evaluate_test {
        parts.push(format!("probe of lr {:?}", spec.train.lr));
    }
    parts.join(" · ")
}

/// As [`label`], without seed and learning rate.
pub(crate) fn setting(spec: &RunSpec) -> String {
    let mut parts = vec![spec.model.name.clone(), spec.task.name.clone(), spec.method_label()];
    if !spec.targets.is_default() {
        parts.push(spec.targets.label());
    }
    if spec.layers != Default::default() {
        parts.push(format!("layers {}", spec.layers));
    }
    if !is_static(&spec.policy) {
        parts.push(spec.policy.name.clone());
    }
    parts.join(" · ")
}

/// Whether a policy trains all attached layers at every step.
pub(crate) fn is_static(policy: &Component) -> bool {
    policy.name == "static"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessMark;
    use crate::state::Failure;
    use crate::testing::{TestResolver, append_event, finished, run_spec, store, sweep_spec};
    use peftbench_spec::Manifest;

    fn one_run(store: &Store, resolver: &TestResolver) -> PlannedRun {
        plan(&sweep_spec("seeds = [0]"), store, resolver).unwrap().runs.remove(0)
    }

    #[test]
    fn cells_that_come_to_the_same_are_one_run() {
        let (_root, store) = store();
        let sweep = sweep_spec("seeds = [0, 1]\n[axes]\nmethod = [\"full\", \"none\"]\ntrain.lr = [1e-3, 1e-2]");
        let plan = plan(&sweep, &store, &TestResolver::default()).unwrap();
        let labels: Vec<_> =
            plan.runs.iter().map(|run| format!("{} {} {}", run.spec.method_label(), run.spec.train.lr, run.spec.seed)).collect();
        assert_eq!(labels, ["full 0.001 0", "full 0.001 1", "full 0.01 0", "full 0.01 1", "none 0.001 0", "none 0.001 1"]);
        assert_eq!(plan.cells, 8);
        assert_eq!(plan.runs[2].axes, [("method", "full"), ("train.lr", "0.01"), ("seed", "0")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn an_error_of_the_resolver_names_line_and_cell() {
        let (_root, store) = store();
        let sweep = sweep_spec("seeds = [0]\n[axes]\nmethod = [\n\"full\",\n\"lroa\"]");
        let message = plan(&sweep, &store, &TestResolver::default()).unwrap_err().to_string();
        assert_eq!(message, "s.toml:7: `axes.method[1].type`: no method is called `lroa` (in the cell method = lroa, seed = 0)");
    }

    #[test]
    fn every_state_of_the_store_has_its_status() {
        let (_root, store) = store();
        let resolver = TestResolver::default();
        let id = one_run(&store, &resolver).id;
        let status = || one_run(&store, &resolver).status;
        assert_eq!(status(), PlanStatus::New);
        let running = State { step: 40, ..State::planned().next_attempt() };
        let write = |state: &State| store.write_state(&id, state).unwrap();
        write(&State { process: Some(ProcessMark::of(std::process::id())), ..running.clone() });
        assert_eq!(status(), PlanStatus::Running);
        // No system hands out this number: Linux stops at 2^22.
        write(&State { process: Some(ProcessMark { pid: u32::MAX - 1, started: None }), ..running.clone() });
        assert_eq!(status(), PlanStatus::Interrupted(40), "its process is dead");
        write(&running);
        assert_eq!(status(), PlanStatus::Interrupted(40), "killed before it had a process");
        write(&running.ended(Status::Done, None));
        assert_eq!(status(), PlanStatus::Interrupted(40), "it says done, but no event does");
        append_event(&store, &id, &finished());
        assert_eq!(status(), PlanStatus::Done);
        let failure = Failure { kind: FailureKind::NanLoss, message: "loss is NaN".into() };
        write(&running.ended(Status::Failed, Some(failure)));
        assert_eq!(status(), PlanStatus::Failed(FailureKind::NanLoss));
    }

    #[test]
    fn changed_inputs_are_seen_and_unknown_ones_are_not_held_against_a_run() {
        let (_root, store) = store();
        let with = |hash: Option<&str>| TestResolver { dataset: hash.map(str::to_owned) };
        let run = one_run(&store, &with(None));
        let mut manifest = Manifest::new("s", run.spec.clone()).unwrap();
        manifest.inputs = Inputs { dataset: Some("aa".into()), model: Some("bb".into()), tokenizer: None };
        store.write_manifest(&manifest).unwrap();
        append_event(&store, &run.id, &finished());
        let standing = |hash| {
            let run = one_run(&store, &with(hash));
            (run.status, run.inputs_changed)
        };
        store.write_state(&run.id, &State::planned().next_attempt().ended(Status::Done, None)).unwrap();
        assert_eq!(standing(None), (PlanStatus::Done, false));
        assert_eq!(standing(Some("aa")), (PlanStatus::Done, false));
        assert_eq!(standing(Some("cc")), (PlanStatus::Changed, true));
        store.write_state(&run.id, &State::planned().next_attempt().ended(Status::Interrupted, None)).unwrap();
        assert_eq!(standing(Some("cc")), (PlanStatus::Interrupted(0), true));
    }

    #[test]
    fn runs_no_longer_in_the_plan_and_idle_exclusions_are_told() {
        let (_root, store) = store();
        let other = RunId::of(&run_spec(9)).unwrap();
        store.write_state(&other, &State::planned()).unwrap();
        std::fs::create_dir(store.folder().join("runs/not-a-run")).unwrap();
        let sweep = sweep_spec("[[exclude]]\nmatch = { model = \"x\" }");
        let plan = plan(&sweep, &store, &TestResolver::default()).unwrap();
        assert_eq!(plan.stale, [other]);
        assert_eq!(plan.warnings, ["s.toml: `exclude[0]` leaves out no cell: model = x"]);
    }
}
