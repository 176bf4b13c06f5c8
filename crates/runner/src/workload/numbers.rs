//! A network over sequences of numbers: the class of each, or the sequence that a teacher makes of it.

use super::{Batch, Split, Workload, foreign};
use crate::environment::{Environment, ModelFiles};
use crate::error::Result;
use crate::evaluation::Evaluation;
use peftbench_adapters::policy::ProbeSource;
use peftbench_datasets::numbers::{Goal, NumberSplits, Sequences, find};
use peftbench_models::config::ModelConfig;
use peftbench_models::s4d::{S4d, Target};
use peftbench_models::weights::Fresh;
use peftbench_models::{Network, Pass};
use peftbench_ops::{D, Device, Tape, Tensor, Var};
use peftbench_spec::event::{MetricValue, Prediction, Setup};
use peftbench_spec::manifest::Inputs;
use peftbench_spec::{RunSpec, SpecError};

/// Names of the metrics.
const ACCURACY: &str = "accuracy";
const MEAN_SQUARED_ERROR: &str = "mse";

/// The network and its sequences.
pub struct NumberWork {
    files: ModelFiles,
    network: S4d,
    data: NumberData,
    inputs: Inputs,
    eval_batch_size: usize,
}

/// Sequences and what is to be made of them.
pub(crate) struct NumberData {
    pub splits: NumberSplits,
    goal: Goal,
    teacher: Option<S4d>,
    device: Device,
}

/// Sequences and their targets.
pub struct NumberBatch {
    /// [batch, length, channels].
    x: Tensor,
    target: BatchTarget,
    /// Sequences.
    pub sequences: usize,
    /// Steps of all of them.
    pub steps: u64,
}

enum BatchTarget {
    Labels(Vec<u32>),
    Sequence(Tensor),
}

impl NumberBatch {
    fn target(&self) -> Target<'_> {
        match &self.target {
            BatchTarget::Labels(labels) => Target::Labels(labels),
            BatchTarget::Sequence(sequence) => Target::Sequence(sequence),
        }
    }
}

impl NumberData {
    /// Loads the sequences of a run over numbers, no more than it asks for and no test sequence of one that is not scored on them.
    pub fn load(spec: &RunSpec, environment: &Environment) -> Result<Self> {
        let task = &spec.task;
        let Some(entry) = find(task) else {
            return Err(SpecError::at("task", format!("`{}` is no task over sequences of numbers", task.name)).into());
        };
        let built = (entry.build)(task).map_err(|e| e.below("task"))?;
        let (mut splits, goal) = (built.load(&environment.data_source())?, built.goal());
        splits.limit(spec.train.train_samples, spec.train.valid_samples, spec.train.test_samples);
        if !spec.evaluate_test {
            splits.drop_test();
        }
        let teacher = match &goal {
            Goal::Class(_) => None,
            Goal::Teacher { config, seed } => {
                let config = ModelConfig::from_values(config.clone(), "the teacher".to_owned())?;
                Some(S4d::new(&config, &Fresh { seed: *seed })?)
            }
        };
        Ok(Self { splits, goal, teacher, device: environment.device()? })
    }

    /// Sequences of a split as one batch.
    pub fn batch(&self, sequences: &Sequences, indices: &[usize]) -> Result<NumberBatch> {
        let (length, channels) = (sequences.length(), sequences.channels());
        let mut numbers = Vec::with_capacity(indices.len() * length * channels);
        indices.iter().for_each(|&index| sequences.read(index, &mut numbers));
        let x = Tensor::from_vec(numbers, (indices.len(), length, channels), &self.device)?;
        let target = match &self.teacher {
            None => BatchTarget::Labels(indices.iter().map(|&index| sequences.label(index).unwrap_or(0)).collect()),
            Some(teacher) => {
                let tape = Tape::inference();
                BatchTarget::Sequence(teacher.forward(&Pass::evaluation(&tape), &Var::constant(x.clone()))?.value().clone())
            }
        };
        Ok(NumberBatch { x, target, sequences: indices.len(), steps: (indices.len() * length) as u64 })
    }

    /// Whether a network fits: what it reads and what it makes.
    fn check(&self, config: &ModelConfig) -> Result<()> {
        let number = |key: &str| config.values.get(key).and_then(serde_json::Value::as_u64).map(|number| number as usize);
        let (key, expected) = match &self.goal {
            Goal::Class(classes) if number("num_labels") != Some(classes.len()) => ("num_labels", classes.len()),
            Goal::Class(_) => ("input_size", self.splits.train.channels()),
            Goal::Teacher { .. } => ("hidden_size", self.splits.train.channels()),
        };
        match number(key) {
            Some(found) if found == expected => Ok(()),
            found => {
                let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
                let problem = format!("the task needs a model whose `{key}` is {expected}, and {} has {found}", config.origin);
                Err(SpecError::at("task", problem).into())
            }
        }
    }
}

impl NumberWork {
    /// Reads all of it.
    pub fn open(spec: &RunSpec, environment: &Environment) -> Result<Self> {
        let data = NumberData::load(spec, environment)?;
        let files = environment.find_model(&spec.model.name)?;
        data.check(&ModelConfig::read(&files.path)?)?;
        let network = S4d::load(&files.path, &data.device)?;
        let inputs = Inputs { model: Some(files.hash()?), tokenizer: None, dataset: Some(data.splits.hash()) };
        Ok(Self { files, network, data, inputs, eval_batch_size: spec.train.eval_batch_size })
    }

    fn split(&self, split: Split) -> &Sequences {
        match split {
            Split::Valid => &self.data.splits.valid,
            Split::Test => &self.data.splits.test,
        }
    }

    fn source(&self, source: ProbeSource) -> &Sequences {
        match source {
            ProbeSource::Train => &self.data.splits.train,
            ProbeSource::Valid => &self.data.splits.valid,
        }
    }
}

impl Workload for NumberWork {
    fn network(&mut self) -> &mut dyn Network {
        &mut self.network
    }

    fn reload(&mut self) -> Result<()> {
        self.network = S4d::load(&self.files.path, &self.data.device)?;
        Ok(())
    }

    fn inputs(&self) -> Result<Inputs> {
        Ok(self.inputs.clone())
    }

    fn setup(&self) -> Result<Setup> {
        let NumberSplits { dataset_id, revision, train, valid, test } = &self.data.splits;
        Ok(Setup {
            model_hash: self.inputs.model.clone().unwrap_or_default(),
            dataset_id: dataset_id.clone(),
            dataset_revision: revision.clone(),
            dataset_hash: self.inputs.dataset.clone().unwrap_or_default(),
            train_samples: train.len(),
            valid_samples: valid.len(),
            test_samples: test.len(),
            ..Setup::default()
        })
    }

    fn lengths(&self, source: ProbeSource) -> Vec<usize> {
        let sequences = self.source(source);
        vec![sequences.length(); sequences.len()]
    }

    fn batch(&self, source: ProbeSource, indices: &[usize]) -> Result<Batch> {
        Ok(Batch::Numbers(self.data.batch(self.source(source), indices)?))
    }

    fn loss(&self, pass: &Pass<'_>, batch: &Batch) -> Result<Var> {
        let Batch::Numbers(batch) = batch else { return Err(foreign()) };
        loss(&self.network, pass, batch)
    }

    fn loss_value(&self, pass: &Pass<'_>, batch: &Batch) -> Result<f64> {
        Ok(f64::from(self.loss(pass, batch)?.value().to_scalar::<f32>()?))
    }

    fn evaluate(&self, split: Split) -> Result<Evaluation> {
        let sequences = self.split(split);
        let mut found = Found::default();
        for start in (0..sequences.len()).step_by(self.eval_batch_size) {
            let indices: Vec<usize> = (start..(start + self.eval_batch_size).min(sequences.len())).collect();
            let batch = self.data.batch(sequences, &indices)?;
            let tape = Tape::inference();
            let output = self.network.forward(&Pass::evaluation(&tape), &Var::constant(batch.x.clone()))?;
            found.take(&batch, &output)?;
            let loss = self.network.loss(&Pass::evaluation(&tape), &output, batch.target())?;
            found.loss += f64::from(loss.value().to_scalar::<f32>()?) * indices.len() as f64;
        }
        Ok(found.evaluation(sequences, &self.data.goal))
    }

    fn items(&self, split: Split) -> usize {
        self.split(split).len()
    }
}

/// The loss of a network on a batch.
pub(crate) fn loss(network: &S4d, pass: &Pass<'_>, batch: &NumberBatch) -> Result<Var> {
    let output = network.forward(pass, &Var::constant(batch.x.clone()))?;
    Ok(network.loss(pass, &output, batch.target())?)
}

/// What an evaluation gathers batch by batch.
#[derive(Default)]
struct Found {
    /// Predicted classes.
    classes: Vec<u32>,
    /// 1 or 0 for a class, the mean squared error for a sequence.
    scores: Vec<f64>,
    loss: f64,
    steps: u64,
}

impl Found {
    fn take(&mut self, batch: &NumberBatch, output: &Var) -> Result<()> {
        self.steps += batch.steps;
        match &batch.target {
            BatchTarget::Labels(labels) => {
                let classes: Vec<u32> = output.value().argmax(D::Minus1)?.to_vec1()?;
                self.scores.extend(classes.iter().zip(labels).map(|(class, label)| f64::from(u8::from(class == label))));
                self.classes.extend(classes);
            }
            BatchTarget::Sequence(target) => {
                let errors: Vec<f32> = (output.value() - target)?.sqr()?.mean((1, 2))?.to_vec1()?;
                self.scores.extend(errors.into_iter().map(f64::from));
            }
        }
        Ok(())
    }

    fn evaluation(self, sequences: &Sequences, goal: &Goal) -> Evaluation {
        let n_items = self.scores.len();
        let mean = self.scores.iter().sum::<f64>() / n_items.max(1) as f64;
        let spread = self.scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (n_items.max(2) - 1) as f64;
        let stderr = (n_items > 1).then(|| (spread / n_items as f64).sqrt());
        let (name, higher_is_better) = match goal {
            Goal::Class(_) => (ACCURACY, true),
            Goal::Teacher { .. } => (MEAN_SQUARED_ERROR, false),
        };
        let class = |class: Option<u32>| match (goal, class) {
            (Goal::Class(names), Some(class)) => names.get(class as usize).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        let item = |(index, &score): (usize, &f64)| Prediction {
            item_id: sequences.id(index),
            prediction: class(self.classes.get(index).copied()),
            target: class(sequences.label(index)),
            score,
        };
        Evaluation {
            metrics: vec![MetricValue { name: name.to_owned(), value: mean, stderr, n_items, higher_is_better }],
            predictions: self.scores.iter().enumerate().map(item).collect(),
            loss: Some(self.loss / n_items.max(1) as f64),
            tokens: self.steps,
        }
    }
}
