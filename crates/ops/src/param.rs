//! Named tensors of a model or an adapter, which may be trained.

use candle_core::{Result, Tensor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A named tensor. Clones share it: the optimizer updates the very tensor that the model computes with.
///
/// A base weight starts frozen; full and selective fine-tuning set it trainable. A layer policy clears [`Param::is_active`] for a
/// step: the tensor still takes part in the computation, but as a constant.
#[derive(Debug, Clone)]
pub struct Param(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    value: RwLock<Tensor>,
    trainable: AtomicBool,
    active: AtomicBool,
}

/// Identity of a parameter, equal for clones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamKey(usize);

impl Param {
    /// A frozen parameter.
    pub fn frozen(name: impl Into<String>, value: Tensor) -> Self {
        Self::new(name.into(), value, false)
    }

    /// A trainable parameter.
    pub fn trainable(name: impl Into<String>, value: Tensor) -> Self {
        Self::new(name.into(), value, true)
    }

    fn new(name: String, value: Tensor, trainable: bool) -> Self {
        // Detached: candle's own autograd never tracks it.
        let value = RwLock::new(value.detach());
        Self(Arc::new(Inner { name, value, trainable: AtomicBool::new(trainable), active: AtomicBool::new(true) }))
    }

    /// Its name in the checkpoint or the adapter file.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its identity.
    pub fn key(&self) -> ParamKey {
        ParamKey(Arc::as_ptr(&self.0) as usize)
    }

    /// The present value; a cheap handle, not a copy.
    pub fn value(&self) -> Tensor {
        // A poisoned lock still holds a whole tensor: `set` replaces it in one move.
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the value; shape and type must stay.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let mut present = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if present.shape() != value.shape() || present.dtype() != value.dtype() {
            let (name, old, new) = (self.name(), present.shape(), value.shape());
            candle_core::bail!("parameter `{name}` has shape {old:?} {:?}, cannot be set to {new:?} {:?}", present.dtype(), value.dtype())
        }
        *present = value.detach();
        Ok(())
    }

    /// Number of scalars.
    pub fn elem_count(&self) -> usize {
        self.value().elem_count()
    }

    /// Whether the optimizer owns it.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Gives it to the optimizer, or freezes it.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.store(trainable, Ordering::Relaxed);
    }

    /// Whether the layer policy lets it train in this step.
    pub fn is_active(&self) -> bool {
        self.0.active.load(Ordering::Relaxed)
    }

    /// Lets it train in this step, or not.
    pub fn set_active(&self, active: bool) {
        self.0.active.store(active, Ordering::Relaxed);
    }
}
