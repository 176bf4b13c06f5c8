//! Zero-shot: the base model as it is.

use super::Options;
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::Network;
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};

/// Nothing is attached and nothing trains.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct None {}

impl Options for None {
    const PEFT_TYPE: Option<&'static str> = Option::None;
}

impl Method for None {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::default()
    }

    fn trains(&self) -> bool {
        false
    }

    fn attach(&self, _model: &mut dyn Network, _context: &mut AttachContext<'_>) -> Result<Attachment> {
        Ok(Attachment::default())
    }
}
