//! Whether a run made again is the same to the bit: every step, every metric, every prediction, and the adapter's bytes.

use anyhow::{Context, ensure};
use peftbench_results::events::{Outcome, RunEvents};
use peftbench_spec::event::{EvalRecord, StepRecord};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};

/// The first thing that is not the same, in the order in which a run makes them.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is: `step 12: loss`, `adapter tensor base_model.…lora_A.weight`.
    pub name: String,
    /// In the record.
    pub recorded: String,
    /// Now.
    pub now: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: recorded {}, now {}", self.name, self.recorded, self.now)
    }
}

/// How much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Optimizer steps.
    pub steps: usize,
    /// Metric values.
    pub metrics: usize,
    /// Items of evaluations.
    pub predictions: usize,
    /// Bytes of the adapter file.
    pub adapter_bytes: usize,
}

/// What a finished run has left that another can be compared with.
pub struct Record {
    events: RunEvents,
    adapter: Vec<u8>,
}

impl Record {
    /// Reads the record in the folder of a run.
    ///
    /// # Errors
    /// Where it is not that of a whole run: a file is damaged, the run has not ended well, or it trained and its adapter is not there.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("events.jsonl");
        let record = Self { events: RunEvents::read(&path)?, adapter: adapter(folder)? };
        ensure!(matches!(record.events.outcome, Some(Outcome::Finished(_))), "by {} it has not finished", path.display());
        let trains = record.events.setup.as_ref().is_some_and(|setup| setup.num_trainable_params > 0);
        ensure!(!(trains && record.adapter.is_empty()), "{} is missing or empty", adapter_path(folder).display());
        tensors(&record.adapter).with_context(|| format!("{} is damaged", adapter_path(folder).display()))?;
        Ok(record)
    }
}

/// Compares a recorded run with what it is now.
pub fn compare(recorded: &Record, now: &Record) -> anyhow::Result<Result<Compared, Difference>> {
    let mut check = Check { compared: Compared::default() };
    let found = check.all(&recorded.events, &now.events).and_then(|()| check.adapter(&recorded.adapter, &now.adapter));
    Ok(match found {
        Ok(()) => Ok(check.compared),
        Err(Stop::Differs(difference)) => Err(difference),
        Err(Stop::Error(error)) => return Err(error),
    })
}

/// Why a comparison ends early.
enum Stop {
    Differs(Difference),
    Error(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

/// An error where the two are not the same.
fn same<T: PartialEq + Debug>(name: impl FnOnce() -> String, recorded: &T, now: &T) -> Result<(), Stop> {
    match recorded == now {
        true => Ok(()),
        false => Err(Stop::Differs(Difference { name: name(), recorded: format!("{recorded:?}"), now: format!("{now:?}") })),
    }
}

/// As [`same`], for every bit of a float: 0.0 is not -0.0, and NaN is itself.
fn same_bits(name: impl FnOnce() -> String, recorded: f64, now: f64) -> Result<(), Stop> {
    match recorded.to_bits() == now.to_bits() {
        true => Ok(()),
        false => Err(Stop::Differs(Difference { name: name(), recorded: format!("{recorded:?}"), now: format!("{now:?}") })),
    }
}

struct Check {
    compared: Compared,
}

impl Check {
    fn all(&mut self, old: &RunEvents, new: &RunEvents) -> Result<(), Stop> {
        for (old, new) in old.steps.iter().zip(&new.steps) {
            self.step(&old.record, &new.record)?;
        }
        same(|| "number of steps".to_owned(), &old.steps.len(), &new.steps.len())?;
        for (old, new) in old.evals.iter().zip(&new.evals) {
            self.eval(&old.record, &new.record)?;
        }
        same(|| "number of evaluations".to_owned(), &old.evals.len(), &new.evals.len())?;
        for (old, new) in old.predictions.iter().zip(&new.predictions) {
            let (old, new) = (&old.record, &new.record);
            let name = format!("{} predictions at step {}", old.split, old.step);
            for (old, new) in old.items.iter().zip(&new.items) {
                same(|| format!("{name}, item {}", old.item_id), old, new)?;
                self.compared.predictions += 1;
            }
            same(|| format!("{name}: number of items"), &old.items.len(), &new.items.len())?;
        }
        same(|| "number of predicted splits".to_owned(), &old.predictions.len(), &new.predictions.len())
    }

    fn step(&mut self, old: &StepRecord, new: &StepRecord) -> Result<(), Stop> {
        let name = |what: &'static str| move || format!("step {}: {what}", old.step);
        same(name("number"), &old.step, &new.step)?;
        same_bits(name("loss"), old.loss, new.loss)?;
        same_bits(name("grad_norm"), old.grad_norm, new.grad_norm)?;
        same_bits(name("lr"), old.lr, new.lr)?;
        self.compared.steps += 1;
        Ok(())
    }

    fn eval(&mut self, old: &EvalRecord, new: &EvalRecord) -> Result<(), Stop> {
        let name = format!("{} evaluation at step {}", old.split, old.step);
        same(|| name.clone(), &(&old.split, old.step), &(&new.split, new.step))?;
        let names = |record: &EvalRecord| record.metrics.iter().map(|metric| metric.name.clone()).collect::<Vec<_>>();
        same(|| format!("{name}: metrics"), &names(old), &names(new))?;
        for (old, new) in old.metrics.iter().zip(&new.metrics) {
            same_bits(|| format!("{name}: {}", old.name), old.value, new.value)?;
            self.compared.metrics += 1;
        }
        same_bits(|| format!("{name}: loss"), old.loss.unwrap_or(f64::NAN), new.loss.unwrap_or(f64::NAN))
    }

    fn adapter(&mut self, old: &[u8], new: &[u8]) -> Result<(), Stop> {
        self.compared.adapter_bytes = old.len();
        if old == new {
            return Ok(());
        }
        let (old, new) = (tensors(old)?, tensors(new)?);
        for (name, old) in &old {
            same(|| format!("adapter tensor {name}"), &Some(fingerprint(old)), &new.get(name).map(fingerprint))?;
        }
        same(|| "adapter tensors".to_owned(), &old.keys().collect::<Vec<_>>(), &new.keys().collect())?;
        // The tensors agree: the files differ in their headers.
        same(|| "adapter file".to_owned(), &"one header", &"another header")
    }
}

/// The bytes of a run's adapter; none for a run that trains nothing.
fn adapter(run_dir: &Path) -> anyhow::Result<Vec<u8>> {
    let path = adapter_path(run_dir);
    match path.exists() {
        true => std::fs::read(&path).with_context(|| format!("could not read {}", path.display())),
        false => Ok(Vec::new()),
    }
}

fn adapter_path(run_dir: &Path) -> PathBuf {
    run_dir.join("adapter").join("adapter_model.safetensors")
}

/// A tensor's shape and type as its header says, and its bytes.
type Tensor<'a> = (String, &'a [u8]);

fn fingerprint((header, bytes): &Tensor<'_>) -> String {
    format!("{header} blake3 {}", &blake3::hash(bytes).to_hex()[..16])
}

/// The tensors of a safetensors file by name: 8 bytes with the length of a JSON header, the header, then the tensors at the offsets
/// that it gives.
fn tensors(file: &[u8]) -> anyhow::Result<BTreeMap<String, Tensor<'_>>> {
    if file.is_empty() {
        return Ok(BTreeMap::new());
    }
    let read = || -> Option<BTreeMap<String, Tensor<'_>>> {
        let length = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
        let header: BTreeMap<String, Value> = serde_json::from_slice(file.get(8..8 + length)?).ok()?;
        let data = &file[8 + length..];
        let tensor = |(name, entry): (String, Value)| {
            let offset = |i: usize| usize::try_from(entry["data_offsets"][i].as_u64()?).ok();
            Some((name, (format!("{} {}", entry["dtype"].as_str()?, entry["shape"]), data.get(offset(0)?..offset(1)?)?)))
        };
        header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
    };
    read().context("it is not a whole safetensors file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::Event;
    use peftbench_spec::event::{MetricValue, Prediction};
    use tempfile::TempDir;

    fn safetensors(values: &[(&str, f32)]) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        for (i, (name, _)) in values.iter().enumerate() {
            header.insert((*name).to_owned(), serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}));
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(values.iter().flat_map(|(_, value)| value.to_le_bytes()));
        file
    }

    fn folder(loss: f64, metric: f64, prediction: &str, adapter: &[u8]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let metrics = vec![MetricValue { name: "accuracy".into(), value: metric, stderr: None, n_items: 1, higher_is_better: true }];
        let item = Prediction { item_id: "test:1".into(), prediction: prediction.into(), target: "yes".into(), score: 1.0 };
        let events = [
            Event::Step(StepRecord { step: 1, loss, lr: 0.1, seconds: 0.5, ..StepRecord::default() }),
            Event::Eval(EvalRecord { step: 1, split: "test".into(), metrics, ..EvalRecord::default() }),
            Event::Predictions { step: 1, split: "test".into(), items: vec![item] },
            Event::Finished(Box::default()),
        ];
        let text: String = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
        std::fs::write(folder.path().join("events.jsonl"), text).unwrap();
        std::fs::create_dir(folder.path().join("adapter")).unwrap();
        std::fs::write(folder.path().join("adapter/adapter_model.safetensors"), adapter).unwrap();
        folder
    }

    #[test]
    fn the_first_difference_is_named() {
        let weights = safetensors(&[("a", 1.0), ("b", 2.0)]);
        let recorded = folder(0.1 + 0.2, 0.5, "yes", &weights);
        let recorded = Record::read(recorded.path()).unwrap();
        let against = |other: TempDir| compare(&recorded, &Record::read(other.path()).unwrap()).unwrap();
        let same = against(folder(0.1 + 0.2, 0.5, "yes", &weights)).unwrap();
        assert_eq!(same, Compared { steps: 1, metrics: 1, predictions: 1, adapter_bytes: weights.len() });
        let difference = |other| against(other).unwrap_err().to_string();
        assert_eq!(difference(folder(0.3, 0.25, "no", &[])), "step 1: loss: recorded 0.30000000000000004, now 0.3");
        assert_eq!(difference(folder(0.1 + 0.2, 0.25, "no", &[])), "test evaluation at step 1: accuracy: recorded 0.5, now 0.25");
        assert!(difference(folder(0.1 + 0.2, 0.5, "no", &[])).starts_with("test predictions at step 1, item test:1: recorded Prediction"));
        let other = difference(folder(0.1 + 0.2, 0.5, "yes", &safetensors(&[("a", 1.0), ("b", -2.0)])));
        assert!(other.starts_with("adapter tensor b: recorded Some(\"F32 [1] blake3 "), "{other}");
        assert!(difference(folder(0.1 + 0.2, 0.5, "yes", &safetensors(&[("a", 1.0)]))).ends_with(", now None"));
    }
}
