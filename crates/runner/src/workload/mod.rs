//! What a run trains and measures: a network with its data. [`text`] is a language model and a task in words, [`numbers`] a network over
//! sequences of numbers; the rest of the runner knows neither.

pub mod numbers;
pub mod text;

use crate::batch::Batch as TokenBatch;
use crate::environment::Environment;
use crate::error::Result;
use crate::evaluation::Evaluation;
use numbers::{NumberBatch, NumberWork};
use peftbench_adapters::policy::ProbeSource;
use peftbench_models::{Network, Pass};
use peftbench_ops::Var;
use peftbench_spec::RunSpec;
use peftbench_spec::event::Setup;
use peftbench_spec::manifest::Inputs;
use text::TextWork;

/// A network with its data.
pub trait Workload {
    /// The network.
    fn network(&mut self) -> &mut dyn Network;

    /// Puts a fresh base in place of the network.
    fn reload(&mut self) -> Result<()>;

    /// Hashes of what was read.
    fn inputs(&self) -> Result<Inputs>;

    /// What there is to say of model and data before anything is attached.
    fn setup(&self) -> Result<Setup>;

    /// Tokens, or steps, of each example of a split.
    fn lengths(&self, source: ProbeSource) -> Vec<usize>;

    /// Examples of a split as one batch.
    fn batch(&self, source: ProbeSource, indices: &[usize]) -> Result<Batch>;

    /// The loss of a batch, to be differentiated.
    fn loss(&self, pass: &Pass<'_>, batch: &Batch) -> Result<Var>;

    /// The loss of a batch in evaluation mode.
    fn loss_value(&self, pass: &Pass<'_>, batch: &Batch) -> Result<f64>;

    /// Evaluates a split.
    fn evaluate(&self, split: Split) -> Result<Evaluation>;

    /// Examples of an evaluated split.
    fn items(&self, split: Split) -> usize;

    /// Evaluates the text on which it is measured what training makes the model forget, where the spec names one.
    fn forgetting(&self) -> Result<Option<Evaluation>> {
        Ok(None)
    }
}

/// The splits that are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For choices.
    Valid,
    /// For the reported number.
    Test,
}

impl Split {
    /// As records name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// What a workload reads at once.
pub enum Batch {
    /// Tokens.
    Tokens(TokenBatch),
    /// Sequences of numbers.
    Numbers(NumberBatch),
}

impl Batch {
    /// Tokens or steps, padding included.
    pub fn tokens(&self) -> u64 {
        match self {
            Self::Tokens(batch) => batch.tokens,
            Self::Numbers(batch) => batch.steps,
        }
    }

    /// Padding among them.
    pub fn padding(&self) -> u64 {
        match self {
            Self::Tokens(batch) => batch.padding,
            Self::Numbers(_) => 0,
        }
    }

    /// How much its mean loss counts among those of other batches: label tokens, or sequences.
    pub fn weight(&self) -> usize {
        match self {
            Self::Tokens(batch) => batch.labels.len(),
            Self::Numbers(batch) => batch.sequences,
        }
    }
}

/// The error of a batch that another workload has made.
fn foreign() -> crate::RunError {
    peftbench_ops::Error::Msg("a batch of tokens met a network over numbers, or the reverse".to_owned()).into()
}

/// Reads what a spec asks for: model, task and examples.
pub fn open(spec: &RunSpec, environment: &Environment) -> Result<Box<dyn Workload>> {
    match peftbench_datasets::numbers::find(&spec.task) {
        Some(_) => Ok(Box::new(NumberWork::open(spec, environment)?)),
        None => Ok(Box::new(TextWork::open(spec, environment)?)),
    }
}
