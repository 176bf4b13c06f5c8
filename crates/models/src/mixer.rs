//! Mamba-1's mixer (Gu and Dao, 2023): input projection, causal convolution, selective scan, gate, output projection.

use crate::builder::{Builder, LinearSpec};
use crate::cache::Cache;
use crate::causal_lm::Step;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::norm::Norm;
use crate::slots::{LinearSlot, ParamSlot, SlotMut, StateExtensions, StateSlot, Visitor, visit_linear};
use crate::ssm_state::SsmState;
use crate::weights::Init;
use peftbench_ops::scan::ScanInputs;
use peftbench_ops::{Tensor, Var};
use peftbench_spec::Role;

/// Shape of a mixer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MixerShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Channels of the scan.
    pub inner: usize,
    /// States a channel.
    pub state: usize,
    /// Taps of the convolution.
    pub taps: usize,
    /// Width of the input of `dt_proj`.
    pub rank: usize,
    /// Whether the input and output projections have a bias.
    pub bias: bool,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Terms of the residual stream, for fresh weights.
    pub residual_terms: usize,
}

/// Norms between `x_proj` and the scan, of Mamba's descendants.
pub(crate) struct SelectiveNorms {
    /// Over the input of `dt_proj`.
    pub dt: Norm,
    /// Over B.
    pub b: Norm,
    /// Over C.
    pub c: Norm,
}

/// One mixer.
pub(crate) struct Mixer {
    shape: MixerShape,
    in_proj: LinearSlot,
    conv_weight: ParamSlot,
    conv_bias: Option<ParamSlot>,
    x_proj: LinearSlot,
    norms: Option<SelectiveNorms>,
    dt_proj: LinearSlot,
    a_log: ParamSlot,
    d: ParamSlot,
    out_proj: LinearSlot,
    state: SsmState,
}

impl Mixer {
    /// The mixer of layer `layer`, below the builder's prefix; Mamba-1's own has no `norms`.
    pub fn new(builder: &Builder<'_>, layer: usize, shape: MixerShape, norms: Option<SelectiveNorms>) -> Result<Self> {
        let MixerShape { hidden, inner, state, taps, rank, bias, .. } = shape;
        let conv = |name, dims: &[usize], init| builder.tensor(name, Role::Conv1d, dims, init);
        let dt_spec = LinearSpec::new(inner, rank).init(Init::Uniform((rank as f64).powf(-0.5))).bias_init(Init::TimeStep(1e-3, 0.1));
        let out_spec = LinearSpec::new(hidden, inner).bias(bias).residual(shape.residual_terms);
        let extensions = StateExtensions { virtual_width: inner, extra_states: true, output_offset: true };
        Ok(Self {
            in_proj: {
                let spec = LinearSpec::new(2 * inner, hidden).bias(bias).parts(&[("x", inner), ("z", inner)]);
                builder.linear("in_proj", Role::InProj, spec)?
            },
            conv_weight: conv("conv1d.weight", &[inner, 1, taps], Init::Uniform(1.0 / (taps as f64).sqrt()))?,
            conv_bias: shape.conv_bias.then(|| conv("conv1d.bias", &[inner], Init::Constant(0.0))).transpose()?,
            x_proj: {
                let spec = LinearSpec::new(rank + 2 * state, inner).parts(&[("dt", rank), ("B", state), ("C", state)]);
                builder.linear("x_proj", Role::XProj, spec)?
            },
            norms,
            dt_proj: builder.linear("dt_proj", Role::DtProj, dt_spec)?,
            a_log: builder.tensor("A_log", Role::ALog, &[inner, state], Init::ALog)?,
            d: builder.tensor("D", Role::D, &[inner], Init::Constant(1.0))?,
            out_proj: builder.linear("out_proj", Role::OutProj, out_spec)?,
            state: SsmState { layer, start: StateSlot::new(builder.info("state", Role::ALog), inner, state, taps - 1).with(extensions) },
            shape,
        })
    }

    /// u and z with the virtual inputs that a method has attached in front of a sequence's beginning, and how many they are. Their gate is
    /// 0: what comes out there is dropped.
    fn behind_virtual_inputs(&self, step: &Step<'_>, u: Var, z: Var, cache: Option<&Cache>) -> Result<(usize, Var, Var)> {
        let Some(inputs) = self.state.virtual_inputs(step, u.dims()[0], cache)? else { return Ok((0, u, z)) };
        let tape = step.pass.tape;
        let gate = Var::constant(Tensor::zeros(inputs.dims(), z.value().dtype(), z.value().device())?);
        Ok((inputs.dims()[1], tape.cat(&[&inputs, &u], 1)?, tape.cat(&[&gate, &z], 1)?))
    }
}

impl Part for Mixer {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visit_linear(&mut self.in_proj, visitor);
        visitor(SlotMut::Param(&mut self.conv_weight));
        if let Some(bias) = &mut self.conv_bias {
            visitor(SlotMut::Param(bias));
        }
        visit_linear(&mut self.x_proj, visitor);
        if let Some(norms) = &mut self.norms {
            [&mut norms.dt, &mut norms.b, &mut norms.c].into_iter().for_each(|norm| norm.visit_slots(visitor));
        }
        visit_linear(&mut self.dt_proj, visitor);
        visitor(SlotMut::Param(&mut self.a_log));
        visitor(SlotMut::Param(&mut self.d));
        visit_linear(&mut self.out_proj, visitor);
        visitor(SlotMut::State(&mut self.state.start));
    }

    fn multiply_adds_per_token(&self) -> usize {
        let MixerShape { inner, state, taps, .. } = self.shape;
        let linears = [&self.in_proj, &self.x_proj, &self.dt_proj, &self.out_proj];
        // A step of the scan: discretise A and B·u, advance the state, read it.
        linears.into_iter().map(LinearSlot::multiply_adds).sum::<usize>() + 5 * inner * state + taps * inner
    }
}

impl Layer<()> for Mixer {
    /// x [batch, length, hidden], normed → [batch, length, hidden]. Padding is set to 0 before the input projection and behind the
    /// convolution, as Hugging Face does.
    fn forward(&self, step: &Step<'_>, (): &(), x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (pass, tape) = (step.pass, step.pass.tape);
        let MixerShape { inner, state: states, rank, .. } = self.shape;
        let projected = self.in_proj.forward(pass, &step.masked(x)?)?;
        let (u, z) = (tape.narrow(&projected, 2, 0, inner)?, tape.narrow(&projected, 2, inner, inner)?);
        let (initial, context) = self.state.before(step, x.dims()[0], cache.as_deref())?;
        let (front, u, z) = self.behind_virtual_inputs(step, u, z, cache.as_deref())?;
        let conv_bias = self.conv_bias.as_ref().map(|bias| bias.forward(pass)).transpose()?;
        let convolved = tape.causal_conv_silu(&u, &self.conv_weight.forward(pass)?, conv_bias.as_ref(), context.as_ref())?;
        let convolved = step.masked_behind(front, &convolved)?;
        let selective = self.x_proj.forward(pass, &convolved)?;
        let part = |start, width| tape.narrow(&selective, 2, start, width);
        let (mut dt, mut b, mut c) = (part(0, rank)?, part(rank, states)?, part(rank + states, states)?);
        if let Some(norms) = &self.norms {
            (dt, b, c) = (norms.dt.forward(pass, &dt)?, norms.b.forward(pass, &b)?, norms.c.forward(pass, &c)?);
        }
        let dt = self.dt_proj.forward(pass, &dt)?;
        let mut a_log = self.a_log.forward(pass)?;
        if let Some(extra) = self.state.start.extra_states(pass)? {
            // Behind the norms over B and C, which know the model's own states only.
            let project = |rows: &Var| tape.linear(&convolved, rows, None);
            (b, c) = (tape.cat(&[&b, &project(&extra.b)?], 2)?, tape.cat(&[&c, &project(&extra.c)?], 2)?);
            a_log = tape.cat(&[&a_log, &extra.a_log], 1)?;
        }
        let a = tape.scale(&tape.exp(&a_log)?, -1.0)?;
        let d = self.d.forward(pass)?;
        let inputs = ScanInputs { u: &convolved, dt: &dt, a: &a, b: &b, c: &c, d: &d, z: &z, initial_state: initial.as_ref() };
        let (mut y, state) = tape.selective_scan(inputs)?;
        y = self.state.start.offset(pass, &c, Some(&z), y)?;
        if front > 0 {
            y = tape.narrow(&y, 1, front, x.dims()[1])?;
        }
        if let Some(cache) = cache {
            self.state.store(cache, &u, context.as_ref(), state)?;
        }
        Ok(self.out_proj.forward(pass, &y)?)
    }
}
