//! How the tensors that a method adds begin: drawn from the run's stream of initialisation, on the device of the model they are added to.

use crate::error::Result;
use peftbench_models::Network;
use peftbench_ops::{DType, Device, Shape, Tensor};
use peftbench_spec::seed::Stream;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

/// Makes first values. They are drawn on the processor and then moved, so that every device begins alike.
pub(crate) struct Initializer<'a> {
    stream: &'a mut Stream,
    device: Device,
}

impl<'a> Initializer<'a> {
    /// Draws from `stream` for what lies beside the tensors of `model`.
    pub fn of(model: &mut dyn Network, stream: &'a mut Stream) -> Self {
        Self { device: model.device(), stream }
    }

    /// Draws from `stream` for what lies beside `tensor`.
    pub fn beside(tensor: &Tensor, stream: &'a mut Stream) -> Self {
        Self { device: tensor.device().clone(), stream }
    }

    /// For tests of a method alone.
    #[cfg(test)]
    pub fn on_cpu(stream: &'a mut Stream) -> Self {
        Self { stream, device: peftbench_ops::device::host() }
    }

    /// Zeros.
    pub fn zeros(&self, dims: impl Into<Shape>) -> Result<Tensor> {
        Ok(Tensor::zeros(dims, DType::F32, &self.device)?)
    }

    /// Ones.
    pub fn ones(&self, dims: impl Into<Shape>) -> Result<Tensor> {
        Ok(Tensor::ones(dims, DType::F32, &self.device)?)
    }

    /// Values that are known.
    pub fn values(&self, values: Vec<f32>, dims: impl Into<Shape>) -> Result<Tensor> {
        Ok(Tensor::from_vec(values, dims.into(), &self.device)?)
    }

    /// Values uniform within ± bound.
    pub fn uniform(&mut self, dims: impl Into<Shape>, bound: f64) -> Result<Tensor> {
        let dims = dims.into();
        let values = (0..dims.elem_count()).map(|_| (bound * (2.0 * self.stream.random::<f64>() - 1.0)) as f32).collect();
        self.values(values, dims)
    }

    /// Normal values with mean 0 and this deviation.
    pub fn normal(&mut self, dims: impl Into<Shape>, deviation: f64) -> Result<Tensor> {
        let dims = dims.into();
        let draw = |_| {
            let z: f64 = StandardNormal.sample(self.stream);
            (deviation * z) as f32
        };
        let values = (0..dims.elem_count()).map(draw).collect();
        self.values(values, dims)
    }

    /// A matrix uniform within ±1/√columns: `kaiming_uniform_(a=√5)` of PyTorch, the beginning of its linear layers.
    pub fn kaiming_uniform(&mut self, rows: usize, columns: usize) -> Result<Tensor> {
        self.uniform((rows, columns), 1.0 / (columns as f64).sqrt())
    }

    /// The stream, for draws that are no tensor.
    pub fn stream(&mut self) -> &mut Stream {
        self.stream
    }
}
