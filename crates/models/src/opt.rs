//! OPT (Zhang et al., 2022), as Hugging Face's `OPTForCausalLM` computes it: learned positions that padding does not count for, norms in
//! front of the sub-layers or, in OPT-350m, behind them. The dropout of the base itself (`dropout` and its like) is not applied.

use crate::attention::{Projections, SelfAttention};
use crate::builder::{Builder, LinearSpec};
use crate::causal_lm::{CausalLm, Decoder, Step};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::layer::{Form, Residual};
use crate::mlp::{Mlp, MlpShape};
use crate::model::Model;
use crate::norm::Norm;
use crate::pass::Pass;
use crate::positions::{Counting, LearnedPositions};
use crate::slots::{LinearSlot, PromptSlot, Visitor, visit_linear};
use crate::weights::Weights;
use peftbench_ops::Var;
use peftbench_spec::Role;
use serde::Deserialize;

/// Epsilon of every norm: PyTorch's, as the config has no key for it.
const EPSILON: f64 = 1e-5;

/// The keys of `config.json` that matter here, by Hugging Face's names and with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct OptConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    ffn_dim: usize,
    max_position_embeddings: usize,
    do_layer_norm_before: bool,
    #[serde(rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: bool,
    word_embed_proj_dim: Option<usize>,
    num_attention_heads: usize,
    activation_function: String,
    enable_bias: bool,
    layer_norm_elementwise_affine: bool,
    tie_word_embeddings: bool,
}

impl Default for OptConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_272,
            hidden_size: 768,
            num_hidden_layers: 12,
            ffn_dim: 3072,
            max_position_embeddings: 2048,
            do_layer_norm_before: true,
            remove_final_layer_norm: false,
            word_embed_proj_dim: None,
            num_attention_heads: 12,
            activation_function: "relu".to_owned(),
            enable_bias: true,
            layer_norm_elementwise_affine: true,
            tie_word_embeddings: true,
        }
    }
}

impl OptConfig {
    fn norm(&self, builder: &Builder<'_>, name: &str) -> Result<Norm> {
        match self.layer_norm_elementwise_affine {
            true => builder.layer_norm(name, self.hidden_size, EPSILON),
            false => Ok(Norm::Layer { affine: None, eps: EPSILON }),
        }
    }
}

/// What the frame lacks.
struct Opt {
    positions: LearnedPositions,
    /// From the embedding's width to that of the residual stream, where they differ.
    project_in: Option<LinearSlot>,
    /// Back again, before the head.
    project_out: Option<LinearSlot>,
}

/// Builds an OPT.
pub(crate) fn opt(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let parsed: OptConfig = config.parse()?;
    let (vocab, hidden, layers) = (parsed.vocab_size, parsed.hidden_size, parsed.num_hidden_layers);
    let embedded = parsed.word_embed_proj_dim.unwrap_or(hidden);
    let all = Builder::new(weights);
    let builder = all.within("model.decoder");
    let project =
        |name, role, out, input| (embedded != hidden).then(|| builder.linear(name, role, LinearSpec::new(out, input))).transpose();
    let (bias, residual_terms) = (parsed.enable_bias, 2 * layers);
    let heads = config.heads(hidden, parsed.num_attention_heads, None, None)?;
    let projections = Projections { qkv_bias: bias, output_bias: bias, output: "out_proj", residual_terms };
    let shape = MlpShape {
        up: "fc1",
        down: "fc2",
        hidden,
        inner: parsed.ffn_dim,
        activation: config.activation(&parsed.activation_function)?,
        bias,
        transposed: false,
        residual_terms,
    };
    let form = if parsed.do_layer_norm_before { Form::Before } else { Form::Behind };
    let block = |layer| {
        let builder = builder.layer(&format!("layers.{layer}"), layer);
        let attention = SelfAttention::new(&builder.within("self_attn"), layer, hidden, heads, projections)?;
        let (attention_norm, mlp_norm) = (parsed.norm(&builder, "self_attn_layer_norm")?, parsed.norm(&builder, "final_layer_norm")?);
        Ok((
            Residual::new(&builder, "self_attn", Role::OProj, attention_norm, attention).form(form),
            Residual::new(&builder, "mlp", Role::DownProj, mlp_norm, Mlp::new(&builder, shape)?).form(form),
        ))
    };
    let last_norm = parsed.do_layer_norm_before && !parsed.remove_final_layer_norm;
    Ok(Box::new(CausalLm {
        decoder: Opt {
            positions: LearnedPositions::new(
                &builder,
                "embed_positions",
                parsed.max_position_embeddings,
                hidden,
                Counting::WithoutPadding,
            )?,
            project_in: project("project_in", Role::InProj, hidden, embedded)?,
            project_out: project("project_out", Role::OutProj, embedded, hidden)?,
        },
        embeddings: builder.embedding("embed_tokens", vocab, embedded)?,
        prompt: PromptSlot::new(all.info("prompt", Role::Prompt), embedded),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: if last_norm { parsed.norm(&builder, "final_layer_norm")? } else { Norm::Identity },
        head: all.head(parsed.tie_word_embeddings, vocab, embedded)?,
    }))
}

impl Decoder for Opt {
    type Shared = ();

    fn arch(&self) -> &'static str {
        "opt"
    }

    fn shared(&self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }

    fn embed(&self, step: &Step<'_>, x: Var) -> Result<Var> {
        let x = self.project_in.as_ref().map_or(Ok(x.clone()), |project| project.forward(step.pass, &x))?;
        self.positions.add(step, &x)
    }

    fn head_input(&self, pass: &Pass<'_>, x: Var) -> Result<Var> {
        Ok(self.project_out.as_ref().map_or(Ok(x.clone()), |project| project.forward(pass, &x))?)
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.positions.visit_slots(visitor);
        for project in [&mut self.project_in, &mut self.project_out].into_iter().flatten() {
            visit_linear(project, visitor);
        }
    }
}
