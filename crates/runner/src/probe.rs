//! What layer policies may find out about the model of a run.

use crate::workload::{Batch, Workload};
use peftbench_adapters::policy::{Probe, ProbeBatch, ProbeSource};
use peftbench_adapters::{AdapterError, AdapterParam, Result};
use peftbench_models::Pass;
use peftbench_ops::adamw::sum_of_squares;
use peftbench_ops::{DType, Param, Tape};
use peftbench_spec::{SpecError, seed};
use rand::RngExt;

/// Probes of the model in training.
pub struct ModelProbe<'a> {
    /// The model with its examples.
    pub work: &'a dyn Workload,
    /// What trains.
    pub params: &'a [AdapterParam],
    /// The base model's matrices and their layers.
    pub weights: &'a [(usize, Param)],
    /// Layers of the model.
    pub num_layers: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Whether anything was asked.
    pub asked: bool,
}

impl ModelProbe<'_> {
    /// Examples drawn from the step's own stream, each at most once.
    fn batch(&mut self, wanted: ProbeBatch) -> Result<Batch> {
        self.asked = true;
        let split = match wanted.source {
            ProbeSource::Train => "training",
            ProbeSource::Valid => "validation",
        };
        let mut left: Vec<usize> = (0..self.work.lengths(wanted.source).len()).collect();
        if left.is_empty() {
            return Err(SpecError::at("policy.probe_source", format!("the {split} split has no examples to probe with")).into());
        }
        let mut stream = seed::stream(self.seed, &format!("probe/{}", wanted.step));
        let count = wanted.size.min(left.len());
        let chosen: Vec<usize> = (0..count).map(|_| left.swap_remove(stream.random_range(0..left.len()))).collect();
        self.work.batch(wanted.source, &chosen).map_err(adapter_error)
    }
}

/// An error of the runner as one of the crate that asked.
fn adapter_error(error: crate::RunError) -> AdapterError {
    match error {
        crate::RunError::Compute(error) => error.into(),
        crate::RunError::Model(error) => error.into(),
        other => peftbench_ops::Error::Msg(other.to_string()).into(),
    }
}

impl Probe for ModelProbe<'_> {
    fn loss(&mut self, wanted: ProbeBatch, adapter_scale: &[f64]) -> Result<f64> {
        let batch = self.batch(wanted)?;
        let tape = Tape::inference();
        let pass = Pass { adapter_scale: Some(adapter_scale), ..Pass::evaluation(&tape) };
        self.work.loss_value(&pass, &batch).map_err(adapter_error)
    }

    fn relative_gradients(&mut self, wanted: ProbeBatch) -> Result<Vec<f64>> {
        let batch = self.batch(wanted)?;
        self.params.iter().for_each(|p| p.param.set_active(true));
        let tape = Tape::new();
        let pass = Pass::evaluation(&tape);
        let loss = self.work.loss(&pass, &batch).map_err(adapter_error)?;
        let grads = tape.backward(&loss)?;
        let mut squares = vec![(0.0, 0.0); self.num_layers];
        for p in self.params {
            let (Some(layer), Some(grad)) = (p.layer, grads.get(&p.param)) else { continue };
            squares[layer].0 += sum_of_squares(grad)?;
            squares[layer].1 += sum_of_squares(&p.param.value())?;
        }
        Ok(squares.into_iter().map(|(grad, value)| if value > 0.0 { (grad / value).sqrt() } else { 0.0 }).collect())
    }

    fn outlier_ratios(&mut self, multiple: f64) -> Result<Vec<f64>> {
        self.asked = true;
        let mut counts = vec![(0.0, 0.0); self.num_layers];
        for (layer, param) in self.weights {
            let size = param.value().abs()?.to_dtype(DType::F64)?;
            let threshold = size.mean_all()?.to_scalar::<f64>()? * multiple;
            counts[*layer].0 += size.gt(threshold)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            counts[*layer].1 += size.elem_count() as f64;
        }
        Ok(counts.into_iter().map(|(outliers, all)| if all > 0.0 { outliers / all } else { 0.0 }).collect())
    }
}
