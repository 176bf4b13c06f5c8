//! What checkpointed blocks hold at most, by the allocator's count.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_ops::linear::LowRank;
use peftbench_ops::memory::{self, CountingAllocator};
use peftbench_ops::{Device, Param, Result, Tape, Tensor, Var};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const TOKENS: usize = 512;
const HIDDEN: usize = 128;
const INNER: usize = 344;
const BLOCKS: usize = 12;

fn tensor(dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| ((i * 7919) % 1009) as f32 / 10_090.0 - 0.05).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// A feed-forward block of LLaMA with LoRA on its gate and the way down.
struct Block {
    norm: Param,
    weights: [Param; 3],
    lora: [Param; 4],
}

impl Block {
    fn new() -> Self {
        let frozen = |dims: &[usize]| Param::frozen("w", tensor(dims));
        let trained = |dims: &[usize]| Param::trainable("lora", tensor(dims));
        Self {
            norm: Param::frozen("norm", Tensor::ones(HIDDEN, peftbench_ops::DType::F32, &Device::Cpu).unwrap()),
            weights: [frozen(&[INNER, HIDDEN]), frozen(&[INNER, HIDDEN]), frozen(&[HIDDEN, INNER])],
            lora: [trained(&[4, HIDDEN]), trained(&[INNER, 4]), trained(&[4, INNER]), trained(&[HIDDEN, 4])],
        }
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let update = |i: usize, rows: usize| LowRank {
            a: tape.param(&self.lora[i]),
            b: tape.param(&self.lora[i + 1]),
            scale: 1.0,
            rows: (0..rows).into(),
            input: None,
        };
        let [gate, up, down] = &self.weights;
        let normed = tape.rms_norm(x, &tape.param(&self.norm), 1e-5)?;
        let gate = tape.low_rank_linear(&normed, &tape.param(gate), None, &[update(0, INNER)])?;
        let gated = tape.swiglu(&gate, &tape.linear(&normed, &tape.param(up), None)?)?;
        tape.add(x, &tape.low_rank_linear(&gated, &tape.param(down), None, &[update(2, HIDDEN)])?)
    }
}

/// Bytes that the tape holds after the forward pass, and the most that is held at once, gradients of the adapters included.
fn run(blocks: usize, checkpoint: bool) -> (u64, u64) {
    let blocks: Vec<std::rc::Rc<Block>> = (0..blocks).map(|_| std::rc::Rc::new(Block::new())).collect();
    let mut x = Var::constant(tensor(&[TOKENS, HIDDEN]));
    let before = memory::reset_peak();
    let tape = Tape::new();
    for block in &blocks {
        x = match checkpoint {
            true => {
                let block = block.clone();
                tape.checkpoint(&[&x], move |tape, inputs| block.forward(tape, &inputs[0])).unwrap()
            }
            false => block.forward(&tape, &x).unwrap(),
        };
    }
    let loss = tape.sum_all(&x).unwrap();
    drop(x);
    let saved = tape.saved_bytes().values().sum();
    let grads = tape.backward(&loss).unwrap();
    assert_eq!(grads.len(), 4 * blocks.len());
    (saved, memory::peak_bytes() - before)
}

#[test]
fn checkpointed_blocks_hold_their_inputs_and_one_blocks_activations() {
    let (one_block, _) = run(1, false);
    let (all_blocks, plain_peak) = run(BLOCKS, false);
    let (inputs, peak) = run(BLOCKS, true);
    // The first block's input belongs to the test.
    assert_eq!(inputs, (BLOCKS * TOKENS * HIDDEN * 4) as u64);
    // While one block is differentiated: the gradient of its output and of its widest activations.
    let workspace = (TOKENS * (HIDDEN + 3 * INNER) * 4) as u64;
    let adapters = (BLOCKS * 2 * 4 * (HIDDEN + INNER) * 4) as u64;
    let expected = inputs + one_block + workspace + adapters;
    assert!(peak as f64 <= 1.2 * expected as f64, "{peak} bytes, expected about {expected}");
    assert!(peak < plain_peak / 2, "{peak} of {plain_peak} bytes; {all_blocks} kept without");
}
