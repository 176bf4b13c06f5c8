//! The LLaMA family (Touvron et al., 2023; Qwen2 is LLaMA with biases), as Hugging Face's `LlamaForCausalLM` and `Qwen2ForCausalLM`
//! compute it: RMSNorm, rotary grouped-query attention, SwiGLU.

use crate::attention::{Projections, SelfAttention};
use crate::builder::Builder;
use crate::causal_lm::{CausalLm, Decoder, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::layer::Residual;
use crate::mlp::GatedMlp;
use crate::model::Model;
use crate::rotary::Rotary;
use crate::slots::PromptSlot;
use crate::weights::Weights;
use peftbench_ops::rotary::RotaryTables;
use peftbench_spec::Role;
use serde::Deserialize;
use serde_json::Value;

/// The keys of `config.json` that matter here, by Hugging Face's names.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LlamaConfig {
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
    use_sliding_window: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn default_epsilon() -> f64 {
    1e-6
}

/// What the frame lacks.
struct Llama {
    arch: &'static str,
    rotary: Rotary,
}

/// Builds a LLaMA.
pub(crate) fn llama(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let parsed: LlamaConfig = config.parse()?;
    let biases = (parsed.attention_bias, parsed.attention_bias);
    build("llama", config, &parsed, biases, weights)
}

/// Builds a Qwen2: queries, keys and values always have a bias, the output never.
pub(crate) fn qwen2(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let parsed: LlamaConfig = config.parse()?;
    if parsed.use_sliding_window {
        return Err(config.unsupported("`use_sliding_window` is true; only full attention is supported"));
    }
    build("qwen2", config, &parsed, (true, false), weights)
}

fn build(
    arch: &'static str,
    config: &ModelConfig,
    parsed: &LlamaConfig,
    (qkv_bias, output_bias): (bool, bool),
    weights: &dyn Weights,
) -> Result<Box<dyn Model>> {
    let (vocab, hidden, layers) = (parsed.vocab_size, parsed.hidden_size, parsed.num_hidden_layers);
    let heads = config.heads(hidden, parsed.num_attention_heads, parsed.num_key_value_heads, parsed.head_dim)?;
    let scaling = parsed.rope_parameters.as_ref().or(parsed.rope_scaling.as_ref());
    let theta = parsed.rope_theta.or_else(|| scaling?.get("rope_theta")?.as_f64()).unwrap_or(10_000.0);
    let rotary = Rotary::scaled(theta, heads.dim, scaling).map_err(|problem| config.unsupported(problem))?;
    let builder = Builder::new(weights);
    let projections = Projections { qkv_bias, output_bias, output: "o_proj", residual_terms: 2 * layers };
    let block = |layer| {
        let builder = builder.layer(&format!("model.layers.{layer}"), layer);
        let norm = |name| builder.rms_norm(name, hidden, parsed.rms_norm_eps);
        let attention = SelfAttention::new(&builder.within("self_attn"), layer, hidden, heads, projections)?;
        let mlp = GatedMlp::new(&builder.within("mlp"), hidden, parsed.intermediate_size, parsed.mlp_bias, 2 * layers)?;
        Ok((
            Residual::new(&builder, "self_attn", Role::OProj, norm("input_layernorm")?, attention),
            Residual::new(&builder, "mlp", Role::DownProj, norm("post_attention_layernorm")?, mlp),
        ))
    };
    Ok(Box::new(CausalLm {
        decoder: Llama { arch, rotary },
        embeddings: builder.embedding("model.embed_tokens", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: builder.rms_norm("model.norm", hidden, parsed.rms_norm_eps)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}

impl Decoder for Llama {
    type Shared = RotaryTables;

    fn arch(&self) -> &'static str {
        self.arch
    }

    fn shared(&self, step: &Step<'_>) -> Result<RotaryTables> {
        Ok(self.rotary.tables(&step.positions(), step.device)?)
    }
}
