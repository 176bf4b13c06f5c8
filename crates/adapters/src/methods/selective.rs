//! Selective fine-tuning: the tensors that the targets name train whole, from where they are; all others stay.
//!
//! A step keeps what their gradients need: of a linear layer its input, of a bias nothing.

use super::{Options, train_tensors};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::Network;
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Trains the tensors that the targets name: `A_log`, `conv1d.weight`, `group:ssm`, `x_proj.weight`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selective {}

impl Options for Selective {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_SELECTIVE");
}

impl Method for Selective {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Param]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["group:norm"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let term = |path: &str| context.chosen.iter().find(|c| c.slot == path).map(|c| c.matched_by.clone());
        let attachment = train_tensors(model, &|slot| term(&slot.info.path))?;
        Ok(Attachment { peft_config: json!({ "peft_type": Self::PEFT_TYPE }), ..attachment })
    }
}
