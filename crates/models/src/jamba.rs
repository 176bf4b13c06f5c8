//! Jamba (Lieber et al., 2024), as Hugging Face's `JambaForCausalLM` computes it: some layers attend, without positions, the others are
//! Mamba-1 with norms over dt, B and C; behind some of them is a mixture of experts, behind the others an MLP.

use crate::attention::{Projections, SelfAttention};
use crate::builder::Builder;
use crate::cache::Cache;
use crate::causal_lm::{CausalLm, Decoder, Layer, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::experts::{Experts, ExpertsShape};
use crate::mixer::{Mixer, MixerShape, SelectiveNorms};
use crate::mlp::GatedMlp;
use crate::model::Model;
use crate::norm::Norm;
use crate::slots::{PromptSlot, SlotMut, SublayerSlot, Visitor};
use crate::weights::Weights;
use peftbench_ops::Var;
use peftbench_ops::attention::Heads;
use peftbench_spec::Role;
use serde::Deserialize;
use serde_json::Value;

/// The keys of `config.json` that matter here, by Hugging Face's names and with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct JambaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    rms_norm_eps: f64,
    attn_layer_period: usize,
    attn_layer_offset: usize,
    expert_layer_period: usize,
    expert_layer_offset: usize,
    num_experts: usize,
    num_experts_per_tok: usize,
    mamba_d_state: usize,
    mamba_d_conv: usize,
    mamba_expand: usize,
    mamba_dt_rank: Option<Value>,
    mamba_conv_bias: bool,
    mamba_proj_bias: bool,
    tie_word_embeddings: bool,
}

impl Default for JambaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 65_536,
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(8),
            rms_norm_eps: 1e-6,
            attn_layer_period: 8,
            attn_layer_offset: 4,
            expert_layer_period: 2,
            expert_layer_offset: 1,
            num_experts: 16,
            num_experts_per_tok: 2,
            mamba_d_state: 16,
            mamba_d_conv: 4,
            mamba_expand: 2,
            mamba_dt_rank: None,
            mamba_conv_bias: true,
            mamba_proj_bias: false,
            tie_word_embeddings: false,
        }
    }
}

impl JambaConfig {
    fn check(&self, config: &ModelConfig) -> Result<()> {
        let kinds =
            [("attn", self.attn_layer_period, self.attn_layer_offset), ("expert", self.expert_layer_period, self.expert_layer_offset)];
        if let Some((kind, period, offset)) = kinds.into_iter().find(|(_, period, offset)| offset >= period) {
            let problem = format!("`{kind}_layer_offset` is {offset}; expected less than `{kind}_layer_period`, which is {period}");
            return Err(config.unsupported(problem));
        }
        if self.num_experts_per_tok == 0 || self.num_experts_per_tok > self.num_experts {
            let (active, all) = (self.num_experts_per_tok, self.num_experts);
            return Err(config.unsupported(format!("`num_experts_per_tok` is {active}; expected 1 to `num_experts`, which is {all}")));
        }
        if self.mamba_d_conv == 0 {
            return Err(config.unsupported("`mamba_d_conv` is 0; expected at least 1"));
        }
        Ok(())
    }

    fn attends(&self, layer: usize) -> bool {
        layer % self.attn_layer_period == self.attn_layer_offset
    }

    fn mixes_experts(&self, layer: usize) -> bool {
        layer % self.expert_layer_period == self.expert_layer_offset && self.num_experts > 1
    }

    /// Outputs that the residual stream adds up.
    fn residual_terms(&self) -> usize {
        2 * self.num_hidden_layers
    }
}

/// What the frame lacks: nothing.
struct Jamba;

struct Block {
    input_norm: Norm,
    mixer: SequenceMixer,
    mixer_output: SublayerSlot,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
    feed_forward_output: SublayerSlot,
}

enum SequenceMixer {
    Attention(Box<SelfAttention>),
    Mamba(Box<Mixer>),
}

enum FeedForward {
    Mlp(Box<GatedMlp>),
    Experts(Box<Experts>),
}

/// Builds a Jamba.
pub(crate) fn jamba(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let parsed: JambaConfig = config.parse()?;
    parsed.check(config)?;
    let (vocab, hidden) = (parsed.vocab_size, parsed.hidden_size);
    let heads = config.heads(hidden, parsed.num_attention_heads, parsed.num_key_value_heads, None)?;
    let shape = MixerShape {
        hidden,
        inner: parsed.mamba_expand * hidden,
        state: parsed.mamba_d_state,
        taps: parsed.mamba_d_conv,
        rank: config.time_step_rank(parsed.mamba_dt_rank.as_ref(), hidden)?,
        bias: parsed.mamba_proj_bias,
        conv_bias: parsed.mamba_conv_bias,
        residual_terms: parsed.residual_terms(),
    };
    let builder = Builder::new(weights);
    let block = |layer| Block::new(&parsed, heads, shape, &builder.layer(&format!("model.layers.{layer}"), layer), layer);
    Ok(Box::new(CausalLm {
        decoder: Jamba,
        embeddings: builder.embedding("model.embed_tokens", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..parsed.num_hidden_layers).map(block).collect::<Result<_>>()?,
        norm: builder.rms_norm("model.final_layernorm", hidden, parsed.rms_norm_eps)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}

impl Block {
    fn new(config: &JambaConfig, heads: Heads, shape: MixerShape, builder: &Builder<'_>, layer: usize) -> Result<Self> {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let (name, role) = if config.attends(layer) { ("self_attn", Role::OProj) } else { ("mamba", Role::OutProj) };
        Ok(Self {
            input_norm: builder.rms_norm("input_layernorm", hidden, eps)?,
            mixer: SequenceMixer::new(config, heads, shape, &builder.within(name), layer)?,
            mixer_output: SublayerSlot::new(builder.info(name, role)),
            feed_forward_norm: builder.rms_norm("pre_ff_layernorm", hidden, eps)?,
            feed_forward: FeedForward::new(config, &builder.within("feed_forward"), layer)?,
            feed_forward_output: SublayerSlot::new(builder.info("feed_forward", Role::DownProj)),
        })
    }
}

impl SequenceMixer {
    fn new(config: &JambaConfig, heads: Heads, shape: MixerShape, builder: &Builder<'_>, layer: usize) -> Result<Self> {
        if config.attends(layer) {
            let residual_terms = config.residual_terms();
            let projections = Projections { qkv_bias: false, output_bias: false, output: "o_proj", residual_terms };
            return Ok(Self::Attention(Box::new(SelfAttention::new(builder, layer, config.hidden_size, heads, projections)?)));
        }
        let norm = |name, width| builder.rms_norm(name, width, config.rms_norm_eps);
        let norms = SelectiveNorms {
            dt: norm("dt_layernorm", shape.rank)?,
            b: norm("b_layernorm", shape.state)?,
            c: norm("c_layernorm", shape.state)?,
        };
        Ok(Self::Mamba(Box::new(Mixer::new(builder, layer, shape, Some(norms))?)))
    }
}

impl FeedForward {
    fn new(config: &JambaConfig, builder: &Builder<'_>, layer: usize) -> Result<Self> {
        let (hidden, inner, residual_terms) = (config.hidden_size, config.intermediate_size, config.residual_terms());
        if !config.mixes_experts(layer) {
            return Ok(Self::Mlp(Box::new(GatedMlp::new(builder, hidden, inner, false, residual_terms)?)));
        }
        let (experts, active) = (config.num_experts, config.num_experts_per_tok);
        Ok(Self::Experts(Box::new(Experts::new(builder, ExpertsShape { hidden, inner, experts, active, residual_terms })?)))
    }
}

impl Layer for Block {
    type Shared = ();

    fn forward(&self, step: &Step<'_>, (): &(), x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (pass, tape) = (step.pass, step.pass.tape);
        let normed = self.input_norm.forward(pass, x)?;
        let mixed = match &self.mixer {
            SequenceMixer::Attention(attention) => attention.forward(step, &normed, None, cache)?,
            SequenceMixer::Mamba(mamba) => mamba.forward(step, &normed, cache)?,
        };
        let x = tape.add(x, &self.mixer_output.forward(pass, &normed, mixed)?)?;
        let normed = self.feed_forward_norm.forward(pass, &x)?;
        let output = match &self.feed_forward {
            FeedForward::Mlp(mlp) => mlp.forward(pass, &normed)?,
            FeedForward::Experts(experts) => experts.forward(pass, &normed)?,
        };
        Ok(tape.add(&x, &self.feed_forward_output.forward(pass, &normed, output)?)?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.input_norm.visit_slots(visitor);
        match &mut self.mixer {
            SequenceMixer::Attention(attention) => attention.visit_slots(visitor),
            SequenceMixer::Mamba(mamba) => mamba.visit_slots(visitor),
        }
        visitor(SlotMut::Sublayer(&mut self.mixer_output));
        self.feed_forward_norm.visit_slots(visitor);
        match &mut self.feed_forward {
            FeedForward::Mlp(mlp) => mlp.visit_slots(visitor),
            FeedForward::Experts(experts) => experts.visit_slots(visitor),
        }
        visitor(SlotMut::Sublayer(&mut self.feed_forward_output));
    }

    fn multiply_adds_per_token(&self) -> usize {
        let mixer = match &self.mixer {
            SequenceMixer::Attention(attention) => attention.multiply_adds_per_token(),
            SequenceMixer::Mamba(mamba) => mamba.multiply_adds_per_token(),
        };
        mixer
            + match &self.feed_forward {
                FeedForward::Mlp(mlp) => mlp.multiply_adds_per_token(),
                FeedForward::Experts(experts) => experts.multiply_adds_per_token(),
            }
    }
}

impl Decoder for Jamba {
    type Layer = Block;
    type Shared = ();

    fn arch(&self) -> &'static str {
        "jamba"
    }

    fn shared(&self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }
}
