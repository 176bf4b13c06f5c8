//! State-offset tuning of SSMs (Kang et al., 2025, "State-offset tuning: state-based parameter-efficient fine-tuning for state space models",
//! arXiv 2503.03499, section 4): a trained state h' [inner, state] is added where the state is read, at every step alike,
//! y_t = (C_t (h_t + h') + D u_t) silu(z_t). With `offset = "output"` a trained y' [inner] takes the place of C_t h'.
//!
//! Both start at zero. A step keeps C, and in Mamba-1, whose scan gates its output itself, z: the scan keeps both anyway.

use super::Options;
use super::parts::{attach_state, tensor_name, unsupported};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::slots::StateAdapter;
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Options.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateOffset {
    /// What is added: `"state"`, h', or `"output"`, y'.
    pub offset: Offset,
}

/// What is added where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offset {
    /// h' to the state, as C reads it.
    #[default]
    State,
    /// y' to the output, before the gate.
    Output,
}

impl Options for StateOffset {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_STATE_OFFSET");
}

/// C_t h' [batch, length, inner] from h' [inner, state] and C [batch, length, groups · state]: each group of channels reads with its own C.
fn read(state: &Tensor, c: &Tensor) -> peftbench_ops::Result<Tensor> {
    let ((inner, states), (batch, length, width)) = (state.dims2()?, c.dims3()?);
    let groups = width / states;
    let c = c.reshape((batch * length, groups, states))?.transpose(0, 1)?.contiguous()?;
    let by_group = c.matmul(&state.reshape((groups, inner / groups, states))?.transpose(1, 2)?)?;
    by_group.transpose(0, 1)?.contiguous()?.reshape((batch, length, inner))
}

struct Added {
    value: Param,
    offset: Offset,
    layer: Option<usize>,
}

impl StateAdapter for Added {
    fn output_offset(&self, pass: &Pass<'_>, c: &Var, gate: Option<&Var>) -> peftbench_ops::Result<Option<Var>> {
        let tape = pass.tape;
        let value = tape.scale(&tape.param(&self.value), pass.scale_of(self.layer))?;
        let added = match (self.offset, gate) {
            (Offset::State, Some(z)) => {
                tape.candle_fn("state_offset", &[&value, c, z], |v| read(&v[0], &v[1])?.mul(&v[2].contiguous()?.silu()?))
            }
            (Offset::State, None) => tape.candle_fn("state_offset", &[&value, c], |v| read(&v[0], &v[1])),
            (Offset::Output, Some(z)) => tape.candle_fn("output_offset", &[&value, z], |v| v[1].contiguous()?.silu()?.broadcast_mul(&v[0])),
            (Offset::Output, None) => {
                let (batch, length, _) = c.value().dims3()?;
                tape.broadcast_to(&value, &[batch, length, value.dims()[0]])
            }
        };
        added.map(Some)
    }
}

impl Method for StateOffset {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::State]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::new(["*"])
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let params = attach_state(model, context, &mut |slot, _, chosen, init| {
            if !slot.extensions.output_offset {
                return Err(unsupported("state_offset", format!("the layer of `{}` cannot add it; take it away with `!`", chosen.slot)));
            }
            let (name, dims) = match self.offset {
                Offset::State => ("state_offset", vec![slot.inner, slot.state]),
                Offset::Output => ("output_offset", vec![slot.inner]),
            };
            let value = Param::trainable(tensor_name(chosen, name), init.zeros(dims)?);
            slot.attach(Box::new(Added { value: value.clone(), offset: self.offset, layer: chosen.layer }));
            Ok(vec![value])
        })?;
        Ok(Attachment::new(params, json!({ "peft_type": Self::PEFT_TYPE, "offset": self.offset })))
    }
}
