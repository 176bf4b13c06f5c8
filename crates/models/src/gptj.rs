//! GPT-J (Wang and Komatsuzaki, 2021), as Hugging Face's `GPTJForCausalLM` computes it: attention and MLP side by side behind one layer
//! norm, queries and keys rotated in part. The dropout of the base itself (`resid_pdrop` and its like) is not applied.

use crate::attention::{Projections, SelfAttention};
use crate::builder::{Builder, LinearSpec};
use crate::cache::Cache;
use crate::causal_lm::{CausalLm, Decoder, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::mlp::{Mlp, MlpShape};
use crate::model::Model;
use crate::norm::Norm;
use crate::rotary::Rotary;
use crate::slots::{PromptSlot, SlotMut, SublayerSlot, Visitor};
use crate::weights::Weights;
use peftbench_ops::Var;
use peftbench_ops::rotary::{RotaryLayout, RotaryTables};
use peftbench_spec::Role;
use serde::Deserialize;

/// The keys of `config.json` that matter here, by Hugging Face's names and with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct GptjConfig {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    rotary_dim: Option<usize>,
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f64,
    tie_word_embeddings: bool,
}

impl Default for GptjConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_400,
            n_embd: 4096,
            n_layer: 28,
            n_head: 16,
            rotary_dim: Some(64),
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: false,
        }
    }
}

/// What the frame lacks.
struct Gptj {
    rotary: Rotary,
}

struct Block {
    norm: Norm,
    attention: SelfAttention,
    attention_output: SublayerSlot,
    mlp: Mlp,
    mlp_output: SublayerSlot,
}

/// Builds a GPT-J.
pub(crate) fn gptj(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let names = [("hidden_size", "n_embd"), ("num_attention_heads", "n_head"), ("num_hidden_layers", "n_layer")];
    let parsed: GptjConfig = config.parse_renamed(&names)?;
    let (vocab, hidden, layers, eps) = (parsed.vocab_size, parsed.n_embd, parsed.n_layer, parsed.layer_norm_epsilon);
    let heads = config.heads(hidden, parsed.n_head, None, None)?;
    let rotated = match parsed.rotary_dim {
        Some(dim) if dim <= heads.dim && dim.is_multiple_of(2) => dim,
        other => {
            let found = other.map_or_else(|| "null".to_owned(), |dim| dim.to_string());
            return Err(config.unsupported(format!("`rotary_dim` is {found}; expected an even number up to the head's {}", heads.dim)));
        }
    };
    let projections = Projections { qkv_bias: false, output_bias: false, output: "out_proj", residual_terms: 2 * layers };
    let shape = MlpShape {
        up: "fc_in",
        down: "fc_out",
        hidden,
        inner: parsed.n_inner.unwrap_or(4 * hidden),
        activation: config.activation(&parsed.activation_function)?,
        bias: true,
        transposed: false,
        residual_terms: 2 * layers,
    };
    let builder = Builder::new(weights);
    let block = |layer| {
        let builder = builder.layer(&format!("transformer.h.{layer}"), layer);
        Ok(Block {
            norm: builder.layer_norm("ln_1", hidden, eps)?,
            attention: SelfAttention::new(&builder.within("attn"), layer, hidden, heads, projections)?,
            attention_output: SublayerSlot::new(builder.info("attn", Role::OProj)),
            mlp: Mlp::new(&builder.within("mlp"), shape)?,
            mlp_output: SublayerSlot::new(builder.info("mlp", Role::DownProj)),
        })
    };
    // Unlike most heads, GPT-J's has a bias.
    let head = || builder.linear("lm_head", Role::LmHead, LinearSpec::new(vocab, hidden).bias(true));
    if parsed.tie_word_embeddings {
        return Err(config.unsupported("`tie_word_embeddings` is true; the head of a GPT-J has a bias and a weight of its own"));
    }
    Ok(Box::new(CausalLm {
        decoder: Gptj { rotary: Rotary::new(10_000.0, rotated, RotaryLayout::Interleaved) },
        embeddings: builder.embedding("transformer.wte", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: builder.layer_norm("transformer.ln_f", hidden, eps)?,
        head: Some(head()?),
    }))
}

impl Part for Block {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.norm.visit_slots(visitor);
        self.attention.visit_slots(visitor);
        visitor(SlotMut::Sublayer(&mut self.attention_output));
        self.mlp.visit_slots(visitor);
        visitor(SlotMut::Sublayer(&mut self.mlp_output));
    }

    fn multiply_adds_per_token(&self) -> usize {
        self.attention.multiply_adds_per_token() + self.mlp.multiply_adds_per_token()
    }
}

impl Layer<RotaryTables> for Block {
    fn forward(&self, step: &Step<'_>, rotary: &RotaryTables, x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (pass, tape) = (step.pass, step.pass.tape);
        let normed = self.norm.forward(pass, x)?;
        let attended = self.attention.forward(step, rotary, &normed, cache)?;
        let attended = self.attention_output.forward(pass, &normed, attended)?;
        let output = self.mlp.forward(step, rotary, &normed, None)?;
        let output = self.mlp_output.forward(pass, &normed, output)?;
        Ok(tape.add(&tape.add(&attended, &output)?, x)?)
    }
}

impl Decoder for Gptj {
    type Shared = RotaryTables;

    fn arch(&self) -> &'static str {
        "gptj"
    }

    fn shared(&self, step: &Step<'_>) -> Result<RotaryTables> {
        Ok(self.rotary.tables(&step.positions(), step.device)?)
    }
}
