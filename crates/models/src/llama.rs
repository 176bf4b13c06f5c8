//! The LLaMA family (Touvron et al., 2023), as Hugging Face's `LlamaForCausalLM` computes it: RMSNorm, rotary grouped-query
//! attention, SwiGLU.

use crate::cache::{Cache, LayerCache};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::{Head, Model};
use crate::pass::Pass;
use crate::slots::{LinearSlot, ParamSlot, PrefixSlot, PromptSlot, SlotInfo, SlotMut, SublayerSlot, Visitor, visit_linear};
use crate::weights::{Init, Weights, param};
use peftbench_ops::attention::Heads;
use peftbench_ops::{Device, Tensor, Var};
use peftbench_spec::Role;
use serde::Deserialize;
use serde_json::Value;

/// The keys of `config.json` that matter here, by Hugging Face's names.
#[derive(Debug, Clone, Deserialize)]
struct LlamaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    /// Where newer versions of transformers keep `rope_theta` and the scaling.
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn default_epsilon() -> f64 {
    1e-6
}

/// The model.
pub struct Llama {
    config: LlamaConfig,
    heads: Heads,
    rope_theta: f64,
    embeddings: ParamSlot,
    prompt: PromptSlot,
    layers: Vec<Block>,
    norm: ParamSlot,
    head: Option<LinearSlot>,
}

struct Block {
    input_norm: ParamSlot,
    attention: Attention,
    attention_output: SublayerSlot,
    post_norm: ParamSlot,
    mlp: Mlp,
    mlp_output: SublayerSlot,
}

struct Attention {
    heads: Heads,
    q_proj: LinearSlot,
    k_proj: LinearSlot,
    v_proj: LinearSlot,
    o_proj: LinearSlot,
    prefix: PrefixSlot,
}

struct Mlp {
    gate_proj: LinearSlot,
    up_proj: LinearSlot,
    down_proj: LinearSlot,
}

/// Tables of the rotary embedding for the positions of one pass, [length, head_dim / 2] each.
struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Llama {
    /// Builds the model from its config and a source of tensors.
    pub fn new(config: &ModelConfig, weights: &dyn Weights) -> Result<Self> {
        let parsed: LlamaConfig = config.parse()?;
        let (vocab, hidden) = (parsed.vocab_size, parsed.hidden_size);
        let query = parsed.num_attention_heads;
        let key_value = parsed.num_key_value_heads.unwrap_or(query);
        if query == 0 || key_value == 0 || !query.is_multiple_of(key_value) {
            return Err(config.unsupported(format!("{query} attention heads cannot share {key_value} key-value heads")));
        }
        let heads = Heads { query, key_value, dim: parsed.head_dim.unwrap_or(hidden / query) };
        let rope_theta = rope_theta(&parsed).map_err(|problem| config.unsupported(problem))?;
        let outside = |path: &str, role| SlotInfo { path: path.to_owned(), layer: None, role };
        let tensor = |path: &str, role, dims: &[usize], init| {
            Ok::<_, crate::ModelError>(ParamSlot::new(outside(path, role), param(weights, path, dims, init)?))
        };
        let layers = (0..parsed.num_hidden_layers).map(|layer| Block::new(&parsed, heads, layer, weights)).collect::<Result<Vec<_>>>()?;
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
            heads,
            rope_theta,
            embeddings: tensor("model.embed_tokens.weight", Role::Embedding, &[vocab, hidden], Init::Normal(0.02))?,
            prompt: PromptSlot::new(outside("prompt", Role::Prompt), hidden),
            layers,
            norm: tensor("model.norm.weight", Role::Norm, &[hidden], Init::Constant(1.0))?,
            head,
            config: parsed,
        })
    }

    /// The tables for `length` positions from `start`.
    fn rotary(&self, start: usize, length: usize, device: &Device) -> Result<Rotary> {
        let half = self.heads.dim / 2;
        let frequency = |i: usize| self.rope_theta.powf(-((2 * i) as f64) / self.heads.dim as f64);
        let angles = (start..start + length).flat_map(|position| (0..half).map(move |i| (position, i)));
        // Hugging Face computes the angles in f32.
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|(position, i)| (position as f32 * frequency(i) as f32).sin_cos()).map(|(sin, cos)| (cos, sin)).unzip();
        Ok(Rotary { cos: Tensor::from_vec(cos, (length, half), device)?, sin: Tensor::from_vec(sin, (length, half), device)? })
    }
}

/// The base of the rotary frequencies; scaled variants are refused, not ignored.
fn rope_theta(config: &LlamaConfig) -> std::result::Result<f64, String> {
    let inner = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref());
    let kind = inner.and_then(|p| p.get("rope_type").or_else(|| p.get("type"))).and_then(Value::as_str).unwrap_or("default");
    if kind != "default" {
        return Err(format!("rope scaling `{kind}` is not supported; supported: `default`"));
    }
    let nested = inner.and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
    Ok(config.rope_theta.or(nested).unwrap_or(10_000.0))
}

impl Block {
    fn new(config: &LlamaConfig, heads: Heads, layer: usize, weights: &dyn Weights) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let info = |name: &str, role| SlotInfo { path: format!("model.layers.{layer}.{name}"), layer: Some(layer), role };
        let norm = |name: &str| {
            let info = info(name, Role::Norm);
            let weight = param(weights, &info.path, &[hidden], Init::Constant(1.0))?;
            Ok::<_, crate::ModelError>(ParamSlot::new(info, weight))
        };
        // The residual stream adds up two outputs a layer (GPT-2's scaling).
        let (plain, residual) = (0.02, 0.02 / (2.0 * config.num_hidden_layers as f64).sqrt());
        let linear = |name: &str, role, out: usize, input: usize, bias: bool, deviation| {
            let info = info(name, role);
            let weight = param(weights, &format!("{}.weight", info.path), &[out, input], Init::Normal(deviation))?;
            let bias = bias.then(|| param(weights, &format!("{}.bias", info.path), &[out], Init::Constant(0.0))).transpose()?;
            Ok::<_, crate::ModelError>(LinearSlot::new(info, weight, bias, vec![]))
        };
        let (q, kv, bias) = (heads.query * heads.dim, heads.key_value * heads.dim, config.attention_bias);
        let attention = Attention {
            heads,
            q_proj: linear("self_attn.q_proj", Role::QProj, q, hidden, bias, plain)?,
            k_proj: linear("self_attn.k_proj", Role::KProj, kv, hidden, bias, plain)?,
            v_proj: linear("self_attn.v_proj", Role::VProj, kv, hidden, bias, plain)?,
            o_proj: linear("self_attn.o_proj", Role::OProj, hidden, q, bias, residual)?,
            prefix: PrefixSlot::new(info("self_attn.prefix", Role::KProj), kv),
        };
        let mlp = Mlp {
            gate_proj: linear("mlp.gate_proj", Role::GateProj, inner, hidden, config.mlp_bias, plain)?,
            up_proj: linear("mlp.up_proj", Role::UpProj, inner, hidden, config.mlp_bias, plain)?,
            down_proj: linear("mlp.down_proj", Role::DownProj, hidden, inner, config.mlp_bias, residual)?,
        };
        Ok(Self {
            input_norm: norm("input_layernorm.weight")?,
            attention,
            attention_output: SublayerSlot::new(info("self_attn", Role::OProj)),
            post_norm: norm("post_attention_layernorm.weight")?,
            mlp,
            mlp_output: SublayerSlot::new(info("mlp", Role::DownProj)),
        })
    }

    fn forward(&self, pass: &Pass<'_>, x: &Var, layer: usize, eps: f64, rotary: &Rotary, cache: Option<&mut Cache>) -> Result<Var> {
        let tape = pass.tape;
        let normed = tape.rms_norm(x, &self.input_norm.forward(pass)?, eps)?;
        let attended = self.attention.forward(pass, &normed, layer, rotary, cache)?;
        let x = tape.add(x, &self.attention_output.forward(pass, &normed, attended)?)?;
        let normed = tape.rms_norm(&x, &self.post_norm.forward(pass)?, eps)?;
        let gated = tape.swiglu(&self.mlp.gate_proj.forward(pass, &normed)?, &self.mlp.up_proj.forward(pass, &normed)?)?;
        let output = self.mlp.down_proj.forward(pass, &gated)?;
        Ok(tape.add(&x, &self.mlp_output.forward(pass, &normed, output)?)?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visitor(SlotMut::Param(&mut self.input_norm));
        let attention = &mut self.attention;
        for linear in [&mut attention.q_proj, &mut attention.k_proj, &mut attention.v_proj, &mut attention.o_proj] {
            visit_linear(linear, visitor);
        }
        visitor(SlotMut::Prefix(&mut attention.prefix));
        visitor(SlotMut::Sublayer(&mut self.attention_output));
        visitor(SlotMut::Param(&mut self.post_norm));
        for linear in [&mut self.mlp.gate_proj, &mut self.mlp.up_proj, &mut self.mlp.down_proj] {
            visit_linear(linear, visitor);
        }
        visitor(SlotMut::Sublayer(&mut self.mlp_output));
    }

    fn linears(&self) -> [&LinearSlot; 7] {
        let (a, m) = (&self.attention, &self.mlp);
        [&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj, &m.gate_proj, &m.up_proj, &m.down_proj]
    }
}

impl Attention {
    fn forward(&self, pass: &Pass<'_>, x: &Var, layer: usize, rotary: &Rotary, cache: Option<&mut Cache>) -> Result<Var> {
        let tape = pass.tape;
        let rotate = |x: &Var| tape.rotary(x, &rotary.cos, &rotary.sin, self.heads.dim);
        let q = rotate(&self.q_proj.forward(pass, x)?)?;
        let k = rotate(&self.k_proj.forward(pass, x)?)?;
        let v = self.v_proj.forward(pass, x)?;
        let (k, v) = match cache.as_ref().and_then(|cache| cache.get(layer)) {
            Some(LayerCache::Attention { keys, values }) => {
                let join = |before: &Tensor, own: &Var| Tensor::cat(&[before, own.value()], 1).map(Var::constant);
                (join(keys, &k)?, join(values, &v)?)
            }
            _ => self.prefix.forward(pass, k, v)?,
        };
        if let Some(cache) = cache {
            cache.put(layer, LayerCache::Attention { keys: k.value().clone(), values: v.value().clone() });
        }
        let mask = pass.mask.map(|mask| self.key_mask(mask, k.dims()[1])).transpose()?;
        let attended = tape.attention(&q, &k, &v, self.heads, mask.as_ref())?;
        Ok(self.o_proj.forward(pass, &attended)?)
    }

    /// The mask [batch, length] with ones in front for prefix keys.
    fn key_mask(&self, mask: &Tensor, keys: usize) -> Result<Tensor> {
        let (batch, length) = mask.dims2()?;
        match keys - length {
            0 => Ok(mask.clone()),
            prefix => Ok(Tensor::cat(&[&Tensor::ones((batch, prefix), mask.dtype(), mask.device())?, mask], 1)?),
        }
    }
}

impl Model for Llama {
    fn arch(&self) -> &'static str {
        "llama"
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
        let position = cache.as_ref().map_or(0, |cache| cache.position);
        let mut x = pass.tape.embedding(&self.embeddings.forward(pass)?, ids)?;
        if position == 0 {
            x = self.prompt.forward(pass, x)?;
        }
        let total = x.dims()[1];
        let rotary = self.rotary(position, total, ids.device())?;
        let eps = self.config.rms_norm_eps;
        for (i, layer) in self.layers.iter().enumerate() {
            pass.tape.enter_scope(format!("layers.{i}"));
            x = layer.forward(pass, &x, i, eps, &rotary, cache.as_deref_mut())?;
        }
        pass.tape.enter_scope("head");
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
        let of = |slot: &LinearSlot| (slot.dims().0 * slot.dims().1) as u64;
        self.layers.iter().flat_map(Block::linears).map(of).sum()
    }
}
