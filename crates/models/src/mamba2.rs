//! Mamba-2 (Dao and Gu, 2024), as Hugging Face's `Mamba2ForCausalLM` computes it: the norm behind the gate is of each group by itself
//! (older versions of transformers took it over the whole width, which is the same with one group).

use crate::builder::{Builder, LinearSpec};
use crate::cache::Cache;
use crate::causal_lm::{CausalLm, Plain, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::layer::{Layer, Part, Residual};
use crate::model::Model;
use crate::norm::Norm;
use crate::slots::{LinearSlot, ParamSlot, PromptSlot, SlotMut, StateExtensions, StateSlot, Visitor, visit_linear};
use crate::ssm_state::SsmState;
use crate::weights::{Init, Weights};
use peftbench_ops::Var;
use peftbench_ops::ssd::SsdInputs;
use peftbench_spec::Role;
use serde::Deserialize;
use serde_json::Value;

/// The keys of `config.json` that matter here, by Hugging Face's names and with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Mamba2Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_heads: usize,
    head_dim: usize,
    n_groups: usize,
    state_size: usize,
    conv_kernel: usize,
    expand: usize,
    use_bias: bool,
    use_conv_bias: bool,
    layer_norm_epsilon: f64,
    time_step_limit: Vec<Value>,
    tie_word_embeddings: bool,
}

impl Default for Mamba2Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_768,
            hidden_size: 4096,
            num_hidden_layers: 64,
            num_heads: 128,
            head_dim: 64,
            n_groups: 8,
            state_size: 128,
            conv_kernel: 4,
            expand: 2,
            use_bias: false,
            use_conv_bias: true,
            layer_norm_epsilon: 1e-5,
            time_step_limit: Vec::new(),
            tie_word_embeddings: false,
        }
    }
}

/// Shape of a mixer.
#[derive(Debug, Clone, Copy)]
struct Shape {
    hidden: usize,
    heads: usize,
    head_dim: usize,
    groups: usize,
    state: usize,
    taps: usize,
    dt_limit: (f64, f64),
}

impl Shape {
    fn new(config: &ModelConfig, parsed: &Mamba2Config) -> Result<Self> {
        let Mamba2Config { hidden_size: hidden, num_heads: heads, head_dim, n_groups: groups, expand, .. } = *parsed;
        if heads * head_dim != expand * hidden {
            let problem = format!("{heads} heads of {head_dim} channels do not make up `expand` · `hidden_size` = {}", expand * hidden);
            return Err(config.unsupported(problem));
        }
        if groups == 0 || !heads.is_multiple_of(groups) {
            return Err(config.unsupported(format!("{heads} heads do not divide into {groups} groups")));
        }
        if parsed.conv_kernel == 0 {
            return Err(config.unsupported("`conv_kernel` is 0; expected at least 1"));
        }
        let dt_limit = match parsed.time_step_limit.iter().map(crate::config::number).collect::<Option<Vec<f64>>>().as_deref() {
            Some([]) => (0.0, f64::INFINITY),
            Some(&[low, high]) if low <= high => (low, high),
            _ => return Err(config.unsupported("`time_step_limit` is not a pair of ascending numbers")),
        };
        Ok(Self { hidden, heads, head_dim, groups, state: parsed.state_size, taps: parsed.conv_kernel, dt_limit })
    }

    /// Channels of x, and of the gate.
    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of B, and of C.
    fn selective(&self) -> usize {
        self.groups * self.state
    }

    /// Channels of the convolution: x, B and C.
    fn conv(&self) -> usize {
        self.inner() + 2 * self.selective()
    }
}

struct Mixer {
    shape: Shape,
    in_proj: LinearSlot,
    conv_weight: ParamSlot,
    conv_bias: Option<ParamSlot>,
    dt_bias: ParamSlot,
    a_log: ParamSlot,
    d: ParamSlot,
    norm: Norm,
    out_proj: LinearSlot,
    state: SsmState,
}

/// Builds a Mamba-2.
pub(crate) fn mamba2(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let parsed: Mamba2Config = config.parse()?;
    let (vocab, hidden, layers) = (parsed.vocab_size, parsed.hidden_size, parsed.num_hidden_layers);
    let shape = Shape::new(config, &parsed)?;
    let builder = Builder::new(weights);
    let block = |layer| {
        let builder = builder.layer(&format!("backbone.layers.{layer}"), layer);
        let norm = builder.rms_norm("norm", hidden, parsed.layer_norm_epsilon)?;
        let mixer = Mixer::new(&builder.within("mixer"), layer, &parsed, shape)?;
        Ok(Residual::new(&builder, "mixer", Role::OutProj, norm, mixer))
    };
    Ok(Box::new(CausalLm {
        decoder: Plain { arch: "mamba2" },
        embeddings: builder.embedding("backbone.embeddings", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: builder.rms_norm("backbone.norm_f", hidden, parsed.layer_norm_epsilon)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}

impl Mixer {
    fn new(builder: &Builder<'_>, layer: usize, config: &Mamba2Config, shape: Shape) -> Result<Self> {
        let Shape { hidden, heads, groups, state, taps, .. } = shape;
        let (inner, selective, conv) = (shape.inner(), shape.selective(), shape.conv());
        let parts = [("z", inner), ("x", inner), ("B", selective), ("C", selective), ("dt", heads)];
        let in_spec = LinearSpec::new(inner + conv + heads, hidden).bias(config.use_bias).parts(&parts);
        let out_spec = LinearSpec::new(hidden, inner).bias(config.use_bias).residual(config.num_hidden_layers);
        let tensor = |name, role, dims: &[usize], init| builder.tensor(name, role, dims, init);
        // All states of a head share one decay, so that there is no column of A_log for another.
        let extensions = StateExtensions { virtual_width: conv + heads, extra_states: false, output_offset: true };
        Ok(Self {
            in_proj: builder.linear("in_proj", Role::InProj, in_spec)?,
            conv_weight: tensor("conv1d.weight", Role::Conv1d, &[conv, 1, taps], Init::Uniform(1.0 / (taps as f64).sqrt()))?,
            conv_bias: config.use_conv_bias.then(|| tensor("conv1d.bias", Role::Conv1d, &[conv], Init::Constant(0.0))).transpose()?,
            dt_bias: tensor("dt_bias", Role::DtBias, &[heads], Init::TimeStep(1e-3, 0.1))?,
            a_log: tensor("A_log", Role::ALog, &[heads], Init::ALog)?,
            d: tensor("D", Role::D, &[heads], Init::Constant(1.0))?,
            norm: match groups {
                1 => builder.rms_norm("norm", inner, config.layer_norm_epsilon)?,
                _ => {
                    let weight = tensor("norm.weight", Role::Norm, &[inner], Init::Constant(1.0))?;
                    Norm::GroupedRms { weight, eps: config.layer_norm_epsilon, groups }
                }
            },
            out_proj: builder.linear("out_proj", Role::OutProj, out_spec)?,
            state: SsmState {
                layer,
                start: StateSlot::new(builder.info("state", Role::ALog), inner, state, taps - 1).with_conv_width(conv).with(extensions),
            },
            shape,
        })
    }
}

impl Mixer {
    /// What goes into the convolution, and dt, with the virtual inputs that a method has attached in front of a sequence's beginning, and how
    /// many they are.
    fn behind_virtual_inputs(&self, step: &Step<'_>, to_conv: &Var, dt: &Var, cache: Option<&Cache>) -> Result<(usize, Var, Var)> {
        let Some(inputs) = self.state.virtual_inputs(step, dt.dims()[0], cache)? else { return Ok((0, to_conv.clone(), dt.clone())) };
        let tape = step.pass.tape;
        let inputs_of = tape.split(&inputs, 2, &[self.shape.conv(), self.shape.heads])?;
        Ok((inputs.dims()[1], tape.cat(&[&inputs_of[0], to_conv], 1)?, tape.cat(&[&inputs_of[1], dt], 1)?))
    }
}

impl Part for Mixer {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visit_linear(&mut self.in_proj, visitor);
        visitor(SlotMut::Param(&mut self.conv_weight));
        if let Some(bias) = &mut self.conv_bias {
            visitor(SlotMut::Param(bias));
        }
        for param in [&mut self.dt_bias, &mut self.a_log, &mut self.d] {
            visitor(SlotMut::Param(param));
        }
        self.norm.visit_slots(visitor);
        visit_linear(&mut self.out_proj, visitor);
        visitor(SlotMut::State(&mut self.state.start));
    }

    fn multiply_adds_per_token(&self) -> usize {
        let Shape { state, taps, .. } = self.shape;
        // A step of the scan: decay the state, add to it, read it.
        let scan = 3 * self.shape.inner() * state;
        self.in_proj.multiply_adds() + self.out_proj.multiply_adds() + scan + taps * self.shape.conv()
    }
}

impl Layer<()> for Mixer {
    /// x [batch, length, hidden], normed → [batch, length, hidden]. Padding is set to 0 before the input projection and behind the
    /// convolution, as Hugging Face does.
    fn forward(&self, step: &Step<'_>, (): &(), x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (pass, tape) = (step.pass, step.pass.tape);
        let (inner, selective, conv) = (self.shape.inner(), self.shape.selective(), self.shape.conv());
        let projected = tape.split(&self.in_proj.forward(pass, &step.masked(x)?)?, 2, &[inner, conv, self.shape.heads])?;
        let z = &projected[0];
        let (front, to_conv, dt) = self.behind_virtual_inputs(step, &projected[1], &projected[2], cache.as_deref())?;
        let (initial, context) = self.state.before(step, x.dims()[0], cache.as_deref())?;
        let conv_bias = self.conv_bias.as_ref().map(|bias| bias.forward(pass)).transpose()?;
        let convolved = tape.causal_conv_silu(&to_conv, &self.conv_weight.forward(pass)?, conv_bias.as_ref(), context.as_ref())?;
        let convolved = tape.split(&step.masked_behind(front, &convolved)?, 2, &[inner, selective, selective])?;
        let inputs = SsdInputs {
            x: &convolved[0],
            dt: &dt,
            dt_bias: &self.dt_bias.forward(pass)?,
            a: &tape.scale(&tape.exp(&self.a_log.forward(pass)?)?, -1.0)?,
            b: &convolved[1],
            c: &convolved[2],
            d: &self.d.forward(pass)?,
            initial_state: initial.as_ref(),
            groups: self.shape.groups,
            dt_limit: self.shape.dt_limit,
        };
        let (y, state) = tape.ssd(inputs)?;
        let mut y = self.state.start.offset(pass, &convolved[2], None, y)?;
        if front > 0 {
            y = tape.narrow(&y, 1, front, x.dims()[1])?;
        }
        if let Some(cache) = cache {
            self.state.store(cache, &to_conv, context.as_ref(), state)?;
        }
        let gated = self.norm.forward(pass, &tape.swiglu(z, &y)?)?;
        Ok(self.out_proj.forward(pass, &gated)?)
    }
}
