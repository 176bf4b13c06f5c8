//! One layer: the state space, the linear mixing of its channels, the activation, and what passes by them.

use crate::builder::{Builder, LinearSpec};
use crate::error::Result;
use crate::norm::Norm;
use crate::pass::Pass;
use crate::s4d::config::{Diagonal, Initialization, NormPlace, Output, Residual, S4dConfig};
use crate::slots::{LinearSlot, ParamSlot, SlotMut, StateSlot, SublayerSlot, Visitor, visit_linear};
use crate::weights::Init;
use peftbench_ops::activation::Activation;
use peftbench_ops::s4d::{Discretization, S4dInputs};
use peftbench_ops::{Tensor, Var};
use peftbench_spec::Role;
use std::f64::consts::{FRAC_1_SQRT_2, LN_2, PI};

/// One layer of the network.
pub(crate) struct Layer {
    kernel: Kernel,
    output: Output,
    output_linear: LinearSlot,
    residual: Residual,
    /// u of the weighted residual.
    residual_weight: Option<ParamSlot>,
    sublayer: SublayerSlot,
    norm: Norm,
    norm_place: NormPlace,
    dropout: f64,
}

/// The parameters of the state space.
struct Kernel {
    log_a_real: ParamSlot,
    a_imag: Option<ParamSlot>,
    b: Option<ParamSlot>,
    c: ParamSlot,
    log_dt: ParamSlot,
    d: ParamSlot,
    start: StateSlot,
    components: usize,
    discretization: Discretization,
}

impl Layer {
    /// Layer `layer` of the network below `builder`.
    pub fn new(builder: &Builder<'_>, config: &S4dConfig, layer: usize) -> Result<Self> {
        let below = builder.layer(&format!("layers.{layer}"), layer);
        let width = config.hidden_size;
        let bound = Init::Uniform(1.0 / (width as f64).sqrt());
        let (name, rows) = match config.output {
            Output::Relu => ("output_linear", width),
            Output::Glu => ("output_linear.0", 2 * width),
        };
        let residual = config.residual();
        let weighted = residual == Residual::Weighted;
        Ok(Self {
            kernel: Kernel::new(&below, config)?,
            output: config.output,
            output_linear: below.linear(name, Role::OutProj, LinearSpec::new(rows, width).init(bound).bias_init(bound))?,
            residual,
            // Like D, a factor on each channel that passes by.
            residual_weight: weighted.then(|| below.tensor("residual", Role::D, &[width], Init::Normal(1.0))).transpose()?,
            sublayer: SublayerSlot::new(builder.layer("layers", layer).info(&layer.to_string(), Role::OutProj)),
            norm: match config.norm {
                NormPlace::None => Norm::Identity,
                _ => builder.layer("norms", layer).layer_norm(&layer.to_string(), width, config.layer_norm_eps)?,
            },
            norm_place: config.norm,
            dropout: config.dropout,
        })
    }

    /// x [batch, length, hidden] → the same shape.
    pub fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let tape = pass.tape;
        let input = if self.norm_place == NormPlace::Pre { self.norm.forward(pass, x)? } else { x.clone() };
        let y = self.kernel.forward(pass, &input)?;
        let y = match self.output {
            Output::Relu => {
                let y = self.output_linear.forward(pass, &y)?;
                let y = match &self.residual_weight {
                    Some(weight) => tape.add(&y, &tape.mul(&input, &weight.forward(pass)?)?)?,
                    None => y,
                };
                tape.activation(&y, Activation::Relu)?
            }
            Output::Glu => {
                let y = drop_channels(pass, &tape.activation(&y, Activation::Gelu)?, self.dropout)?;
                let y = self.output_linear.forward(pass, &y)?;
                let width = y.dims()[2] / 2;
                tape.mul(&tape.narrow(&y, 2, 0, width)?, &tape.sigmoid(&tape.narrow(&y, 2, width, width)?)?)?
            }
        };
        let y = self.sublayer.forward(pass, &input, y)?;
        let y = drop_channels(pass, &y, self.dropout)?;
        let y = if self.residual == Residual::Identity { tape.add(x, &y)? } else { y };
        Ok(if self.norm_place == NormPlace::Post { self.norm.forward(pass, &y)? } else { y })
    }

    /// Shows every slot, in a fixed order.
    pub fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.kernel.visit_slots(visitor);
        visit_linear(&mut self.output_linear, visitor);
        if let Some(weight) = &mut self.residual_weight {
            visitor(SlotMut::Param(weight));
        }
        visitor(SlotMut::Sublayer(&mut self.sublayer));
        self.norm.visit_slots(visitor);
    }

    /// Multiply-adds a step of the sequence.
    pub fn multiply_adds(&self) -> usize {
        self.output_linear.multiply_adds() + self.kernel.multiply_adds()
    }
}

/// Dropout of whole channels of x [batch, length, hidden], the same at every step, as the S4D authors' `DropoutNd`.
fn drop_channels(pass: &Pass<'_>, x: &Var, p: f64) -> Result<Var> {
    if pass.dropout.is_none() || p == 0.0 {
        return Ok(x.clone());
    }
    let ones = Tensor::ones((x.dims()[0], 1, x.dims()[2]), x.value().dtype(), x.value().device())?;
    Ok(pass.tape.mul(x, &pass.dropout(&Var::constant(ones), p)?)?)
}

impl Kernel {
    fn new(builder: &Builder<'_>, config: &S4dConfig) -> Result<Self> {
        let (width, states, components) = (config.hidden_size, config.state_size, config.components());
        let below = builder.within("kernel");
        let (matrix, parameter) = ([width, states], [width, states, components]);
        let (a_real, a_imag) = match (config.initialization, config.diagonal) {
            (Initialization::Lin, Diagonal::Complex) => (Init::Constant(-LN_2), Init::Ramp(PI)),
            (Initialization::Lin, Diagonal::Real) => (Init::ALog, Init::Constant(0.0)),
            (Initialization::Random, _) => (Init::LogOfUniform, Init::Multiple(PI, states)),
        };
        // The variance of a standard complex normal is shared by its parts.
        let normal = Init::Normal(if components == 2 { FRAC_1_SQRT_2 } else { 1.0 });
        let complex = config.diagonal == Diagonal::Complex;
        Ok(Self {
            log_a_real: below.tensor("log_A_real", Role::ALog, &matrix, a_real)?,
            a_imag: complex.then(|| below.tensor("A_imag", Role::AImag, &matrix, a_imag)).transpose()?,
            b: config.input_matrix.then(|| below.tensor("B", Role::B, &parameter, normal)).transpose()?,
            c: below.tensor("C", Role::C, &parameter, normal)?,
            log_dt: below.tensor("log_dt", Role::LogDt, &[width], Init::Between(1e-3f64.ln(), 0.1f64.ln()))?,
            d: builder.tensor("D", Role::D, &[width], Init::Normal(1.0))?,
            start: StateSlot::new(builder.info("state", Role::ALog), width, states * components, 0),
            components,
            discretization: config.discretization.into(),
        })
    }

    /// x [batch, length, hidden] → the same shape.
    fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let optional = |slot: &Option<ParamSlot>| slot.as_ref().map(|slot| slot.forward(pass)).transpose();
        let (a_imag, b) = (optional(&self.a_imag)?, optional(&self.b)?);
        let (batch, width) = (x.dims()[0], x.dims()[2]);
        let (initial, _) = self.start.forward(pass, batch)?;
        let state_dims = [batch, width, self.start.state / self.components, self.components];
        let initial = initial.map(|state| pass.tape.reshape(&state, &state_dims)).transpose()?;
        Ok(pass.tape.s4d(S4dInputs {
            u: x,
            log_a_real: &self.log_a_real.forward(pass)?,
            a_imag: a_imag.as_ref(),
            b: b.as_ref(),
            c: &self.c.forward(pass)?,
            log_dt: &self.log_dt.forward(pass)?,
            d: &self.d.forward(pass)?,
            initial_state: initial.as_ref(),
            discretization: self.discretization,
        })?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        let optional = [&mut self.a_imag, &mut self.b].into_iter().flatten();
        for slot in [&mut self.log_a_real].into_iter().chain(optional).chain([&mut self.c, &mut self.log_dt, &mut self.d]) {
            visitor(SlotMut::Param(slot));
        }
        visitor(SlotMut::State(&mut self.start));
    }

    fn multiply_adds(&self) -> usize {
        // Each state is multiplied by a and takes in w u; a complex product is four real ones.
        let a_state = if self.components == 2 { 6 } else { 2 };
        self.start.inner * (a_state * self.start.state / self.components + 1)
    }
}
