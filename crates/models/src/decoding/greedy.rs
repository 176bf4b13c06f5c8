//! The most likely token at every step.

use super::groups::in_groups;
use super::{DecodeLimits, decode};
use crate::error::Result;
use crate::model::Model;

/// Continues each prompt with its most likely tokens; the smaller id wins a tie. The result has the new tokens only.
///
/// # Errors
/// Where a prompt is empty, or the model's logits are not numbers.
pub fn greedy(model: &dyn Model, prompts: &[Vec<u32>], limits: &DecodeLimits) -> Result<Vec<Vec<u32>>> {
    in_groups(model, prompts.iter().collect(), 1, |shared, group| decode(shared, &group, limits, |_, logits| most_likely(logits)))
}

fn most_likely(logits: &[f32]) -> u32 {
    let larger = |best: (usize, f32), (id, &logit): (usize, &f32)| if logit > best.1 { (id, logit) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_id_wins_a_tie() {
        assert_eq!(most_likely(&[-1.0, 2.0, 2.0, 0.5]), 1);
        assert_eq!(most_likely(&[f32::NEG_INFINITY, -3.0]), 1);
    }
}
