//! BLOOM (BigScience, 2022), as Hugging Face's `BloomForCausalLM` computes it: ALiBi in place of positions, a norm behind the embedding,
//! fused attention. The dropout of the base itself (`hidden_dropout` and its like) is not applied.

use crate::attention::Attend;
use crate::builder::Builder;
use crate::causal_lm::{CausalLm, Decoder, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::fused_attention::{FusedAttention, FusedLayout, FusedProjections};
use crate::layer::{Form, Residual};
use crate::mlp::{Mlp, MlpShape};
use crate::model::Model;
use crate::norm::Norm;
use crate::slots::{PromptSlot, Visitor};
use crate::weights::Weights;
use peftbench_ops::Var;
use peftbench_ops::activation::Activation;
use peftbench_spec::Role;
use serde::Deserialize;

/// The keys of `config.json` that matter here, by Hugging Face's names and with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct BloomConfig {
    vocab_size: usize,
    hidden_size: usize,
    n_layer: usize,
    n_head: usize,
    layer_norm_epsilon: f64,
    apply_residual_connection_post_layernorm: bool,
    tie_word_embeddings: bool,
}

impl Default for BloomConfig {
    fn default() -> Self {
        Self {
            vocab_size: 250_880,
            hidden_size: 64,
            n_layer: 2,
            n_head: 8,
            layer_norm_epsilon: 1e-5,
            apply_residual_connection_post_layernorm: false,
            tie_word_embeddings: true,
        }
    }
}

/// What the frame lacks.
struct Bloom {
    embedding_norm: Norm,
}

/// Builds a BLOOM.
pub(crate) fn bloom(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let names = [("n_embed", "hidden_size"), ("num_attention_heads", "n_head"), ("num_hidden_layers", "n_layer")];
    let parsed: BloomConfig = config.parse_renamed(&names)?;
    let (vocab, hidden, layers, eps) = (parsed.vocab_size, parsed.hidden_size, parsed.n_layer, parsed.layer_norm_epsilon);
    let heads = config.heads(hidden, parsed.n_head, None, None)?;
    let projections = FusedProjections {
        input: "query_key_value",
        output: "dense",
        layout: FusedLayout::Heads,
        transposed: false,
        score_factor: 1.0,
        residual_terms: 2 * layers,
    };
    let shape = MlpShape {
        up: "dense_h_to_4h",
        down: "dense_4h_to_h",
        hidden,
        inner: 4 * hidden,
        activation: Activation::GeluTanh,
        bias: true,
        transposed: false,
        residual_terms: 2 * layers,
    };
    let form = if parsed.apply_residual_connection_post_layernorm { Form::BeforeBoth } else { Form::Before };
    let builder = Builder::new(weights);
    let block = |layer| {
        let builder = builder.layer(&format!("transformer.h.{layer}"), layer);
        let norm = |name| builder.layer_norm(name, hidden, eps);
        let names = builder.within("self_attention");
        let attend = Attend::new(&names, layer, heads).with_alibi(alibi_slopes(heads.query));
        let attention = FusedAttention::new(&names, attend, projections)?;
        let mlp = Mlp::new(&builder.within("mlp"), shape)?;
        Ok((
            Residual::new(&builder, "self_attention", Role::OProj, norm("input_layernorm")?, attention).form(form),
            Residual::new(&builder, "mlp", Role::DownProj, norm("post_attention_layernorm")?, mlp).form(form),
        ))
    };
    Ok(Box::new(CausalLm {
        decoder: Bloom { embedding_norm: builder.layer_norm("transformer.word_embeddings_layernorm", hidden, eps)? },
        embeddings: builder.embedding("transformer.word_embeddings", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: builder.layer_norm("transformer.ln_f", hidden, eps)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}

/// A slope for each head (Press et al., 2022): 2^(−8/n), 2^(−16/n), … for n = 2^k heads; further heads take every other slope of 2n.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = 1 << heads.ilog2();
    let slope = |n: usize, i: usize| (-8.0 * i as f64 / n as f64).exp2() as f32;
    let further = (0..heads - power).map(|i| slope(2 * power, 2 * i + 1));
    (1..=power).map(|i| slope(power, i)).chain(further).collect()
}

impl Decoder for Bloom {
    type Shared = ();

    fn arch(&self) -> &'static str {
        "bloom"
    }

    fn shared(&self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }

    fn embed(&self, step: &Step<'_>, x: Var) -> Result<Var> {
        Ok(self.embedding_norm.forward(step.pass, &x)?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.embedding_norm.visit_slots(visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `_get_alibi_slopes` of transformers 5.23.
    #[test]
    fn slopes_are_hugging_faces() {
        let sqrt = std::f32::consts::FRAC_1_SQRT_2;
        let expected: [&[f32]; 4] = [
            &[0.003_906_25],
            &[0.25, 0.0625, 0.015_625, 0.003_906_25],
            &[0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125],
            &[0.5, 0.25, 0.125, 0.0625, 0.031_25, 0.015_625, 0.007_812_5, 0.003_906_25, sqrt, sqrt / 2.0, sqrt / 4.0, sqrt / 8.0],
        ];
        for expected in expected {
            assert_eq!(alibi_slopes(expected.len()), expected);
        }
    }
}
