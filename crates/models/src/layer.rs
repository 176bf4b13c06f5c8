//! Layers, put together from parts: a sub-layer's computation, the norm and the residual connection around it, one behind the other.

use crate::builder::Builder;
use crate::cache::Cache;
use crate::causal_lm::Step;
use crate::error::Result;
use crate::norm::Norm;
use crate::slots::{SlotMut, SublayerSlot, Visitor};
use peftbench_ops::Var;
use peftbench_spec::Role;

/// Something with slots.
pub(crate) trait Part: Send + Sync {
    /// Shows every slot, in a fixed order.
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>);

    /// Multiply-adds a token of a forward pass, without what depends on the sequence's length.
    fn multiply_adds_per_token(&self) -> usize;
}

/// A part that computes: attention, an MLP, a whole layer. `S` is what all layers of a pass share, such as rotary tables.
pub(crate) trait Layer<S>: Part {
    /// x [batch, length, hidden] → the same shape.
    fn forward(&self, step: &Step<'_>, shared: &S, x: &Var, cache: Option<&mut Cache>) -> Result<Var>;
}

/// A computation f with a norm and a residual connection.
pub(crate) struct Residual<L> {
    norm: Norm,
    inner: L,
    output: SublayerSlot,
    form: Form,
}

/// Where the norm of a sub-layer f stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// x + f(norm(x)).
    Before,
    /// norm(x) + f(norm(x)).
    BeforeBoth,
    /// norm(x + f(x)).
    Behind,
}

impl<L> Residual<L> {
    /// `inner` with its norm in front. What methods attach to its output goes by the name `name` of the module.
    pub fn new(builder: &Builder<'_>, name: &str, role: Role, norm: Norm, inner: L) -> Self {
        Self { norm, inner, output: SublayerSlot::new(builder.info(name, role)), form: Form::Before }
    }

    /// The same in another form.
    pub fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }
}

impl<L: Part> Part for Residual<L> {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.norm.visit_slots(visitor);
        self.inner.visit_slots(visitor);
        visitor(SlotMut::Sublayer(&mut self.output));
    }

    fn multiply_adds_per_token(&self) -> usize {
        self.inner.multiply_adds_per_token()
    }
}

impl<S, L: Layer<S>> Layer<S> for Residual<L> {
    fn forward(&self, step: &Step<'_>, shared: &S, x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (pass, tape) = (step.pass, step.pass.tape);
        let normed = (self.form != Form::Behind).then(|| self.norm.forward(pass, x)).transpose()?;
        let input = normed.as_ref().unwrap_or(x);
        let output = self.inner.forward(step, shared, input, cache)?;
        let output = self.output.forward(pass, input, output)?;
        let kept = if self.form == Form::BeforeBoth { input } else { x };
        let sum = tape.add(kept, &output)?;
        Ok(if self.form == Form::Behind { self.norm.forward(pass, &sum)? } else { sum })
    }
}

/// One behind the other.
impl<A: Part, B: Part> Part for (A, B) {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.0.visit_slots(visitor);
        self.1.visit_slots(visitor);
    }

    fn multiply_adds_per_token(&self) -> usize {
        self.0.multiply_adds_per_token() + self.1.multiply_adds_per_token()
    }
}

impl<S, A: Layer<S>, B: Layer<S>> Layer<S> for (A, B) {
    fn forward(&self, step: &Step<'_>, shared: &S, x: &Var, mut cache: Option<&mut Cache>) -> Result<Var> {
        let x = self.0.forward(step, shared, x, cache.as_deref_mut())?;
        self.1.forward(step, shared, &x, cache)
    }
}

/// One of several kinds, where layers differ.
impl<S> Part for Box<dyn Layer<S>> {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        (**self).visit_slots(visitor);
    }

    fn multiply_adds_per_token(&self) -> usize {
        (**self).multiply_adds_per_token()
    }
}

impl<S> Layer<S> for Box<dyn Layer<S>> {
    fn forward(&self, step: &Step<'_>, shared: &S, x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        (**self).forward(step, shared, x, cache)
    }
}
