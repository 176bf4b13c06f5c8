//! Prefix tuning (Li and Liang, 2021): trained virtual tokens in front of what each layer mixes.
//!
//! In an attention layer they are keys and values, as Hugging Face has them: the tokens' positions begin behind the prefix, whose keys are not
//! rotated. In an SSM layer (arXiv 2410.09016, section 4) they are inputs of its convolution and scan, whose outputs are dropped: what they
//! leave is a state and a convolution context. In Mamba-1 these inputs are u; Mamba-2 takes x, B, C and dt from one projection, and so has
//! all four of each virtual token. With `prefix_projection` a network of two layers makes the prefix of trained embeddings.
//!
//! A step keeps what attention or scan keep for longer sequences, and the network's activations for the virtual tokens.

use super::Options;
use super::encoder::{Between, Encoder, PROMPT_KEYS, has_network};
use super::initializer::Initializer;
use super::parts::{at_least_one, entries, unsupported};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, FileForm, Method};
use peftbench_models::slots::{PrefixAdapter, SlotMut, StateAdapter};
use peftbench_models::{Network, Pass};
use peftbench_ops::Var;
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixTuning {
    /// Virtual tokens.
    pub num_virtual_tokens: usize,
    /// Whether a network makes the prefix: linear, tanh, linear.
    pub prefix_projection: bool,
    /// Width of the network's hidden layer; that of its embeddings where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// `"zero"` to start at zeros; otherwise at standard normal values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_weights: Option<Start>,
}

/// The start of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// All values are 0.
    Zero,
}

impl Default for PrefixTuning {
    fn default() -> Self {
        Self { num_virtual_tokens: 16, prefix_projection: false, encoder_hidden_size: None, init_weights: None }
    }
}

impl Options for PrefixTuning {
    const PEFT_TYPE: Option<&'static str> = Some("PREFIX_TUNING");
    const IGNORED: &'static [&'static str] = &PROMPT_KEYS;

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)?;
        at_least_one("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))
    }

    /// Hugging Face saves only what the network has made, which is a prefix without one.
    fn from_peft(config: &Map<String, Value>) -> Map<String, Value> {
        let network: &[&str] = if has_network(config) { &["prefix_projection", "encoder_hidden_size"] } else { &[] };
        entries(config, &[&["num_virtual_tokens"], network].concat())
    }
}

/// Where one layer's prefix lies in the outcome.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    width: usize,
    attention: bool,
}

/// The prefix of one layer.
struct LayerPrefix {
    encoder: Arc<Encoder>,
    place: Place,
}

impl PrefixAdapter for LayerPrefix {
    fn keys_values(&self, pass: &Pass<'_>) -> peftbench_ops::Result<(Var, Var)> {
        let Place { start, width, .. } = self.place;
        let both = self.encoder.columns(pass, start, 2 * width)?;
        Ok((pass.tape.narrow(&both, 1, 0, width)?, pass.tape.narrow(&both, 1, width, width)?))
    }
}

impl StateAdapter for LayerPrefix {
    fn virtual_inputs(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        self.encoder.columns(pass, self.place.start, self.place.width).map(Some)
    }
}

impl PrefixTuning {
    fn encoder(&self, places: &[Place], hidden: usize, init: &mut Initializer<'_>) -> Result<Encoder> {
        let total: usize = places.iter().map(|place| place.width * if place.attention { 2 } else { 1 }).sum();
        let tokens = self.num_virtual_tokens;
        let encoder = if self.prefix_projection {
            // Embeddings are as wide as the keys, as Hugging Face has it; in a model without attention as the residual stream.
            let width = places.iter().find(|place| place.attention).map_or(hidden, |place| place.width);
            let widths = [width, self.encoder_hidden_size.unwrap_or(width), total];
            Encoder::network("prompt_embeddings", "transform", (tokens, width), &widths, Between::Tanh, init)?
        } else {
            Encoder::plain("prompt_embeddings", init.normal((tokens, total), 1.0)?)
        };
        if self.init_weights == Some(Start::Zero) { encoder.zeroed() } else { Ok(encoder) }
    }

    fn config(&self, places: &[Place], layers: Option<Vec<usize>>) -> Value {
        let width = places.first().map_or(0, |place| place.width);
        json!({
            "peft_type": "PREFIX_TUNING",
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": self.num_virtual_tokens,
            "token_dim": width,
            "num_layers": places.len(),
            "num_attention_heads": 1,
            "num_transformer_submodules": 1,
            "prefix_projection": self.prefix_projection,
            "encoder_hidden_size": self.encoder_hidden_size.unwrap_or(width),
            "network": self.prefix_projection,
            "layers_to_transform": layers,
            "inference_mode": true,
        })
    }
}

impl Method for PrefixTuning {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Prefix, SlotKind::State]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["*"])
    }

    fn starts_as_base(&self) -> bool {
        false
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let is_chosen = |path: &str| context.chosen.iter().any(|c| c.slot == path);
        let mut places: Vec<Place> = Vec::new();
        let mut refused = None;
        model.visit_slots(&mut |slot| {
            let (width, attention) = match &slot {
                SlotMut::Prefix(slot) if is_chosen(&slot.info.path) => (slot.width, true),
                SlotMut::State(slot) if is_chosen(&slot.info.path) => (slot.extensions.virtual_width, false),
                _ => return,
            };
            let start = places.last().map_or(0, |p| p.start + p.width * if p.attention { 2 } else { 1 });
            places.push(Place { start, width, attention });
            if let SlotMut::State(slot) = slot
                && slot.extensions.virtual_width == 0
            {
                refused.get_or_insert_with(|| slot.info.path.clone());
            }
        });
        if let Some(path) = refused {
            return Err(unsupported("prefix", format!("the layer of `{path}` takes no virtual inputs; take it away with `!`")));
        }
        let encoder = Arc::new(self.encoder(&places, model.hidden_size(), &mut Initializer::of(model, context.init))?);
        let is_chosen = |path: &str| context.chosen.iter().any(|c| c.slot == path);
        let mut next = places.iter();
        model.visit_slots(&mut |slot| {
            let mut prefix = || next.next().map(|&place| LayerPrefix { encoder: encoder.clone(), place });
            match slot {
                SlotMut::Prefix(slot) if is_chosen(&slot.info.path) => prefix().into_iter().for_each(|p| slot.attach(Box::new(p))),
                SlotMut::State(slot) if is_chosen(&slot.info.path) => prefix().into_iter().for_each(|p| slot.attach(Box::new(p))),
                SlotMut::Prompt(slot) if places.iter().any(|place| place.attention) => slot.prefix_tokens = self.num_virtual_tokens,
                _ => {}
            }
        });
        let layers: Vec<usize> = context.chosen.iter().filter_map(|c| c.layer).collect();
        let layers = (layers.len() < model.num_layers()).then_some(layers);
        let matched_by = context.chosen.first().map_or_else(String::new, |c| c.matched_by.clone());
        let listed = |param| AdapterParam { added: true, ..AdapterParam::own(param, None, matched_by.clone()) };
        let params = encoder.params().into_iter().map(listed).collect();
        let forms: Vec<Arc<dyn FileForm>> = if encoder.has_network() { vec![encoder.clone()] } else { Vec::new() };
        Ok(Attachment { forms, ..Attachment::new(params, self.config(&places, layers)) })
    }
}
