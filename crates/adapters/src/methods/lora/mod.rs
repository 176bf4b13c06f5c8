//! LoRA (Hu et al., 2022): y = W x + (lora_alpha / r) · B A x, with A [r, in] and B [out, r].
//!
//! A row part of a fused layer, such as `in_proj.x`, gets a LoRA of its own on these rows; in the adapter file the parts of a layer are one
//! LoRA whose ranks are stacked. On an embedding table A looks the tokens up and B makes rows of them, as in peft: a tied head does
//! not see it.
//!
//! A starts Kaiming-uniform and B at zero, so that the model starts unchanged; PiSSA and OLoRA start with a part of W, which is taken from it.
//! A step keeps x for the gradient of A, once for all layers that read it, and A x for that of B.

mod attach;
mod patterns;
mod stacked;
mod start;
mod update;

pub(crate) use attach::{Attached, Trained, check_fits};
pub use patterns::Pattern;
pub(crate) use stacked::rows_of;
pub use start::Start;

use super::Options;
use super::parts::{at_least_one, dropout_rate, finite, projection_targets};
use crate::error::Result;
use crate::export::TargetModules;
use crate::folder::PREFIX;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use peftbench_models::Network;
use peftbench_models::slots::SlotMut;
use peftbench_spec::{Candidate, Role, SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Options, by Hugging Face's names; `rank`, `alpha` and `dropout` are accepted too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Rank.
    #[serde(alias = "rank")]
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    #[serde(alias = "alpha")]
    pub lora_alpha: f64,
    /// Dropout on the input of A.
    #[serde(alias = "dropout")]
    pub lora_dropout: f64,
    /// Scale by `lora_alpha / √r` instead (rsLoRA, Kalajdzievski, 2023).
    pub use_rslora: bool,
    /// How A and B begin: `true` as above, `"gaussian"`, `"pissa"` or `"olora"`.
    pub init_lora_weights: Start,
    /// Biases that train too: `"none"`, `"all"`, or `"lora_only"`, those of the target layers.
    pub bias: Bias,
    /// Ranks of modules whose path ends in the key, a regular expression.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of modules whose path ends in the key.
    pub alpha_pattern: Pattern<f64>,
    /// Modules that train whole: `lm_head`, `norm`.
    pub modules_to_save: Vec<String>,
    /// Learning rate of B in units of A's (LoRA+, Hayou, Ghosh and Yu, 2024; 16 in their experiments).
    pub loraplus_lr_ratio: f64,
}

/// Which biases train beside the updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    None,
    /// Every bias of the model.
    All,
    /// Those of the target layers.
    LoraOnly,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            init_lora_weights: Start::KaimingUniform,
            bias: Bias::None,
            rank_pattern: Pattern::default(),
            alpha_pattern: Pattern::default(),
            modules_to_save: Vec::new(),
            loraplus_lr_ratio: 1.0,
        }
    }
}

impl Options for Lora {
    const PEFT_TYPE: Option<&'static str> = Some("LORA");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("r", self.r)?;
        finite("lora_alpha", self.lora_alpha)?;
        dropout_rate("lora_dropout", self.lora_dropout)?;
        for (key, rank) in self.rank_pattern.entries("rank_pattern")? {
            at_least_one(&key, rank)?;
        }
        for (key, alpha) in self.alpha_pattern.entries("alpha_pattern")? {
            finite(&key, alpha)?;
        }
        match self.loraplus_lr_ratio > 0.0 && self.loraplus_lr_ratio.is_finite() {
            true => Ok(()),
            false => Err(SpecError::at("loraplus_lr_ratio", format!("expected a number above 0, found {}", self.loraplus_lr_ratio))),
        }
    }

    fn from_peft(config: &Map<String, Value>) -> Map<String, Value> {
        let mut config = config.clone();
        // How A and B began only matters where that has changed the base weight.
        config.retain(|key, value| {
            key != "init_lora_weights" || value.as_str().is_some_and(|s| s.starts_with("pissa") || s.starts_with("olora"))
        });
        super::same_keys::<Self>(&config)
    }

    fn recognises(config: &Map<String, Value>) -> bool {
        config.get("peft_type").is_some_and(|found| found == "LORA") && config.get("use_dora") != Some(&Value::Bool(true))
    }
}

/// Rank and alpha of one module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Size {
    pub rank: usize,
    pub alpha: f64,
}

impl Lora {
    /// The rank and alpha of the module `path`.
    pub(crate) fn size(&self, path: &str) -> Result<Size> {
        let rank = self.rank_pattern.find("rank_pattern", path)?.unwrap_or(self.r);
        Ok(Size { rank, alpha: self.alpha_pattern.find("alpha_pattern", path)?.unwrap_or(self.lora_alpha) })
    }

    /// The factor of an update.
    pub(crate) fn scale(&self, size: Size) -> f64 {
        size.alpha / self.divisor(size.rank)
    }

    pub(crate) fn divisor(&self, rank: usize) -> f64 {
        if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 }
    }

    /// `adapter_config.json` of modules with these ranks and alphas.
    pub(crate) fn peft_config(&self, model: &mut dyn Network, sizes: &BTreeMap<String, Size>) -> Value {
        let targets = TargetModules::of(model, &sizes.keys().cloned().collect::<Vec<_>>());
        let common = sizes.values().copied().max_by_key(|size| sizes.values().filter(|other| *other == size).count());
        let common = common.unwrap_or(Size { rank: self.r, alpha: self.lora_alpha });
        let differing = |differs: &dyn Fn(&Size) -> Option<Value>| -> Map<String, Value> {
            sizes.iter().filter_map(|(path, size)| differs(size).map(|value| (regex::escape(path), value))).collect()
        };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": common.rank,
            "lora_alpha": number(common.alpha),
            "lora_dropout": self.lora_dropout,
            "use_rslora": self.use_rslora,
            "bias": self.bias,
            "fan_in_fan_out": targets.fan_in_fan_out,
            "init_lora_weights": true,
            "rank_pattern": differing(&|size| (size.rank != common.rank).then(|| size.rank.into())),
            "alpha_pattern": differing(&|size| (size.alpha != common.alpha).then(|| number(size.alpha))),
            "modules_to_save": null,
            "target_modules": targets.names,
            "layers_to_transform": targets.layers,
            "inference_mode": true,
        })
    }

    /// The biases and whole modules that train too.
    fn train_beside(&self, model: &mut dyn Network, targets: &BTreeMap<String, Size>) -> Result<Vec<AdapterParam>> {
        // A model whose head is a layer of its own shows it.
        let tied = !model.candidates().iter().any(|candidate| candidate.role == Role::LmHead);
        let mut found = Vec::new();
        let mut missing: Vec<&String> = self.modules_to_save.iter().collect();
        let mut conflict = None;
        model.visit_slots(&mut |slot| {
            let SlotMut::Param(slot) = slot else { return };
            let path = slot.info.path.clone();
            let (module, tensor) = path.rsplit_once('.').unwrap_or((&path, ""));
            let is_target = targets.contains_key(module);
            let wanted_bias = tensor == "bias" && (self.bias == Bias::All || (self.bias == Bias::LoraOnly && is_target));
            let ends = |name: &String| module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            let wanted_whole = self.modules_to_save.iter().find(|name| ends(name));
            let Some(matched_by) = wanted_whole.cloned().or_else(|| wanted_bias.then(|| "bias".to_owned())) else { return };
            if wanted_whole.is_some() && (is_target || (tied && slot.info.role == Role::Embedding)) {
                conflict = Some(if is_target { "is a target of LoRA too" } else { "is tied to the head, and would train it too" });
            }
            missing.retain(|name| !ends(name));
            slot.param.set_trainable(true);
            let file_name = if is_target { format!("{PREFIX}{module}.base_layer.{tensor}") } else { format!("{PREFIX}{path}") };
            found.push(AdapterParam::own(slot.param.clone(), slot.info.layer, matched_by).saved_as(file_name));
        });
        match (missing.first(), conflict) {
            (Some(name), _) => Err(SpecError::at("modules_to_save", format!("the model has no module `{name}`")).into()),
            (None, Some(problem)) => Err(SpecError::at("modules_to_save", format!("a module of it {problem}")).into()),
            (None, None) => Ok(found),
        }
    }
}

/// JSON's shorter form of a number: 16 rather than 16.0.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

impl Method for Lora {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear, SlotKind::Param]
    }

    fn accepts(&self, candidate: &Candidate) -> bool {
        match candidate.kind {
            SlotKind::Linear => true,
            SlotKind::Param => candidate.role == Role::Embedding,
            _ => false,
        }
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let Attached { mut params, forms, sizes } = self.attach_updates(model, context, &mut |_, _, _| Ok(Vec::new()))?;
        let beside = self.train_beside(model, &sizes)?;
        let mut peft_config = self.peft_config(model, &sizes);
        let whole = beside.iter().filter(|p| self.modules_to_save.contains(&p.matched_by));
        let modules: BTreeSet<&str> = whole.filter_map(|p| Some(p.param.name().rsplit_once('.')?.0)).collect();
        if !modules.is_empty() {
            // Whole paths: peft would take `norm` for `input_layernorm` too.
            peft_config["modules_to_save"] = json!(modules);
        }
        params.extend(beside);
        Ok(Attachment { forms, ..Attachment::new(params, peft_config) })
    }
}
