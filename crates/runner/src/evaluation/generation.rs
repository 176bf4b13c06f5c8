//! Greedy generation for a split.

use crate::error::Result;
use peftbench_datasets::TextTokenizer;
use peftbench_models::Model;
use peftbench_models::decoding::{DecodeLimits, greedy};
use std::collections::BTreeMap;

/// The generated text of each prompt, up to `stop`, and the tokens read and generated. Prompts of one length are decoded together, so
/// that none is padded, at most `batch_size` at once.
pub fn generate(
    model: &dyn Model,
    tokenizer: &TextTokenizer,
    prompts: &[Vec<u32>],
    max_new_tokens: usize,
    stop: &str,
    batch_size: usize,
) -> Result<(Vec<String>, u64)> {
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, prompt) in prompts.iter().enumerate() {
        by_length.entry(prompt.len()).or_default().push(i);
    }
    let limits = DecodeLimits { max_new_tokens, eos: tokenizer.eos_id().into_iter().collect(), stop: Vec::new() };
    let mut texts = vec![String::new(); prompts.len()];
    let mut tokens = 0;
    for indices in by_length.values().flat_map(|indices| indices.chunks(batch_size.max(1))) {
        let batch: Vec<Vec<u32>> = indices.iter().map(|&i| prompts[i].clone()).collect();
        for (&i, ids) in indices.iter().zip(greedy(model, &batch, &limits)?) {
            tokens += (prompts[i].len() + ids.len()) as u64;
            let text = tokenizer.decode(&ids)?;
            texts[i] = text.split(stop).next().unwrap_or_default().trim().to_owned();
        }
    }
    Ok((texts, tokens))
}
