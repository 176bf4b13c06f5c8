//! GPT-2 (Radford et al., 2019), as Hugging Face's `GPT2LMHeadModel` computes it: learned positions, fused attention, weights stored as
//! [in, out]. The dropout of the base itself (`resid_pdrop` and its like) is not applied.

use crate::attention::Attend;
use crate::builder::Builder;
use crate::cache::Cache;
use crate::causal_lm::{CausalLm, Decoder, Layer, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::fused_attention::{FusedAttention, FusedLayout, FusedProjections};
use crate::mlp::{Mlp, MlpShape};
use crate::model::Model;
use crate::norm::Norm;
use crate::positions::{Counting, LearnedPositions};
use crate::slots::{PromptSlot, SlotMut, SublayerSlot, Visitor};
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

struct Block {
    attention_norm: Norm,
    attention: FusedAttention,
    /// On the scores, besides 1 / √head_dim.
    score_factor: f64,
    attention_output: SublayerSlot,
    mlp_norm: Norm,
    mlp: Mlp,
    mlp_output: SublayerSlot,
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
    let projections =
        FusedProjections { input: "c_attn", output: "c_proj", layout: FusedLayout::Blocks, transposed: true, residual_terms: 2 * layers };
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
        let attention = builder.within("attn");
        let unscaled = if parsed.scale_attn_weights { 1.0 } else { (heads.dim as f64).sqrt() };
        Ok(Block {
            attention_norm: builder.layer_norm("ln_1", hidden, eps)?,
            attention: FusedAttention::new(&attention, Attend::new(&attention, layer, heads), projections)?,
            score_factor: if parsed.scale_attn_by_inverse_layer_idx { unscaled / (layer + 1) as f64 } else { unscaled },
            attention_output: SublayerSlot::new(builder.info("attn", Role::OProj)),
            mlp_norm: builder.layer_norm("ln_2", hidden, eps)?,
            mlp: Mlp::new(&builder.within("mlp"), shape)?,
            mlp_output: SublayerSlot::new(builder.info("mlp", Role::DownProj)),
        })
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

impl Layer for Block {
    type Shared = ();

    fn forward(&self, step: &Step<'_>, (): &(), x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (pass, tape) = (step.pass, step.pass.tape);
        let normed = self.attention_norm.forward(pass, x)?;
        let attended = self.attention.forward(step, &normed, self.score_factor, cache)?;
        let x = tape.add(x, &self.attention_output.forward(pass, &normed, attended)?)?;
        let normed = self.mlp_norm.forward(pass, &x)?;
        let output = self.mlp.forward(pass, &normed)?;
        Ok(tape.add(&x, &self.mlp_output.forward(pass, &normed, output)?)?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.attention_norm.visit_slots(visitor);
        self.attention.visit_slots(visitor);
        visitor(SlotMut::Sublayer(&mut self.attention_output));
        self.mlp_norm.visit_slots(visitor);
        self.mlp.visit_slots(visitor);
        visitor(SlotMut::Sublayer(&mut self.mlp_output));
    }

    fn multiply_adds_per_token(&self) -> usize {
        self.attention.multiply_adds_per_token() + self.mlp.multiply_adds_per_token()
    }
}

impl Decoder for Gpt2 {
    type Layer = Block;
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
