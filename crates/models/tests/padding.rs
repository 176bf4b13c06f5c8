//! Sequences of different lengths in one batch: what is computed for one must not depend on the others.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::decoding::{DecodeLimits, greedy};
use peftbench_models::{Cache, Model, Pass, load};
use peftbench_ops::{Device, Tape, Tensor};
use std::path::{Path, PathBuf};

/// Tokens of padding in front of the second sequence of a fixture's mask.
const PADDING: usize = 3;

/// The fixtures that have a model which this release knows.
fn cases() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let within = |folder: &str| std::fs::read_dir(fixtures.join(folder)).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let mut cases = [within("parity"), within("variants")].concat();
    cases.retain(|case| case.join("config.json").is_file() && load(case, &Device::Cpu).is_ok());
    cases.sort();
    cases
}

fn integers(case: &Path, name: &str) -> Option<Vec<Vec<u32>>> {
    let all = peftbench_ops::safetensors::load(case.join("io.safetensors"), &Device::Cpu).unwrap();
    let rows = all.get(name)?.to_vec2::<i64>().unwrap();
    Some(rows.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect())
}

/// Hidden states of the last position behind each of these pieces, one read after another with a cache: [batch, hidden].
fn read(model: &dyn Model, pieces: &[(Tensor, Option<Tensor>)]) -> Vec<Vec<Vec<f32>>> {
    let tape = Tape::inference();
    let mut cache = Cache::default();
    let last = |(ids, mask): &(Tensor, Option<Tensor>)| {
        let hidden = model.forward(&Pass::evaluation(&tape).with_mask(mask.as_ref()), ids, Some(&mut cache)).unwrap();
        let end = hidden.dims()[1] - 1;
        hidden.value().narrow(1, end, 1).unwrap().squeeze(1).unwrap().to_vec2::<f32>().unwrap()
    };
    pieces.iter().map(last).collect()
}

#[test]
fn a_padded_prompt_and_what_follows_it_are_read_as_alone() {
    // Mamba's mask sets what goes into the input projection to 0, in Hugging Face too; with a bias something comes out all the same.
    for case in cases().into_iter().filter(|case| !case.ends_with("mamba_bias")) {
        let model = load(&case, &Device::Cpu).unwrap();
        let ids = integers(&case, "input_ids").unwrap();
        let (short, next) = (&ids[1][PADDING..8], ids[1][8]);
        let tensor = |rows: Vec<u32>, batch: usize| Tensor::from_vec(rows.clone(), (batch, rows.len() / batch), &Device::Cpu).unwrap();
        let alone = read(&*model, &[(tensor(short.to_vec(), 1), None), (tensor(vec![next], 1), None)]);
        let mask: Vec<u8> = (0..16).map(|i| u8::from(!(8..8 + PADDING).contains(&i))).collect();
        let mask = Tensor::from_vec(mask, (2, 8), &Device::Cpu).unwrap();
        let prompts = tensor([&ids[0][..8], &ids[1][..8]].concat(), 2);
        let together = read(&*model, &[(prompts, Some(mask)), (tensor(vec![ids[0][8], next], 2), None)]);
        for (alone, together) in alone.iter().zip(&together) {
            for (a, b) in alone[0].iter().zip(&together[1]) {
                assert!((a - b).abs() < 1e-5 + 1e-4 * a.abs(), "{}: {a} alone, {b} in the batch", case.display());
            }
        }
    }
}

#[test]
fn prompts_of_two_lengths_get_hugging_faces_tokens() {
    let with_padded = |case: &PathBuf| Some((case.clone(), integers(case, "greedy_padded_ids")?));
    let cases: Vec<_> = cases().iter().filter_map(with_padded).collect();
    assert!(cases.len() >= 5, "the fixtures of make_variants.py are missing");
    for (case, expected) in cases {
        let model = load(&case, &Device::Cpu).unwrap();
        let prompts = [expected[0][..8].to_vec(), expected[1][PADDING..8].to_vec()];
        let found = greedy(&*model, &prompts, &DecodeLimits { max_new_tokens: 8, ..DecodeLimits::default() }).unwrap();
        assert_eq!(found, [&expected[0][8..], &expected[1][8..]], "{}", case.display());
    }
}
