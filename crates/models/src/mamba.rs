//! Mamba-1 (Gu and Dao, 2023) and Falcon-Mamba (Zuo et al., 2024), which normalises dt, B and C, as Hugging Face's `MambaForCausalLM`
//! and `FalconMambaForCausalLM` compute them.

use crate::builder::Builder;
use crate::causal_lm::{CausalLm, Plain};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::layer::Residual;
use crate::mixer::{Mixer, MixerShape, SelectiveNorms};
use crate::model::Model;
use crate::norm::Norm;
use crate::slots::PromptSlot;
use crate::weights::Weights;
use peftbench_spec::Role;
use serde::Deserialize;
use serde_json::Value;

/// The keys of `config.json` that matter here, by Hugging Face's names.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct MambaConfig {
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
    time_step_rank: Option<Value>,
    #[serde(default)]
    use_bias: bool,
    #[serde(default = "defaults::yes")]
    use_conv_bias: bool,
    #[serde(default = "defaults::epsilon")]
    layer_norm_epsilon: f64,
    /// Of Falcon-Mamba only.
    #[serde(default = "defaults::mixer_epsilon")]
    mixer_rms_eps: f64,
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
    pub fn mixer_epsilon() -> f64 {
        1e-6
    }
    pub fn yes() -> bool {
        true
    }
}

/// Builds a Mamba-1.
pub(crate) fn mamba(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    build("mamba", config, &config.parse()?, weights)
}

/// Builds a Falcon-Mamba.
pub(crate) fn falcon_mamba(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    build("falcon_mamba", config, &config.parse()?, weights)
}

fn build(arch: &'static str, config: &ModelConfig, parsed: &MambaConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let (vocab, hidden, layers) = (parsed.vocab_size, parsed.hidden_size, parsed.num_hidden_layers);
    let shape = MixerShape {
        hidden,
        inner: parsed.intermediate_size.unwrap_or(parsed.expand * hidden),
        state: parsed.state_size,
        taps: parsed.conv_kernel,
        rank: config.time_step_rank(parsed.time_step_rank.as_ref(), hidden)?,
        bias: parsed.use_bias,
        conv_bias: parsed.use_conv_bias,
        residual_terms: layers,
    };
    let norms = || {
        let norm = || Norm::UnweightedRms { eps: parsed.mixer_rms_eps };
        (arch == "falcon_mamba").then(|| SelectiveNorms { dt: norm(), b: norm(), c: norm() })
    };
    let builder = Builder::new(weights);
    let block = |layer| {
        let builder = builder.layer(&format!("backbone.layers.{layer}"), layer);
        let norm = builder.rms_norm("norm", hidden, parsed.layer_norm_epsilon)?;
        let mixer = Mixer::new(&builder.within("mixer"), layer, shape, norms())?;
        Ok(Residual::new(&builder, "mixer", Role::OutProj, norm, mixer))
    };
    Ok(Box::new(CausalLm {
        decoder: Plain { arch },
        embeddings: builder.embedding("backbone.embeddings", vocab, hidden)?,
        prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden),
        layers: (0..layers).map(block).collect::<Result<_>>()?,
        norm: builder.rms_norm("backbone.norm_f", hidden, parsed.layer_norm_epsilon)?,
        head: builder.head(parsed.tie_word_embeddings, vocab, hidden)?,
    }))
}
