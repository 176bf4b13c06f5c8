//! Decoding with the cache: [`greedy`], [`sampling`] and [`beam`] search.
//!
//! Prompts of any lengths are decoded together, in groups that go side by side on threads of their own. Those of one length are read in one pass
//! each, and the caches joined, padded in front ([`Cache::join`]): no padding is ever computed, and a sequence gets the tokens that it would get
//! alone. What has ended leaves the batch.

pub mod beam;
pub mod greedy;
mod groups;
pub mod sampling;

pub use beam::{BeamSearch, EarlyStopping, Hypothesis, beam_search};
pub use greedy::greedy;
pub use sampling::{Sampling, sample};

use crate::cache::Cache;
use crate::column_weights::ColumnWeights;
use crate::error::{ModelError, Result};
use crate::pass::Pass;
use groups::Shared;
use peftbench_ops::{DType, Tape, Tensor, Var};
use std::collections::BTreeMap;

/// What ends a decoded sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Tokens behind any of which a sequence ends; it is part of the output.
    pub eos: Vec<u32>,
    /// Runs of new tokens behind any of which a sequence ends; they are part of the output.
    pub stop: Vec<Vec<u32>>,
}

impl DecodeLimits {
    /// Whether new tokens `ids` are all there will be.
    pub fn ended(&self, ids: &[u32]) -> bool {
        let stopped = || self.stop.iter().any(|stop| !stop.is_empty() && ids.ends_with(stop));
        ids.len() >= self.max_new_tokens || ids.last().is_some_and(|last| self.eos.contains(last)) || stopped()
    }
}

/// From so many sequences on a batch repays [`ColumnWeights`].
const FEW: usize = 4;

/// Sequences that are decoded together: what the model remembers of them, and its logits for the next token of each.
struct Batch<'a> {
    shared: &'a Shared<'a>,
    /// The weights as the batch reads them; absent for one of few sequences.
    weights: Option<&'a ColumnWeights>,
    cache: Cache,
    /// One row a sequence, [vocabulary] each.
    logits: Vec<Vec<f32>>,
}

impl<'a> Batch<'a> {
    /// Reads the prompts, none of which is empty; the rows are in their order.
    fn read(shared: &'a Shared<'a>, prompts: &[impl AsRef<[u32]>]) -> Result<Self> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate() {
            by_length.entry(prompt.as_ref().len()).or_default().push(i);
        }
        let weights = (prompts.len() >= FEW).then_some(&shared.weights);
        let (mut caches, mut logits) = (Vec::new(), vec![Vec::new(); prompts.len()]);
        for group in by_length.values() {
            let ids = group.iter().flat_map(|&i| prompts[i].as_ref().iter().copied()).collect();
            let mut cache = Cache::default();
            for (&i, row) in group.iter().zip(next_logits(shared, weights, &mut cache, ids, group.len())?) {
                logits[i] = row;
            }
            caches.push(cache);
        }
        let mut rows = vec![0; prompts.len()];
        for (row, &i) in by_length.values().flatten().enumerate() {
            rows[i] = row as u32;
        }
        let cache = Cache::join(caches)?;
        let in_order = rows.iter().copied().eq(0..rows.len() as u32);
        Ok(Self { shared, weights, cache: if in_order { cache } else { cache.select(&rows)? }, logits })
    }

    /// Goes on with these rows, each as often as it is named, and a further token for each.
    fn advance(&mut self, rows: &[u32], tokens: Vec<u32>) -> Result<()> {
        if !rows.iter().copied().eq(0..self.logits.len() as u32) {
            self.cache = self.cache.select(rows)?;
        }
        self.logits = next_logits(self.shared, self.weights, &mut self.cache, tokens, rows.len())?;
        Ok(())
    }
}

/// The logits behind the last of `ids`, [batch · length] in a row, for each sequence.
fn next_logits(
    shared: &Shared<'_>,
    column_weights: Option<&ColumnWeights>,
    cache: &mut Cache,
    ids: Vec<u32>,
    batch: usize,
) -> Result<Vec<Vec<f32>>> {
    let (model, length, tape) = (shared.model, ids.len() / batch, Tape::inference());
    let pass = Pass { column_weights, ..Pass::evaluation(&tape) };
    let hidden = model.forward(&pass, &Tensor::from_vec(ids, (batch, length), &shared.device())?, Some(cache))?;
    let last = Var::constant(hidden.value().narrow(1, length - 1, 1)?.squeeze(1)?);
    let logits = model.logits(&pass, &last)?.value().to_dtype(DType::F32)?.to_vec2::<f32>()?;
    match logits.iter().flatten().any(|logit| logit.is_nan()) {
        true => Err(refused("the model's logits are not numbers; its weights are damaged or its training diverged".to_owned())),
        false => Ok(logits),
    }
}

/// Continues each prompt with the tokens that `choose` picks from a prompt's index and its logits; returns the new tokens.
fn decode(
    shared: &Shared<'_>,
    prompts: &[impl AsRef<[u32]>],
    limits: &DecodeLimits,
    mut choose: impl FnMut(usize, &[f32]) -> u32,
) -> Result<Vec<Vec<u32>>> {
    let mut outputs = vec![Vec::new(); prompts.len()];
    if prompts.is_empty() || limits.max_new_tokens == 0 {
        return Ok(outputs);
    }
    let mut batch = Batch::read(shared, prompts)?;
    let mut open: Vec<usize> = (0..prompts.len()).collect();
    loop {
        let (mut rows, mut tokens, mut still_open) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &sequence) in open.iter().enumerate() {
            let token = choose(sequence, &batch.logits[row]);
            outputs[sequence].push(token);
            if !limits.ended(&outputs[sequence]) {
                rows.push(row as u32);
                tokens.push(token);
                still_open.push(sequence);
            }
        }
        if rows.is_empty() {
            return Ok(outputs);
        }
        batch.advance(&rows, tokens)?;
        open = still_open;
    }
}

/// An error about what was asked for.
fn refused(problem: String) -> ModelError {
    ModelError::Unsupported { origin: "decoding".to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_ends_at_any_eos_any_stop_sequence_or_its_length() {
        let limits = DecodeLimits { max_new_tokens: 5, eos: vec![7, 9], stop: vec![vec![1, 2], vec![]] };
        for (ids, ended) in [(&[3][..], false), (&[3, 9], true), (&[7], true), (&[7, 3], false), (&[1, 2], true), (&[2, 1], false)] {
            assert_eq!(limits.ended(ids), ended, "{ids:?}");
        }
        assert!(!limits.ended(&[]) && limits.ended(&[3, 3, 3, 3, 3]));
    }
}
