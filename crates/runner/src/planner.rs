//! What runs will take and what they would read, before they are run.
//!
//! A plan asks this of many runs over few models and data sets: each of those is read once, and only what the answers need is kept.

use crate::environment::Environment;
use crate::error::Result;
use crate::resolve::attach_shapes;
use crate::trainer::total_steps;
use crate::workload::numbers::NumberData;
use peftbench_datasets::overlap::{Overlap, overlap};
use peftbench_datasets::{DataError, Example, Splits, Task, encode_training, numbers, tasks};
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{Component, RunSpec};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// What a run will take, before it is run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// Scalars of the base model.
    pub total_params: u64,
    /// Scalars that train.
    pub trainable_params: u64,
    /// Peak heap bytes, roughly.
    pub memory_bytes: u64,
    /// Wall time on one core, roughly.
    pub seconds: Option<f64>,
}

/// Multiply-adds a second of one core, for estimates only; what a run takes is recorded when it has run.
const ASSUMED_RATE: f64 = 12e9;

/// Training examples whose length stands for all.
const SAMPLE: usize = 64;

/// Answers for the runs of one plan.
pub struct Planner {
    environment: Environment,
    data: RefCell<HashMap<String, Rc<DataSummary>>>,
    models: RefCell<HashMap<String, ModelHashes>>,
    lengths: RefCell<HashMap<String, f64>>,
}

/// What is kept of a task's examples.
struct DataSummary {
    train: usize,
    valid: usize,
    test: usize,
    /// Options of an evaluated example, 1 where text is generated.
    options: usize,
    sample: Sample,
    hash: String,
}

/// What tells how long training examples are.
enum Sample {
    /// Some of them.
    Text(Vec<Example>),
    /// The steps of each.
    Steps(usize),
}

#[derive(Clone)]
struct ModelHashes {
    model: String,
    /// None of a network over numbers.
    tokenizer: Option<String>,
}

impl Planner {
    /// Answers for runs that read from `environment`.
    pub fn new(environment: Environment) -> Self {
        Self { environment, data: RefCell::default(), models: RefCell::default(), lengths: RefCell::default() }
    }

    /// Where runs read from.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Estimates a resolved run from its shapes and its data.
    pub fn estimate(&self, spec: &RunSpec) -> Result<Estimate> {
        let (mut model, attachment) = attach_shapes(spec, &self.environment)?;
        let total: u64 = model.params().iter().map(|p| p.elem_count() as u64).sum();
        let trainable = attachment.num_trainable();
        let data = self.data(spec)?;
        let mean_length = self.mean_length(spec, &data)?;
        let per_token = model.multiply_adds_per_token() as f64;
        let trains = trainable > 0;
        let steps = if trains { total_steps(data.train, spec) } else { 0 };
        let train_tokens = steps as f64 * (spec.train.batch_size * spec.train.gradient_accumulation) as f64 * mean_length;
        let evaluations = if trains { f64::from(spec.train.epochs) } else { 1.0 };
        let eval_tokens = (data.valid as f64 * evaluations + data.test as f64) * mean_length * data.options as f64;
        // Backward costs as much as forward for the inputs, and the trained share of the weights once more.
        let backward = 1.0 + trainable as f64 / total as f64;
        let seconds = (train_tokens * (1.0 + backward) + eval_tokens) * per_token / ASSUMED_RATE;
        // Some 24 activations of the residual width a layer and token are kept or in flight.
        let batch_tokens = spec.train.batch_size as f64 * mean_length;
        let activations = batch_tokens * model.hidden_size() as f64 * model.num_layers() as f64 * 24.0 * 4.0;
        let memory_bytes = total * 4 + trainable * 16 + if trains { activations as u64 } else { 0 };
        Ok(Estimate { total_params: total, trainable_params: trainable, memory_bytes, seconds: Some(seconds) })
    }

    /// Hashes of what the run would read now.
    pub fn inputs(&self, spec: &RunSpec) -> Result<Inputs> {
        let name = &spec.model.name;
        let hashes = remembered(&self.models, name.clone(), || {
            let files = self.environment.find_model(name)?;
            let tokenizer = if numbers::find(&spec.task).is_some() { None } else { Some(files.tokenizer()?.hash()) };
            Ok(ModelHashes { model: files.hash()?, tokenizer })
        })?;
        Ok(Inputs { model: Some(hashes.model), tokenizer: hashes.tokenizer, dataset: Some(self.data(spec)?.hash.clone()) })
    }

    fn data(&self, spec: &RunSpec) -> Result<Rc<DataSummary>> {
        remembered(&self.data, data_key(spec), || {
            if numbers::find(&spec.task).is_some() {
                let splits = NumberData::load(spec, &self.environment)?.splits;
                let (train, valid, test, hash) = (splits.train.len(), splits.valid.len(), splits.test.len(), splits.hash());
                return Ok(Rc::new(DataSummary { train, valid, test, options: 1, sample: Sample::Steps(splits.train.length()), hash }));
            }
            let splits = load_examples(spec, &self.environment)?.splits;
            let hash = splits.hash();
            let options = splits.valid.first().or(splits.test.first()).map_or(1, |example| example.choices.len().max(1));
            let (train, valid, test) = (splits.train.len(), splits.valid.len(), splits.test.len());
            let sample = Sample::Text(splits.train.into_iter().take(SAMPLE).collect());
            Ok(Rc::new(DataSummary { train, valid, test, options, sample, hash }))
        })
    }

    /// Mean tokens of a training example.
    fn mean_length(&self, spec: &RunSpec, data: &DataSummary) -> Result<f64> {
        let sample = match &data.sample {
            Sample::Steps(steps) => return Ok(*steps as f64),
            Sample::Text(examples) => examples,
        };
        let key = format!("{} {} {}", spec.model.name, spec.train.max_length, data_key(spec));
        remembered(&self.lengths, key, || {
            let tokenizer = self.environment.find_model(&spec.model.name)?.tokenizer()?;
            let task = tasks::build(&spec.task).map_err(|e| e.below("task"))?;
            let (mut tokens, mut examples) = (0, 0);
            for example in sample {
                if let Some(encoded) = encode_training(&tokenizer, task.format(), example, spec.train.max_length)? {
                    tokens += encoded.ids.len();
                    examples += 1;
                }
            }
            Ok(tokens as f64 / f64::from(examples.max(1)))
        })
    }
}

/// What a run reads.
pub struct Examples {
    /// The task that loaded them.
    pub task: Box<dyn Task>,
    /// The examples, no more than the spec asks for.
    pub splits: Splits,
    /// What the splits have in common.
    pub overlap: Overlap,
}

/// Loads the examples of a run; no test example of one that is not scored on them.
///
/// # Errors
/// Where data is missing or wrong, or the test split has more of the training split than its publishers left in it and the spec does not
/// allow that.
pub fn load_examples(spec: &RunSpec, environment: &Environment) -> Result<Examples> {
    let task = tasks::build(&spec.task).map_err(|e| e.below("task"))?;
    let mut splits = task.load(&environment.data_source())?;
    splits.limit(spec.train.train_samples, spec.train.valid_samples, spec.train.test_samples);
    if !spec.evaluate_test {
        splits.test.clear();
    }
    let overlap = overlap(&splits);
    let known = tasks::entry(&spec.task)?.known_overlap;
    if overlap.test > known && !spec.allow_overlap {
        return Err(DataError::Overlap { task: spec.task.name.clone(), found: overlap.test, items: splits.test.len(), known }.into());
    }
    Ok(Examples { task, splits, overlap })
}

/// What the examples of a run depend on.
fn data_key(spec: &RunSpec) -> String {
    let (Component { name, options }, train) = (&spec.task, &spec.train);
    let limits = (train.train_samples, train.valid_samples, train.test_samples);
    format!("{name} {options:?} {limits:?} {} {}", spec.allow_overlap, spec.evaluate_test)
}

/// The value of `key`, made at the first time it is asked for. An error is not remembered.
fn remembered<T: Clone>(known: &RefCell<HashMap<String, T>>, key: String, make: impl FnOnce() -> Result<T>) -> Result<T> {
    if let Some(value) = known.borrow().get(&key) {
        return Ok(value.clone());
    }
    let value = make()?;
    known.borrow_mut().insert(key, value.clone());
    Ok(value)
}
