//! Random tokens, by the model's probabilities.

use super::groups::in_groups;
use super::{DecodeLimits, decode, refused};
use crate::error::Result;
use crate::model::Model;
use peftbench_spec::seed::Stream;
use rand::RngExt;

/// Which tokens may be drawn, and how probable they are. The fields apply in this order, as in Hugging Face's `generate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens, and what ties with the last of them (Fan et al., 2018); all where absent.
    pub top_k: Option<usize>,
    /// Only the fewest tokens whose probabilities add up to at least this (Holtzman et al., 2020); in (0, 1], 1 for all.
    pub top_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0 }
    }
}

impl Sampling {
    /// The tokens that may be drawn, most likely first, with their probabilities, which add up to 1.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut tokens: Vec<(u32, f64)> =
            logits.iter().enumerate().map(|(id, &logit)| (id as u32, f64::from(logit) / self.temperature)).collect();
        tokens.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if let Some(&(_, last)) = self.top_k.and_then(|k| tokens.get(k.max(1) - 1)) {
            tokens.retain(|&(_, logit)| logit >= last);
        }
        normalise(&mut tokens);
        if self.top_p < 1.0 {
            let mut before = 0.0;
            let in_time = |token: &&(u32, f64)| {
                before += token.1;
                before - token.1 < self.top_p
            };
            let kept = tokens.iter().take_while(in_time).count();
            tokens.truncate(kept);
            let total: f64 = tokens.iter().map(|token| token.1).sum();
            tokens.iter_mut().for_each(|token| token.1 /= total);
        }
        tokens
    }

    fn draw(&self, logits: &[f32], stream: &mut Stream) -> u32 {
        let tokens = self.probabilities(logits);
        let mut left = stream.random::<f64>();
        let drawn = tokens.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        // The probabilities may add up to a little less than 1.
        drawn.or(tokens.last()).map_or(0, |token| token.0)
    }

    fn check(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(refused(format!(
                "`temperature` is {}; expected a number above 0 (greedy decoding draws nothing)",
                self.temperature
            )));
        }
        if self.top_k == Some(0) {
            return Err(refused("`top_k` is 0; expected at least 1, or none for all tokens".to_owned()));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(refused(format!("`top_p` is {}; expected a number above 0 and at most 1", self.top_p)));
        }
        Ok(())
    }
}

/// Turns logits, the largest first, into probabilities.
fn normalise(tokens: &mut [(u32, f64)]) {
    let largest = tokens.first().map_or(0.0, |token| token.1);
    tokens.iter_mut().for_each(|token| token.1 = (token.1 - largest).exp());
    let total: f64 = tokens.iter().map(|token| token.1).sum();
    tokens.iter_mut().for_each(|token| token.1 /= total);
}

/// Continues each prompt with random tokens. Each prompt draws from a stream of its own (one a prompt, in order), so that its tokens
/// depend on no other prompt.
///
/// # Errors
/// Where a field of `sampling` is out of its range, there are not as many streams as prompts, a prompt is empty, or the model's
/// logits are not numbers.
pub fn sample(
    model: &dyn Model,
    prompts: &[Vec<u32>],
    limits: &DecodeLimits,
    sampling: &Sampling,
    streams: &mut [Stream],
) -> Result<Vec<Vec<u32>>> {
    sampling.check()?;
    if streams.len() != prompts.len() {
        return Err(refused(format!("{} random streams for {} prompts; expected one each", streams.len(), prompts.len())));
    }
    let drawn = prompts.iter().zip(streams).map(|(prompt, stream)| Drawn { prompt, stream }).collect();
    in_groups(model, drawn, 1, |shared, mut group| {
        let prompts: Vec<_> = group.iter().map(|drawn| drawn.prompt).collect();
        decode(shared, &prompts, limits, |sequence, logits| sampling.draw(logits, group[sequence].stream))
    })
}

/// A prompt and the stream that its tokens are drawn from.
struct Drawn<'a> {
    prompt: &'a Vec<u32>,
    stream: &'a mut Stream,
}

impl AsRef<[u32]> for Drawn<'_> {
    fn as_ref(&self) -> &[u32] {
        self.prompt
    }
}
