//! What a step holds, by kind, at its highest moment.
//!
//! Tensors are counted by what they say of themselves, each storage once: those that the tape saves, the values that variables still
//! hold, the gradients on their way, the gradients of parameters. Only what a single operator allocates while it is at work is taken from
//! the allocator. A tensor that somebody keeps without telling the tape is in no kind, so that the kinds do not add up to the allocator's
//! peak: that is how it is found.

use super::{storage_address, storage_bytes};
use crate::memory;
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Bytes that a step holds at one moment, by kind. Parameters, moments and whatever was there before the step are none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Kept for the backward pass.
    pub activations: u64,
    /// Gradients of parameters.
    pub gradients: u64,
    /// Values that operators to come will read, gradients of activations, and the buffers of the operator at work.
    pub workspace: u64,
}

impl Held {
    /// All kinds.
    pub fn total(&self) -> u64 {
        self.activations + self.gradients + self.workspace
    }

    fn kind(&mut self, claim: ClaimKind) -> &mut u64 {
        match claim {
            ClaimKind::Value => &mut self.workspace,
            ClaimKind::Saved => &mut self.activations,
            ClaimKind::Gradient => &mut self.gradients,
        }
    }
}

/// Follows what one step's tapes hold. Clones share it.
#[derive(Clone)]
pub struct Meter(Rc<RefCell<Ledger>>);

#[derive(Default)]
struct Ledger {
    stores: HashMap<usize, Store>,
    parameters: HashSet<usize>,
    held: Held,
    /// What was held, and live by the allocator's count, when the last operator had ended.
    before: (Held, u64),
    highest: Held,
}

/// A storage and how many claims of each kind there are to it.
struct Store {
    bytes: u64,
    claims: [usize; 3],
}

impl Store {
    /// The kind under which it is counted: the last that has a claim.
    fn kind(&self) -> Option<ClaimKind> {
        let kinds = [ClaimKind::Gradient, ClaimKind::Saved, ClaimKind::Value];
        kinds.into_iter().find(|&kind| self.claims[kind as usize] > 0)
    }
}

/// Why a tensor is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimKind {
    /// By a variable, or as a gradient on its way.
    Value,
    /// For the backward pass.
    Saved,
    /// As a parameter's gradient.
    Gradient,
}

/// A tensor's storage is counted as long as this lives.
pub(super) struct Claim {
    ledger: Rc<RefCell<Ledger>>,
    address: usize,
    kind: ClaimKind,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.borrow_mut().change(self.address, |store| store.claims[self.kind as usize] -= 1);
    }
}

impl Ledger {
    /// Changes the claims to a storage and what is held accordingly.
    fn change(&mut self, address: usize, change: impl FnOnce(&mut Store)) {
        let Some(store) = self.stores.get_mut(&address) else { return };
        let before = store.kind();
        change(store);
        let (after, bytes) = (store.kind(), store.bytes);
        if let Some(kind) = before {
            *self.held.kind(kind) -= bytes;
        }
        match after {
            Some(kind) => *self.held.kind(kind) += bytes,
            None => drop(self.stores.remove(&address)),
        }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// Begins: what is live now is not the step's.
    pub fn new() -> Self {
        let meter = Self(Rc::default());
        meter.mark();
        meter.take_highest();
        meter
    }

    /// Ends an operator: what it has held at most, its own buffers included, may have been the highest moment.
    pub fn mark(&self) {
        let mut ledger = self.0.borrow_mut();
        let (held, live) = ledger.before;
        let buffers = memory::operator_peak_bytes().saturating_sub(live);
        let most = Held { workspace: held.workspace + buffers, ..held };
        if most.total() > ledger.highest.total() {
            ledger.highest = most;
        }
        ledger.before = (ledger.held, memory::reset_operator_peak());
    }

    /// What was held at the highest moment since the last call.
    pub fn take_highest(&self) -> Held {
        let mut ledger = self.0.borrow_mut();
        let next = ledger.before.0;
        std::mem::replace(&mut ledger.highest, next)
    }

    /// The tensor is a parameter's value, which is counted with the model or the adapter.
    pub(super) fn parameter(&self, value: &Tensor) {
        self.0.borrow_mut().parameters.insert(storage_address(value));
    }

    /// Counts a tensor for as long as the claim lives; none for a parameter's value.
    pub(super) fn claim(&self, tensor: &Tensor, kind: ClaimKind) -> Option<Claim> {
        let address = storage_address(tensor);
        let mut ledger = self.0.borrow_mut();
        if ledger.parameters.contains(&address) {
            return None;
        }
        ledger.stores.entry(address).or_insert_with(|| Store { bytes: storage_bytes(tensor), claims: [0; 3] });
        ledger.change(address, |store| store.claims[kind as usize] += 1);
        Some(Claim { ledger: self.0.clone(), address, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use crate::{DType, Param, Result, Tape, Var};

    #[test]
    fn a_storage_is_counted_once_and_as_what_it_is_needed_for_longest() {
        let meter = Meter::new();
        let held = || meter.0.borrow().held;
        let x = random(&[10, 10], 1, DType::F32);
        let value = meter.claim(&x, ClaimKind::Value);
        let view = meter.claim(&x.narrow(0, 3, 2).unwrap(), ClaimKind::Value);
        assert_eq!(held(), Held { workspace: 400, ..Held::default() });
        let saved = meter.claim(&x, ClaimKind::Saved);
        drop(value);
        assert_eq!(held(), Held { activations: 400, ..Held::default() });
        drop(saved);
        assert_eq!(held(), Held { workspace: 400, ..Held::default() });
        drop(view);
        assert_eq!((held(), meter.0.borrow().stores.len()), (Held::default(), 0));
        meter.parameter(&x);
        assert!(meter.claim(&x, ClaimKind::Saved).is_none());
    }

    #[test]
    fn a_step_is_followed_from_its_values_to_its_gradients() -> Result<()> {
        let weight = Param::trainable("w", random(&[30, 20], 1, DType::F32));
        let meter = Meter::new();
        let tape = Tape::metered(&meter);
        let held = || meter.0.borrow().held;
        let x = Var::constant(random(&[50, 20], 2, DType::F32));
        let y = tape.tanh(&tape.linear(&x, &tape.param(&weight), None)?)?;
        let output = 50 * 30 * 4;
        // x is saved for the weight's gradient, the output of tanh for its own; that of the linear layer is gone.
        assert_eq!(held(), Held { activations: output + 50 * 20 * 4, ..Held::default() });
        let loss = tape.sum_all(&y)?;
        drop(y);
        let grads = tape.backward(&loss)?;
        drop(loss);
        assert_eq!(held(), Held { gradients: 30 * 20 * 4, ..Held::default() });
        let highest = meter.take_highest();
        // While tanh is differentiated: what is saved, and the gradient of its output.
        assert_eq!(highest.activations, output + 50 * 20 * 4);
        assert!(highest.workspace >= output);
        drop(grads);
        assert_eq!(held(), Held::default());
        Ok(())
    }

    #[test]
    fn gradients_of_micro_batches_count_once_they_are_added_up_and_a_blocks_as_without_it() -> Result<()> {
        let weight = Param::trainable("w", random(&[30, 20], 1, DType::F32));
        let meter = Meter::new();
        let gradients = |checkpoint: bool| {
            let (tape, weight) = (Tape::metered(&meter), weight.clone());
            let x = Var::constant(random(&[50, 20], 2, DType::F32));
            let block = move |tape: &Tape, v: &[Var]| tape.tanh(&tape.linear(&v[0], &tape.param(&weight), None)?);
            let y = if checkpoint { tape.checkpoint(&[&x], block)? } else { block(&tape, &[x])? };
            let loss = tape.sum_all(&y)?;
            tape.backward(&loss)
        };
        let sum = gradients(false)?.plus(gradients(true)?)?.plus(gradients(false)?)?;
        assert_eq!(meter.0.borrow().held, Held { gradients: 30 * 20 * 4, ..Held::default() });
        drop(sum);
        assert!(meter.0.borrow().stores.is_empty());
        Ok(())
    }
}
