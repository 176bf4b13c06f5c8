//! BitFit: bias-only fine-tuning (Ben Zaken, Ravfogel and Goldberg, 2022). On Mamba the biases are `conv1d.bias` and `dt_proj.bias`, on Mamba-2
//! `conv1d.bias` and `dt_bias`; a LLaMA has none.
//!
//! They start from where they are. A bias's gradient is the sum of its output's: a step keeps nothing for it.

use super::{Options, train_tensors};
use crate::error::{AdapterError, Result};
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::Network;
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Trains the biases that the model has and the targets name. On Mamba these are `conv1d.bias` and `dt_proj.bias`,
/// on Mamba-2 `conv1d.bias` and `dt_bias`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitFit {}

impl Options for BitFit {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_BITFIT");
}

impl Method for BitFit {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Param]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["*"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let term = |path: &str| context.chosen.iter().find(|c| c.slot == path).map(|c| c.matched_by.clone());
        let attachment = train_tensors(model, &|slot| term(&slot.info.path).filter(|_| slot.info.path.ends_with("bias")))?;
        if attachment.params.is_empty() {
            let problem = format!("this {} model has no bias among the targets; leave the cell out with [[exclude]]", model.arch());
            return Err(AdapterError::Unsupported { method: "bitfit".to_owned(), problem });
        }
        Ok(Attachment { peft_config: json!({ "peft_type": Self::PEFT_TYPE }), ..attachment })
    }
}
