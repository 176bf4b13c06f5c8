//! Sweeps of real processes: small shell scripts that speak the protocol of a run and end in every way a run can end.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used)]

use peftbench_spec::event::FailureKind;
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{Event, RunId, RunSpec, SpecError, SweepSpec};
use peftbench_sweep::process::ProcessMark;
use peftbench_sweep::supervise::Outcome;
use peftbench_sweep::{
    Estimate, Observer, PlanError, PlanStatus, PlannedRun, Resolver, Selection, State, Status, Store, StoreError, Supervisor, SweepOutcome,
    plan, prepare, sweep,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Takes every run as it is; the data hash to what the test says.
struct AsWritten {
    dataset: &'static str,
}

impl Resolver for AsWritten {
    fn resolve(&self, spec: &RunSpec) -> Result<RunSpec, SpecError> {
        Ok(spec.clone())
    }

    fn estimate(&self, _spec: &RunSpec) -> Result<Estimate, SpecError> {
        Ok(Estimate::default())
    }

    fn fingerprint(&self, _spec: &RunSpec) -> Option<Inputs> {
        Some(Inputs { dataset: Some(self.dataset.to_owned()), ..Inputs::default() })
    }
}

const RESOLVER: AsWritten = AsWritten { dataset: "aa" };

/// Functions for the scripts. `say` writes an event where the runner does: to its record and to its supervisor.
const PRELUDE: &str = r#"
say() { printf '%s\n' "$1" >> events.jsonl; printf '%s\n' "$1"; }
finish() { say '{"event":"finished"}'; exit 0; }
checkpoint() { say "{\"event\":\"checkpoint\",\"step\":$1}"; }
"#;

/// What the observer heard, one line a call.
#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    heartbeats: usize,
    /// Set when this seed says its first checkpoint.
    stop_at: Option<(u64, Arc<AtomicBool>)>,
}

impl Observer for Heard {
    fn run_started(&mut self, run: &PlannedRun, _worker: usize) {
        self.lines.push(format!("{} started", run.spec.seed));
    }

    fn event(&mut self, run: &PlannedRun, _worker: usize, event: &Event) {
        self.lines.push(format!("{} {}", run.spec.seed, serde_json::to_value(event).unwrap()["event"].as_str().unwrap()));
        if let (Some((seed, stop)), Event::Checkpoint { .. }) = (&self.stop_at, event) {
            stop.fetch_or(*seed == run.spec.seed, Ordering::SeqCst);
        }
    }

    fn run_ended(&mut self, run: &PlannedRun, _worker: usize, outcome: &Outcome, seconds: f64) {
        assert!(seconds > 0.0);
        self.lines.push(format!("{} ended {outcome:?}", run.spec.seed));
    }

    fn heartbeat(&mut self) {
        self.heartbeats += 1;
    }
}

/// A folder for results: the test's own, or one of another process.
enum Root {
    Own(tempfile::TempDir),
    Theirs(PathBuf),
}

impl Root {
    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Theirs(path) => path,
        }
    }
}

/// A sweep over seeds, whose processes run one shell script; `$seed` tells them apart.
struct Bench {
    root: Root,
    seeds: Vec<u64>,
    workers: usize,
    fail_fast: bool,
    selection: Selection,
    heard: Heard,
    stop: Arc<AtomicBool>,
}

impl Bench {
    fn new(seeds: &[u64], workers: usize) -> Self {
        let root = Root::Own(tempfile::tempdir().unwrap());
        let (heard, stop) = (Heard::default(), Arc::default());
        Self { root, seeds: seeds.to_vec(), workers, fail_fast: false, selection: Selection::default(), heard, stop }
    }

    fn at(root: &Path, seeds: &[u64]) -> Self {
        Self { root: Root::Theirs(root.to_owned()), ..Self::new(seeds, 1) }
    }

    fn spec(&self) -> SweepSpec {
        let text = format!("name = \"s\"\nseeds = {:?}\nbase = {{ model = \"m\", task = \"t\", method = \"full\" }}\n", self.seeds);
        SweepSpec::parse(Path::new("s.toml"), &text).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(self.root.path(), "s").unwrap()
    }

    fn id(&self, seed: u64) -> RunId {
        let run = serde_json::json!({"model": "m", "task": "t", "method": "full", "seed": seed});
        RunId::of(&RunSpec::from_value(run).unwrap()).unwrap()
    }

    fn state(&self, seed: u64) -> State {
        self.store().state(&self.id(seed)).unwrap().unwrap()
    }

    fn failure(&self, seed: u64) -> (FailureKind, String) {
        let failure = self.state(seed).failure.unwrap();
        (failure.kind, failure.message)
    }

    fn log(&self, seed: u64) -> String {
        fs::read_to_string(self.store().run_dir(&self.id(seed)).join("run.log")).unwrap()
    }

    fn sweep_with(&mut self, script: &str, resolver: &AsWritten) -> Result<SweepOutcome, PlanError> {
        let shared = self.root.path().to_owned();
        let command = |run: &PlannedRun, folder: &Path| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{PRELUDE}\n{script}")]).current_dir(folder);
            command.env("seed", run.spec.seed.to_string()).env("shared", &shared);
            command
        };
        let supervisor = Supervisor {
            workers: self.workers,
            command: &command,
            fail_fast: self.fail_fast,
            selection: self.selection,
            stop: self.stop.clone(),
        };
        self.heard.lines.clear();
        sweep(&self.spec(), &self.store(), resolver, &supervisor, &mut self.heard)
    }

    fn sweep(&mut self, script: &str) -> SweepOutcome {
        self.sweep_with(script, &RESOLVER).unwrap()
    }
}

fn counts(outcome: &SweepOutcome) -> [usize; 5] {
    [outcome.done, outcome.failed, outcome.interrupted, outcome.not_started, outcome.skipped_done]
}

#[test]
fn a_finished_run_is_never_run_twice() {
    let mut bench = Bench::new(&[0, 1], 1);
    let outcome = bench.sweep("say '{\"event\":\"started\",\"schema_version\":1,\"attempt\":1,\"at\":\"\",\"resumed_from_step\":0}'; checkpoint 5; sleep 0.2; finish");
    assert_eq!(counts(&outcome), [2, 0, 0, 0, 0]);
    let of = |seed: u64| ["started", "started", "checkpoint", "finished", "ended Done"].map(|what| format!("{seed} {what}"));
    assert_eq!(bench.heard.lines, [of(0), of(1)].concat());
    assert!(bench.heard.heartbeats > 0);
    let state = bench.state(0);
    assert_eq!((state.status, state.attempt, state.step, state.process), (Status::Done, 1, 5, None));
    assert!(bench.store().is_done(&bench.id(0)).unwrap());
    let folder = bench.store().folder().to_owned();
    assert_eq!(fs::read_to_string(folder.join("sweep.toml")).unwrap(), bench.spec().source);
    assert_eq!(bench.store().manifest(&bench.id(1)).unwrap().unwrap().spec.seed, 1);

    let before = fs::read(bench.store().run_dir(&bench.id(0)).join("events.jsonl")).unwrap();
    let again = bench.sweep("exit 1");
    assert_eq!(counts(&again), [0, 0, 0, 0, 2]);
    assert_eq!(fs::read(bench.store().run_dir(&bench.id(0)).join("events.jsonl")).unwrap(), before);
    bench.seeds.push(2);
    assert_eq!(counts(&bench.sweep("finish")), [1, 0, 0, 0, 2], "a sweep that grew runs only what is new");
}

#[test]
fn a_failing_run_leaves_the_others_unharmed_and_says_why() {
    let mut bench = Bench::new(&[0, 1, 2, 3, 4, 5, 6], 2);
    let outcome = bench.sweep(
        r#"case $seed in
            0) say '{"event":"failed","kind":"nan_loss","message":"loss became NaN at step 3"}'; exit 1;;
            1) echo "thread main panicked" >&2; exit 101;;
            2) kill -KILL $$;;
            3) kill -SEGV $$;;
            4) exit 0;;
            5) say '{"event":"failed","kind":"interrupted","message":"stopped"}'; exit 1;;
            *) finish;;
        esac"#,
    );
    assert_eq!(counts(&outcome), [1, 5, 1, 0, 0]);
    assert_eq!(bench.failure(0), (FailureKind::NanLoss, "loss became NaN at step 3".to_owned()));
    assert_eq!(bench.failure(1), (FailureKind::Crash, "ended with exit code 101; last lines of run.log:\nthread main panicked".to_owned()));
    assert!(bench.failure(2).1.starts_with("killed by signal 9 (SIGKILL), most likely by the system because memory ran out"));
    assert!(bench.failure(3).1.starts_with("killed by signal 11 (SIGSEGV"), "{:?}", bench.failure(3));
    assert!(bench.failure(4).1.starts_with("ended with exit code 0, but the last event"));
    assert_eq!(bench.state(5).status, Status::Interrupted);
    assert_eq!(bench.state(6).status, Status::Done);

    let again = bench.sweep("finish");
    let expected = ([5, 0, 0, 0, 1], 1);
    assert_eq!((counts(&again), again.skipped_failed), expected, "what was killed goes on, the rest waits to be asked for");
    assert_eq!(bench.state(2).attempt, 2);
    bench.selection.failed = true;
    assert_eq!(counts(&bench.sweep("finish")), [1, 0, 0, 0, 6]);
    assert_eq!((bench.state(0).attempt, bench.state(0).failure), (2, None));
}

#[test]
fn two_workers_overlap() {
    let mut bench = Bench::new(&[0, 1], 2);
    // Each waits for the other to have begun: one after the other, neither would end well.
    let outcome = bench.sweep(
        r#"touch "$shared/began$seed"; other=$((1 - seed)); tries=0
        while [ ! -e "$shared/began$other" ]; do tries=$((tries + 1)); [ $tries -lt 400 ] || exit 1; sleep 0.05; done; finish"#,
    );
    assert_eq!(counts(&outcome), [2, 0, 0, 0, 0]);
}

#[test]
fn one_worker_does_not_overlap_and_keeps_the_order() {
    let mut bench = Bench::new(&[3, 1, 2], 1);
    let outcome = bench.sweep(r#"mkdir "$shared/only" || exit 1; sleep 0.05; rmdir "$shared/only"; finish"#);
    assert_eq!(counts(&outcome), [3, 0, 0, 0, 0]);
    assert_eq!(
        bench.heard.lines.iter().filter(|line| line.ends_with("started")).collect::<Vec<_>>(),
        ["3 started", "1 started", "2 started"]
    );
}

#[test]
fn a_stop_reaches_the_children_and_the_next_sweep_goes_on() {
    let mut bench = Bench::new(&[0, 1, 2, 3], 2);
    bench.heard.stop_at = Some((1, bench.stop.clone()));
    // The first worker's child waits for the word; the wish comes with the other's checkpoint.
    let script = r#"[ -e resumed ] && finish; touch resumed; [ $seed = 1 ] && sleep 0.2; checkpoint 7
        read -r word; [ "$word" = stop ] || exit 1; echo "told to $word" >&2; checkpoint 8; exit 130"#;
    let outcome = bench.sweep(script);
    assert_eq!(counts(&outcome), [0, 0, 2, 2, 0]);
    for seed in [0, 1] {
        let state = bench.state(seed);
        assert_eq!((state.status, state.step, state.attempt), (Status::Interrupted, 8, 1));
        assert!(bench.log(seed).contains("told to stop"));
    }
    assert_eq!(bench.state(2).status, Status::Planned);

    bench.stop.store(false, Ordering::SeqCst);
    bench.heard.stop_at = None;
    bench.seeds = vec![0, 1];
    assert_eq!(counts(&bench.sweep(script)), [2, 0, 0, 0, 0]);
    assert_eq!(bench.state(0).attempt, 2);
}

#[test]
fn a_child_that_dies_of_the_signal_after_being_told_is_interrupted() {
    let mut bench = Bench::new(&[0], 1);
    bench.heard.stop_at = Some((0, bench.stop.clone()));
    assert_eq!(counts(&bench.sweep("checkpoint 1; read -r word; kill -TERM $$")), [0, 0, 1, 0, 0]);
}

#[test]
fn fail_fast_stops_at_the_first_failure() {
    let mut bench = Bench::new(&[0, 1, 2, 3], 2);
    bench.fail_fast = true;
    let outcome = bench.sweep(r#"[ $seed = 0 ] && { sleep 0.2; exit 1; }; read -r word; exit 130"#);
    assert_eq!(counts(&outcome), [0, 1, 1, 2, 0]);
}

#[test]
fn garbage_goes_to_the_log_and_harms_nothing() {
    let mut bench = Bench::new(&[0], 1);
    let outcome = bench.sweep(
        r#"echo "plain words"; printf '\377\376 not text\n'; echo '{"event":"of the future","x":1}'; echo; printf 'no newline' >&2
        say '{"event":"finished"}'; printf '{"event":"fin'"#,
    );
    assert_eq!(counts(&outcome), [1, 0, 0, 0, 0]);
    assert_eq!(bench.heard.lines, ["0 started", "0 finished", "0 ended Done"]);
    let log = fs::read(bench.store().run_dir(&bench.id(0)).join("run.log")).unwrap();
    let log = String::from_utf8_lossy(&log);
    for line in
        ["--- attempt 1, 20", "plain words\n", " not text\n", "{\"event\":\"of the future\",\"x\":1}\n", "no newline", "{\"event\":\"fin\n"]
    {
        assert!(log.contains(line), "{line:?} in {log:?}");
    }
}

#[test]
fn a_program_that_is_not_there_fails_the_run() {
    let bench = Bench::new(&[0], 1);
    let store = bench.store();
    let command = |_: &PlannedRun, _: &Path| Command::new("/no/such/program");
    let supervisor = Supervisor { workers: 1, command: &command, fail_fast: false, selection: Selection::default(), stop: Arc::default() };
    let claim = prepare(&bench.spec(), &store, &RESOLVER).unwrap();
    assert_eq!(counts(&supervisor.run(&claim, &claim.plan.runs, &store, &mut ()).unwrap()), [0, 1, 0, 0, 0]);
    assert!(bench.failure(0).1.starts_with("could not start `/no/such/program`: "), "{:?}", bench.failure(0));
}

#[test]
fn a_claimed_sweep_is_refused_to_others() {
    let bench = Bench::new(&[0], 1);
    let claim = prepare(&bench.spec(), &bench.store(), &RESOLVER).unwrap();
    let error = prepare(&bench.spec(), &bench.store(), &RESOLVER).unwrap_err();
    assert!(matches!(error, PlanError::Store(StoreError::Locked { .. })), "{error}");
    drop(claim);
    prepare(&bench.spec(), &bench.store(), &RESOLVER).unwrap();
}

#[test]
fn the_child_of_a_dead_supervisor_is_waited_for() {
    let mut bench = Bench::new(&[0], 1);
    let mut orphan = Command::new("sleep").arg("0.6").stdin(Stdio::null()).spawn().unwrap();
    let running = State { process: Some(ProcessMark::of(orphan.id())), step: 3, ..State::planned().next_attempt() };
    bench.store().write_state(&bench.id(0), &running).unwrap();
    let reaper = std::thread::spawn(move || {
        orphan.wait().unwrap();
        Instant::now()
    });
    let outcome = bench.sweep("finish");
    let ended = Instant::now();
    assert_eq!(counts(&outcome), [1, 0, 0, 0, 0]);
    assert!(reaper.join().unwrap() < ended);
    assert!(outcome.wall_seconds > 0.3, "{}", outcome.wall_seconds);
    assert_eq!(bench.state(0).attempt, 2);
}

#[test]
fn changed_inputs_rerun_only_when_asked_and_from_the_start() {
    let mut bench = Bench::new(&[0], 1);
    bench.sweep("checkpoint 5; mkdir checkpoint; finish");
    let store = bench.store();
    let mut manifest = store.manifest(&bench.id(0)).unwrap().unwrap();
    manifest.inputs.dataset = Some("aa".to_owned());
    store.write_manifest(&manifest).unwrap();
    let changed = AsWritten { dataset: "bb" };
    let outcome = bench.sweep_with("exit 1", &changed).unwrap();
    assert_eq!((counts(&outcome), outcome.skipped_changed), ([0; 5], 1));
    bench.selection.changed = true;
    let outcome = bench.sweep_with("[ -e checkpoint ] && exit 1; finish", &changed).unwrap();
    assert_eq!(counts(&outcome), [1, 0, 0, 0, 0]);
    assert_eq!(bench.state(0).attempt, 1, "its first attempt on these inputs");
    assert_eq!(store.manifest(&bench.id(0)).unwrap().unwrap().inputs, Inputs::default());
}

#[test]
fn a_store_that_cannot_be_written_ends_the_sweep_with_its_name() {
    let mut bench = Bench::new(&[0, 1], 1);
    // A folder in the place of state.json cannot be replaced by a file. It goes there once the supervisor has written the process down.
    let script = "until grep -q process state.json; do sleep 0.02; done
        rm state.json; mkdir -p state.json/x; checkpoint 1; read -r word; exit 130";
    let error = bench.sweep_with(script, &RESOLVER).unwrap_err();
    assert!(error.to_string().contains("state.json"), "{error}");
    assert_eq!(bench.state(1).status, Status::Planned, "the other run was not begun");
}

/// Waits for something that another process does.
fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the supervisor that is to be killed finds its results folder.
const VICTIM_ROOT: &str = "PEFTBENCH_TEST_VICTIM_ROOT";

#[test]
#[ignore = "the process that `a_killed_supervisor_leaves_a_sweep_that_goes_on` starts and kills"]
fn victim() {
    let Some(root) = std::env::var_os(VICTIM_ROOT) else { return };
    let mut bench = Bench::at(Path::new(&root), &[0, 1]);
    bench.sweep("checkpoint 4; read -r word; [ -z \"$word\" ] && touch heard_the_end; exit 130");
}

#[test]
fn a_killed_supervisor_leaves_a_sweep_that_goes_on() {
    let mut bench = Bench::new(&[0, 1], 1);
    let mut supervisor = Command::new(std::env::current_exe().unwrap());
    supervisor.args(["--exact", "victim", "--ignored"]).env(VICTIM_ROOT, bench.root.path()).stdout(Stdio::null());
    let mut supervisor = supervisor.spawn().unwrap();
    let (store, id) = (bench.store(), bench.id(0));
    let state = || store.state(&id).unwrap();
    eventually("the first run is under way", || state().is_some_and(|state| state.is_alive() && state.step == 4));
    let status = || plan(&bench.spec(), &store, &RESOLVER).unwrap().runs[0].status;
    assert_eq!(status(), PlanStatus::Running);
    assert!(matches!(store.lock(), Err(StoreError::Locked { .. })));

    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    eventually("the child sees the end of its input", || store.run_dir(&id).join("heard_the_end").exists());
    eventually("the child is gone", || !state().is_some_and(|state| state.is_alive()));
    assert_eq!(state().unwrap().status, Status::Running, "nobody was left to write it down");
    assert_eq!(status(), PlanStatus::Interrupted(4));
    assert_eq!(counts(&bench.sweep("finish")), [2, 0, 0, 0, 0]);
    assert_eq!(bench.state(0).attempt, 2);
}
