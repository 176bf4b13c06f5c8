//! A folder to play in: small base models, a sweep file, results, and the program itself.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, dead_code)] // Each test binary uses its own part.

use peftbench_runner::pretrain::{PretrainSpec, pretrain};
use peftbench_sweep::{State, Status};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes longer than a few seconds; a test that waits for this long has found a hang.
const PATIENCE: Duration = Duration::from_secs(60);

const TINY_LLAMA: &str = r#"
    model_type = "llama"
    hidden_size = 32
    intermediate_size = 64
    num_hidden_layers = 2
    num_attention_heads = 2
    num_key_value_heads = 1
    rms_norm_eps = 1e-5
    rope_theta = 10000.0
    tie_word_embeddings = true
"#;

/// A Mamba of two layers.
pub const TINY_MAMBA: &str = r#"
    model_type = "mamba"
    hidden_size = 32
    num_hidden_layers = 2
    state_size = 4
    time_step_rank = 2
    tie_word_embeddings = true
"#;

pub struct Playground {
    folder: TempDir,
}

/// What a command did.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Playground {
    /// A folder with the base model `tiny`: a LLaMA of two layers, pre-trained for three steps.
    pub fn new() -> Self {
        let playground = Self { folder: tempfile::tempdir().unwrap() };
        playground.make_model("tiny");
        playground
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A LLaMA of two layers, pre-trained for three steps.
    pub fn make_model(&self, name: &str) {
        self.make_model_of(name, TINY_LLAMA);
    }

    /// A base model of some shape, pre-trained for three steps.
    pub fn make_model_of(&self, name: &str, shape: &str) {
        let spec = format!(
            r#"
            name = "{name}"
            [model]
            {shape}
            [corpus]
            world_seed = 0
            sentences = 2000
            vocab_size = 300
            [train]
            steps = 3
            batch_size = 4
            length = 32
            lr = 3e-3
            warmup_steps = 1
            lr_scheduler = "cosine"
            weight_decay = 0.1
            seed = 0
            "#
        );
        let spec: PretrainSpec = toml::from_str(&spec).unwrap();
        let made = pretrain(&spec, &self.path("bases").join(name), &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert!(made);
    }

    /// Writes a sweep file: a base of runs that take a fraction of a second, and `more` behind it.
    pub fn sweep_file(&self, name: &str, more: &str) -> PathBuf {
        let text = format!(
            r#"name = "{name}"
seeds = [0]
[base]
model = "tiny"
task = {{ type = "world/sentiment", train = 48, valid = 16, test = 16 }}
targets = ["q_proj", "v_proj"]
train = {{ epochs = 2, batch_size = 4, lr = 1e-3, max_length = 128 }}
{more}
"#
        );
        self.write(&format!("{name}.toml"), &text)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The program, in this folder and without anything from the environment of the tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peftbench"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // A rerun that differs is kept for a look; here it goes with the folder.
        command.env("TMPDIR", self.folder.path());
        let ours = ["PEFTBENCH_RESULTS", "PEFTBENCH_DATA", "PEFTBENCH_MODELS", "RAYON_NUM_THREADS"];
        for variable in ours.into_iter().chain(["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"]) {
            command.env_remove(variable);
        }
        command.env("HF_HOME", self.path("hub-home"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs and expects this exit code.
    pub fn expect(&self, code: i32, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Folders of the runs of a sweep, sorted.
    pub fn runs(&self, results: &str, sweep: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(results).join(sweep).join("runs")) else { return Vec::new() };
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders
    }

    /// The only run of a sweep.
    pub fn only_run(&self, results: &str, sweep: &str) -> PathBuf {
        let runs = self.runs(results, sweep);
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        // A shell's way to say that a signal ended the program.
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The error, without what was said before it.
    pub fn error(&self) -> &str {
        self.stderr.find("error: ").map_or(self.stderr.as_str(), |start| &self.stderr[start..])
    }
}

/// Waits until `found` finds something.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The state of a run.
pub fn state(run: &Path) -> Option<State> {
    serde_json::from_str(&fs::read_to_string(run.join("state.json")).ok()?).ok()
}

pub fn is_done(run: &Path) -> bool {
    state(run).is_some_and(|state| state.status == Status::Done)
}

/// How often an event of this name is in the record of a run.
pub fn count_events(run: &Path, name: &str) -> usize {
    let text = fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains(&format!("\"event\":\"{name}\""))).count()
}

/// Sends a signal.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(status.success());
}

/// What of a finished run must not depend on how often it was interrupted.
#[derive(Debug, PartialEq)]
pub struct Result {
    pub adapter: Vec<u8>,
    pub steps: Vec<(u64, u64, u64)>,
    pub metrics: Vec<(String, u64, String, u64)>,
    pub predictions: Vec<(String, String)>,
}

impl Result {
    pub fn of(run: &Path) -> Self {
        let events = peftbench_results::events::RunEvents::read(&run.join("events.jsonl")).unwrap();
        let steps = events.steps.iter().map(|s| (s.record.step, s.record.loss.to_bits(), s.record.grad_norm.to_bits())).collect();
        let metrics = events.evals.iter().map(|eval| &eval.record).flat_map(|eval| {
            eval.metrics.iter().map(|metric| (eval.split.clone(), eval.step, metric.name.clone(), metric.value.to_bits()))
        });
        let predictions = events.predictions.iter().flat_map(|entry| &entry.record.items);
        Self {
            adapter: fs::read(run.join("adapter/adapter_model.safetensors")).unwrap(),
            steps,
            metrics: metrics.collect(),
            predictions: predictions.map(|item| (item.item_id.clone(), item.prediction.clone())).collect(),
        }
    }
}
