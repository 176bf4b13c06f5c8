//! LN tuning (Zhao et al., 2023, "Tuning LayerNorm in attention"; Qi et al., 2022): the weights, and biases where there are any, of the
//! normalisation layers. A step keeps what the gradient of a norm's weight needs: its input.

use super::parts::unsupported;
use super::{Options, train_tensors};
use crate::error::Result;
use crate::export::TargetModules;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::Network;
use peftbench_spec::{Candidate, Role, SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Trains the norms that the targets name; every norm by default. It has no options.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LnTuning {}

impl Options for LnTuning {
    const PEFT_TYPE: Option<&'static str> = Some("LN_TUNING");
}

impl Method for LnTuning {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Param]
    }

    fn accepts(&self, candidate: &Candidate) -> bool {
        candidate.kind == SlotKind::Param && candidate.role == Role::Norm
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["group:norm"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let term = |path: &str| context.chosen.iter().find(|c| c.slot == path).map(|c| c.matched_by.clone());
        let mut params = train_tensors(model, &|slot| term(&slot.info.path))?.params;
        let mut modules = Vec::new();
        for p in &mut params {
            let name = p.param.name();
            let (module, tensor) =
                name.rsplit_once('.').ok_or_else(|| unsupported("ln_tuning", format!("`{name}` belongs to no module")))?;
            p.file_name = Some(format!("base_model.model.{module}.ln_tuning_layers.{tensor}"));
            modules.push(module.to_owned());
        }
        let peft_config = json!({
            "peft_type": "LN_TUNING",
            "task_type": "CAUSAL_LM",
            "target_modules": TargetModules::of(model, &modules).names,
            "inference_mode": true,
        });
        Ok(Attachment::new(params, peft_config))
    }
}
