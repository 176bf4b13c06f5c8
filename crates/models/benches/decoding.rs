//! Greedy decoding on the shipped tiny models: tokens a second of processor time by how many prompts go together, and how many times those
//! of one alone. `RAYON_NUM_THREADS=1` keeps it on one thread.
//!
//! Prompts have 32 to 63 tokens, sorted by length as an evaluation sorts them; each gets 48 new tokens.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use peftbench_models::Model;
use peftbench_models::decoding::{DecodeLimits, greedy};
use peftbench_models::load;
use peftbench_ops::Device;
use peftbench_ops::clock::process_cpu_time;
use peftbench_ops::memory;
use std::path::Path;

const PROMPTS: usize = 64;
const NEW_TOKENS: usize = 48;

fn prompts(vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |prompt: usize, at: usize| (1 + (prompt * 31 + at * 17) % (vocabulary - 1)) as u32;
    (0..PROMPTS).map(|prompt| (0..32 + prompt / 2).map(|at| token(prompt, at)).collect()).collect()
}

/// New tokens a second of processor time, the best of five times.
fn rate(model: &dyn Model, prompts: &[Vec<u32>], together: usize) -> f64 {
    let limits = DecodeLimits { max_new_tokens: NEW_TOKENS, ..DecodeLimits::default() };
    let once = || {
        let started = process_cpu_time().unwrap();
        let tokens: usize = prompts.chunks(together).flat_map(|batch| greedy(model, batch, &limits).unwrap()).map(|ids| ids.len()).sum();
        tokens as f64 / (process_cpu_time().unwrap() - started).as_secs_f64()
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

fn main() {
    memory::keep_freed_memory();
    for name in ["tiny-mamba", "tiny-llama"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bases").join(name);
        let model = load(&path, &Device::Cpu).unwrap();
        let prompts = prompts(model.vocab_size());
        // Every eighth, so that their lengths are those of all.
        let some: Vec<_> = prompts.iter().step_by(8).cloned().collect();
        let alone = rate(&*model, &some, 1);
        println!("{name}: {alone:.0} tokens/s alone");
        for together in [4, 8, 16, 32, 64] {
            let rate = rate(&*model, &prompts, together);
            println!("{name}: {rate:.0} tokens/s with {together} together, {:.1} times as many", rate / alone);
        }
    }
}
