//! GPT-2 (Radford et al., 2019), as Hugging Face's `GPT2LMHeadModel` computes it: learned positions, fused attention, weights stored as
//! [in, out]. The dropout of the base itself (`resid_pdrop` and its like) is not applied.

use crate::attention::Attend;
use crate::builder::Builder;
use crate::causal_lm::{CausalLm, Decoder, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::fused_attention::{FusedAttention, FusedLayout, FusedProjections};
use crate::layer::Residual;
use crate::mlp::{Mlp, MlpShape};
use crate::model::Model;
use crate::positions::{Counting, LearnedPositions};
use crate::slots::{PromptSlot, Visitor};
use crate::weights::Weights;
use peftbench_ops::Var;
use peftbench_spec::Role;
use serde::Deserialize;

/// The keys of `config.json` that matter here, by Hugging Face's names and with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Gpt2Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f64,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    add_cross_attention: bool,
    tie_word_embeddings: bool,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
        }
    }
}

/// What the frame lacks.
struct Gpt2 {
    positions: LearnedPositions,
}

/// Builds a GPT-2.
pub(crate) fn gpt2(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let names = [
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ];
    let parsed: Gpt2Config = config.parse_renamed(&names)?;
    if parsed.add_cross_attention {
        return Err(config.unsupported("`add_cross_attention` is true; only decoder-only models are supported"));
    }
    let (vocab, hidden, layers, eps) = (parsed.vocab_size, parsed.n_embd, parsed.n_layer, parsed.layer_norm_epsilon);
    let heads = config.heads(hidden, parsed.n_head, None, None)?;
    let unscaled = if parsed.scale_attn_weights { 1.0 } else { (heads.dim as f64).sqrt() };
    let projections = FusedProjections {
        input: "c_attn",
        output: "c_proj",
        layout: FusedLayout::Blocks,
        transposed: true,
        score_factor: unscaled,
        residual_terms: 2 * layers,
    };
    let shape = MlpShape {
        up: "c_fc",
        down: "c_proj",
        hidden,
        inner: parsed.n_inner.unwrap_or(4 * hidden),
        activation: config.activation(&parsed.activation_function)?,
        bias: true,
        transposed: true,
        residual_terms: 2 * layers,
    };
    let builder = Builder::new(weights);
    let block = |layer| {
        let builder = builder.layer(&format!("transformer.h.{layer}"), layer);
        let norm = |name| builder.layer_norm(name, hidden, eps);
        let score_factor = if parsed.scale_attn_by_inverse_layer_idx { unscaled / (layer + 1) as f64 } else { unscaled };
        let attn = builder.within("attn");
        let projections = FusedProjections { score_factor, ..projections };
        let attention = FusedAttention::new(&attn, Attend::new(&attn, layer, heads), projections)?;
        Ok((
            Residual::new(&builder, "attn", Role::OProj, norm("ln_1")?, attention),
            Residual::new(&builder, "mlp", Role::DownProj, norm("ln_2")?, Mlp::new(&builder.within("mlp"), shape)?),
        ))
    };
    Ok(Box::new(CausalLm {
        decoder: Gpt2 { positions: LearnedPositions::new(&builder, "transformer.wpe", parsed.n_positions, hidden, Counting::Index)? },
        embeddings: builder.embedding("transformer.wte", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: builder.layer_norm("transformer.ln_f", hidden, eps)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}

impl Decoder for Gpt2 {
    type Shared = ();

    fn arch(&self) -> &'static str {
        "gpt2"
    }

    fn shared(&self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }

    fn embed(&self, step: &Step<'_>, x: Var) -> Result<Var> {
        self.positions.add(step, &x)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.positions.visit_slots(visitor);
    }
}
