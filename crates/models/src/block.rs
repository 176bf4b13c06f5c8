//! A layer as a block that the tape can run again: gradient checkpointing (Chen et al., 2016), by Hugging Face's name for it.
//!
//! The tape outlives the pass that it recorded, so a block owns what its layer took from the pass. Each layer draws its dropout from a
//! stream of its own, so that a second run sees the very masks of the first, whichever layers are run again.

use crate::cache::Cache;
use crate::causal_lm::Step;
use crate::error::Result;
use crate::layer::Layer;
use crate::pass::Pass;
use peftbench_ops::Var;
use peftbench_spec::seed;
use rand::Rng;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A model's layers.
pub(crate) struct Blocks<L>(Vec<Block<L>>);

impl<L> FromIterator<L> for Blocks<L> {
    fn from_iter<I: IntoIterator<Item = L>>(layers: I) -> Self {
        Self(layers.into_iter().map(|layer| Block(Arc::new(RwLock::new(layer)))).collect())
    }
}

impl<L> Blocks<L> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The blocks, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Block<L>> {
        self.0.iter()
    }
}

/// A layer that its model shares with the tapes it has been recorded on.
pub(crate) struct Block<L>(Arc<RwLock<L>>);

impl<L> Block<L> {
    /// The layer. Passes on several threads may read it at once.
    pub fn read(&self) -> RwLockReadGuard<'_, L> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer, to change it. That takes the whole model, which no pass can use meanwhile, so that nobody ever waits here.
    pub fn write(&self) -> RwLockWriteGuard<'_, L> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// x [batch, length, hidden] → the same shape. Where the pass checkpoints, only x is kept.
    pub fn forward<S: 'static>(&self, step: &Step<'_>, shared: &Rc<S>, x: &Var, cache: Option<&mut Cache>) -> Result<Var>
    where
        L: Layer<S> + 'static,
    {
        let pass = step.pass;
        let dropout = pass.dropout.map(|stream| stream.borrow_mut().next_u64());
        if !pass.gradient_checkpointing || cache.is_some() {
            return run(&*self.read(), step, shared, dropout, x, cache);
        }
        let (layer, shared, mask) = (Self(self.0.clone()), shared.clone(), step.mask.clone());
        let (length, prefix, scales) = (step.length, step.prefix, pass.adapter_scale.map(<[f64]>::to_vec));
        Ok(pass.tape.checkpoint(&[x], move |tape, inputs| {
            let x = &inputs[0];
            let pass = Pass { adapter_scale: scales.as_deref(), ..Pass::evaluation(tape) };
            let (mask, device) = (mask.clone(), x.value().device());
            let step = Step { pass: &pass, start: 0, length, mask, padding: &[], cached: false, prefix, device };
            Ok(run(&*layer.read(), &step, &shared, dropout, x, None)?)
        })?)
    }
}

/// One run of a layer, whose dropout comes from the stream of the seed `dropout`.
fn run<S, L: Layer<S>>(layer: &L, step: &Step<'_>, shared: &S, dropout: Option<u64>, x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
    let stream = dropout.map(|seed| RefCell::new(seed::stream(seed, "layer")));
    let pass = Pass { dropout: stream.as_ref(), ..*step.pass };
    layer.forward(&Step { pass: &pass, mask: step.mask.clone(), ..*step }, shared, x, cache)
}
