//! The resumable state of a run: `checkpoint/state.json` and `checkpoint/tensors.safetensors`, written as one.
//!
//! A checkpoint is complete or absent: its two files lie in a folder of their own, `checkpoint/<step>`, and `checkpoint/current` names
//! the folder; replacing that one small file is what makes the new checkpoint valid.

use crate::error::{Result, RunError};
use crate::files::write_atomically;
use crate::optimizer::State;
use peftbench_models::checkpoint::{Checkpoint, Storage, to_safetensors};
use peftbench_ops::{Param, Tensor};
use peftbench_spec::event::MetricValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a run stands, without its tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Optimizer steps done in all stages.
    pub step: u64,
    /// Index of the stage under way.
    pub stage: usize,
    /// Steps done in it.
    pub stage_step: u64,
    /// Updates of each trained tensor, by name.
    pub updates: BTreeMap<String, u64>,
    /// How good the primary metric was on validation at the best epoch so far, and the epoch.
    pub best: Option<(f64, u32)>,
    /// That metric.
    pub best_metric: Option<MetricValue>,
    /// Mean loss on the text of `forgetting` before training.
    pub forgetting_loss: Option<f64>,
    /// State of the layer policy.
    pub policy: serde_json::Value,
    /// Seconds of the attempts before.
    pub seconds: f64,
    /// Loss, seconds and tokens of the stage's steps, for the summary.
    pub history: Vec<StepSummary>,
}

impl Progress {
    /// Begins stage `index`: nothing of the one before goes on but the count of all steps.
    pub fn begin_stage(&mut self, index: usize) {
        *self = Self { step: self.step, stage: index, seconds: self.seconds, ..Self::default() };
    }
}

/// What the summary needs of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Mean loss.
    pub loss: f64,
    /// Wall time.
    pub seconds: f64,
    /// Tokens, padding included.
    pub tokens: u64,
}

/// A whole checkpoint.
pub struct Saved {
    /// Where the run stands.
    pub progress: Progress,
    /// Tensors by name: trained values (`value/…`), moments (`first/…`, `second/…`), values of the best epoch (`best/…`), what the
    /// stage before handed on (`carried/…`), and what methods keep from step to step (`method/…`).
    pub tensors: BTreeMap<String, Tensor>,
}

fn folder(run_dir: &Path) -> PathBuf {
    run_dir.join("checkpoint")
}

/// Writes a checkpoint, then removes the one before.
pub fn save(run_dir: &Path, saved: &Saved) -> Result<()> {
    let name = format!("step-{}", saved.progress.step);
    let target = folder(run_dir).join(&name);
    let params: Vec<Param> = saved.tensors.iter().map(|(name, tensor)| Param::frozen(name.clone(), tensor.clone())).collect();
    write_atomically(&target.join("tensors.safetensors"), &to_safetensors(&params, Storage::F32)?)?;
    let text = serde_json::to_vec(&saved.progress).map_err(|e| RunError::file("write", target.join("state.json"), e))?;
    write_atomically(&target.join("state.json"), &text)?;
    let before = current(run_dir);
    write_atomically(&folder(run_dir).join("current"), name.as_bytes())?;
    if let Some(before) = before.filter(|before| *before != name) {
        // What cannot be removed is only waste: the next save or the end of the run tries again.
        std::fs::remove_dir_all(folder(run_dir).join(before)).ok();
    }
    Ok(())
}

fn current(run_dir: &Path) -> Option<String> {
    std::fs::read_to_string(folder(run_dir).join("current")).ok()
}

/// The last whole checkpoint, if there is one.
pub fn load(run_dir: &Path) -> Result<Option<Saved>> {
    let Some(name) = current(run_dir) else { return Ok(None) };
    let source = folder(run_dir).join(name.trim());
    let state = source.join("state.json");
    let text = std::fs::read_to_string(&state).map_err(|e| RunError::file("read", &state, e))?;
    let progress = serde_json::from_str(&text).map_err(|e| RunError::file("read", &state, e))?;
    let file = source.join("tensors.safetensors");
    let checkpoint = Checkpoint::open_on_host(&file)?;
    let tensors = checkpoint.names().map(|name| Ok((name.to_owned(), checkpoint.read(name)?))).collect::<Result<_>>()?;
    Ok(Some(Saved { progress, tensors }))
}

/// Removes all checkpoints of a finished run.
pub fn clear(run_dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder(run_dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(RunError::file("remove", folder(run_dir), e)),
        _ => Ok(()),
    }
}

impl Saved {
    /// Adds tensors under `prefix`.
    pub fn insert(&mut self, prefix: &str, name: &str, tensor: Tensor) {
        self.tensors.insert(format!("{prefix}/{name}"), tensor);
    }

    /// The tensor `name` under `prefix`.
    pub fn get(&self, prefix: &str, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{prefix}/{name}"))
    }

    /// All tensors under `prefix`, without it.
    pub fn all(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let start = format!("{prefix}/");
        self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(&start)?.to_owned(), t.clone()))).collect()
    }

    /// Records the optimizer: values and moments of `params`.
    pub fn put_optimizer(&mut self, params: &[Param], states: &[Option<State>]) {
        for (param, state) in params.iter().zip(states) {
            self.insert("value", param.name(), param.value());
            if let Some(state) = state {
                self.insert("first", param.name(), state.first.clone());
                self.insert("second", param.name(), state.second.clone());
                self.progress.updates.insert(param.name().to_owned(), state.steps);
            }
        }
    }

    /// Restores values and returns the optimizer's states.
    pub fn take_optimizer(&self, params: &[Param]) -> Result<Vec<Option<State>>> {
        let mut states = Vec::with_capacity(params.len());
        for param in params {
            if let Some(value) = self.get("value", param.name()) {
                param.set(value.clone())?;
            }
            let moments =
                self.get("first", param.name()).zip(self.get("second", param.name())).zip(self.progress.updates.get(param.name()));
            states.push(moments.map(|((first, second), steps)| State { first: first.clone(), second: second.clone(), steps: *steps }));
        }
        Ok(states)
    }
}
