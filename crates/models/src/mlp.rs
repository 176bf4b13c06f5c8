//! Feed-forward sub-layers.

use crate::builder::{Builder, LinearSpec};
use crate::cache::Cache;
use crate::causal_lm::Step;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::pass::Pass;
use crate::slots::{LinearSlot, Visitor, visit_linear};
use peftbench_ops::Var;
use peftbench_ops::activation::Activation;
use peftbench_spec::Role;

/// down(silu(gate x) ⊙ up x) (Shazeer, 2020).
pub(crate) struct GatedMlp {
    gate_proj: LinearSlot,
    up_proj: LinearSlot,
    down_proj: LinearSlot,
}

impl GatedMlp {
    /// `gate_proj`, `up_proj` and `down_proj` below the builder's prefix.
    pub fn new(builder: &Builder<'_>, hidden: usize, inner: usize, bias: bool, residual_terms: usize) -> Result<Self> {
        let input = |name, role| builder.linear(name, role, LinearSpec::new(inner, hidden).bias(bias));
        let output = LinearSpec::new(hidden, inner).bias(bias).residual(residual_terms);
        Ok(Self {
            gate_proj: input("gate_proj", Role::GateProj)?,
            up_proj: input("up_proj", Role::UpProj)?,
            down_proj: builder.linear("down_proj", Role::DownProj, output)?,
        })
    }

    /// x [batch, length, hidden] → the same shape.
    pub fn apply(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let gated = pass.tape.swiglu(&self.gate_proj.forward(pass, x)?, &self.up_proj.forward(pass, x)?)?;
        Ok(self.down_proj.forward(pass, &gated)?)
    }
}

impl Part for GatedMlp {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        for linear in [&mut self.gate_proj, &mut self.up_proj, &mut self.down_proj] {
            visit_linear(linear, visitor);
        }
    }

    fn multiply_adds_per_token(&self) -> usize {
        [&self.gate_proj, &self.up_proj, &self.down_proj].into_iter().map(LinearSlot::multiply_adds).sum()
    }
}

impl<S> Layer<S> for GatedMlp {
    fn forward(&self, step: &Step<'_>, _shared: &S, x: &Var, _cache: Option<&mut Cache>) -> Result<Var> {
        self.apply(step.pass, x)
    }
}

/// down(activation(up x)), with biases.
pub(crate) struct Mlp {
    up: LinearSlot,
    down: LinearSlot,
    activation: Activation,
}

/// Names and shape of an [`Mlp`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct MlpShape<'a> {
    /// Name of the first layer.
    pub up: &'a str,
    /// Name of the second.
    pub down: &'a str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width between the layers.
    pub inner: usize,
    /// Between the layers.
    pub activation: Activation,
    /// Whether the layers have a bias.
    pub bias: bool,
    /// Whether weights are stored as [in, out].
    pub transposed: bool,
    /// Terms of the residual stream, for fresh weights.
    pub residual_terms: usize,
}

impl Mlp {
    /// The two layers, below the builder's prefix.
    pub fn new(builder: &Builder<'_>, shape: MlpShape<'_>) -> Result<Self> {
        let MlpShape { hidden, inner, bias, transposed, .. } = shape;
        let output = LinearSpec::new(hidden, inner).bias(bias).transposed(transposed).residual(shape.residual_terms);
        Ok(Self {
            up: builder.linear(shape.up, Role::UpProj, LinearSpec::new(inner, hidden).bias(bias).transposed(transposed))?,
            down: builder.linear(shape.down, Role::DownProj, output)?,
            activation: shape.activation,
        })
    }
}

impl Part for Mlp {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visit_linear(&mut self.up, visitor);
        visit_linear(&mut self.down, visitor);
    }

    fn multiply_adds_per_token(&self) -> usize {
        self.up.multiply_adds() + self.down.multiply_adds()
    }
}

impl<S> Layer<S> for Mlp {
    fn forward(&self, step: &Step<'_>, _shared: &S, x: &Var, _cache: Option<&mut Cache>) -> Result<Var> {
        let inner = step.pass.tape.activation(&self.up.forward(step.pass, x)?, self.activation)?;
        Ok(self.down.forward(step.pass, &inner)?)
    }
}
