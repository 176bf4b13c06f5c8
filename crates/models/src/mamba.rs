//! Mamba-1 (Gu and Dao, 2023), as Hugging Face's `MambaForCausalLM` computes it.

use crate::cache::{Cache, LayerCache};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::{Head, Model};
use crate::pass::Pass;
use crate::slots::{LinearSlot, ParamSlot, PromptSlot, RowPart, SlotInfo, SlotMut, StateSlot, SublayerSlot, Visitor, visit_linear};
use crate::weights::{Init, Weights, param};
use peftbench_ops::scan::ScanInputs;
use peftbench_ops::{Tensor, Var};
use peftbench_spec::Role;
use serde::Deserialize;

/// The keys of `config.json` that matter here, by Hugging Face's names.
#[derive(Debug, Clone, Deserialize)]
struct MambaConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    #[serde(default = "defaults::state_size")]
    state_size: usize,
    #[serde(default = "defaults::conv_kernel")]
    conv_kernel: usize,
    #[serde(default = "defaults::expand")]
    expand: usize,
    intermediate_size: Option<usize>,
    time_step_rank: Option<serde_json::Value>,
    #[serde(default)]
    use_bias: bool,
    #[serde(default = "defaults::yes")]
    use_conv_bias: bool,
    #[serde(default = "defaults::epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "defaults::yes")]
    tie_word_embeddings: bool,
}

mod defaults {
    pub fn state_size() -> usize {
        16
    }
    pub fn conv_kernel() -> usize {
        4
    }
    pub fn expand() -> usize {
        2
    }
    pub fn epsilon() -> f64 {
        1e-5
    }
    pub fn yes() -> bool {
        true
    }
}

/// The model.
pub struct Mamba {
    config: MambaConfig,
    embeddings: ParamSlot,
    prompt: PromptSlot,
    layers: Vec<Block>,
    norm: ParamSlot,
    head: Option<LinearSlot>,
}

struct Block {
    norm: ParamSlot,
    mixer: Mixer,
    sublayer: SublayerSlot,
}

struct Mixer {
    inner: usize,
    state_size: usize,
    rank: usize,
    in_proj: LinearSlot,
    conv_weight: ParamSlot,
    conv_bias: Option<ParamSlot>,
    x_proj: LinearSlot,
    dt_proj: LinearSlot,
    a_log: ParamSlot,
    d: ParamSlot,
    out_proj: LinearSlot,
    state: StateSlot,
}

impl Mamba {
    /// Builds the model from its config and a source of tensors.
    pub fn new(config: &ModelConfig, weights: &dyn Weights) -> Result<Self> {
        let parsed: MambaConfig = config.parse()?;
        let (vocab, hidden) = (parsed.vocab_size, parsed.hidden_size);
        let outside = |path: &str, role| SlotInfo { path: path.to_owned(), layer: None, role };
        let tensor = |path: &str, role, dims: &[usize], init| {
            Ok::<_, crate::ModelError>(ParamSlot::new(outside(path, role), param(weights, path, dims, init)?))
        };
        let rank = match &parsed.time_step_rank {
            Some(serde_json::Value::Number(rank)) => rank.as_u64().unwrap_or(0) as usize,
            Some(serde_json::Value::String(auto)) if auto == "auto" => hidden.div_ceil(16),
            None => hidden.div_ceil(16),
            Some(other) => return Err(config.unsupported(format!("`time_step_rank` is {other}; expected a number or \"auto\""))),
        };
        let layers = (0..parsed.num_hidden_layers).map(|layer| Block::new(&parsed, rank, layer, weights)).collect::<Result<Vec<_>>>()?;
        let head = match parsed.tie_word_embeddings {
            true => None,
            false => Some(LinearSlot::new(
                outside("lm_head", Role::LmHead),
                param(weights, "lm_head.weight", &[vocab, hidden], Init::Normal(0.02))?,
                None,
                vec![],
            )),
        };
        Ok(Self {
            embeddings: tensor("backbone.embeddings.weight", Role::Embedding, &[vocab, hidden], Init::Normal(0.02))?,
            prompt: PromptSlot::new(outside("prompt", Role::Prompt), hidden),
            layers,
            norm: tensor("backbone.norm_f.weight", Role::Norm, &[hidden], Init::Constant(1.0))?,
            head,
            config: parsed,
        })
    }
}

impl Block {
    fn new(config: &MambaConfig, rank: usize, layer: usize, weights: &dyn Weights) -> Result<Self> {
        let info = |name: &str, role| SlotInfo { path: format!("backbone.layers.{layer}.{name}"), layer: Some(layer), role };
        let norm = info("norm.weight", Role::Norm);
        let norm_weight = param(weights, &norm.path, &[config.hidden_size], Init::Constant(1.0))?;
        Ok(Self {
            norm: ParamSlot::new(norm, norm_weight),
            mixer: Mixer::new(config, rank, layer, weights)?,
            sublayer: SublayerSlot::new(info("mixer", Role::OutProj)),
        })
    }

    fn forward(&self, pass: &Pass<'_>, x: &Var, layer: usize, eps: f64, cache: Option<&mut Cache>) -> Result<Var> {
        let normed = pass.tape.rms_norm(x, &self.norm.forward(pass)?, eps)?;
        let mixed = self.mixer.forward(pass, &normed, layer, cache)?;
        let mixed = self.sublayer.forward(pass, &normed, mixed)?;
        Ok(pass.tape.add(x, &mixed)?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visitor(SlotMut::Param(&mut self.norm));
        self.mixer.visit_slots(visitor);
        visitor(SlotMut::Sublayer(&mut self.sublayer));
    }
}

impl Mixer {
    fn new(config: &MambaConfig, rank: usize, layer: usize, weights: &dyn Weights) -> Result<Self> {
        let (hidden, state, taps) = (config.hidden_size, config.state_size, config.conv_kernel);
        let inner = config.intermediate_size.unwrap_or(config.expand * hidden);
        let info = |name: &str, role| SlotInfo { path: format!("backbone.layers.{layer}.mixer.{name}"), layer: Some(layer), role };
        let tensor = |name: &str, role, dims: &[usize], init| {
            let info = info(name, role);
            let value = param(weights, &info.path, dims, init)?;
            Ok::<_, crate::ModelError>(ParamSlot::new(info, value))
        };
        let linear = |name: &str, role, out: usize, input: usize, bias: Option<Init>, init, parts: Vec<RowPart>| {
            let info = info(name, role);
            let weight = param(weights, &format!("{}.weight", info.path), &[out, input], init)?;
            let bias = bias.map(|init| param(weights, &format!("{}.bias", info.path), &[out], init)).transpose()?;
            Ok::<_, crate::ModelError>(LinearSlot::new(info, weight, bias, parts))
        };
        let part = |name, rows| RowPart { name, rows };
        let bias = config.use_bias.then_some(Init::Constant(0.0));
        let normal = Init::Normal(0.02);
        // The residual stream adds up as many outputs as there are layers (GPT-2's scaling).
        let out_init = Init::Normal(0.02 / (config.num_hidden_layers as f64).sqrt());
        Ok(Self {
            inner,
            state_size: state,
            rank,
            in_proj: linear(
                "in_proj",
                Role::InProj,
                2 * inner,
                hidden,
                bias,
                normal,
                vec![part("x", 0..inner), part("z", inner..2 * inner)],
            )?,
            conv_weight: tensor("conv1d.weight", Role::Conv1d, &[inner, 1, taps], Init::Uniform(1.0 / (taps as f64).sqrt()))?,
            conv_bias: config.use_conv_bias.then(|| tensor("conv1d.bias", Role::Conv1d, &[inner], Init::Constant(0.0))).transpose()?,
            x_proj: linear(
                "x_proj",
                Role::XProj,
                rank + 2 * state,
                inner,
                None,
                normal,
                vec![part("dt", 0..rank), part("B", rank..rank + state), part("C", rank + state..rank + 2 * state)],
            )?,
            dt_proj: linear(
                "dt_proj",
                Role::DtProj,
                inner,
                rank,
                Some(Init::TimeStep(1e-3, 0.1)),
                Init::Uniform((rank as f64).powf(-0.5)),
                vec![],
            )?,
            a_log: tensor("A_log", Role::ALog, &[inner, state], Init::ALog)?,
            d: tensor("D", Role::D, &[inner], Init::Constant(1.0))?,
            out_proj: linear("out_proj", Role::OutProj, hidden, inner, bias, out_init, vec![])?,
            state: StateSlot::new(info("state", Role::ALog), inner, state, taps - 1),
        })
    }

    /// x [batch, length, hidden], normed → [batch, length, hidden].
    fn forward(&self, pass: &Pass<'_>, x: &Var, layer: usize, cache: Option<&mut Cache>) -> Result<Var> {
        let tape = pass.tape;
        let batch = x.dims()[0];
        let projected = self.in_proj.forward(pass, &masked(pass, x)?)?;
        let mut halves = tape.split(&projected, 2, &[self.inner, self.inner])?.into_iter();
        let (Some(u), Some(z)) = (halves.next(), halves.next()) else { return Err(crate::ModelError::Compute(split_failed())) };
        let (initial, context) = self.start(pass, batch, layer, cache.as_deref())?;
        let conv_bias = self.conv_bias.as_ref().map(|bias| bias.forward(pass)).transpose()?;
        let convolved = tape.causal_conv_silu(&u, &self.conv_weight.forward(pass)?, conv_bias.as_ref(), context.as_ref())?;
        let convolved = masked(pass, &convolved)?;
        let selective = self.x_proj.forward(pass, &convolved)?;
        let parts = tape.split(&selective, 2, &[self.rank, self.state_size, self.state_size])?;
        let dt = self.dt_proj.forward(pass, &parts[0])?;
        let a = tape.scale(&tape.exp(&self.a_log.forward(pass)?)?, -1.0)?;
        let d = self.d.forward(pass)?;
        let inputs =
            ScanInputs { u: &convolved, dt: &dt, a: &a, b: &parts[1], c: &parts[2], d: &d, z: &z, initial_state: initial.as_ref() };
        let (y, state) = tape.selective_scan(inputs)?;
        if let Some(cache) = cache {
            cache.put(layer, LayerCache::Ssm { context: self.next_context(&u, context.as_ref())?, state });
        }
        Ok(self.out_proj.forward(pass, &y)?)
    }

    /// The state and convolution context before the first token: from the cache, or what a method has attached.
    fn start(&self, pass: &Pass<'_>, batch: usize, layer: usize, cache: Option<&Cache>) -> Result<(Option<Var>, Option<Var>)> {
        match cache.and_then(|cache| cache.get(layer)) {
            Some(LayerCache::Ssm { context, state }) => Ok((Some(Var::constant(state.clone())), Some(Var::constant(context.clone())))),
            _ => Ok(self.state.forward(pass, batch)?),
        }
    }

    /// The last inputs of the convolution, for the token to come.
    fn next_context(&self, u: &Var, context: Option<&Var>) -> Result<Tensor> {
        let (batch, length, inner) = u.value().dims3()?;
        let before = match context {
            Some(context) => context.value().clone(),
            None => Tensor::zeros((batch, self.state.context, inner), u.value().dtype(), u.value().device())?,
        };
        let all = Tensor::cat(&[&before, &u.value().contiguous()?], 1)?;
        Ok(all.narrow(1, length, self.state.context)?.contiguous()?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visit_linear(&mut self.in_proj, visitor);
        visitor(SlotMut::Param(&mut self.conv_weight));
        if let Some(bias) = &mut self.conv_bias {
            visitor(SlotMut::Param(bias));
        }
        visit_linear(&mut self.x_proj, visitor);
        visit_linear(&mut self.dt_proj, visitor);
        visitor(SlotMut::Param(&mut self.a_log));
        visitor(SlotMut::Param(&mut self.d));
        visit_linear(&mut self.out_proj, visitor);
        visitor(SlotMut::State(&mut self.state));
    }
}

fn split_failed() -> peftbench_ops::Error {
    peftbench_ops::Error::Msg("in_proj did not split into two halves".to_owned())
}

/// x with padding positions set to 0, as Hugging Face does before the input projection and behind the convolution.
fn masked(pass: &Pass<'_>, x: &Var) -> Result<Var> {
    match pass.mask {
        Some(mask) => Ok(pass.tape.mul(x, &Var::constant(mask.to_dtype(x.value().dtype())?.unsqueeze(2)?))?),
        None => Ok(x.clone()),
    }
}

impl Model for Mamba {
    fn arch(&self) -> &'static str {
        "mamba"
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn forward(&self, pass: &Pass<'_>, ids: &Tensor, mut cache: Option<&mut Cache>) -> Result<Var> {
        let length = ids.dims()[1];
        let mut x = pass.tape.embedding(&self.embeddings.forward(pass)?, ids)?;
        let first = cache.as_ref().is_none_or(|cache| cache.position == 0);
        if first {
            x = self.prompt.forward(pass, x)?;
        }
        let eps = self.config.layer_norm_epsilon;
        for (i, layer) in self.layers.iter().enumerate() {
            pass.tape.enter_scope(format!("layers.{i}"));
            x = layer.forward(pass, &x, i, eps, cache.as_deref_mut())?;
        }
        pass.tape.enter_scope("head");
        let total = x.dims()[1];
        if let Some(cache) = cache {
            cache.position += total;
        }
        let x = if total > length { pass.tape.narrow(&x, 1, total - length, length)? } else { x };
        Ok(pass.tape.rms_norm(&x, &self.norm.forward(pass)?, eps)?)
    }

    fn head(&self) -> Head<'_> {
        match &self.head {
            Some(head) => Head::Linear(head),
            None => Head::Tied(&self.embeddings),
        }
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visitor(SlotMut::Prompt(&mut self.prompt));
        visitor(SlotMut::Param(&mut self.embeddings));
        for layer in &mut self.layers {
            layer.visit_slots(visitor);
        }
        visitor(SlotMut::Param(&mut self.norm));
        if let Some(head) = &mut self.head {
            visit_linear(head, visitor);
        }
    }

    fn multiply_adds_per_token(&self) -> u64 {
        let of = |slot: &LinearSlot| slot.dims().0 * slot.dims().1;
        let scan = |mixer: &Mixer| 5 * mixer.inner * mixer.state_size + 4 * mixer.inner;
        let layer = |m: &Mixer| of(&m.in_proj) + of(&m.x_proj) + of(&m.dt_proj) + of(&m.out_proj) + scan(m);
        self.layers.iter().map(|block| layer(&block.mixer) as u64).sum()
    }
}
