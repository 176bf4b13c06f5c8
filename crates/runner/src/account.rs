//! A training step's memory by kind, at its highest moment.
//!
//! Weights, adapter and moments are counted by their tensors' sizes before the step; what else was live then (batches, data sets,
//! tokenizer, the program's own tables) is `other`. What comes in the step is followed by the tape's [`Meter`]: tensors by what they say of
//! themselves, the buffers of the one operator at work by the allocator. Nothing is defined as the rest of the peak, so that a test can
//! hold the sum against the allocator's peak.

use peftbench_ops::{Meter, memory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes by kind at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// The base model.
    pub weights: u64,
    /// Tensors that the method added.
    pub adapter: u64,
    /// Gradients of trained tensors.
    pub gradients: u64,
    /// Moments.
    pub optimizer: u64,
    /// Kept for the backward pass.
    pub activations: u64,
    /// Values that operators to come will read, gradients of activations, buffers of the operator at work.
    pub workspace: u64,
    /// What else was there before the step.
    pub other: u64,
}

impl Kinds {
    /// Names and bytes.
    pub fn entries(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("workspace", self.workspace),
            ("other", self.other),
        ]
    }

    /// All kinds.
    pub fn total(&self) -> u64 {
        self.entries().iter().map(|(_, bytes)| bytes).sum()
    }

    /// By name, as records have it.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        self.entries().into_iter().map(|(kind, bytes)| (kind.to_owned(), bytes)).collect()
    }
}

/// Follows one step.
pub struct Account {
    before: Kinds,
    meter: Meter,
}

impl Account {
    /// Begins a step of a model whose tensors, adapter and moments take so many bytes.
    pub fn begin(weights: u64, adapter: u64, optimizer: u64) -> Self {
        let other = memory::live_bytes().saturating_sub(weights + adapter + optimizer);
        Self { before: Kinds { weights, adapter, optimizer, other, ..Kinds::default() }, meter: Meter::new() }
    }

    /// What the step's tapes tell what they hold.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Ends a part of the step: what was held at its highest moment.
    pub fn end_part(&self) -> Kinds {
        self.meter.mark();
        let held = self.meter.take_highest();
        Kinds { gradients: held.gradients, activations: held.activations, workspace: held.workspace, ..self.before }
    }
}
