//! Full fine-tuning: every tensor trains, from where it is.
//!
//! A step keeps the input of every layer for the gradient of its weight, a gradient for every number, and AdamW two moments.

use super::{Options, train_tensors};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::Network;
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Trains every tensor; under a layer subset, every tensor of these layers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Full {}

impl Options for Full {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_FULL");
}

impl Method for Full {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Param]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["*"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let term = |path: &str| context.chosen.iter().find(|c| c.slot == path).map(|c| c.matched_by.clone());
        let attachment = train_tensors(model, &|slot| term(&slot.info.path))?;
        Ok(Attachment { peft_config: json!({ "peft_type": Self::PEFT_TYPE }), ..attachment })
    }
}
