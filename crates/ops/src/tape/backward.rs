//! The walk back through a recording.

use super::meter::{Claim, ClaimKind, Meter};
use super::{Backward, InputGradients, Kind, Leaf, Mode, Node, Recording, Saved, Tape, Var};
use crate::elementwise;
use crate::param::{Param, ParamKey};
use candle_core::{Result, Tensor};
use std::collections::HashMap;

impl Tape {
    /// Differentiates the scalar `loss` with respect to every leaf and consumes the recording.
    pub fn backward(self, loss: &Var) -> Result<Gradients> {
        let ones = loss.value.ones_like()?;
        self.backward_from(loss, ones)
    }

    /// Like [`Tape::backward`], from `grad`, the gradient with respect to `output`, in its shape.
    pub fn backward_from(self, output: &Var, grad: Tensor) -> Result<Gradients> {
        let (mut found, mut claims, mut meter) = (Vec::new(), Vec::new(), None::<Meter>);
        if let (Mode::Record(recording), Some(node)) = (self.0, output.node) {
            let mut walk = Walk::new(recording.into_inner());
            meter = walk.meter.clone();
            walk.add(node, grad)?;
            walk.run(&mut |leaf, gathered, dims| {
                if let (Leaf::Param(param), Some(grad)) = (leaf, gathered.assemble(dims)?) {
                    claims.push(meter.as_ref().and_then(|meter| meter.claim(&grad, ClaimKind::Gradient)));
                    found.push((param, grad));
                }
                Ok(())
            })?;
        }
        found.reverse();
        claims.reverse();
        Ok(Gradients { found, claims, meter })
    }
}

/// A recording under differentiation: nodes are taken from its end, and each finds the gradient that its users have left.
pub(super) struct Walk {
    nodes: Vec<Node>,
    pub pending: Vec<Pending>,
    /// Leaves of the parameters.
    pub leaves: HashMap<ParamKey, usize>,
    /// Dimensions of the nodes that are narrowed.
    shapes: HashMap<usize, Vec<usize>>,
    /// Follows what is held, where the tape was metered.
    meter: Option<Meter>,
}

/// Takes a leaf, its gradient, and its dimensions if it is narrowed.
type LeafVisitor<'a> = dyn FnMut(Leaf, Pending, Option<&Vec<usize>>) -> Result<()> + 'a;

impl Walk {
    pub fn new(recording: Recording) -> Self {
        let pending = recording.nodes.iter().map(|_| Pending::default()).collect();
        Self { nodes: recording.nodes, pending, leaves: recording.leaves, shapes: recording.shapes, meter: recording.meter }
    }

    /// Differentiates node after node; what has been gathered at a leaf goes to `visit`.
    pub fn run(&mut self, visit: &mut LeafVisitor<'_>) -> Result<()> {
        while let (Some(node), Some(gathered)) = (self.nodes.pop(), self.pending.pop()) {
            let index = self.nodes.len();
            if let Kind::Leaf(leaf) = node.kind {
                visit(leaf, gathered, self.shapes.get(&index))?;
                continue;
            }
            let Some(grad) = gathered.assemble(self.shapes.get(&index))? else { continue };
            match node.kind {
                Kind::Narrow { dim, start } => {
                    if let Some(input) = node.inputs[0] {
                        self.pending[input].slices.push(Slice { dim, start, grad });
                        self.claim(input);
                    }
                }
                Kind::Operator { name, saved, backward, .. } => {
                    let needs: Vec<bool> = node.inputs.iter().map(Option::is_some).collect();
                    let Saved { tensors, claims } = saved;
                    let input_grads = backward(Backward { grad, saved: tensors, needs: &needs })?;
                    // The saved tensors are gone; no claim outlives its tensor.
                    drop(claims);
                    self.accumulate(name, &node.inputs, input_grads)?;
                }
                Kind::Checkpoint { saved, block, .. } => self.rerun(&*block, &saved.tensors, &node.inputs, grad)?,
                Kind::Leaf(_) => {}
            }
            self.meter.iter().for_each(Meter::mark);
        }
        Ok(())
    }

    /// Adds a contribution to the gradient of a node.
    pub fn add(&mut self, index: usize, grad: Tensor) -> Result<()> {
        self.pending[index].add(grad)?;
        self.claim(index);
        Ok(())
    }

    /// Counts what has been gathered for a node.
    fn claim(&mut self, index: usize) {
        let (Some(meter), pending) = (&self.meter, &mut self.pending[index]) else { return };
        let gathered = pending.slices.iter().map(|slice| &slice.grad).chain(&pending.whole);
        pending.claims = gathered.filter_map(|grad| meter.claim(grad, ClaimKind::Value)).collect();
    }

    /// Hands a node's input gradients on.
    fn accumulate(&mut self, name: &str, inputs: &[Option<usize>], input_grads: InputGradients) -> Result<()> {
        if input_grads.len() != inputs.len() {
            candle_core::bail!("operator `{name}` has {} inputs but returned {} gradients", inputs.len(), input_grads.len())
        }
        for (input, grad) in inputs.iter().zip(input_grads) {
            match (input, grad) {
                (Some(index), Some(grad)) => self.add(*index, grad)?,
                (Some(_), None) => candle_core::bail!("operator `{name}` returned no gradient for an input that needs one"),
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Takes over what a walk through a block has gathered for one of this walk's nodes.
    pub fn take_over(&mut self, index: usize, gathered: Pending, dims: Option<&Vec<usize>>) {
        self.pending[index] = gathered;
        self.claim(index);
        if let Some(dims) = dims {
            self.shapes.insert(index, dims.clone());
        }
    }
}

/// The gradient of a node while its users are differentiated.
#[derive(Default)]
pub(super) struct Pending {
    whole: Option<Tensor>,
    /// Whether `whole` is a sum of the tape's own, which nobody else holds.
    owned: bool,
    slices: Vec<Slice>,
    /// Count on the tape's meter.
    claims: Vec<Claim>,
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
    pub fn add(&mut self, grad: Tensor) -> Result<()> {
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

/// Gradients of the leaves that took part, in the order in which the forward pass first used them.
pub struct Gradients {
    found: Vec<(Param, Tensor)>,
    /// They count on the tape's meter as long as they are here: one for each, where there is a meter.
    claims: Vec<Option<Claim>>,
    meter: Option<Meter>,
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
        let Self { mut found, mut claims, meter } = self;
        for ((param, grad), claim) in other.found.into_iter().zip(other.claims) {
            match found.iter().position(|(p, _)| p.key() == param.key()) {
                Some(i) => {
                    found[i].1 = (&found[i].1 + grad)?;
                    claims[i] = meter.as_ref().and_then(|meter| meter.claim(&found[i].1, ClaimKind::Gradient));
                }
                None => {
                    found.push((param, grad));
                    claims.push(claim);
                }
            }
        }
        meter.iter().for_each(Meter::mark);
        Ok(Self { found, claims, meter })
    }

    /// The pairs, given away.
    pub fn into_vec(self) -> Vec<(Param, Tensor)> {
        self.found
    }
}
