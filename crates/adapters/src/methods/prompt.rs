//! Prompt tuning (Lester, Al-Rfou and Constant, 2021): trained embeddings P [tokens, hidden] in front of every input, [P; x].
//!
//! They start as embeddings of tokens drawn from the vocabulary, or standard normal. A step keeps what the layers keep for sequences longer by
//! so many tokens.

use super::Options;
use super::encoder::has_network;
use super::initializer::Initializer;
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use peftbench_models::slots::{PromptAdapter, SlotMut};
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{Role, SlotKind, SpecError, TargetExpr};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTuning {
    /// Virtual tokens.
    pub num_virtual_tokens: usize,
    /// How they begin: `"sample_vocab"` or `"random"`.
    pub prompt_tuning_init: Init,
}

/// The start of the virtual tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Embeddings of tokens drawn from the vocabulary.
    #[serde(alias = "SAMPLE_VOCAB", alias = "TEXT")]
    SampleVocab,
    /// Standard normal, as `torch.nn.Embedding`.
    #[serde(alias = "RANDOM")]
    Random,
}

impl Default for PromptTuning {
    fn default() -> Self {
        Self { num_virtual_tokens: 16, prompt_tuning_init: Init::SampleVocab }
    }
}

impl Options for PromptTuning {
    const PEFT_TYPE: Option<&'static str> = Some("PROMPT_TUNING");
    /// Shapes of the model, and the text that an initialisation began with.
    const IGNORED: &'static [&'static str] = &[
        "token_dim",
        "num_attention_heads",
        "num_layers",
        "num_transformer_submodules",
        "modules_to_save",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
    ];

    /// Also what P-tuning's network has made, where only that is in the file.
    fn recognises(config: &Map<String, Value>) -> bool {
        let is = |name: &str| config.get("peft_type").is_some_and(|found| found == name);
        is("PROMPT_TUNING") || (is("P_TUNING") && !has_network(config))
    }

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        match self.num_virtual_tokens {
            0 => Err(SpecError::at("num_virtual_tokens", "expected at least 1 virtual token, found 0")),
            _ => Ok(()),
        }
    }
}

struct VirtualTokens(Param);

impl PromptAdapter for VirtualTokens {
    fn virtual_tokens(&self) -> usize {
        self.0.value().dims()[0]
    }

    fn embeddings(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Var> {
        Ok(pass.tape.param(&self.0))
    }
}

impl PromptTuning {
    /// The first embeddings, [virtual tokens, hidden].
    fn start(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Tensor> {
        let (tokens, hidden) = (self.num_virtual_tokens, model.hidden_size());
        let mut init = Initializer::of(model, context.init);
        if self.prompt_tuning_init == Init::Random {
            return init.normal((tokens, hidden), 1.0);
        }
        let mut table = None;
        model.visit_slots(&mut |slot| {
            if let SlotMut::Param(slot) = slot
                && slot.info.role == Role::Embedding
            {
                table = Some(slot.param.value());
            }
        });
        let Some(table) = table else { return init.zeros((tokens, hidden)) };
        let rows = table.dim(0)? as u32;
        let ids: Vec<u32> = (0..tokens).map(|_| init.stream().random_range(0..rows)).collect();
        Ok(table.contiguous()?.index_select(&Tensor::new(ids, table.device())?, 0)?)
    }
}

impl Method for PromptTuning {
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
        let param = Param::trainable("prompt_embeddings", self.start(model, context)?);
        model.visit_slots(&mut |slot| {
            if let SlotMut::Prompt(slot) = slot {
                slot.attach(Box::new(VirtualTokens(param.clone())));
            }
        });
        let peft_config = json!({
            "peft_type": "PROMPT_TUNING",
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": self.num_virtual_tokens,
            "token_dim": model.hidden_size(),
            "num_layers": model.num_layers(),
            // peft asks for it where the model has none; prompts do not depend on it.
            "num_attention_heads": 1,
            "num_transformer_submodules": 1,
            "prompt_tuning_init": "RANDOM",
            "inference_mode": true,
        });
        let param = AdapterParam { added: true, ..AdapterParam::own(param, None, "prompt".to_owned()) };
        Ok(Attachment::new(vec![param], peft_config))
    }
}
