//! The head of a language model holds the logits of a few rows at a time, and of labelled rows only, by the allocator's count.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_ops::memory::{self, CountingAllocator};
use peftbench_ops::{Device, Param, Tape, Tensor};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const ROWS: usize = 1024;
const VOCABULARY: usize = 50_280;
const HIDDEN: usize = 8;

fn tensor(rows: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * HIDDEN).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
    Tensor::from_vec(values, (rows, HIDDEN), &Device::Cpu).unwrap()
}

/// Most bytes held beyond what was there while the loss over so many labelled rows is computed and differentiated.
fn peak(labelled: usize) -> u64 {
    let hidden = Param::trainable("hidden", tensor(ROWS));
    let weight = Param::frozen("head", tensor(VOCABULARY));
    let rows: Vec<u32> = (0..labelled as u32).collect();
    let labels: Vec<u32> = rows.iter().map(|row| row * 37 % VOCABULARY as u32).collect();
    let before = memory::reset_peak();
    let tape = Tape::new();
    let selected = tape.select_rows(&tape.param(&hidden), &rows).unwrap();
    let loss = tape.cross_entropy(&selected, &tape.param(&weight), None, &labels).unwrap();
    assert!(tape.backward(&loss).unwrap().get(&hidden).is_some());
    memory::peak_bytes() - before
}

#[test]
fn neither_all_logits_nor_those_of_rows_without_a_label_are_ever_held() {
    let one_row = (VOCABULARY * 4) as u64;
    let all = peak(ROWS);
    // 1024 rows in pieces of 147 to 167: 2^23 logits at once.
    assert!(all < 200 * one_row, "{all} bytes are {} rows of logits", all / one_row);
    let few = peak(5);
    // Five rows of logits, and whole hidden states and their gradient.
    assert!(few < 8 * one_row, "{few} bytes are {} rows of logits", few / one_row);
}
