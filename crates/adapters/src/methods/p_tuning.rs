//! P-tuning (Liu et al., 2021, "GPT understands, too"): virtual tokens in front of the input that a small network makes of trained embeddings.
//!
//! The network is one of Hugging Face's two: an MLP with two hidden layers and ReLU, or, as in the paper, a bidirectional LSTM and an MLP
//! with one. A step keeps its activations for the virtual tokens, and what the layers keep for longer sequences.

use super::Options;
use super::encoder::{Between, Encoder, PROMPT_KEYS, has_network};
use super::initializer::Initializer;
use super::parts::{at_least_one, attach_prompt, dropout_rate, entries};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::slots::PromptAdapter;
use peftbench_models::{Network, Pass};
use peftbench_ops::Var;
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PTuning {
    /// Virtual tokens.
    pub num_virtual_tokens: usize,
    /// The network: `"MLP"` or `"LSTM"`.
    pub encoder_reparameterization_type: Reparameterization,
    /// Width of the hidden layers, or of the LSTM's state; the model's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM; 2 where absent. The MLP has no choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_num_layers: Option<usize>,
    /// Dropout between the LSTM's layers; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_dropout: Option<f64>,
}

/// The network between embeddings and virtual tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reparameterization {
    /// Three linear layers with ReLU between them.
    #[serde(rename = "MLP")]
    Mlp,
    /// A bidirectional LSTM, and two linear layers with ReLU between them.
    #[serde(rename = "LSTM")]
    Lstm,
}

impl Default for PTuning {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 16,
            encoder_reparameterization_type: Reparameterization::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: None,
            encoder_dropout: None,
        }
    }
}

impl Options for PTuning {
    const PEFT_TYPE: Option<&'static str> = Some("P_TUNING");
    const IGNORED: &'static [&'static str] = &PROMPT_KEYS;

    fn from_peft(config: &Map<String, Value>) -> Map<String, Value> {
        let is_lstm = config.get("encoder_reparameterization_type").is_some_and(|found| found == "LSTM");
        let own: &[&str] = if is_lstm { &["encoder_num_layers", "encoder_dropout"] } else { &[] };
        entries(config, &[&["num_virtual_tokens", "encoder_reparameterization_type", "encoder_hidden_size"], own].concat())
    }

    /// Only with the network, which Hugging Face does not save: without it the outcome is a tuned prompt.
    fn recognises(config: &Map<String, Value>) -> bool {
        config.get("peft_type").is_some_and(|found| found == "P_TUNING") && has_network(config)
    }

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)?;
        at_least_one("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))?;
        at_least_one("encoder_num_layers", self.encoder_num_layers.unwrap_or(1))?;
        dropout_rate("encoder_dropout", self.encoder_dropout.unwrap_or(0.0))?;
        let of_the_lstm = [("encoder_num_layers", self.encoder_num_layers.is_some()), ("encoder_dropout", self.encoder_dropout.is_some())];
        match (self.encoder_reparameterization_type, of_the_lstm.into_iter().find(|(_, given)| *given)) {
            (Reparameterization::Mlp, Some((key, _))) => {
                Err(SpecError::at(key, "is the LSTM's; set `encoder_reparameterization_type = \"LSTM\"`, or leave it out"))
            }
            _ => Ok(()),
        }
    }
}

struct VirtualTokens(Encoder);

impl PromptAdapter for VirtualTokens {
    fn virtual_tokens(&self) -> usize {
        self.0.tokens()
    }

    fn embeddings(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Var> {
        self.0.all(pass)
    }
}

/// Layers of the LSTM, where the options do not say.
const LSTM_LAYERS: usize = 2;

impl PTuning {
    fn encoder(&self, (tokens, width): (usize, usize), hidden: usize, init: &mut Initializer<'_>) -> Result<Encoder> {
        let network = |widths: &[usize], init: &mut Initializer<'_>| {
            Encoder::network("prompt_embeddings", "mlp_head", (tokens, width), widths, Between::Relu, init)
        };
        match self.encoder_reparameterization_type {
            Reparameterization::Mlp => network(&[width, hidden, hidden, width], init),
            Reparameterization::Lstm => {
                let (layers, dropout) = (self.encoder_num_layers.unwrap_or(LSTM_LAYERS), self.encoder_dropout.unwrap_or(0.0));
                network(&[2 * hidden, 2 * hidden, width], init)?.with_lstm(layers, hidden, dropout, init)
            }
        }
    }
}

impl Method for PTuning {
    /// The prompt is one place of the whole model: targets and layers have nothing to select.
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::default()
    }

    fn starts_as_base(&self) -> bool {
        false
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let (tokens, width) = (self.num_virtual_tokens, model.hidden_size());
        let hidden = self.encoder_hidden_size.unwrap_or(width);
        let init = &mut Initializer::of(model, context.init);
        let encoder = self.encoder((tokens, width), hidden, init)?;
        let params = attach_prompt(model, encoder.params(), || Box::new(VirtualTokens(encoder.clone())));
        let peft_config = json!({
            "peft_type": "P_TUNING",
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": tokens,
            "token_dim": width,
            "num_layers": model.num_layers(),
            "num_attention_heads": 1,
            "num_transformer_submodules": 1,
            "encoder_reparameterization_type": self.encoder_reparameterization_type,
            "encoder_hidden_size": hidden,
            "encoder_num_layers": self.encoder_num_layers.unwrap_or(LSTM_LAYERS),
            "encoder_dropout": self.encoder_dropout.unwrap_or(0.0),
            "network": true,
            "inference_mode": true,
        });
        Ok(Attachment { forms: vec![Arc::new(encoder)], ..Attachment::new(params, peft_config) })
    }
}
