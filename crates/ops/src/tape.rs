//! The tape: reverse-mode differentiation with explicit saved tensors.
//!
//! A forward pass calls operators, which push nodes; [`Tape::backward`] walks them from the last to the first. Three properties
//! matter for parameter-efficient fine-tuning and are what candle's autograd lacks:
//! * the need for a gradient is known per input, so that a frozen weight never gets one;
//! * a node with no input that needs a gradient is not recorded and keeps nothing;
//! * a node's saved tensors are dropped as soon as it has been differentiated.

use crate::elementwise;
use crate::param::{Param, ParamKey};
use candle_core::{CpuStorage, Result, Storage, Tensor};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A tensor on the tape, or a constant beside it.
#[derive(Debug, Clone)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// A value that needs no gradient.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None }
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
        Self::constant(self.value.clone())
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
    Leaf(Param),
    /// A view of `len` elements of dimension `dim` from `start`. The tape treats it itself: slices of one tensor are put together once
    /// instead of each being padded to the whole.
    Narrow {
        dim: usize,
        start: usize,
    },
    Operator {
        name: &'static str,
        scope: usize,
        saved: Vec<Tensor>,
        backward: BackwardFn,
    },
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
}

/// A recording of one forward pass.
pub struct Tape {
    recording: Option<RefCell<Recording>>,
}

/// Bytes that a tape holds for its backward pass, by scope (a layer, or what lies outside them) and operator.
pub type SavedBytes = BTreeMap<(String, &'static str), u64>;

impl Tape {
    /// A tape that records.
    pub fn new() -> Self {
        let recording = Recording { scopes: vec!["model".to_owned()], ..Recording::default() };
        Self { recording: Some(RefCell::new(recording)) }
    }

    /// A tape that records nothing, for evaluation: every variable is a constant.
    pub fn inference() -> Self {
        Self { recording: None }
    }

    /// Whether operators are recorded.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// The parameter's value: a leaf if it trains in this step, else a constant.
    pub fn param(&self, param: &Param) -> Var {
        let value = param.value();
        let Some(recording) = &self.recording else { return Var::constant(value) };
        let mut recording = recording.borrow_mut();
        recording.parameters.insert(storage_address(&value));
        if !(param.is_trainable() && param.is_active()) {
            return Var::constant(value);
        }
        let recording = &mut *recording;
        let node = *recording.leaves.entry(param.key()).or_insert_with(|| {
            recording.nodes.push(Node { inputs: Vec::new(), kind: Kind::Leaf(param.clone()) });
            recording.nodes.len() - 1
        });
        Var { value, node: Some(node) }
    }

    /// Names what is recorded from here on, for [`Tape::saved_bytes`]: `layers.3`, `head`.
    pub fn enter_scope(&self, name: impl Into<String>) {
        if let Some(recording) = &self.recording {
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
        let (Some(recording), true) = (&self.recording, inputs.iter().any(Option::is_some)) else {
            return Var::constant(output);
        };
        let mut recording = recording.borrow_mut();
        let kind = Kind::Operator { name, scope: recording.scope, saved: saved(), backward: Box::new(backward) };
        recording.nodes.push(Node { inputs, kind });
        Var { value: output, node: Some(recording.nodes.len() - 1) }
    }

    /// `len` elements of dimension `dim` from `start`: a view, not a copy.
    pub fn narrow(&self, a: &Var, dim: usize, start: usize, len: usize) -> Result<Var> {
        let value = a.value.narrow(dim, start, len)?;
        let (Some(recording), Some(input)) = (&self.recording, a.node) else { return Ok(Var::constant(value)) };
        let mut recording = recording.borrow_mut();
        recording.shapes.insert(input, a.dims().to_vec());
        recording.nodes.push(Node { inputs: vec![Some(input)], kind: Kind::Narrow { dim, start } });
        Ok(Var { value, node: Some(recording.nodes.len() - 1) })
    }

    /// Bytes kept for the backward pass now, each storage counted once, parameters not at all.
    pub fn saved_bytes(&self) -> SavedBytes {
        let mut bytes = SavedBytes::new();
        let Some(recording) = &self.recording else { return bytes };
        let recording = recording.borrow();
        let mut seen = recording.parameters.clone();
        for node in &recording.nodes {
            let Kind::Operator { name, scope, saved, .. } = &node.kind else { continue };
            for tensor in saved {
                if seen.insert(storage_address(tensor)) {
                    *bytes.entry((recording.scopes[*scope].clone(), name)).or_default() += storage_bytes(tensor);
                }
            }
        }
        bytes
    }

    /// Differentiates the scalar `loss` with respect to every leaf and consumes the recording.
    pub fn backward(self, loss: &Var) -> Result<Gradients> {
        let ones = loss.value.ones_like()?;
        self.backward_from(loss, ones)
    }

    /// Like [`Tape::backward`], from `grad`, the gradient with respect to `output`, in its shape.
    pub fn backward_from(self, output: &Var, grad: Tensor) -> Result<Gradients> {
        let mut found = Vec::new();
        if let (Some(recording), Some(last)) = (self.recording, output.node) {
            let recording = recording.into_inner();
            let mut nodes = recording.nodes;
            let mut pending: Vec<Pending> = (0..nodes.len()).map(|_| Pending::default()).collect();
            pending[last].whole = Some(grad);
            while let (Some(node), Some(gathered)) = (nodes.pop(), pending.pop()) {
                let Some(grad) = gathered.assemble(recording.shapes.get(&nodes.len()))? else { continue };
                match node.kind {
                    Kind::Leaf(param) => found.push((param, grad)),
                    Kind::Narrow { dim, start } => {
                        if let Some(input) = node.inputs[0] {
                            pending[input].slices.push(Slice { dim, start, grad });
                        }
                    }
                    Kind::Operator { name, saved, backward, .. } => {
                        let needs: Vec<bool> = node.inputs.iter().map(Option::is_some).collect();
                        let input_grads = backward(Backward { grad, saved, needs: &needs })?;
                        accumulate(name, &mut pending, &node.inputs, input_grads)?;
                    }
                }
            }
        }
        found.reverse();
        Ok(Gradients { found })
    }
}

/// The gradient of a node while its users are differentiated.
#[derive(Default)]
struct Pending {
    whole: Option<Tensor>,
    /// Whether `whole` is a sum of the tape's own, which nobody else holds.
    owned: bool,
    slices: Vec<Slice>,
}

/// The gradient of a view.
struct Slice {
    dim: usize,
    start: usize,
    grad: Tensor,
}

impl Pending {
    /// Adds a contribution: the first is moved, the second added to it out of place (an operator may have handed the first to several
    /// nodes), any other in place.
    fn add(&mut self, grad: Tensor) -> Result<()> {
        self.whole = Some(match self.whole.take() {
            Some(sum) if self.owned && elementwise::add_in_place(&sum, &grad)? => sum,
            Some(sum) => {
                self.owned = true;
                elementwise::add(&sum, &grad)?
            }
            None => grad,
        });
        Ok(())
    }

    /// The whole gradient; slices that tile the tensor are joined, others are padded and added.
    fn assemble(mut self, dims: Option<&Vec<usize>>) -> Result<Option<Tensor>> {
        let Some(dims) = dims else { return Ok(self.whole) };
        self.slices.sort_by_key(|slice| slice.start);
        if let Some(joined) =
            tiles(&self.slices, dims).map(|dim| Tensor::cat(&self.slices.iter().map(|s| &s.grad).collect::<Vec<_>>(), dim))
        {
            self.add(joined?)?;
            return Ok(self.whole);
        }
        for Slice { dim, start, grad } in std::mem::take(&mut self.slices) {
            let after = dims[dim] - start - grad.dim(dim)?;
            self.add(grad.contiguous()?.pad_with_zeros(dim, start, after)?)?;
        }
        Ok(self.whole)
    }
}

/// The dimension along which the slices, sorted by start, cover a tensor of `dims` exactly once.
fn tiles(slices: &[Slice], dims: &[usize]) -> Option<usize> {
    let dim = slices.first()?.dim;
    let mut end = 0;
    for slice in slices {
        if slice.dim != dim || slice.start != end {
            return None;
        }
        end += slice.grad.dims()[dim];
    }
    (end == dims[dim]).then_some(dim)
}

/// Hands a node's input gradients on.
fn accumulate(name: &str, pending: &mut [Pending], inputs: &[Option<usize>], input_grads: InputGradients) -> Result<()> {
    if input_grads.len() != inputs.len() {
        candle_core::bail!("operator `{name}` has {} inputs but returned {} gradients", inputs.len(), input_grads.len())
    }
    for (input, grad) in inputs.iter().zip(input_grads) {
        match (input, grad) {
            (Some(index), Some(grad)) => pending[*index].add(grad)?,
            (Some(_), None) => candle_core::bail!("operator `{name}` returned no gradient for an input that needs one"),
            (None, _) => {}
        }
    }
    Ok(())
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

/// Gradients of the leaves that took part, in the order in which the forward pass first used them.
pub struct Gradients {
    found: Vec<(Param, Tensor)>,
}

impl Gradients {
    /// Parameters and their gradients.
    pub fn iter(&self) -> impl Iterator<Item = (&Param, &Tensor)> {
        self.found.iter().map(|(param, grad)| (param, grad))
    }

    /// The gradient of `param`, if it took part.
    pub fn get(&self, param: &Param) -> Option<&Tensor> {
        self.found.iter().find(|(p, _)| p.key() == param.key()).map(|(_, grad)| grad)
    }

    /// Number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether no parameter got a gradient.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The sum of two passes' gradients, e.g. of two micro-batches. A parameter may be missing from either.
    pub fn plus(self, other: Self) -> Result<Self> {
        let mut found = self.found;
        for (param, grad) in other.found {
            match found.iter_mut().find(|(p, _)| p.key() == param.key()) {
                Some((_, sum)) => *sum = (&*sum + grad)?,
                None => found.push((param, grad)),
            }
        }
        Ok(Self { found })
    }

    /// The pairs, given away.
    pub fn into_vec(self) -> Vec<(Param, Tensor)> {
        self.found
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
