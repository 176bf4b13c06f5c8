//! Initial-state tuning of SSMs (arXiv 2410.09016: what prefix tuning comes down to there; Kang et al., 2025, arXiv 2503.03499): the state before the first token is trained, h₀ [inner, state], and with `conv_state` the inputs of the
//! convolution before it, [taps − 1, inner]. Both start at zero, which is what an SSM starts from.
//!
//! The gradient is what the scan's backward pass ends with: a step keeps nothing more than the frozen model's.

use super::Options;
use super::parts::{attach_state, tensor_name};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::slots::StateAdapter;
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Var};
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Options.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InitialState {
    /// Whether the convolution's context trains too.
    pub conv_state: bool,
}

impl Options for InitialState {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_INITIAL_STATE");
}

struct Start {
    state: Param,
    context: Option<Param>,
    layer: Option<usize>,
}

impl StateAdapter for Start {
    fn initial_state(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        pass.tape.scale(&pass.tape.param(&self.state), pass.scale_of(self.layer)).map(Some)
    }

    fn conv_context(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        let scaled = |param| pass.tape.scale(&pass.tape.param(param), pass.scale_of(self.layer));
        self.context.as_ref().map(scaled).transpose()
    }
}

impl Method for InitialState {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::State]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["*"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let params = attach_state(model, context, &mut |slot, _, chosen, init| {
            let state = Param::trainable(tensor_name(chosen, "initial_state"), init.zeros((slot.inner, slot.state))?);
            let context = match self.conv_state {
                true => Some(Param::trainable(tensor_name(chosen, "conv_state"), init.zeros((slot.context, slot.conv_width))?)),
                false => None,
            };
            slot.attach(Box::new(Start { state: state.clone(), context: context.clone(), layer: chosen.layer }));
            Ok(std::iter::once(state).chain(context).collect())
        })?;
        Ok(Attachment::new(params, json!({ "peft_type": Self::PEFT_TYPE, "conv_state": self.conv_state })))
    }
}
