//! LoRA (Hu et al., 2022): y = W x + (lora_alpha / r) · B A x, with A [r, in] and B [out, r].
//!
//! A starts Kaiming-uniform with a = √5, that is uniform within ±1/√in, and B at 0, so that the model starts unchanged (Hugging
//! Face's `init_lora_weights = true`). A row part of a fused layer, such as `in_proj.x`, gets a LoRA of its own on these rows.

use super::Options;
use crate::error::{AdapterError, Result};
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, LinearSlot, SlotMut};
use peftbench_models::{Model, Pass};
use peftbench_ops::linear::LowRank;
use peftbench_ops::{DType, Device, Param, Tensor, Var};
use peftbench_spec::seed::Stream;
use peftbench_spec::{Role, SlotKind, SpecError, TargetExpr};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ops::Range;

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
}

impl Default for Lora {
    fn default() -> Self {
        Self { r: 8, lora_alpha: 8.0, lora_dropout: 0.0, use_rslora: false }
    }
}

impl Options for Lora {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        if self.r == 0 {
            return Err(SpecError::at("r", "expected a rank of at least 1, found 0"));
        }
        if !self.lora_alpha.is_finite() {
            return Err(SpecError::at("lora_alpha", format!("expected a finite number, found {}", self.lora_alpha)));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(SpecError::at(
                "lora_dropout",
                format!("expected a probability from 0 up to but not including 1, found {}", self.lora_dropout),
            ));
        }
        Ok(())
    }
}

impl Lora {
    fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The output rows that `chosen` names in `slot`.
    fn rows(chosen: &Chosen, slot: &LinearSlot) -> Range<usize> {
        let part = chosen.part.as_ref().and_then(|name| slot.parts.iter().find(|part| part.name == name));
        part.map_or(0..slot.dims().0, |part| part.rows.clone())
    }

    fn attach_to(&self, slot: &mut LinearSlot, chosen: &Chosen, init: &mut Stream) -> Result<Vec<AdapterParam>> {
        let rows = Self::rows(chosen, slot);
        let input = slot.dims().1;
        if slot.info.role == Role::LmHead {
            return Err(unsupported("the head is not a target of LoRA here; take it away with `!lm_head`"));
        }
        if self.r > input.min(rows.len()) {
            let problem = format!("rank {} is above the smaller dimension of `{}` [{}, {input}]", self.r, chosen.path(), rows.len());
            return Err(SpecError::at("r", problem).into());
        }
        let bound = 1.0 / (input as f64).sqrt();
        let values: Vec<f32> = (0..self.r * input).map(|_| (bound * (2.0 * init.random::<f64>() - 1.0)) as f32).collect();
        let name = |which: &str| format!("base_model.model.{}.lora_{which}.weight", chosen.path());
        let a = Param::trainable(name("A"), Tensor::from_vec(values, (self.r, input), &Device::Cpu)?);
        let b = Param::trainable(name("B"), Tensor::zeros((rows.len(), self.r), DType::F32, &Device::Cpu)?);
        slot.attach(Box::new(Update { a: a.clone(), b: b.clone(), scale: self.scale(), dropout: self.lora_dropout, rows }));
        let record = |param| AdapterParam { param, layer: chosen.layer, added: true, matched_by: chosen.matched_by.clone() };
        Ok(vec![record(a), record(b)])
    }
}

fn unsupported(problem: &str) -> AdapterError {
    AdapterError::Unsupported { method: "lora".to_owned(), problem: problem.to_owned() }
}

/// One LoRA on (some rows of) one layer.
struct Update {
    a: Param,
    b: Param,
    scale: f64,
    dropout: f64,
    rows: Range<usize>,
}

impl LinearAdapter for Update {
    fn updates(&self, pass: &Pass<'_>, x: &Var) -> peftbench_ops::Result<Vec<LowRank>> {
        let input = (pass.dropout.is_some() && self.dropout > 0.0).then(|| pass.dropout(x, self.dropout)).transpose()?;
        Ok(vec![LowRank { a: pass.tape.param(&self.a), b: pass.tape.param(&self.b), scale: self.scale, rows: self.rows.clone(), input }])
    }
}

impl Method for Lora {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        match arch {
            "mamba" => TargetExpr::new(["in_proj", "out_proj"]),
            "llama" => TargetExpr::new(["q_proj", "v_proj"]),
            _ => TargetExpr::new(["role:linear"]),
        }
    }

    fn attach(&self, model: &mut dyn Model, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let mut found: Result<Vec<AdapterParam>> = Ok(Vec::new());
        model.visit_slots(&mut |slot| {
            let SlotMut::Linear(slot) = slot else { return };
            let path = slot.info.path.clone();
            for chosen in context.chosen.iter().filter(|c| c.slot == path) {
                if let Ok(params) = &mut found {
                    match self.attach_to(slot, chosen, context.init) {
                        Ok(added) => params.extend(added),
                        Err(error) => found = Err(error),
                    }
                }
            }
        });
        let mut modules: Vec<String> = context.chosen.iter().map(|c| short_name(&c.path())).collect();
        modules.sort();
        modules.dedup();
        let mut layers: Vec<usize> = context.chosen.iter().filter_map(|c| c.layer).collect();
        layers.dedup();
        let peft_config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "use_rslora": self.use_rslora,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "target_modules": modules,
            "layers_to_transform": layers,
            "inference_mode": true,
        });
        Ok(Attachment { params: found?, peft_config })
    }
}

/// The last segment of a path that is not a row part: what Hugging Face lists in `target_modules`.
fn short_name(path: &str) -> String {
    let segments: Vec<&str> = path.split('.').collect();
    let from = segments.iter().rposition(|s| s.ends_with("_proj") || *s == "lm_head").unwrap_or(segments.len() - 1);
    segments[from..].join(".")
}
