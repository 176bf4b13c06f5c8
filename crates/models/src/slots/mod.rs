//! The places where a method meets a model.
//!
//! Each slot computes its frozen part and then asks what is attached. The traits here are the whole contract: a method implements
//! one or more of them and attaches boxes of itself; it never sees the model.

mod linear;
mod param;
mod prefix;
mod prompt;
mod state;
mod sublayer;

pub use linear::{LinearAdapter, LinearSlot, Prepared, RowPart};
pub use param::{ParamAdapter, ParamSlot};
pub use prefix::{PrefixAdapter, PrefixSlot};
pub use prompt::{PromptAdapter, PromptSlot};
pub use state::{ExtraStates, StateAdapter, StateExtensions, StateSlot};
pub use sublayer::{SublayerAdapter, SublayerSlot};

use peftbench_spec::{Candidate, Role, SlotKind};

/// Where a slot is and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Path in the names of the Hugging Face checkpoint: `backbone.layers.3.mixer.in_proj`.
    pub path: String,
    /// Layer index; none outside the layers.
    pub layer: Option<usize>,
    /// What it computes.
    pub role: Role,
}

impl SlotInfo {
    fn candidate(&self, kind: SlotKind) -> Candidate {
        Candidate { path: self.path.clone(), part_of: None, layer: self.layer, role: self.role, kind }
    }
}

/// A slot of any kind, lent to a visitor.
pub enum SlotMut<'a> {
    /// See [`LinearSlot`]. Its weight and bias follow as [`SlotMut::Param`].
    Linear(&'a mut LinearSlot),
    /// See [`ParamSlot`].
    Param(&'a mut ParamSlot),
    /// See [`SublayerSlot`].
    Sublayer(&'a mut SublayerSlot),
    /// See [`PromptSlot`].
    Prompt(&'a mut PromptSlot),
    /// See [`PrefixSlot`].
    Prefix(&'a mut PrefixSlot),
    /// See [`StateSlot`].
    State(&'a mut StateSlot),
}

impl SlotMut<'_> {
    /// Place and role.
    pub fn info(&self) -> &SlotInfo {
        match self {
            Self::Linear(slot) => &slot.info,
            Self::Param(slot) => &slot.info,
            Self::Sublayer(slot) => &slot.info,
            Self::Prompt(slot) => &slot.info,
            Self::Prefix(slot) => &slot.info,
            Self::State(slot) => &slot.info,
        }
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        match self {
            Self::Linear(slot) => slot.has_adapters(),
            Self::Param(slot) => slot.has_adapters(),
            Self::Sublayer(slot) => slot.has_adapters(),
            Self::Prompt(slot) => slot.has_adapters(),
            Self::Prefix(slot) => slot.has_adapters(),
            Self::State(slot) => slot.has_adapters(),
        }
    }

    /// What a target expression may match here: the slot, and its row parts.
    pub fn candidates(&self) -> Vec<Candidate> {
        let kind = match self {
            Self::Linear(_) => SlotKind::Linear,
            Self::Param(_) => SlotKind::Param,
            Self::Sublayer(_) => SlotKind::Sublayer,
            Self::Prompt(_) => SlotKind::Prompt,
            Self::Prefix(_) => SlotKind::Prefix,
            Self::State(_) => SlotKind::State,
        };
        let whole = self.info().candidate(kind);
        let parts: &[RowPart] = if let Self::Linear(slot) = self { &slot.parts } else { &[] };
        let part = |part: &RowPart| Candidate {
            path: format!("{}.{}", whole.path, part.name),
            part_of: Some(whole.path.clone()),
            ..whole.clone()
        };
        let parts: Vec<Candidate> = parts.iter().map(part).collect();
        std::iter::once(whole).chain(parts).collect()
    }
}

/// A visitor of slots.
pub type Visitor<'a> = dyn FnMut(SlotMut<'_>) + 'a;

/// Visits a linear slot, then its tensors.
pub(crate) fn visit_linear(slot: &mut LinearSlot, visitor: &mut Visitor<'_>) {
    visitor(SlotMut::Linear(slot));
    visitor(SlotMut::Param(&mut slot.weight));
    if let Some(bias) = &mut slot.bias {
        visitor(SlotMut::Param(bias));
    }
}
