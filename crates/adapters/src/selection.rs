//! From target and layer expressions to the slots of a model.

use crate::error::{AdapterError, Result};
use crate::method::Method;
use peftbench_models::Network;
use peftbench_models::slots::LinearSlot;
use peftbench_ops::linear::RowRanges;
use peftbench_spec::{Candidate, LayerSelection, Role, SpecError, TargetExpr};

/// One selected slot, or a row part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The slot's path.
    pub slot: String,
    /// The row part's name, where only a part is selected.
    pub part: Option<String>,
    /// Layer index.
    pub layer: Option<usize>,
    /// What the slot computes.
    pub role: Role,
    /// The target term that selected it.
    pub matched_by: String,
}

impl Chosen {
    fn new(candidate: &Candidate, term: &str) -> Self {
        let (slot, part) = match &candidate.part_of {
            Some(slot) => (slot.clone(), candidate.path.strip_prefix(slot.as_str()).map(|rest| rest.trim_start_matches('.').to_owned())),
            None => (candidate.path.clone(), None),
        };
        Self { slot, part, layer: candidate.layer, role: candidate.role, matched_by: term.to_owned() }
    }

    /// The path as targets name it, part included.
    pub fn path(&self) -> String {
        match &self.part {
            Some(part) => format!("{}.{part}", self.slot),
            None => self.slot.clone(),
        }
    }
}

/// Selects the slots of `model` that `targets` and `layers` name and `method` can attach to. Under a proper subset of layers, slots
/// outside the layers (embedding, last norm, head) are left out, as Hugging Face's `layers_to_transform` does.
pub fn choose(
    model: &mut dyn Network,
    method_name: &str,
    method: &dyn Method,
    targets: &TargetExpr,
    layers: &LayerSelection,
    seed: u64,
) -> Result<Vec<Chosen>> {
    if method.slot_kinds().is_empty() {
        return Ok(Vec::new());
    }
    let all = model.candidates();
    let usable: Vec<Candidate> = all.iter().filter(|c| method.accepts(c)).cloned().collect();
    let default = method.default_targets(model.arch());
    let targets = if targets.is_default() { &default } else { targets };
    let matches = targets.select(&usable).map_err(|error| explain(error, targets, &all, method_name, method))?;
    let selected = layers.resolve(model.num_layers(), seed)?;
    let kept = |candidate: &Candidate| match candidate.layer {
        Some(layer) => selected.contains(&layer),
        None => *layers == LayerSelection::All,
    };
    let chosen: Vec<Chosen> =
        matches.iter().filter(|m| kept(&usable[m.candidate])).map(|m| Chosen::new(&usable[m.candidate], &m.term)).collect();
    match chosen.is_empty() {
        true => Err(SpecError::at("layers", format!("no slot that `{}` selects lies in the layers `{layers}`", targets.label())).into()),
        false => Ok(chosen),
    }
}

/// The output rows that `chosen` names in `slot`.
pub(crate) fn rows_of(chosen: &Chosen, slot: &LinearSlot) -> RowRanges {
    let part = chosen.part.as_ref().and_then(|name| slot.parts.iter().find(|part| part.name == name));
    part.map_or_else(|| (0..slot.dims().0).into(), |part| part.rows.clone())
}

/// Says so where a term names slots that exist but that the method cannot attach to.
fn explain(error: SpecError, targets: &TargetExpr, all: &[Candidate], method_name: &str, method: &dyn Method) -> AdapterError {
    match targets.select(all) {
        Ok(_) => AdapterError::Unsupported {
            method: method_name.to_owned(),
            problem: format!("`{}` names slots of another kind; it attaches to {}", targets.label(), kinds(method)),
        },
        Err(_) => error.into(),
    }
}

fn kinds(method: &dyn Method) -> String {
    let name = |kind: &peftbench_spec::SlotKind| format!("{kind:?}").to_lowercase();
    method.slot_kinds().iter().map(name).collect::<Vec<_>>().join(" and ") + " slots"
}
