//! A language model and a task in words.

use super::{Batch, Split, Workload, foreign};
use crate::batch;
use crate::environment::{Environment, ModelFiles};
use crate::error::Result;
use crate::evaluation::{EvalSplit, Evaluation};
use crate::planner::{Examples, load_examples};
use crate::resolve::build_methods;
use peftbench_adapters::policy::ProbeSource;
use peftbench_datasets::chance::chance;
use peftbench_datasets::example::split_hash;
use peftbench_datasets::{Encoded, Example, Task, TextTokenizer, encode_training, tasks};
use peftbench_models::{Model, Network, Pass};
use peftbench_ops::{Device, Var};
use peftbench_spec::RunSpec;
use peftbench_spec::event::Setup;
use peftbench_spec::manifest::Inputs;

/// The model, the task, and its examples as the model reads them.
pub struct TextWork {
    files: ModelFiles,
    device: Device,
    model: Box<dyn Model>,
    task: Box<dyn Task>,
    tokenizer: TextTokenizer,
    train: Vec<Encoded>,
    /// The validation split as training would see it, for policies that probe.
    valid_answers: Vec<Encoded>,
    valid: EvalSplit,
    test: EvalSplit,
    /// The text on which it is measured what training makes the model forget.
    forgetting: Option<(Box<dyn Task>, EvalSplit)>,
    inputs: Inputs,
    setup: Setup,
}

impl TextWork {
    /// Reads all of it.
    pub fn open(spec: &RunSpec, environment: &Environment) -> Result<Self> {
        let device = environment.device()?;
        let files = environment.find_model(&spec.model.name)?;
        let model = files.model(&device)?;
        let tokenizer = files.tokenizer_for(&*model)?;
        let Examples { task, splits, overlap } = load_examples(spec, environment)?;
        let (model_hash, dataset_hash) = (files.hash()?, splits.hash());
        let inputs = Inputs { model: Some(model_hash.clone()), tokenizer: Some(tokenizer.hash()), dataset: Some(dataset_hash.clone()) };
        let setup = Setup {
            model_hash,
            dataset_id: splits.dataset_id.clone(),
            dataset_revision: splits.revision.clone(),
            dataset_hash,
            split_hashes: [&splits.train, &splits.valid, &splits.test].map(|split| split_hash(split).to_hex().to_string()),
            test_overlap_samples: overlap.test,
            test_chance: chance(&*task, &splits.test)?.map(|chance| chance.value),
            valid_chance: if spec.evaluate_test { None } else { chance(&*task, &splits.valid)? },
            ..Setup::default()
        };
        // Only training reads examples with their answers: a zero-shot run has no use for them.
        let trains = build_methods(spec)?.iter().any(|method| method.trains());
        let all = if trains { splits.train.len() } else { 0 } + splits.valid.len() + splits.test.len();
        let train = if trains { encode_all(&splits.train, &*task, &tokenizer, spec)? } else { Vec::new() };
        let valid_answers = if trains { encode_all(&splits.valid, &*task, &tokenizer, spec)? } else { Vec::new() };
        let eval = |examples| EvalSplit::new(examples, &*task, &tokenizer, spec.train.max_length, spec.train.eval_batch_size);
        let (valid, test) = (eval(splits.valid)?, eval(splits.test)?);
        let truncated = train.iter().filter(|e| e.truncated).count();
        let setup = Setup {
            train_samples: train.len(),
            valid_samples: valid.len(),
            test_samples: test.len(),
            dropped_samples: all - train.len() - valid.len() - test.len(),
            truncated_fraction: truncated as f64 / train.len().max(1) as f64,
            ..setup
        };
        let forgetting = load_forgetting(spec, environment, &tokenizer)?;
        Ok(Self { files, device, model, task, tokenizer, train, valid_answers, valid, test, forgetting, inputs, setup })
    }

    fn examples(&self, source: ProbeSource) -> &[Encoded] {
        match source {
            ProbeSource::Train => &self.train,
            ProbeSource::Valid => &self.valid_answers,
        }
    }

    fn split(&self, split: Split) -> &EvalSplit {
        match split {
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        }
    }
}

impl Workload for TextWork {
    fn network(&mut self) -> &mut dyn Network {
        &mut *self.model
    }

    fn reload(&mut self) -> Result<()> {
        self.model = self.files.model(&self.device)?;
        Ok(())
    }

    fn inputs(&self) -> Result<Inputs> {
        Ok(self.inputs.clone())
    }

    fn setup(&self) -> Result<Setup> {
        Ok(self.setup.clone())
    }

    fn lengths(&self, source: ProbeSource) -> Vec<usize> {
        self.examples(source).iter().map(|example| example.ids.len()).collect()
    }

    fn batch(&self, source: ProbeSource, indices: &[usize]) -> Result<Batch> {
        let examples = self.examples(source);
        Ok(Batch::Tokens(batch::join(&indices.iter().map(|&i| &examples[i]).collect::<Vec<_>>(), &self.device)?))
    }

    fn loss(&self, pass: &Pass<'_>, batch: &Batch) -> Result<Var> {
        let Batch::Tokens(batch) = batch else { return Err(foreign()) };
        let hidden = self.model.forward(pass, &batch.ids, None)?;
        Ok(self.model.loss(pass, &hidden, &batch.rows, &batch.labels)?)
    }

    fn loss_value(&self, pass: &Pass<'_>, batch: &Batch) -> Result<f64> {
        let Batch::Tokens(batch) = batch else { return Err(foreign()) };
        let hidden = self.model.forward(pass, &batch.ids, None)?;
        let log_probs = self.model.log_probs(pass, &hidden, &batch.rows, &batch.labels)?;
        Ok(-log_probs.iter().sum::<f64>() / log_probs.len().max(1) as f64)
    }

    fn evaluate(&self, split: Split) -> Result<Evaluation> {
        self.split(split).evaluate(&*self.model, &*self.task, &self.tokenizer, &self.device)
    }

    fn items(&self, split: Split) -> usize {
        self.split(split).len()
    }

    fn forgetting(&self) -> Result<Option<Evaluation>> {
        let Some((task, text)) = &self.forgetting else { return Ok(None) };
        Ok(Some(text.evaluate(&*self.model, &**task, &self.tokenizer, &self.device)?))
    }
}

/// The test split of the text on which forgetting is measured, where the spec names one.
fn load_forgetting(spec: &RunSpec, environment: &Environment, tokenizer: &TextTokenizer) -> Result<Option<(Box<dyn Task>, EvalSplit)>> {
    let Some(component) = &spec.forgetting else { return Ok(None) };
    let task = tasks::build(component).map_err(|e| e.below("forgetting"))?;
    let mut splits = task.load(&environment.data_source())?;
    splits.limit(0, 0, spec.train.test_samples);
    let text = EvalSplit::new(splits.test, &*task, tokenizer, spec.train.max_length, spec.train.eval_batch_size)?;
    Ok(Some((task, text)))
}

/// The examples as training reads them, without those that the task's format drops.
fn encode_all(examples: &[Example], task: &dyn Task, tokenizer: &TextTokenizer, spec: &RunSpec) -> Result<Vec<Encoded>> {
    let encode = |example| encode_training(tokenizer, task.format(), example, spec.train.max_length).transpose();
    Ok(examples.iter().filter_map(encode).collect::<std::result::Result<_, _>>()?)
}
