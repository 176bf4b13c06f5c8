//! Prompts in groups that are decoded side by side.

use super::refused;
use crate::column_weights::ColumnWeights;
use crate::error::Result;
use crate::model::{Head, Model};
use peftbench_ops::Device;
use peftbench_ops::device::runs_on_threads;
use peftbench_ops::parallel::side_by_side;

/// Sequences of a group where threads compute. Of fewer than eight, reading the weights takes as long as computing with them; more than sixteen
/// would gain little by going together, and their keys, values and states would leave a core's cache. Between the two there are two groups at least:
/// groups keep the cores busy, where one token of one group is too little work to share out.
fn group_size(sequences: usize) -> usize {
    (sequences / 2).clamp(8, 16)
}

/// A model, and what all groups of prompts share while it decodes them.
pub(super) struct Shared<'a> {
    pub model: &'a dyn Model,
    pub weights: ColumnWeights,
}

impl Shared<'_> {
    pub fn device(&self) -> Device {
        match self.model.head() {
            Head::Linear(slot) => slot.weight.param.value().device().clone(),
            Head::Tied(slot) => slot.param.value().device().clone(),
        }
    }
}

/// What `decode` makes of each prompt, with what belongs to it: it gets the prompts of one group at a time. A prompt has up to `sequences`
/// sequences. Groups depend on the prompts alone, not on the number of threads.
pub(super) fn in_groups<P: AsRef<[u32]> + Send, T: Send>(
    model: &dyn Model,
    prompts: Vec<P>,
    sequences: usize,
    decode: impl Fn(&Shared<'_>, Vec<P>) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    if let Some(empty) = prompts.iter().position(|prompt| prompt.as_ref().is_empty()) {
        return Err(refused(format!("prompt {empty} has no tokens; begin it with the beginning-of-text token")));
    }
    let shared = Shared { model, weights: ColumnWeights::default() };
    let sequences = sequences.max(1);
    let together = group_size(prompts.len() * sequences) / sequences;
    let most = if runs_on_threads(&shared.device()) { together.max(1) } else { prompts.len() };
    let count = prompts.len().div_ceil(most.max(1)).max(1);
    let size = prompts.len().div_ceil(count).max(1);
    let (mut groups, mut left) = (Vec::new(), prompts.into_iter().peekable());
    while left.peek().is_some() {
        groups.push(left.by_ref().take(size).collect());
    }
    let tokens = |group: &Vec<P>| group.iter().map(|prompt| prompt.as_ref().len()).sum();
    let made: Result<Vec<Vec<T>>> = side_by_side(groups, tokens, |group| decode(&shared, group)).into_iter().collect();
    Ok(made?.into_iter().flatten().collect())
}
