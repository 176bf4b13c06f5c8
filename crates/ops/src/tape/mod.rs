//! The tape: reverse-mode differentiation with explicit saved tensors.
//!
//! A forward pass calls operators, which push nodes; [`Tape::backward`] walks them from the last to the first. Three properties
//! matter for parameter-efficient fine-tuning and are what candle's autograd lacks:
//! * the need for a gradient is known per input, so that a frozen weight never gets one;
//! * a node with no input that needs a gradient is not recorded and keeps nothing;
//! * a node's saved tensors are dropped as soon as it has been differentiated.

mod backward;
mod checkpoint;
mod meter;

pub use backward::Gradients;
pub use meter::{Held, Meter};

use crate::param::{Param, ParamKey};
use candle_core::{CpuStorage, Result, Storage, Tensor};
use checkpoint::Block;
use meter::{Claim, ClaimKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::rc::Rc;

/// A tensor on the tape, or a constant beside it.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
    /// Counts the value on the tape's meter, where there is one.
    claim: Option<Rc<Claim>>,
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Var").field("value", &self.value).field("node", &self.node).finish()
    }
}

impl Var {
    /// A value that needs no gradient.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None, claim: None }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether a gradient flows back to it.
    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same value, cut from the tape.
    pub fn detach(&self) -> Self {
        Self { node: None, ..self.clone() }
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }
}

/// What a node's backward function gets.
pub struct Backward<'a> {
    /// Gradient of the loss with respect to the node's output, in the output's shape.
    pub grad: Tensor,
    /// The tensors it saved.
    pub saved: Vec<Tensor>,
    /// For each input, whether its gradient is wanted.
    pub needs: &'a [bool],
}

/// One gradient per input, `None` where it is not needed.
pub type InputGradients = Vec<Option<Tensor>>;

type BackwardFn = Box<dyn FnOnce(Backward<'_>) -> Result<InputGradients>>;

struct Node {
    inputs: Vec<Option<usize>>,
    kind: Kind,
}

enum Kind {
    Leaf(Leaf),
    /// A view of `len` elements of dimension `dim` from `start`. The tape treats it itself: slices of one tensor are put together once
    /// instead of each being padded to the whole.
    Narrow {
        dim: usize,
        start: usize,
    },
    Operator {
        name: &'static str,
        scope: usize,
        saved: Saved,
        backward: BackwardFn,
    },
    /// A block that keeps its inputs only and is run again in the backward pass.
    Checkpoint {
        scope: usize,
        saved: Saved,
        block: Block,
    },
}

/// Tensors kept for the backward pass.
struct Saved {
    tensors: Vec<Tensor>,
    /// They count on the tape's meter as long as the node is there.
    claims: Vec<Claim>,
}

/// Where a gradient leaves the tape.
enum Leaf {
    Param(Param),
    /// Input of a block that is run again.
    Input(usize),
}

#[derive(Default)]
struct Recording {
    nodes: Vec<Node>,
    leaves: HashMap<ParamKey, usize>,
    /// Storages of parameters: a node that saves one keeps no memory of its own.
    parameters: HashSet<usize>,
    /// Dimensions of the nodes that are narrowed.
    shapes: HashMap<usize, Vec<usize>>,
    scopes: Vec<String>,
    scope: usize,
    meter: Option<Meter>,
}

impl Recording {
    /// Adds a node and returns its index.
    fn push(&mut self, inputs: Vec<Option<usize>>, kind: Kind) -> usize {
        self.nodes.push(Node { inputs, kind });
        self.nodes.len() - 1
    }

    /// The leaf of a parameter, added at its first use.
    fn leaf(&mut self, param: &Param) -> usize {
        if let Some(&node) = self.leaves.get(&param.key()) {
            return node;
        }
        let node = self.push(Vec::new(), Kind::Leaf(Leaf::Param(param.clone())));
        self.leaves.insert(param.key(), node);
        node
    }

    /// Tensors to keep for the backward pass.
    fn save(&self, tensors: Vec<Tensor>) -> Saved {
        let claim = |tensor| self.meter.as_ref()?.claim(tensor, ClaimKind::Saved);
        Saved { claims: tensors.iter().filter_map(claim).collect(), tensors }
    }

    /// What an operator that has ended gives.
    fn give(&self, value: Tensor, node: Option<usize>) -> Var {
        let claim = self.meter.as_ref().and_then(|meter| meter.claim(&value, ClaimKind::Value)).map(Rc::new);
        self.meter.iter().for_each(Meter::mark);
        Var { value, node, claim }
    }
}

/// A recording of one forward pass.
pub struct Tape(Mode);

enum Mode {
    /// Operators are recorded.
    Record(RefCell<Recording>),
    /// Nothing is recorded but which trained parameters take part.
    Watch(RefCell<Vec<Param>>),
    /// Nothing is recorded.
    Infer,
}

/// Bytes that a tape holds for its backward pass, by scope (a layer, or what lies outside them) and operator.
pub type SavedBytes = BTreeMap<(String, &'static str), u64>;

impl Tape {
    /// A tape that records.
    pub fn new() -> Self {
        let recording = Recording { scopes: vec!["model".to_owned()], ..Recording::default() };
        Self(Mode::Record(RefCell::new(recording)))
    }

    /// A tape that records, and tells the meter what it holds.
    pub fn metered(meter: &Meter) -> Self {
        let tape = Self::new();
        tape.recording().into_iter().for_each(|recording| recording.borrow_mut().meter = Some(meter.clone()));
        tape
    }

    /// A tape that records nothing, for evaluation: every variable is a constant.
    pub fn inference() -> Self {
        Self(Mode::Infer)
    }

    /// Whether operators are recorded.
    pub fn is_recording(&self) -> bool {
        self.recording().is_some()
    }

    fn recording(&self) -> Option<&RefCell<Recording>> {
        if let Mode::Record(recording) = &self.0 { Some(recording) } else { None }
    }

    /// The parameter's value: a leaf if it trains in this step, else a constant.
    pub fn param(&self, param: &Param) -> Var {
        let value = param.value();
        let trains = param.is_trainable() && param.is_active();
        match &self.0 {
            Mode::Record(recording) => {
                let mut recording = recording.borrow_mut();
                recording.parameters.insert(storage_address(&value));
                recording.meter.iter().for_each(|meter| meter.parameter(&value));
                let node = trains.then(|| recording.leaf(param));
                Var { value, node, claim: None }
            }
            Mode::Watch(params) => {
                let mut params = params.borrow_mut();
                if trains && params.iter().all(|seen| seen.key() != param.key()) {
                    params.push(param.clone());
                }
                Var::constant(value)
            }
            Mode::Infer => Var::constant(value),
        }
    }

    /// Names what is recorded from here on, for [`Tape::saved_bytes`]: `layers.3`, `head`.
    pub fn enter_scope(&self, name: impl Into<String>) {
        if let Some(recording) = self.recording() {
            let mut recording = recording.borrow_mut();
            recording.scopes.push(name.into());
            recording.scope = recording.scopes.len() - 1;
        }
    }

    /// Records an operator's `output`. `saved` is what its backward function will need; it is asked for only if some input needs a
    /// gradient. Whatever else `backward` captures must be small.
    pub fn record<S, B>(&self, name: &'static str, inputs: &[&Var], output: Tensor, saved: S, backward: B) -> Var
    where
        S: FnOnce() -> Vec<Tensor>,
        B: FnOnce(Backward<'_>) -> Result<InputGradients> + 'static,
    {
        let inputs: Vec<Option<usize>> = inputs.iter().map(|input| input.node).collect();
        let Some(recording) = self.recording() else { return Var::constant(output) };
        if inputs.iter().all(Option::is_none) {
            return recording.borrow().give(output, None);
        }
        let mut recording = recording.borrow_mut();
        let saved = recording.save(saved());
        let kind = Kind::Operator { name, scope: recording.scope, saved, backward: Box::new(backward) };
        let node = recording.push(inputs, kind);
        recording.give(output, Some(node))
    }

    /// `len` elements of dimension `dim` from `start`: a view, not a copy.
    pub fn narrow(&self, a: &Var, dim: usize, start: usize, len: usize) -> Result<Var> {
        let value = a.value.narrow(dim, start, len)?;
        let claim = a.claim.clone();
        let (Some(recording), Some(input)) = (self.recording(), a.node) else { return Ok(Var { value, node: None, claim }) };
        let mut recording = recording.borrow_mut();
        recording.shapes.insert(input, a.dims().to_vec());
        let node = recording.push(vec![Some(input)], Kind::Narrow { dim, start });
        Ok(Var { value, node: Some(node), claim })
    }

    /// Bytes kept for the backward pass now, each storage counted once, parameters not at all.
    pub fn saved_bytes(&self) -> SavedBytes {
        let mut bytes = SavedBytes::new();
        let Some(recording) = self.recording() else { return bytes };
        let recording = recording.borrow();
        let mut seen = recording.parameters.clone();
        for node in &recording.nodes {
            let (name, scope, saved) = match &node.kind {
                Kind::Operator { name, scope, saved, .. } => (*name, scope, saved),
                Kind::Checkpoint { scope, saved, .. } => ("checkpoint", scope, saved),
                Kind::Leaf(_) | Kind::Narrow { .. } => continue,
            };
            for tensor in &saved.tensors {
                if seen.insert(storage_address(tensor)) {
                    *bytes.entry((recording.scopes[*scope].clone(), name)).or_default() += storage_bytes(tensor);
                }
            }
        }
        bytes
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

/// Identity of a tensor's storage, equal for views of it.
fn storage_address(tensor: &Tensor) -> usize {
    let (storage, _) = tensor.storage_and_layout();
    std::ptr::from_ref::<Storage>(&storage) as usize
}

/// Bytes of a tensor's whole storage: a saved view keeps all of it alive.
fn storage_bytes(tensor: &Tensor) -> u64 {
    let (storage, _) = tensor.storage_and_layout();
    let elements = match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => values.len(),
        Storage::Cpu(CpuStorage::F64(values)) => values.len(),
        Storage::Cpu(CpuStorage::U32(values)) => values.len(),
        _ => tensor.elem_count(),
    };
    (elements * tensor.dtype().size_in_bytes()) as u64
}
