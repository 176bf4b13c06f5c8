//! Greedy decoding with the cache.

use crate::cache::Cache;
use crate::error::Result;
use crate::model::Model;
use crate::pass::Pass;
use peftbench_ops::{Device, Tape, Tensor, Var};

/// Bounds of a decoded sequence.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// The token after which a sequence ends; it is part of the output.
    pub eos: Option<u32>,
}

/// Continues each prompt with its most likely tokens. All prompts have the same length, so that none is padded; the result has the
/// new tokens only.
pub fn greedy(model: &dyn Model, prompts: &[Vec<u32>], limits: DecodeLimits) -> Result<Vec<Vec<u32>>> {
    let mut outputs = vec![Vec::new(); prompts.len()];
    let Some(first) = prompts.first() else { return Ok(outputs) };
    let flat: Vec<u32> = prompts.concat();
    let mut ids = Tensor::from_vec(flat, (prompts.len(), first.len()), &Device::Cpu)?;
    let mut cache = Cache::default();
    let mut done = vec![false; prompts.len()];
    for _ in 0..limits.max_new_tokens {
        let next = next_tokens(model, &ids, &mut cache)?;
        for (row, &token) in next.iter().enumerate() {
            if !done[row] {
                outputs[row].push(token);
                done[row] = Some(token) == limits.eos;
            }
        }
        if done.iter().all(|done| *done) {
            break;
        }
        ids = Tensor::from_vec(next, (prompts.len(), 1), &Device::Cpu)?;
    }
    Ok(outputs)
}

/// The most likely token behind each row of `ids` [batch, length]; the smaller id wins a tie.
fn next_tokens(model: &dyn Model, ids: &Tensor, cache: &mut Cache) -> Result<Vec<u32>> {
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, ids, Some(cache))?;
    let last = hidden.dims()[1] - 1;
    let hidden = Var::constant(hidden.value().narrow(1, last, 1)?.squeeze(1)?);
    let logits = model.logits(&pass, &hidden)?.value().to_vec2::<f32>()?;
    let best = |row: &Vec<f32>| {
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &value)| if value > best.1 { (i, value) } else { best })
    };
    Ok(logits.iter().map(|row| best(row).0 as u32).collect())
}
