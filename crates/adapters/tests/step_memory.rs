//! What a training step holds, by the allocator's own count: the tape's account is exact, the peak is what must be held and little more,
//! and nothing is kept below the lowest layer that trains.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod step;

use peftbench_ops::memory::{self, CountingAllocator};
use serde_json::json;
use std::sync::Mutex;
use step::{Shape, Step, llama_small, mamba_130m};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The allocator counts for the whole process: one measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Mamba-130M's layer, eight of them, with a small vocabulary.
fn mamba() -> Shape {
    let config = json!({"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 8, "state_size": 16, "vocab_size": 4096});
    Shape { name: "mamba", config, ..mamba_130m() }
}

/// Bytes that one layer needs besides what the tape holds, at its widest point in the backward pass: the gradients with respect to its widest
/// activation, to the two that this is made of, and to the residual stream before and after.
fn workspace(shape: &Shape) -> u64 {
    let config = |key: &str| shape.config[key].as_u64().unwrap_or(0);
    let hidden = config("hidden_size");
    let widest = config("intermediate_size").max(2 * hidden);
    shape.tokens() as u64 * (3 * widest + 2 * hidden) * 4
}

#[test]
fn the_peak_of_a_step_is_weights_optimizer_tape_and_one_layers_workspace() {
    let _alone = ALONE.lock().unwrap();
    for shape in [llama_small(), mamba()] {
        let before = memory::live_bytes();
        let mut step = Step::new(&shape);
        step.run();
        memory::reset_peak();
        let (_, saved) = step.run();
        let peak = memory::peak_bytes() - before;
        let (weights, trained) = step.held_bytes();
        let tape: u64 = saved.values().sum();
        let sum = weights + trained + tape + workspace(&shape);
        let ratio = peak as f64 / sum as f64;
        println!("{}: peak {peak}, weights {weights}, adapters and moments {trained}, tape {tape}, ratio {ratio:.3}", shape.name);
        for ((scope, operator), bytes) in &saved {
            println!("  {scope:<10} {operator:<18} {bytes:>10}");
        }
        assert!(ratio <= 1.15, "{}: {ratio}", shape.name);
    }
}

#[test]
fn the_tape_accounts_for_every_byte_that_stays_between_the_passes() {
    let _alone = ALONE.lock().unwrap();
    for shape in [llama_small(), mamba()] {
        let step = Step::new(&shape);
        drop(step.forward());
        let before = memory::live_bytes();
        let (tape, loss) = step.forward();
        let live = (memory::live_bytes() - before) as f64;
        let accounted = tape.saved_bytes().values().sum::<u64>() as f64;
        drop((tape, loss));
        // Nodes, shapes and rotary tables are not counted.
        assert!((0.0..0.01).contains(&(live / accounted - 1.0)), "{}: {live} bytes live, {accounted} accounted for", shape.name);
    }
}

#[test]
fn nothing_is_kept_below_the_lowest_layer_that_trains() {
    let _alone = ALONE.lock().unwrap();
    for whole in [llama_small(), mamba()] {
        let kept = |layers| {
            let step = Step::new(&Shape { layers, config: whole.config.clone(), ..whole });
            drop(step.forward());
            let before = memory::live_bytes();
            let (tape, loss) = step.forward();
            let (live, saved) = (memory::live_bytes() - before, tape.saved_bytes());
            drop((tape, loss));
            (live, saved)
        };
        let ((all, _), (top, saved)) = (kept("all"), kept("6,7"));
        assert!(saved.keys().all(|(scope, _)| ["layers.6", "layers.7", "head"].contains(&scope.as_str())), "{saved:?}");
        // Two layers of eight, and what lies above them.
        assert!((top as f64) < 0.3 * all as f64, "{}: {top} of {all} bytes", whole.name);
    }
}
