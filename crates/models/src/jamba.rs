//! Jamba (Lieber et al., 2024), as Hugging Face's `JambaForCausalLM` computes it: some layers attend, without positions, the others are
//! Mamba-1 with norms over dt, B and C; behind some of them is a mixture of experts, behind the others an MLP.

use crate::attention::{Projections, SelfAttention};
use crate::builder::Builder;
use crate::causal_lm::{CausalLm, Plain};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::experts::{Experts, ExpertsShape};
use crate::layer::{Layer, Residual};
use crate::mixer::{Mixer, MixerShape, SelectiveNorms};
use crate::mlp::GatedMlp;
use crate::model::Model;
use crate::slots::PromptSlot;
use crate::weights::Weights;
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
    let block = |layer| {
        let builder = builder.layer(&format!("model.layers.{layer}"), layer);
        Ok((sequence_mixer(&parsed, heads, shape, &builder, layer)?, feed_forward(&parsed, &builder, layer)?))
    };
    Ok(Box::new(CausalLm {
        decoder: Plain { arch: "jamba" },
        embeddings: builder.embedding("model.embed_tokens", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..parsed.num_hidden_layers).map(block).collect::<Result<_>>()?,
        norm: builder.rms_norm("model.final_layernorm", hidden, parsed.rms_norm_eps)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}

/// The part of a layer that mixes positions.
fn sequence_mixer(
    config: &JambaConfig,
    heads: Heads,
    shape: MixerShape,
    builder: &Builder<'_>,
    layer: usize,
) -> Result<Residual<Box<dyn Layer<()>>>> {
    let norm = |builder: &Builder<'_>, name, width| builder.rms_norm(name, width, config.rms_norm_eps);
    let input_norm = norm(builder, "input_layernorm", config.hidden_size)?;
    if config.attends(layer) {
        let residual_terms = config.residual_terms();
        let projections = Projections { qkv_bias: false, output_bias: false, output: "o_proj", residual_terms };
        let attention = SelfAttention::new(&builder.within("self_attn"), layer, config.hidden_size, heads, projections)?;
        return Ok(Residual::new(builder, "self_attn", Role::OProj, input_norm, Box::new(attention)));
    }
    let mamba = builder.within("mamba");
    let norms = SelectiveNorms {
        dt: norm(&mamba, "dt_layernorm", shape.rank)?,
        b: norm(&mamba, "b_layernorm", shape.state)?,
        c: norm(&mamba, "c_layernorm", shape.state)?,
    };
    let mixer = Mixer::new(&mamba, layer, shape, Some(norms))?;
    Ok(Residual::new(builder, "mamba", Role::OutProj, input_norm, Box::new(mixer)))
}

/// The part of a layer that computes each position by itself.
fn feed_forward(config: &JambaConfig, builder: &Builder<'_>, layer: usize) -> Result<Residual<Box<dyn Layer<()>>>> {
    let (hidden, inner, residual_terms) = (config.hidden_size, config.intermediate_size, config.residual_terms());
    let names = builder.within("feed_forward");
    let inner: Box<dyn Layer<()>> = match config.mixes_experts(layer) {
        false => Box::new(GatedMlp::new(&names, hidden, inner, false, residual_terms)?),
        true => {
            let (experts, active) = (config.num_experts, config.num_experts_per_tok);
            Box::new(Experts::new(&names, ExpertsShape { hidden, inner, experts, active, residual_terms })?)
        }
    };
    let norm = builder.rms_norm("pre_ff_layernorm", hidden, config.rms_norm_eps)?;
    Ok(Residual::new(builder, "feed_forward", Role::DownProj, norm, inner))
}
