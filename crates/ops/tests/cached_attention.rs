//! Attention over keys and values that grow in place gives what attention over all of them at once gives, in f32 on the kernel and in f64 composed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_ops::attention::Heads;
use peftbench_ops::key_values::KeyValues;
use peftbench_ops::{DType, Device, Tape, Tensor, Var};

const TOKENS: usize = 75;
const BATCH: usize = 3;

fn values(width: usize, seed: usize, dtype: DType) -> Tensor {
    let values: Vec<f64> = (0..BATCH * TOKENS * width).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 504.5 - 1.0).collect();
    Tensor::from_vec(values, (BATCH, TOKENS, width), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// The largest difference between what the tokens get at once and what they get in these portions.
fn difference(heads: Heads, dtype: DType, portions: &[usize], mask: Option<&Tensor>, alibi: Option<&[f32]>) -> f64 {
    let tape = Tape::inference();
    let q = values(heads.query * heads.dim, 1, dtype);
    let [k, v] = [2, 3].map(|seed| values(heads.key_value * heads.dim, seed, dtype));
    let constant = |x: &Tensor| Var::constant(x.clone());
    let at_once = tape.attention(&constant(&q), &constant(&k), &constant(&v), heads, mask, alibi).unwrap();
    let part = |x: &Tensor, start: usize, len: usize| x.narrow(1, start, len).unwrap();
    let first = TOKENS - portions.iter().sum::<usize>();
    let mut all = KeyValues::new(&part(&k, 0, first), &part(&v, 0, first)).unwrap();
    let mut largest = 0.0f64;
    for &len in portions {
        let start = all.tokens();
        all.append(&part(&k, start, len), &part(&v, start, len)).unwrap();
        let seen = mask.map(|mask| part(mask, 0, start + len));
        let found = tape.cached_attention(&constant(&part(&q, start, len)), &all, heads, seen.as_ref(), alibi).unwrap();
        let distance = (found.value() - part(at_once.value(), start, len)).unwrap().abs().unwrap().max_all().unwrap();
        largest = largest.max(distance.to_dtype(DType::F64).unwrap().to_scalar().unwrap());
    }
    assert_eq!(all.tokens(), TOKENS);
    largest
}

#[test]
fn portions_get_what_all_tokens_get_at_once() {
    let mask: Vec<u8> = (0..BATCH * TOKENS).map(|i| u8::from(i % TOKENS >= [0, 7, 20][i / TOKENS])).collect();
    let mask = Tensor::from_vec(mask, (BATCH, TOKENS), &Device::Cpu).unwrap();
    let slopes = [0.5, 0.25, 0.125, 0.0625];
    for heads in
        [Heads { query: 4, key_value: 2, dim: 32 }, Heads { query: 4, key_value: 4, dim: 5 }, Heads { query: 4, key_value: 1, dim: 16 }]
    {
        for portions in [&[1, 1, 1, 40, 1, 1][..], &[3, 2, 1], &[1]] {
            for (mask, alibi) in [(None, None), (Some(&mask), None), (None, Some(&slopes[..])), (Some(&mask), Some(&slopes[..]))] {
                let [single, double] = [DType::F32, DType::F64].map(|dtype| difference(heads, dtype, portions, mask, alibi));
                assert!(single < 1e-5 && double < 1e-12, "{heads:?} {portions:?} {single} {double}");
            }
        }
    }
}
