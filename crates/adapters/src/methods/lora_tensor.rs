//! LoRA on raw tensors seen as matrices, such as an SSM's `A_log` [inner, state]: T + (lora_alpha / r) B A, with A [r, columns] and
//! B [rows, r] (arXiv 2410.09016, section 4, on LoRA for the SSM module). All dimensions of T but the first are its columns.
//!
//! A starts Kaiming-uniform and B at zero. A step keeps A, B and the changed tensor, all of a parameter's size.

use super::Options;
use super::initializer::Initializer;
use super::parts::{at_least_one, finite, unsupported};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{ParamAdapter, ParamSlot, SlotMut};
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Options, by LoRA's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraTensor {
    /// Rank.
    #[serde(alias = "rank")]
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    #[serde(alias = "alpha")]
    pub lora_alpha: f64,
}

impl Default for LoraTensor {
    fn default() -> Self {
        Self { r: 8, lora_alpha: 8.0 }
    }
}

impl Options for LoraTensor {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_LORA_TENSOR");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("r", self.r)?;
        finite("lora_alpha", self.lora_alpha)
    }
}

impl LoraTensor {
    fn attach_to(&self, slot: &mut ParamSlot, chosen: &Chosen, init: &mut Initializer<'_>) -> Result<Vec<Param>> {
        let value = slot.param.value();
        let rows = value.dims().first().copied().unwrap_or(1);
        let columns = value.elem_count() / rows;
        if value.rank() < 2 {
            let problem = format!("`{}` has the shape {:?}, which is no matrix; take it away with `!`", chosen.slot, value.dims());
            return Err(unsupported("lora_tensor", problem));
        }
        if self.r > rows.min(columns) {
            let problem = format!("rank {} is above the smaller dimension of `{}` [{rows}, {columns}]", self.r, chosen.slot);
            return Err(SpecError::at("r", problem).into());
        }
        let name = |which: &str| format!("base_model.model.{}.lora_{which}", chosen.slot);
        let a = Param::trainable(name("A"), init.kaiming_uniform(self.r, columns)?);
        let b = Param::trainable(name("B"), init.zeros((rows, self.r))?);
        let scale = self.lora_alpha / self.r as f64;
        slot.attach(Box::new(Update { a: a.clone(), b: b.clone(), scale, layer: chosen.layer }));
        Ok(vec![a, b])
    }
}

struct Update {
    a: Param,
    b: Param,
    scale: f64,
    layer: Option<usize>,
}

impl ParamAdapter for Update {
    fn transform(&self, pass: &Pass<'_>, value: Var) -> peftbench_ops::Result<Var> {
        let tape = pass.tape;
        let product = tape.matmul(&tape.param(&self.b), &tape.param(&self.a))?;
        let update = tape.scale(&product, self.scale * pass.scale_of(self.layer))?;
        tape.add(&value, &tape.reshape(&update, value.dims())?)
    }
}

impl Method for LoraTensor {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Param]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["A_log"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let mut found: Result<Vec<AdapterParam>> = Ok(Vec::new());
        let init = &mut Initializer::of(model, context.init);
        model.visit_slots(&mut |slot| {
            let SlotMut::Param(slot) = slot else { return };
            let Some(chosen) = context.chosen.iter().find(|c| c.slot == slot.info.path) else { return };
            let Ok(params) = &mut found else { return };
            match self.attach_to(slot, chosen, init) {
                Ok(added) => params.extend(added.into_iter().map(|param| AdapterParam::added(param, chosen))),
                Err(error) => found = Err(error),
            }
        });
        let peft_config = json!({ "peft_type": Self::PEFT_TYPE, "r": self.r, "lora_alpha": self.lora_alpha });
        Ok(Attachment::new(found?, peft_config))
    }
}
