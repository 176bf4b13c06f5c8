//! Where a model's tensors come from, behind one trait; and the initialisation of a model that starts from nothing.

use crate::error::{ModelError, Result};
use peftbench_ops::device::host;
use peftbench_ops::{Device, Param, Tensor};
use peftbench_spec::seed;
use peftbench_spec::suggest;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

/// A source of tensors by Hugging Face name.
pub trait Weights {
    /// The tensor `name` of shape `dims`, in f32. `init` says how a model without a checkpoint begins.
    fn tensor(&self, name: &str, dims: &[usize], init: Init) -> Result<Tensor>;

    /// Whether the source has `name`.
    fn contains(&self, name: &str) -> bool;
}

/// The initial distribution of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between ± this.
    Uniform(f64),
    /// Uniform between the first and the second.
    Between(f64, f64),
    /// The natural logarithm of a number uniform between 0 and 1.
    LogOfUniform,
    /// All equal.
    Constant(f64),
    /// ln 1, ln 2, … ln state in every row: A = −(1, 2, …), Mamba's S4D-real.
    ALog,
    /// The inverse softplus of a step log-uniform between these: Mamba's `dt_proj.bias`.
    TimeStep(f64, f64),
    /// 0, step, 2 step, … in every row: S4D-Lin's frequencies, with a step of π.
    Ramp(f64),
    /// The step times a whole number drawn from 0 to below the count.
    Multiple(f64, usize),
}

/// Reads a tensor as a frozen parameter.
pub(crate) fn param(weights: &dyn Weights, name: &str, dims: &[usize], init: Init) -> Result<Param> {
    Ok(Param::frozen(name, weights.tensor(name, dims, init)?))
}

/// The error for a tensor that is not there.
pub(crate) fn missing<'a>(origin: &str, name: &str, present: impl IntoIterator<Item = &'a str>) -> ModelError {
    let nearest = suggest::nearest(name, present).map_or_else(|| "none".to_owned(), |near| format!("`{near}`"));
    ModelError::MissingTensor { origin: origin.to_owned(), name: name.to_owned(), nearest }
}

/// Fresh weights from a seed: each tensor has a stream of its own name, so that no tensor depends on the order of construction.
pub struct Fresh {
    /// Seed of the initialisation.
    pub seed: u64,
}

impl Weights for Fresh {
    fn tensor(&self, name: &str, dims: &[usize], init: Init) -> Result<Tensor> {
        let mut rng = seed::stream(self.seed, &format!("init/{name}"));
        let count: usize = dims.iter().product();
        let columns = dims.last().copied().unwrap_or(1);
        let mut draw = |i: usize| -> f64 {
            match init {
                Init::Normal(deviation) => {
                    let z: f64 = StandardNormal.sample(&mut rng);
                    deviation * z
                }
                Init::Uniform(bound) => bound * (2.0 * rng.random::<f64>() - 1.0),
                Init::Between(low, high) => low + rng.random::<f64>() * (high - low),
                Init::LogOfUniform => (1.0 - rng.random::<f64>()).ln(),
                Init::Constant(value) => value,
                Init::ALog => ((i % columns + 1) as f64).ln(),
                Init::TimeStep(low, high) => {
                    let step = (low.ln() + rng.random::<f64>() * (high.ln() - low.ln())).exp();
                    step.exp_m1().ln()
                }
                Init::Ramp(step) => step * (i % columns) as f64,
                Init::Multiple(step, count) => step * rng.random_range(0..count) as f64,
            }
        };
        let values: Vec<f32> = (0..count).map(|i| draw(i) as f32).collect();
        Ok(Tensor::from_vec(values, dims, &host())?)
    }

    fn contains(&self, _name: &str) -> bool {
        false
    }
}

/// The tensors of another source, moved to a device.
pub struct On<'a> {
    /// The source.
    pub weights: &'a dyn Weights,
    /// Where they go.
    pub device: &'a Device,
}

impl Weights for On<'_> {
    fn tensor(&self, name: &str, dims: &[usize], init: Init) -> Result<Tensor> {
        Ok(self.weights.tensor(name, dims, init)?.to_device(self.device)?)
    }

    fn contains(&self, name: &str) -> bool {
        self.weights.contains(name)
    }
}

/// Weights of the right shapes and no content, for counting parameters and estimating memory without a checkpoint.
pub struct Shapes;

impl Weights for Shapes {
    fn tensor(&self, _name: &str, dims: &[usize], _init: Init) -> Result<Tensor> {
        // One zero, seen from every position: a model of any size costs nothing.
        Ok(Tensor::zeros(1, peftbench_ops::DType::F32, &host())?.broadcast_as(dims)?)
    }

    fn contains(&self, _name: &str) -> bool {
        false
    }
}
