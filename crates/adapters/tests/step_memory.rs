//! What a training step holds, on every model, by the allocator's own count: the tape's account is exact, the kinds add up, the peak is
//! what must be held and little more, and nothing is kept below the lowest layer that trains.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod step;

use peftbench_ops::memory::{self, CountingAllocator};
use peftbench_ops::tape::SavedBytes;
use peftbench_ops::{Meter, Tape};
use std::sync::{Mutex, PoisonError};
use step::{Shape, Step, every_model, llama_small, mamba_130m};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The allocator counts for the whole process: one measurement at a time, on one thread. Matrix products keep the buffers that they pack
/// their operands into, one a thread: it is there before the first measurement.
fn for_each_shape(test: impl Fn(Shape) + Send) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        Step::new(&llama_small()).run();
        shapes().into_iter().for_each(test);
    });
}

/// Every architecture, and two shapes as they are used: LLaMA of hidden 256, and eight layers of Mamba-130M with a small vocabulary.
fn shapes() -> Vec<Shape> {
    let mut mamba = mamba_130m();
    mamba.config["num_hidden_layers"] = 8.into();
    mamba.config["vocab_size"] = 4096.into();
    let mut shapes = every_model();
    shapes.extend([llama_small(), mamba]);
    shapes
}

/// Bytes that the widest layer needs besides what the tape holds. A layer in the backward pass: the gradients with respect to its widest
/// activation, to the two that this is made of, and to the residual stream before and after. The head: a piece of the logits, and the
/// hidden states and their gradient.
fn workspace(shape: &Shape, step: &mut Step) -> u64 {
    let (hidden, vocabulary) = (step.model.hidden_size(), step.model.vocab_size());
    let layers = 0..step.model.num_layers();
    let widest = layers.flat_map(|layer| step.layer_products(layer)).flat_map(|(out, input)| [out, input]).max().unwrap();
    let layer = shape.tokens() * (3 * widest + 2 * hidden);
    let head = shape.tokens().min(256) * vocabulary + 2 * shape.tokens() * hidden;
    4 * layer.max(head) as u64
}

fn total(saved: &SavedBytes) -> u64 {
    saved.values().sum()
}

#[test]
fn the_peak_of_a_step_is_weights_optimizer_tape_and_one_layers_workspace() {
    for_each_shape(|shape| {
        let before = memory::live_bytes();
        let mut step = Step::new(&shape);
        step.run();
        memory::reset_peak();
        let (_, saved) = step.run();
        let peak = memory::peak_bytes() - before;
        let (weights, trained) = step.held_bytes();
        let sum = weights + trained + total(&saved) + workspace(&shape, &mut step);
        let ratio = peak as f64 / sum as f64;
        println!(
            "{}: peak {peak}, weights {weights}, adapters and moments {trained}, tape {}, ratio {ratio:.3}",
            shape.name,
            total(&saved)
        );
        for ((scope, operator), bytes) in &saved {
            println!("  {scope:<10} {operator:<18} {bytes:>10}");
        }
        assert!(ratio <= 1.15, "{}: {ratio}", shape.name);
    });
}

#[test]
fn the_tape_accounts_for_every_byte_that_stays_between_the_passes() {
    for_each_shape(|shape| {
        let step = Step::new(&shape);
        drop(step.forward());
        let before = memory::live_bytes();
        let (tape, loss) = step.forward();
        let live = (memory::live_bytes() - before) as f64;
        let accounted = total(&tape.saved_bytes()) as f64;
        drop((tape, loss));
        // Nodes, shapes, masks and rotary tables are not counted.
        assert!((0.0..0.02).contains(&(live / accounted - 1.0)), "{}: {live} bytes live, {accounted} accounted for", shape.name);
    });
}

/// The allocator's peak in each part of a step beyond what was there before it, and what the kinds add up to there.
fn parts(step: &mut Step, gradient_checkpointing: bool) -> [(&'static str, u64, u64); 3] {
    let begin = memory::reset_peak();
    let meter = Meter::new();
    let end = || {
        meter.mark();
        let (peak, sum) = (memory::peak_bytes() - begin, meter.take_highest().total());
        memory::reset_peak();
        (peak, sum)
    };
    let (tape, loss) = step.forward_on(Tape::metered(&meter), gradient_checkpointing);
    let forward = end();
    let grads = tape.backward(&loss).unwrap();
    drop(loss);
    let backward = end();
    step.update(&grads);
    let update = end();
    [("forward", forward), ("backward", backward), ("update", update)].map(|(part, (peak, sum))| (part, peak, sum))
}

#[test]
fn the_kinds_add_up_to_the_allocators_peak_in_every_part_of_a_step() {
    for_each_shape(|shape| {
        let before = memory::live_bytes();
        let mut step = Step::new(&shape);
        step.run();
        let (weights, trained) = step.held_bytes();
        let resident = memory::live_bytes() - before;
        for gradient_checkpointing in [false, true] {
            for (part, peak, sum) in parts(&mut step, gradient_checkpointing) {
                let (said, seen) = (weights + trained + sum, resident + peak);
                let off = |said: u64, seen: u64| (said as f64 / seen as f64 - 1.0).abs();
                println!("{} {part} {gradient_checkpointing}: by kind {said}, allocator {seen}; of the step {sum}, {peak}", shape.name);
                assert!(off(said, seen) < 0.03, "{}, {part}: {said} bytes by kind, the allocator's peak is {seen}", shape.name);
                // The two passes without what was there before.
                let without = part == "update" || off(sum, peak) < 0.03;
                assert!(without, "{}, {part}: {sum} bytes by kind in the step, the allocator's peak is {peak}", shape.name);
            }
        }
    });
}

#[test]
fn a_checkpointed_step_holds_the_inputs_of_the_blocks_and_one_blocks_activations() {
    for_each_shape(|shape| {
        let mut step = Step::new(&shape);
        step.run();
        let layers = step.model.num_layers();
        let by_layer = |saved: &SavedBytes| {
            let of =
                |layer: usize| saved.iter().filter(|((scope, _), _)| *scope == format!("layers.{layer}")).map(|(_, bytes)| bytes).sum();
            (0..layers).map(of).collect::<Vec<u64>>()
        };
        let saved = |gradient_checkpointing| step.forward_on(Tape::new(), gradient_checkpointing).0.saved_bytes();
        let (plain, saved) = (saved(false), saved(true));
        let one_block = by_layer(&plain).into_iter().max().unwrap();
        let stream = (shape.tokens() * step.model.hidden_size() * 4) as u64;
        assert!(by_layer(&saved).iter().all(|&bytes| bytes == stream), "{}: a layer keeps its input only: {saved:?}", shape.name);
        let peak = parts(&mut step, true)[1].1;
        let (_, trained) = step.held_bytes();
        let expected = total(&saved) + one_block + trained / 3 + workspace(&shape, &mut step);
        let ratio = peak as f64 / expected as f64;
        println!("{}: {peak} bytes at most, {expected} expected: {ratio:.3}; without {}", shape.name, total(&plain));
        assert!(ratio <= 1.2, "{}: {ratio}", shape.name);
    });
}

#[test]
fn nothing_is_kept_below_the_lowest_layer_that_trains() {
    for_each_shape(|whole| {
        let kept = |layers| {
            let step = Step::new(&Shape { layers, ..whole.clone() });
            drop(step.forward());
            let before = memory::live_bytes();
            let (tape, loss) = step.forward();
            let (live, saved) = (memory::live_bytes() - before, tape.saved_bytes());
            drop((tape, loss));
            (live, saved)
        };
        let ((all, _), (top, saved)) = (kept("all"), kept("6,7"));
        assert!(saved.keys().all(|(scope, _)| ["layers.6", "layers.7", "head"].contains(&scope.as_str())), "{}: {saved:?}", whole.name);
        // Two layers of eight, and what lies above them; Jamba's are of several sizes.
        let share = if whole.name == "jamba" { 0.4 } else { 0.3 };
        assert!((top as f64) < share * all as f64, "{}: {top} of {all} bytes", whole.name);
    });
}
