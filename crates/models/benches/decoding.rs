//! Greedy decoding on the shipped tiny models: tokens a second by how many prompts go together, and how many times those of one alone; with
//! the reading of the prompts, and in the steps behind it. With `RAYON_NUM_THREADS=1` these are seconds of processor time, which leave out what
//! else the machine does; otherwise seconds by the clock.
//!
//! Prompts have 32 to 63 tokens, sorted by length as an evaluation sorts them; each gets 48 new tokens. One alone and several together take turns,
//! so that both see the same machine; a line holds the medians of fifteen rounds. `-- tiny-llama 16` decodes with that model only, 16 prompts together.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use peftbench_models::Model;
use peftbench_models::decoding::{DecodeLimits, greedy};
use peftbench_models::load;
use peftbench_ops::Device;
use peftbench_ops::clock::process_cpu_time;
use peftbench_ops::memory;
use std::path::Path;
use std::time::Instant;

const PROMPTS: usize = 64;
const NEW_TOKENS: usize = 48;
const ROUNDS: usize = 15;

fn prompts(vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |prompt: usize, at: usize| (1 + (prompt * 31 + at * 17) % (vocabulary - 1)) as u32;
    (0..PROMPTS).map(|prompt| (0..32 + prompt / 2).map(|at| token(prompt, at)).collect()).collect()
}

/// Seconds that it takes to read the prompts and to continue each by `new` tokens.
fn seconds(model: &dyn Model, prompts: &[Vec<u32>], together: usize, new: usize) -> f64 {
    let limits = DecodeLimits { max_new_tokens: new, ..DecodeLimits::default() };
    let (started, processor) = (Instant::now(), process_cpu_time().unwrap());
    let tokens: usize = prompts.chunks(together).flat_map(|batch| greedy(model, batch, &limits).unwrap()).map(|ids| ids.len()).sum();
    assert_eq!(tokens, prompts.len() * new);
    let on_one_thread = std::env::var("RAYON_NUM_THREADS").is_ok_and(|threads| threads == "1");
    if on_one_thread { (process_cpu_time().unwrap() - processor).as_secs_f64() } else { started.elapsed().as_secs_f64() }
}

/// New tokens a second: with the prompts' reading, and of the steps behind it.
fn rates(model: &dyn Model, prompts: &[Vec<u32>], together: usize) -> [f64; 2] {
    let (read, all) = (seconds(model, prompts, together, 1), seconds(model, prompts, together, NEW_TOKENS));
    [(prompts.len() * NEW_TOKENS) as f64 / all, (prompts.len() * (NEW_TOKENS - 1)) as f64 / (all - read)]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The line for one batch size.
fn compare(model: &dyn Model, prompts: &[Vec<u32>], together: usize) -> String {
    // Every eighth, so that their lengths are those of all.
    let some: Vec<_> = prompts.iter().step_by(8).cloned().collect();
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (rates(model, &some, 1), rates(model, prompts, together))).collect();
    let part = |i: usize, what: &str| {
        let (alone, rate) = (median(rounds.iter().map(|round| round.0[i])), median(rounds.iter().map(|round| round.1[i])));
        let times = median(rounds.iter().map(|round| round.1[i] / round.0[i]));
        format!("{what} {rate:.0} tokens/s, {times:.1} times {alone:.0}")
    };
    format!("{together} together: {}; {}", part(0, "in all"), part(1, "in the steps"))
}

fn main() {
    memory::keep_freed_memory();
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |what: &str| asked.is_empty() || asked.iter().any(|asked| asked == what);
    for name in ["tiny-mamba", "tiny-llama"].into_iter().filter(|name| wants(name)) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bases").join(name);
        let model = load(&path, &Device::Cpu).unwrap();
        let prompts = prompts(model.vocab_size());
        for together in [4, 8, 16, 32, 64].into_iter().filter(|together| asked.len() < 2 || wants(&together.to_string())) {
            println!("{name}, {}", compare(&*model, &prompts, together));
        }
    }
}
