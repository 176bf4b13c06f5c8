//! The model trait, the table of architectures, and loading.

use crate::bloom::{BloomConfig, bloom};
use crate::cache::Cache;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::gguf::GgufFile;
use crate::gpt2::{Gpt2Config, gpt2};
use crate::gptj::{GptjConfig, gptj};
use crate::jamba::{JambaConfig, jamba};
use crate::listing::keys_of;
use crate::llama::{LlamaConfig, llama, qwen2};
use crate::mamba::{MambaConfig, falcon_mamba, mamba};
use crate::mamba2::{Mamba2Config, mamba2};
use crate::opt::{OptConfig, opt};
use crate::pass::Pass;
use crate::s4d::{S4D, S4d};
use crate::slots::{LinearSlot, Prepared, SlotMut, Visitor};
use crate::weights::Weights;
use peftbench_ops::cross_entropy::label_log_probs;
use peftbench_ops::device::host;
use peftbench_ops::{Device, Param, Tape, Tensor, Var};
use peftbench_spec::{Candidate, suggest};
use std::path::Path;

/// Anything of layers and slots, whatever it reads.
pub trait Network: Send + Sync {
    /// `model_type` of its config.
    fn arch(&self) -> &'static str;

    /// Number of layers.
    fn num_layers(&self) -> usize;

    /// Width of the residual stream.
    fn hidden_size(&self) -> usize;

    /// Shows every slot to the visitor, in a fixed order.
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>);

    /// Multiply-adds a token, or a step of the sequence, of one forward pass, without the head and what depends on the sequence's length.
    fn multiply_adds_per_token(&self) -> u64;

    /// Everything a target expression may match, in slot order.
    fn candidates(&mut self) -> Vec<Candidate> {
        let mut all = Vec::new();
        self.visit_slots(&mut |slot| all.extend(slot.candidates()));
        all
    }

    /// Every raw tensor, in slot order.
    fn params(&mut self) -> Vec<Param> {
        let mut all = Vec::new();
        self.visit_slots(&mut |slot| {
            if let SlotMut::Param(slot) = slot {
                all.push(slot.param.clone());
            }
        });
        all
    }

    /// Where its tensors lie.
    fn device(&mut self) -> Device {
        self.params().first().map_or_else(host, |param| param.value().device().clone())
    }
}

/// A causal language model.
pub trait Model: Network {
    /// Tokens in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Token ids [batch, length] to the hidden states behind the last norm, [batch, length, hidden]. Virtual tokens, where a method
    /// has put some in front, are not in the result. With a cache, `ids` continue what it has seen and it is brought forward; the
    /// pass's mask is then that of `ids`.
    fn forward(&self, pass: &Pass<'_>, ids: &Tensor, cache: Option<&mut Cache>) -> Result<Var>;

    /// The matrix [vocabulary, hidden] that turns hidden states into logits; the embedding itself where they are tied.
    fn head(&self) -> Head<'_>;
}

/// How hidden states become logits.
pub enum Head<'a> {
    /// A layer of its own.
    Linear(&'a LinearSlot),
    /// The embedding table.
    Tied(&'a crate::slots::ParamSlot),
}

impl dyn Model + '_ {
    /// Logits of hidden states [rows, hidden] → [rows, vocabulary].
    pub fn logits(&self, pass: &Pass<'_>, hidden: &Var) -> Result<Var> {
        Ok(match self.head() {
            Head::Linear(slot) => slot.forward(pass, hidden)?,
            Head::Tied(slot) => pass.tape.linear(hidden, &slot.weight(pass)?, None)?,
        })
    }

    /// Mean cross-entropy, in nats, of `labels` given the hidden states at `rows` (indices into [batch · length]).
    pub fn loss(&self, pass: &Pass<'_>, hidden: &Var, rows: &[u32], labels: &[u32]) -> Result<Var> {
        let selected = pass.tape.select_rows(hidden, rows)?;
        let Prepared { x, weight, bias, updates, .. } = self.prepare_head(pass, &selected)?;
        Ok(pass.tape.low_rank_cross_entropy(&x, &weight, bias.as_ref(), &updates, labels)?)
    }

    /// log p(label), in nats, at each of `rows`, in evaluation mode.
    pub fn log_probs(&self, pass: &Pass<'_>, hidden: &Var, rows: &[u32], labels: &[u32]) -> Result<Vec<f64>> {
        let selected = pass.tape.select_rows(hidden, rows)?;
        let Prepared { x, weight, bias, updates, .. } = self.prepare_head(pass, &selected)?;
        Ok(label_log_probs(x.value(), weight.value(), bias.as_ref().map(Var::value), &updates, labels)?)
    }

    /// What the selected hidden states meet in the head, whose logits are taken a few rows at a time.
    fn prepare_head(&self, pass: &Pass<'_>, selected: &Var) -> Result<Prepared> {
        match self.head() {
            Head::Linear(slot) => {
                let prepared = slot.prepare(pass, selected)?;
                match prepared.gain {
                    None => Ok(prepared),
                    Some(_) => Err(ModelError::Unsupported {
                        origin: slot.info.path.clone(),
                        problem: "a method that scales rows of logits is attached to the head; take it away with `!lm_head`".to_owned(),
                    }),
                }
            }
            Head::Tied(slot) => {
                let weight = slot.forward(pass)?;
                Ok(Prepared { x: selected.clone(), weight, bias: None, updates: Vec::new(), gain: None })
            }
        }
    }

    /// Logits [batch, length, vocabulary] of whole sequences, in evaluation mode: for tests and inspection, not for training.
    pub fn all_logits(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let tape = Tape::inference();
        let pass = Pass::evaluation(&tape).with_mask(mask);
        let hidden = self.forward(&pass, ids, None)?;
        Ok(self.logits(&pass, &hidden)?.value().clone())
    }
}

/// An architecture: Hugging Face's `model_type`, its constructor, and what the list of models says of it.
pub struct Architecture {
    /// `model_type`.
    pub model_type: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// Builds the model from its config and a source of tensors.
    pub build: fn(&ModelConfig, &dyn Weights) -> Result<Box<dyn Model>>,
    /// The keys of the config that are read.
    pub keys: fn() -> &'static [&'static str],
    /// Keys that are not read because only these of their values are computed; any other is an error.
    pub fixed: &'static [(&'static str, &'static [&'static str])],
    /// What is an error besides, in words.
    pub limits: &'static str,
    /// A small config, beyond the keys that have a default.
    pub example: &'static [(&'static str, u64)],
}

/// The gate of the layer is computed with SiLU.
const SILU: &[(&str, &[&str])] = &[("hidden_act", &["silu", "swish"])];

const SMALL_MAMBA: &[(&str, u64)] = &[("vocab_size", 64), ("hidden_size", 32), ("num_hidden_layers", 2)];

const SMALL_LLAMA: &[(&str, u64)] =
    &[("vocab_size", 64), ("hidden_size", 32), ("intermediate_size", 48), ("num_hidden_layers", 2), ("num_attention_heads", 4)];

/// All architectures.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        model_type: "bloom",
        summary: "BLOOM: ALiBi, fused attention, layer norms",
        build: bloom,
        keys: keys_of::<BloomConfig>,
        fixed: &[],
        limits: "",
        example: &[],
    },
    Architecture {
        model_type: "falcon_mamba",
        summary: "Falcon-Mamba: Mamba-1 with RMS norms over dt, B and C",
        build: falcon_mamba,
        keys: keys_of::<MambaConfig>,
        fixed: SILU,
        limits: "",
        example: SMALL_MAMBA,
    },
    Architecture {
        model_type: "gpt2",
        summary: "GPT-2: learned positions, fused attention, layer norms",
        build: gpt2,
        keys: keys_of::<Gpt2Config>,
        fixed: &[],
        limits: "cross attention",
        example: &[],
    },
    Architecture {
        model_type: "gptj",
        summary: "GPT-J: attention and MLP side by side, interleaved rotary positions",
        build: gptj,
        keys: keys_of::<GptjConfig>,
        fixed: &[],
        limits: "a head tied to the embedding",
        example: &[],
    },
    Architecture {
        model_type: "jamba",
        summary: "Jamba: layers of attention and of Mamba-1, mixtures of experts",
        build: jamba,
        keys: keys_of::<JambaConfig>,
        fixed: SILU,
        limits: "",
        example: &[],
    },
    Architecture {
        model_type: "llama",
        summary: "LLaMA family: RMSNorm, grouped-query rotary attention, SwiGLU",
        build: llama,
        keys: keys_of::<LlamaConfig>,
        fixed: SILU,
        limits: "rope scaling other than `default`, `linear` and `llama3`",
        example: SMALL_LLAMA,
    },
    Architecture {
        model_type: "mamba",
        summary: "Mamba-1: gated selective state space",
        build: mamba,
        keys: keys_of::<MambaConfig>,
        fixed: SILU,
        limits: "",
        example: SMALL_MAMBA,
    },
    Architecture {
        model_type: "mamba2",
        summary: "Mamba-2: state space duality, one decay a head",
        build: mamba2,
        keys: keys_of::<Mamba2Config>,
        fixed: SILU,
        limits: "",
        example: &[],
    },
    Architecture {
        model_type: "opt",
        summary: "OPT: learned positions that padding does not count for, layer norms, ReLU",
        build: opt,
        keys: keys_of::<OptConfig>,
        fixed: &[],
        limits: "",
        example: &[],
    },
    Architecture {
        model_type: "qwen2",
        summary: "Qwen2: LLaMA with biases on queries, keys and values",
        build: qwen2,
        keys: keys_of::<LlamaConfig>,
        fixed: SILU,
        limits: "sliding windows; rope scaling other than `default`, `linear` and `llama3`",
        example: SMALL_LLAMA,
    },
];

/// Builds a model of any architecture.
pub fn build(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Model>> {
    let known = || ARCHITECTURES.iter().map(|a| a.model_type);
    match ARCHITECTURES.iter().find(|a| a.model_type == config.model_type) {
        Some(architecture) => {
            check_fixed(architecture, config)?;
            (architecture.build)(config, weights)
        }
        None => Err(config.unsupported(format!(
            "unknown model_type `{}`; {}",
            config.model_type,
            suggest::hint(&config.model_type, known().collect::<Vec<_>>())
        ))),
    }
}

/// Builds a network of any type: a language model, or S4D.
pub fn build_network(config: &ModelConfig, weights: &dyn Weights) -> Result<Box<dyn Network>> {
    match config.model_type.as_str() {
        S4D => Ok(Box::new(S4d::new(config, weights)?)),
        _ => Ok(build(config, weights)?),
    }
}

/// Refuses a config whose key has a value that is not computed.
fn check_fixed(architecture: &Architecture, config: &ModelConfig) -> Result<()> {
    for (key, values) in architecture.fixed {
        if let Some(found) = config.values.get(*key).filter(|found| !values.iter().any(|value| *found == value)) {
            let expected = values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" or ");
            return Err(config.unsupported(format!("`{key}` is {found}; expected {expected}")));
        }
    }
    Ok(())
}

/// Loads a model from a Hugging Face folder or a `.gguf` file.
pub fn load(path: &Path, device: &Device) -> Result<Box<dyn Model>> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        let file = GgufFile::open(path, device)?;
        let model = build(&file.config()?, &file)?;
        file.check_used()?;
        return Ok(model);
    }
    let checkpoint = Checkpoint::open(path, device)?;
    let model = build(&ModelConfig::read(path)?, &checkpoint)?;
    let tied = if let Head::Tied(slot) = model.head() { Some(slot.param.name().to_owned()) } else { None };
    checkpoint.check_used(tied.as_deref())?;
    Ok(model)
}
