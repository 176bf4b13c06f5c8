//! The contract of a PEFT method.

use crate::error::Result;
use crate::folder::FileTensors;
use crate::selection::Chosen;
use peftbench_models::Network;
use peftbench_ops::{Gradients, Param, Tape, Tensor, Var};
use peftbench_spec::seed::Stream;
use peftbench_spec::{Candidate, SlotKind, TargetExpr};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// A PEFT method: what it attaches where, and what of it trains.
pub trait Method: Send + Sync {
    /// The kinds of slot it attaches to. Empty: it has no use for targets and layers, and they are left out of a run's identity.
    fn slot_kinds(&self) -> &'static [SlotKind];

    /// Whether it attaches to this one.
    fn accepts(&self, candidate: &Candidate) -> bool {
        self.slot_kinds().contains(&candidate.kind)
    }

    /// The targets where the spec says `default`, for a model of this `model_type`.
    fn default_targets(&self, arch: &str) -> TargetExpr;

    /// Whether anything trains; zero-shot evaluation says no, and training options and the seed are left out of a run's identity.
    fn trains(&self) -> bool {
        true
    }

    /// Whether the model computes what the base model does until something has been trained.
    fn starts_as_base(&self) -> bool {
        true
    }

    /// The stages of a run, in order. Each begins on a fresh base model.
    fn stages(&self) -> Vec<Stage> {
        vec![Stage { name: "train", steps: None }]
    }

    /// Attaches to the chosen slots of a fresh `model` and says what trains in this stage.
    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment>;

    /// What a stage hands to the next, e.g. the change of each state from which SDT selects. `probe` is for methods that try out what
    /// something is worth.
    fn carry(&self, _stage: usize, _attachment: &Attachment, _probe: &mut LossProbe<'_>) -> Result<Carried> {
        Ok(Carried::new())
    }
}

/// The stages of methods that are attached together: those of the method with most.
pub fn joint_stages<'a>(methods: impl IntoIterator<Item = &'a dyn Method>) -> Vec<Stage> {
    methods.into_iter().map(Method::stages).max_by_key(Vec::len).unwrap_or_default()
}

/// The stage that a method is in where methods attached together are in stage `joint`: one with a single stage begins afresh in each.
pub fn own_stage(method: &dyn Method, joint: usize) -> usize {
    if method.stages().len() > 1 { joint } else { 0 }
}

/// What methods that are attached together hand on from stage `joint`.
pub fn joint_carry<'a>(
    methods: impl IntoIterator<Item = &'a dyn Method>,
    joint: usize,
    attachment: &Attachment,
    probe: &mut LossProbe<'_>,
) -> Result<Carried> {
    let mut carried = Carried::new();
    for method in methods.into_iter().filter(|method| method.stages().len() > 1) {
        carried.extend(method.carry(joint, attachment, probe)?);
    }
    Ok(carried)
}

/// Tells the loss of the model as it stands, on a batch of training examples that is the same every time, in evaluation mode.
pub type LossProbe<'a> = dyn FnMut() -> Result<f64> + 'a;

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
    /// The tensors will be set from an adapter folder: whatever shapes another program has allowed are allowed.
    pub loading: bool,
}

/// One trained tensor.
#[derive(Debug, Clone)]
pub struct AdapterParam {
    /// The tensor; its name is that in the adapter file, unless [`AdapterParam::file_name`] says otherwise.
    pub param: Param,
    /// The layer it belongs to; layer policies leave tensors outside the layers alone.
    pub layer: Option<usize>,
    /// Whether the method added it to the model, rather than training one of its own.
    pub added: bool,
    /// The target term that selected it.
    pub matched_by: String,
    /// Its learning rate is that of the run times this (LoRA+).
    pub lr_factor: f64,
    /// Its name in the adapter file, where that is not the tensor's own.
    pub file_name: Option<String>,
}

impl AdapterParam {
    /// A tensor that the method adds at `chosen`.
    pub fn added(param: Param, chosen: &Chosen) -> Self {
        let (layer, matched_by) = (chosen.layer, chosen.matched_by.clone());
        Self { param, layer, added: true, matched_by, lr_factor: 1.0, file_name: None }
    }

    /// A tensor of the model's own.
    pub fn own(param: Param, layer: Option<usize>, matched_by: String) -> Self {
        Self { param, layer, added: false, matched_by, lr_factor: 1.0, file_name: None }
    }

    /// The same, with a learning rate of its own.
    pub fn with_lr_factor(self, lr_factor: f64) -> Self {
        Self { lr_factor, ..self }
    }

    /// The same, under another name in the adapter file.
    pub fn saved_as(self, file_name: impl Into<String>) -> Self {
        Self { file_name: Some(file_name.into()), ..self }
    }

    /// Its name in the adapter file.
    pub fn name_in_file(&self) -> &str {
        self.file_name.as_deref().unwrap_or_else(|| self.param.name())
    }
}

/// What a method has attached.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// All trained tensors, in the model's order.
    pub params: Vec<AdapterParam>,
    /// Frozen tensors that are saved with the adapter, such as VeRA's random projections.
    pub buffers: Vec<Param>,
    /// `adapter_config.json`, without the base model's name; a list where several methods are attached.
    pub peft_config: Value,
    /// Tensors that do not lie in the adapter file one by one.
    pub forms: Vec<Arc<dyn FileForm>>,
    /// What training does besides the gradient step.
    pub training: Vec<Arc<dyn Training>>,
    /// The parts of state spaces that the method has selected, for the record.
    pub selected: Vec<SelectedDimension>,
}

/// A channel of a layer's state space, or a state of one, that a method trains or prunes.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectedDimension {
    /// Path of the layer's A_log.
    pub path: String,
    /// The layer.
    pub layer: usize,
    /// Channel; in Mamba-2 the head.
    pub channel: usize,
    /// State of it; none for a channel as a whole.
    pub state: Option<usize>,
    /// Whether it trains; otherwise it is pruned.
    pub trained: bool,
    /// What it was ranked by, where that is known.
    pub score: Option<f64>,
    /// Channels of the layer.
    pub num_channels: usize,
    /// States of a channel.
    pub num_states: usize,
}

/// How some trained tensors lie in the adapter file, where they do not lie there one by one under their own names: LoRAs on row parts that
/// Hugging Face knows as one, re-parametrised prefixes of which only the outcome is saved.
pub trait FileForm: Debug + Send + Sync {
    /// The trained tensors that it saves and loads.
    fn params(&self) -> Vec<Param>;

    /// What the file holds in their place.
    fn write(&self) -> Result<Vec<(String, Tensor)>>;

    /// Sets the tensors from a file.
    fn read(&self, file: &mut FileTensors) -> Result<()>;

    /// Adds keys of `adapter_config.json` that only training decides; called for the config of each attached method.
    fn complete(&self, _config: &mut Map<String, Value>) {}
}

/// What a method does in training besides the gradient step: a term of the loss, and what follows an update.
pub trait Training: Debug + Send + Sync {
    /// A scalar that is added to the loss of every step.
    fn penalty(&self, _tape: &Tape) -> Result<Option<Var>> {
        Ok(None)
    }

    /// Called behind the optimizer's update.
    fn after_step(&self, _step: &TrainingStep<'_>) -> Result<()> {
        Ok(())
    }

    /// Frozen tensors that a resumed run needs to go on alike; a checkpoint holds and restores them by name.
    fn state(&self) -> Vec<Param> {
        Vec::new()
    }
}

/// An optimizer step that has just been made.
pub struct TrainingStep<'a> {
    /// Steps of the stage so far, this one included.
    pub step: u64,
    /// Steps of the stage.
    pub total: u64,
    /// Its gradients, before clipping.
    pub grads: &'a Gradients,
    /// What clipping multiplied them with.
    pub grad_scale: f64,
}

impl Attachment {
    /// Trained tensors and `adapter_config.json`, with nothing else.
    pub fn new(params: Vec<AdapterParam>, peft_config: Value) -> Self {
        Self { params, peft_config, ..Self::default() }
    }

    /// Trained scalars.
    pub fn num_trainable(&self) -> u64 {
        self.params.iter().map(|p| p.param.elem_count() as u64).sum()
    }

    /// Scalars that the method added to the model.
    pub fn num_added(&self) -> u64 {
        let frozen: usize = self.buffers.iter().map(Param::elem_count).sum();
        self.params.iter().filter(|p| p.added).map(|p| p.param.elem_count() as u64).sum::<u64>() + frozen as u64
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
        let (config, other_config) = match (self.peft_config, other.peft_config) {
            (Value::Null, config) => (config, Value::Null),
            (config, Value::Null) => (config, Value::Null),
            (first, second) => (with_tensors(first, &self.params), with_tensors(second, &other.params)),
        };
        self.params.extend(other.params);
        self.buffers.extend(other.buffers);
        self.forms.extend(other.forms);
        self.training.extend(other.training);
        self.selected.extend(other.selected);
        self.peft_config = match (config, other_config) {
            (config, Value::Null) => config,
            (Value::Array(mut list), config) => {
                list.push(config);
                Value::Array(list)
            }
            (first, second) => Value::Array(vec![first, second]),
        };
        self
    }
}

/// A method's table in a list of them, with the names of its tensors.
fn with_tensors(mut config: Value, params: &[AdapterParam]) -> Value {
    if let Value::Object(table) = &mut config {
        let names: Vec<&str> = params.iter().map(AdapterParam::name_in_file).collect();
        table.insert("tensors".to_owned(), names.into());
    }
    config
}
