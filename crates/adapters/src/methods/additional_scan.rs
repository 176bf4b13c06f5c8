//! Additional-scan (Yoshimura, Hayashi and Maeda, 2025, "MambaPEFT", section 4; as the SSM-PEFT paper, arXiv 2410.09016, compares it): each
//! channel of a selective scan gets `d_state` more states, with columns of A_log and rows of `x_proj` for B and C of their own.
//!
//! Where a model normalises B and C (Falcon-Mamba, Jamba), the added ones are taken as they are: the norm is over the model's own.
//!
//! The new columns of A_log begin as copies of the channel's last, the rows of B Kaiming-uniform, the rows of C at zero, so that the model
//! starts unchanged. A step keeps the convolved input, which `x_proj` reads, and what the scan keeps for more states.

use super::Options;
use super::parts::{at_least_one, attach_state, tensor_name, unsupported};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::slots::{ExtraStates, StateAdapter};
use peftbench_models::{Network, Pass};
use peftbench_ops::Param;
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Options.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdditionalScan {
    /// States that are added to each channel.
    pub d_state: usize,
}

impl Default for AdditionalScan {
    fn default() -> Self {
        Self { d_state: 8 }
    }
}

impl Options for AdditionalScan {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_ADDITIONAL_SCAN");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("d_state", self.d_state)
    }
}

struct Extra {
    a_log: Param,
    b: Param,
    c: Param,
    layer: Option<usize>,
}

impl StateAdapter for Extra {
    fn extra_states(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Option<ExtraStates>> {
        let param = |param| pass.tape.param(param);
        let c = pass.tape.scale(&param(&self.c), pass.scale_of(self.layer))?;
        Ok(Some(ExtraStates { a_log: param(&self.a_log), b: param(&self.b), c }))
    }
}

impl Method for AdditionalScan {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::State]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["*"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let extra = self.d_state;
        let params = attach_state(model, context, &mut |slot, a_log, chosen, init| {
            let (inner, states) = (slot.inner, slot.state);
            let Some(a_log) = a_log.filter(|a_log| slot.extensions.extra_states && a_log.dims() == [inner, states]) else {
                let problem = format!(
                    "`{}` has no decay of its own for each state (Mamba-2 has one a head), so that none can be added; take it away with `!`",
                    chosen.slot
                );
                return Err(unsupported("additional_scan", problem));
            };
            let last = a_log.narrow(1, states - 1, 1)?.broadcast_as((inner, extra))?.contiguous()?;
            let a_log = Param::trainable(tensor_name(chosen, "extra_A_log"), last);
            let b = Param::trainable(tensor_name(chosen, "extra_B.weight"), init.kaiming_uniform(extra, inner)?);
            let c = Param::trainable(tensor_name(chosen, "extra_C.weight"), init.zeros((extra, inner))?);
            slot.attach(Box::new(Extra { a_log: a_log.clone(), b: b.clone(), c: c.clone(), layer: chosen.layer }));
            Ok(vec![a_log, b, c])
        })?;
        Ok(Attachment::new(params, json!({ "peft_type": Self::PEFT_TYPE, "d_state": extra })))
    }
}
