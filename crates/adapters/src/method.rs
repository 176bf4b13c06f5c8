//! The contract of a PEFT method.

use crate::error::Result;
use crate::selection::Chosen;
use peftbench_models::Model;
use peftbench_ops::{Param, Tensor};
use peftbench_spec::seed::Stream;
use peftbench_spec::{SlotKind, TargetExpr};
use serde_json::Value;
use std::collections::BTreeMap;

/// A PEFT method: what it attaches where, and what of it trains.
pub trait Method: Send + Sync {
    /// The kinds of slot it attaches to. Empty: it has no use for targets and layers, and they are left out of a run's identity.
    fn slot_kinds(&self) -> &'static [SlotKind];

    /// The targets where the spec says `default`, for a model of this `model_type`.
    fn default_targets(&self, arch: &str) -> TargetExpr;

    /// Whether anything trains; zero-shot evaluation says no, and training options and the seed are left out of a run's identity.
    fn trains(&self) -> bool {
        true
    }

    /// The stages of a run, in order. Each begins on a fresh base model.
    fn stages(&self) -> Vec<Stage> {
        vec![Stage { name: "train", steps: None }]
    }

    /// Attaches to the chosen slots of a fresh `model` and says what trains in this stage.
    fn attach(&self, model: &mut dyn Model, context: &mut AttachContext<'_>) -> Result<Attachment>;

    /// What a stage hands to the next, e.g. the change of each state from which SDT selects.
    fn carry(&self, _stage: usize, _attachment: &Attachment) -> Result<Carried> {
        Ok(Carried::new())
    }
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Name in records: `train`, `warmup`.
    pub name: &'static str,
    /// Optimizer steps; none for the whole budget of the spec.
    pub steps: Option<u64>,
}

/// Named tensors that one stage hands to the next.
pub type Carried = BTreeMap<String, Tensor>;

/// What a method attaches with.
pub struct AttachContext<'a> {
    /// The slots that targets and layers select, in the model's order.
    pub chosen: &'a [Chosen],
    /// Index of the stage.
    pub stage: usize,
    /// What the stage before left.
    pub carried: &'a Carried,
    /// The stream of initialisation.
    pub init: &'a mut Stream,
}

/// One trained tensor.
#[derive(Debug, Clone)]
pub struct AdapterParam {
    /// The tensor; its name is that in the adapter file.
    pub param: Param,
    /// The layer it belongs to; layer policies leave tensors outside the layers alone.
    pub layer: Option<usize>,
    /// Whether the method added it to the model, rather than training one of its own.
    pub added: bool,
    /// The target term that selected it.
    pub matched_by: String,
}

/// What a method has attached.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// All trained tensors, in the model's order.
    pub params: Vec<AdapterParam>,
    /// `adapter_config.json`, without the base model's name.
    pub peft_config: Value,
}

impl Attachment {
    /// Trained scalars.
    pub fn num_trainable(&self) -> u64 {
        self.params.iter().map(|p| p.param.elem_count() as u64).sum()
    }

    /// Scalars that the method added to the model.
    pub fn num_added(&self) -> u64 {
        self.params.iter().filter(|p| p.added).map(|p| p.param.elem_count() as u64).sum()
    }

    /// Layers with a trained tensor, ascending.
    pub fn layers(&self) -> Vec<usize> {
        let mut layers: Vec<usize> = self.params.iter().filter_map(|p| p.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// Joins what another method has attached to the same model.
    pub fn join(mut self, other: Attachment) -> Self {
        self.params.extend(other.params);
        self.peft_config = match (self.peft_config, other.peft_config) {
            (Value::Null, config) | (config, Value::Null) => config,
            (Value::Array(mut list), config) => {
                list.push(config);
                Value::Array(list)
            }
            (first, second) => Value::Array(vec![first, second]),
        };
        self
    }
}
