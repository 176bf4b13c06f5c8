//! What several tests of this crate need.

use crate::error::StoreError;
use crate::plan::{Estimate, Resolver};
use crate::store::Store;
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{Event, RunId, RunSpec, SpecError, SweepSpec};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// A resolver that knows the methods `lora`, `full` and `none`, ignores `train.lr` for `none`, and makes every run a minute.
#[derive(Default)]
pub struct TestResolver {
    /// What the inputs hash to now.
    pub dataset: Option<String>,
}

impl Resolver for TestResolver {
    fn resolve(&self, spec: &RunSpec) -> Result<RunSpec, SpecError> {
        let mut spec = spec.clone();
        match spec.method[0].name.as_str() {
            "lora" | "full" => {}
            "none" => spec.train.lr = 1e-3,
            other => return Err(SpecError::at("method[0].type", format!("no method is called `{other}`"))),
        }
        Ok(spec)
    }

    fn estimate(&self, spec: &RunSpec) -> Result<Estimate, SpecError> {
        let trainable = if spec.method[0].name == "none" { 0 } else { 1300 };
        Ok(Estimate {
            total_params: Some(1_300_000),
            trainable_params: Some(trainable),
            memory_bytes: Some(212 << 20),
            seconds: Some(60.0 + spec.seed as f64),
        })
    }

    fn fingerprint(&self, _spec: &RunSpec) -> Option<Inputs> {
        self.dataset.as_ref().map(|hash| Inputs { dataset: Some(hash.clone()), ..Inputs::default() })
    }
}

/// A sweep file with this text below its name and base.
pub fn sweep_spec(text: &str) -> SweepSpec {
    let text = format!("name = \"s\"\nbase = {{ model = \"m\", task = \"t\", method = \"full\" }}\n{text}");
    SweepSpec::parse(Path::new("s.toml"), &text).unwrap()
}

/// A run.
pub fn run_spec(seed: u64) -> RunSpec {
    RunSpec::from_value(json!({"model": "m", "task": "t", "method": "full", "seed": seed})).unwrap()
}

/// A store named `s` in a folder of its own, not yet made.
pub fn store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), "s").unwrap();
    (root, store)
}

/// The last event of a run that went well.
pub fn finished() -> Event {
    Event::Finished(Box::default())
}

/// Writes an event as the runner does.
pub fn append_event(store: &Store, id: &RunId, event: &Event) {
    let folder = store.run_dir(id);
    std::fs::create_dir_all(&folder).map_err(StoreError::io("make", &folder)).unwrap();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("events.jsonl")).unwrap();
    writeln!(file, "{}", serde_json::to_string(event).unwrap()).unwrap();
}
