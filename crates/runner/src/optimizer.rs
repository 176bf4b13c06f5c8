//! AdamW over an ordered list of parameters, with moments that can be saved and restored.

use peftbench_ops::adamw::{AdamWStep, Moments, adamw, sum_of_squares};
use peftbench_ops::{Gradients, Param, Result, Tensor};

/// What does not change from step to step.
#[derive(Debug, Clone, Copy)]
pub struct AdamWConfig {
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Clip the global gradient norm to this; 0 for no clipping.
    pub max_grad_norm: f64,
}

/// The optimizer. Moments of a parameter come to be at its first gradient; a parameter without one in a step is left as it is,
/// moments, step count and weight decay included.
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Param>,
    /// Learning rates of the parameters in units of the step's.
    lr_factors: Vec<f64>,
    states: Vec<Option<State>>,
}

/// The state of one parameter.
#[derive(Debug, Clone)]
pub struct State {
    /// Mean of the gradients.
    pub first: Tensor,
    /// Mean of their squares.
    pub second: Tensor,
    /// Updates so far.
    pub steps: u64,
}

impl AdamW {
    /// An optimizer of `params`.
    pub fn new(params: Vec<Param>, config: AdamWConfig) -> Self {
        let states = params.iter().map(|_| None).collect();
        Self { config, lr_factors: vec![1.0; params.len()], params, states }
    }

    /// The same, with learning rates of the parameters in units of the step's, in their order.
    pub fn with_lr_factors(self, lr_factors: Vec<f64>) -> Self {
        Self { lr_factors, ..self }
    }

    /// What clipping multiplies gradients of this global norm with, as torch's `clip_grad_norm_` does.
    pub fn grad_scale(&self, norm: f64) -> f64 {
        let limit = self.config.max_grad_norm;
        if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
    }

    /// The parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The states, in the order of the parameters.
    pub fn states(&self) -> &[Option<State>] {
        &self.states
    }

    /// Takes up states, in the order of the parameters.
    pub fn restore(&mut self, states: Vec<Option<State>>) {
        self.states = states;
    }

    /// Drops the moments of every parameter that `selected` names.
    pub fn forget(&mut self, selected: impl Fn(&Param) -> bool) {
        self.params.iter().zip(&mut self.states).filter(|(param, _)| selected(param)).for_each(|(_, state)| *state = None);
    }

    /// Bytes of all moments.
    pub fn bytes(&self) -> u64 {
        self.states.iter().flatten().map(|s| (s.first.elem_count() + s.second.elem_count()) as u64 * 4).sum()
    }

    /// Updates every parameter that has a gradient; returns the global gradient norm before clipping. A norm that is not finite updates
    /// nothing.
    pub fn step(&mut self, grads: &Gradients, lr: f64) -> Result<f64> {
        let squares = grads.iter().map(|(_, grad)| sum_of_squares(grad)).collect::<Result<Vec<f64>>>()?;
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let grad_scale = self.grad_scale(norm);
        for ((param, factor), state) in self.params.iter().zip(&self.lr_factors).zip(&mut self.states) {
            let Some(grad) = grads.get(param) else { continue };
            let value = param.value();
            let old = match state.take() {
                Some(state) => state,
                None => State { first: value.zeros_like()?, second: value.zeros_like()?, steps: 0 },
            };
            let AdamWConfig { betas, eps, weight_decay, .. } = self.config;
            let step = AdamWStep { lr: lr * factor, betas, eps, weight_decay, step: old.steps + 1, grad_scale };
            let new = adamw(&Moments { value, first: old.first, second: old.second }, grad, step)?;
            param.set(new.value)?;
            *state = Some(State { first: new.first, second: new.second, steps: old.steps + 1 });
        }
        Ok(norm)
    }
}
