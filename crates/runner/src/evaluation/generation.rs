//! Generation for a split, greedily or by beam search.

use crate::error::Result;
use peftbench_datasets::{Format, TextTokenizer};
use peftbench_models::Model;
use peftbench_models::decoding::{BeamSearch, DecodeLimits, beam_search, greedy};

/// How texts are generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoding {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// 1 decodes greedily.
    pub num_beams: usize,
    /// What ends a text and is no part of it; empty for nothing but the end token.
    pub stop: String,
}

impl Decoding {
    /// As a task's format says.
    pub fn of(format: &Format) -> Self {
        Self { max_new_tokens: format.max_new_tokens, num_beams: format.num_beams, stop: format.stop.clone() }
    }

    fn limits(&self, tokenizer: &TextTokenizer) -> Result<DecodeLimits> {
        // A beam search ranks what has ended; it must not end for what is only cut off afterwards. The tokens of the stop text spare greedy
        // decoding what would be cut off; where the text comes about by other tokens, it goes on to the end token.
        let spares = self.num_beams == 1 && !self.stop.is_empty();
        let stop = if spares { vec![tokenizer.encode(&self.stop, false)?] } else { Vec::new() };
        Ok(DecodeLimits { max_new_tokens: self.max_new_tokens, eos: tokenizer.eos_id().into_iter().collect(), stop })
    }

    fn cut<'a>(&self, text: &'a str) -> &'a str {
        if self.stop.is_empty() { text } else { text.split(&self.stop).next().unwrap_or_default() }
    }
}

/// The generated text of each prompt, up to the stop text, and the tokens read and generated. Prompts of nearly one length are decoded
/// together, so that all of a batch end at about one time and little is padded; at most `batch_size` sequences at once, beams included.
pub fn generate(
    model: &dyn Model,
    tokenizer: &TextTokenizer,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    batch_size: usize,
) -> Result<(Vec<String>, u64)> {
    let limits = decoding.limits(tokenizer)?;
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&i| prompts[i].len());
    let mut texts = vec![String::new(); prompts.len()];
    let mut tokens = 0;
    for indices in order.chunks((batch_size / decoding.num_beams).max(1)) {
        let batch: Vec<Vec<u32>> = indices.iter().map(|&i| prompts[i].clone()).collect();
        for (&i, ids) in indices.iter().zip(continuations(model, &batch, decoding.num_beams, &limits)?) {
            tokens += (prompts[i].len() + ids.len()) as u64;
            texts[i] = decoding.cut(&tokenizer.decode(&ids)?).trim().to_owned();
        }
    }
    Ok((texts, tokens))
}

/// The new tokens of each prompt.
fn continuations(model: &dyn Model, prompts: &[Vec<u32>], num_beams: usize, limits: &DecodeLimits) -> Result<Vec<Vec<u32>>> {
    if num_beams == 1 {
        return Ok(greedy(model, prompts, limits)?);
    }
    let search = BeamSearch { beams: num_beams, ..BeamSearch::default() };
    let found = beam_search(model, prompts, limits, &search)?;
    Ok(found.into_iter().map(|hypotheses| hypotheses.into_iter().next().map(|best| best.ids).unwrap_or_default()).collect())
}
