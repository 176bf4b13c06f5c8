//! Beam search as Hugging Face's `generate` does it (transformers 5, `_beam_search`).

use super::groups::{Shared, in_groups};
use super::{Batch, DecodeLimits, refused};
use crate::error::Result;
use crate::model::Model;

/// How a beam search goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamSearch {
    /// Continuations that are followed at once; at least 1.
    pub beams: usize,
    /// A hypothesis of n new tokens scores the sum of their log-probabilities divided by n^`length_penalty`: above 0 favours long
    /// ones, below 0 short ones.
    pub length_penalty: f64,
    /// When to stop.
    pub early_stopping: EarlyStopping,
}

/// When the search for a prompt stops, besides at the limit of new tokens. Hugging Face's `early_stopping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `true`: when as many hypotheses have ended as there are beams.
    WhenFull,
    /// `false`: when as many have ended as there are beams, and the best open one, scored at its present length, is no better than
    /// the worst of them.
    Heuristic,
    /// `"never"`: the same, with the open one scored at the length that would favour it most.
    WhenHopeless,
}

impl Default for BeamSearch {
    fn default() -> Self {
        Self { beams: 4, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }
    }
}

/// One of a beam search's results.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// New tokens.
    pub ids: Vec<u32>,
    /// Sum of their log-probabilities in nats, divided by their number to the power of the length penalty.
    pub score: f64,
}

/// The best continuations of each prompt, the best first: at least one and at most as many as there are beams.
///
/// # Errors
/// Where there is no beam, the length penalty is no number, a prompt is empty, or the model's logits are not numbers.
pub fn beam_search(model: &dyn Model, prompts: &[Vec<u32>], limits: &DecodeLimits, search: &BeamSearch) -> Result<Vec<Vec<Hypothesis>>> {
    if search.beams == 0 || !search.length_penalty.is_finite() {
        return Err(refused(format!(
            "{} beams with length penalty {}; expected at least 1 and a number",
            search.beams, search.length_penalty
        )));
    }
    if limits.max_new_tokens == 0 {
        return Ok(vec![vec![Hypothesis { ids: Vec::new(), score: 0.0 }]; prompts.len()]);
    }
    in_groups(model, prompts.iter().collect(), search.beams, |shared, group| search_group(shared, &group, limits, search))
}

fn search_group(shared: &Shared<'_>, prompts: &[&Vec<u32>], limits: &DecodeLimits, search: &BeamSearch) -> Result<Vec<Vec<Hypothesis>>> {
    let mut batch = Batch::read(shared, prompts)?;
    let mut searches: Vec<Search> = prompts.iter().map(|_| Search::new()).collect();
    loop {
        let (mut first, mut rows, mut tokens) = (0, Vec::new(), Vec::new());
        for prompt in searches.iter_mut().filter(|prompt| !prompt.done) {
            let width = prompt.running.len();
            for (beam, token) in prompt.step(&batch.logits[first..first + width], limits, search) {
                rows.push((first + beam) as u32);
                tokens.push(token);
            }
            first += width;
        }
        if rows.is_empty() {
            return Ok(searches.into_iter().map(|search| search.ended).collect());
        }
        batch.advance(&rows, tokens)?;
    }
}

/// A continuation that is followed.
struct Beam {
    ids: Vec<u32>,
    /// Sum of log-probabilities.
    score: f64,
}

/// The search for one prompt.
struct Search {
    /// Open continuations, the most likely first.
    running: Vec<Beam>,
    /// Ended ones, the best first.
    ended: Vec<Hypothesis>,
    done: bool,
}

impl Search {
    fn new() -> Self {
        Self { running: vec![Beam { ids: Vec::new(), score: 0.0 }], ended: Vec::new(), done: false }
    }

    /// One token further, given the logits of each beam. Returns which beam goes on with which token; nothing once the search is done.
    fn step(&mut self, logits: &[Vec<f32>], limits: &DecodeLimits, search: &BeamSearch) -> Vec<(usize, u32)> {
        // Enough for all beams to go on, though each may meet every end there is.
        let ends = limits.eos.len() + limits.stop.len();
        let candidates = self.candidates(logits, search.beams * (1 + ends.max(1)));
        let (mut next, mut running) = (Vec::new(), Vec::new());
        for (rank, &(beam, token, score)) in candidates.iter().enumerate() {
            let ids: Vec<u32> = self.running[beam].ids.iter().copied().chain([token]).collect();
            if limits.ended(&ids) {
                // What ranks behind is there to have enough beams that go on.
                if rank < search.beams {
                    let score = score / (ids.len() as f64).powf(search.length_penalty);
                    self.ended.push(Hypothesis { ids, score });
                }
            } else if running.len() < search.beams {
                next.push((beam, token));
                running.push(Beam { ids, score });
            }
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(search.beams);
        self.running = running;
        self.done = !self.may_improve(limits, search);
        if self.done { Vec::new() } else { next }
    }

    /// The most likely continuations (beam, token, score), the best first.
    fn candidates(&self, logits: &[Vec<f32>], count: usize) -> Vec<(usize, u32, f64)> {
        let mut all = Vec::with_capacity(logits.len() * logits.first().map_or(0, Vec::len));
        for (i, (beam, logits)) in self.running.iter().zip(logits).enumerate() {
            let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let normaliser = largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln();
            all.extend(logits.iter().enumerate().map(|(id, &logit)| (i, id as u32, beam.score + f64::from(logit) - normaliser)));
        }
        let best_first = |a: &(usize, u32, f64), b: &(usize, u32, f64)| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1)));
        if count < all.len() {
            all.select_nth_unstable_by(count, best_first);
            all.truncate(count);
        }
        all.sort_unstable_by(best_first);
        all
    }

    /// Whether an open continuation may still end among the best.
    fn may_improve(&self, limits: &DecodeLimits, search: &BeamSearch) -> bool {
        let Some(best) = self.running.first() else { return false };
        let Some(worst) = self.ended.get(search.beams - 1) else { return true };
        let length = match search.early_stopping {
            EarlyStopping::WhenFull => return false,
            EarlyStopping::WhenHopeless if search.length_penalty > 0.0 => limits.max_new_tokens,
            _ => best.ids.len(),
        };
        best.score / (length as f64).powf(search.length_penalty) > worst.score
    }
}
