//! What layer policies may find out about the model of a run.

use crate::batch::{self, Batch};
use peftbench_adapters::policy::{Probe, ProbeBatch, ProbeSource};
use peftbench_adapters::{AdapterParam, Result};
use peftbench_datasets::Encoded;
use peftbench_models::{Model, Pass};
use peftbench_ops::adamw::sum_of_squares;
use peftbench_ops::{DType, Device, Param, Tape};
use peftbench_spec::{SpecError, seed};
use rand::RngExt;

/// What probes work on.
#[derive(Clone, Copy)]
pub struct ProbeData<'a> {
    /// Training split.
    pub train: &'a [Encoded],
    /// Validation split, each example with its right answer.
    pub valid: &'a [Encoded],
    /// The base model's matrices and their layers.
    pub weights: &'a [(usize, Param)],
}

/// Probes of the model in training.
pub struct ModelProbe<'a> {
    /// The model.
    pub model: &'a dyn Model,
    /// What trains.
    pub params: &'a [AdapterParam],
    /// Examples.
    pub data: ProbeData<'a>,
    /// Seed of the run.
    pub seed: u64,
    /// Where batches go.
    pub device: &'a Device,
    /// Whether anything was asked.
    pub asked: bool,
}

impl ModelProbe<'_> {
    /// Examples drawn from the step's own stream, each at most once.
    fn batch(&mut self, wanted: ProbeBatch) -> Result<Batch> {
        self.asked = true;
        let (examples, split) = match wanted.source {
            ProbeSource::Train => (self.data.train, "training"),
            ProbeSource::Valid => (self.data.valid, "validation"),
        };
        if examples.is_empty() {
            return Err(SpecError::at("policy.probe_source", format!("the {split} split has no examples to probe with")).into());
        }
        let mut stream = seed::stream(self.seed, &format!("probe/{}", wanted.step));
        let mut left: Vec<&Encoded> = examples.iter().collect();
        let count = wanted.size.min(left.len());
        let chosen: Vec<&Encoded> = (0..count).map(|_| left.swap_remove(stream.random_range(0..left.len()))).collect();
        batch::join(&chosen, self.device).map_err(|error| match error {
            crate::RunError::Compute(error) => error.into(),
            other => peftbench_ops::Error::Msg(other.to_string()).into(),
        })
    }
}

impl Probe for ModelProbe<'_> {
    fn loss(&mut self, wanted: ProbeBatch, adapter_scale: &[f64]) -> Result<f64> {
        let batch = self.batch(wanted)?;
        let tape = Tape::inference();
        let pass = Pass { adapter_scale: Some(adapter_scale), ..Pass::evaluation(&tape) };
        let hidden = self.model.forward(&pass, &batch.ids, None)?;
        let log_probs = self.model.log_probs(&pass, &hidden, &batch.rows, &batch.labels)?;
        Ok(-log_probs.iter().sum::<f64>() / log_probs.len().max(1) as f64)
    }

    fn relative_gradients(&mut self, wanted: ProbeBatch) -> Result<Vec<f64>> {
        let batch = self.batch(wanted)?;
        self.params.iter().for_each(|p| p.param.set_active(true));
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let hidden = self.model.forward(&pass, &batch.ids, None)?;
        let loss = self.model.loss(&pass, &hidden, &batch.rows, &batch.labels)?;
        drop(hidden);
        let grads = tape.backward(&loss)?;
        let mut squares = vec![(0.0, 0.0); self.model.num_layers()];
        for p in self.params {
            let (Some(layer), Some(grad)) = (p.layer, grads.get(&p.param)) else { continue };
            squares[layer].0 += sum_of_squares(grad)?;
            squares[layer].1 += sum_of_squares(&p.param.value())?;
        }
        Ok(squares.into_iter().map(|(grad, value)| if value > 0.0 { (grad / value).sqrt() } else { 0.0 }).collect())
    }

    fn outlier_ratios(&mut self, multiple: f64) -> Result<Vec<f64>> {
        self.asked = true;
        let mut counts = vec![(0.0, 0.0); self.model.num_layers()];
        for (layer, param) in self.data.weights {
            let size = param.value().abs()?.to_dtype(DType::F64)?;
            let threshold = size.mean_all()?.to_scalar::<f64>()? * multiple;
            counts[*layer].0 += size.gt(threshold)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            counts[*layer].1 += size.elem_count() as f64;
        }
        Ok(counts.into_iter().map(|(outliers, all)| if all > 0.0 { outliers / all } else { 0.0 }).collect())
    }
}
