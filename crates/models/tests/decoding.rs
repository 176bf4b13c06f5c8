//! Decoding: a batch gets what each of its prompts gets alone, with the cache as without, and as Hugging Face and candle-transformers
//! decode.
//!
//! `fixtures/decoding.json` holds beam searches and filtered probabilities of transformers 5.23.0 on the models of
//! `fixtures/parity`; greedy tokens of those models are in their own `io.safetensors` (see `parity.rs`).
//! `fixtures/candle_transformers.json` holds greedy tokens of candle-transformers 0.11.1, made by a program outside the repository:
//! compiling that crate takes minutes, too long for a dependency of tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_models::config::ModelConfig;
use peftbench_models::decoding::{BeamSearch, DecodeLimits, EarlyStopping, Hypothesis, Sampling, beam_search, greedy, sample};
use peftbench_models::model::{ARCHITECTURES, Head, Network};
use peftbench_models::slots::{PrefixAdapter, PromptAdapter, SlotMut, StateAdapter, Visitor};
use peftbench_models::{Cache, Model, Pass, Result, load};
use peftbench_ops::{Device, Tape, Tensor, Var};
use peftbench_spec::seed::{self, Stream};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The parity models of an architecture that is built.
fn folders() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let model_type = |folder: &Path| ModelConfig::read(folder).unwrap().model_type;
    folders.retain(|folder| ARCHITECTURES.iter().any(|known| known.model_type == model_type(folder)));
    for known in ARCHITECTURES {
        assert!(folders.iter().any(|folder| model_type(folder) == known.model_type), "no fixture of `{}`", known.model_type);
    }
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn open(folder: &Path) -> Box<dyn Model> {
    load(folder, &Device::Cpu).unwrap()
}

/// Prompts of many lengths, two of them equal.
fn prompts() -> Vec<Vec<u32>> {
    [9, 1, 4, 6, 4, 2].into_iter().enumerate().map(|(i, n)| (0..n).map(|t| (7 * t + 13 * i as u32 + 3) % 64).collect()).collect()
}

/// Some sequences end early, others at the limit.
fn limits() -> DecodeLimits {
    DecodeLimits { max_new_tokens: 9, eos: vec![7, 20, 33, 46, 59], stop: vec![vec![3, 3]] }
}

fn streams(count: usize) -> Vec<Stream> {
    (0..count).map(|i| seed::stream(5, &format!("sampling/{i}"))).collect()
}

/// Checks that the prompts get together what they get alone, by every way of decoding.
fn check_batch(what: &str, model: &dyn Model) {
    let (prompts, limits) = (prompts(), limits());
    let search = BeamSearch { beams: 3, ..BeamSearch::default() };
    let sampling = Sampling { temperature: 1.2, top_k: Some(40), top_p: 0.95 };
    let together = greedy(model, &prompts, &limits).unwrap();
    let drawn = sample(model, &prompts, &limits, &sampling, &mut streams(prompts.len())).unwrap();
    let found = beam_search(model, &prompts, &limits, &search).unwrap();
    for (i, prompt) in prompts.iter().enumerate() {
        let alone = std::slice::from_ref(prompt);
        assert_eq!(together[i], greedy(model, alone, &limits).unwrap()[0], "{what}: greedy, prompt {i}");
        let own = &mut streams(prompts.len())[i..=i];
        assert_eq!(drawn[i], sample(model, alone, &limits, &sampling, own).unwrap()[0], "{what}: sampling, prompt {i}");
        assert_same(&format!("{what}: beam search, prompt {i}"), &found[i], &beam_search(model, alone, &limits, &search).unwrap()[0]);
    }
}

fn assert_same(what: &str, found: &[Hypothesis], expected: &[Hypothesis]) {
    let ids = |hypotheses: &[Hypothesis]| hypotheses.iter().map(|hypothesis| hypothesis.ids.clone()).collect::<Vec<_>>();
    assert_eq!(ids(found), ids(expected), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let tolerance = 1e-4 + 1e-5 * expected.score.abs();
        assert!((found.score - expected.score).abs() <= tolerance, "{what}: {found:?} {expected:?}");
    }
}

#[test]
fn a_batch_gets_what_each_prompt_gets_alone() {
    for folder in folders() {
        check_batch(&name(&folder), &*open(&folder));
    }
}

#[test]
fn groups_of_prompts_get_the_same_on_any_number_of_threads() {
    // More than go together, of lengths that fall into several groups and into none in order.
    let prompts: Vec<Vec<u32>> = (0..41).map(|i| (0..1 + i * 7 % 11).map(|t| (5 * t + 11 * i + 3) % 64).collect()).collect();
    let (limits, search) = (limits(), BeamSearch { beams: 3, ..BeamSearch::default() });
    for folder in folders() {
        let model = open(&folder);
        let on = |threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let drawn = sample(&*model, &prompts, &limits, &Sampling::default(), &mut streams(prompts.len())).unwrap();
                (greedy(&*model, &prompts, &limits).unwrap(), drawn, beam_search(&*model, &prompts[..11], &limits, &search).unwrap())
            })
        };
        let one = on(1);
        assert_eq!((one.0.len(), one.2.len()), (41, 11));
        assert_eq!(one.0[40], greedy(&*model, &prompts[40..], &limits).unwrap()[0], "{}", name(&folder));
        for threads in [2, 3] {
            assert_eq!(one, on(threads), "{} on {threads} threads", name(&folder));
        }
    }
}

fn values(dims: [usize; 2]) -> Var {
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|i| (i as f32 * 0.7).sin() * 0.5).collect();
    Var::constant(Tensor::from_vec(values, &dims, &Device::Cpu).unwrap())
}

/// Virtual tokens, keys and values, or states, of fixed pseudo-random values in these shapes.
struct Rows([usize; 2], [usize; 2]);

impl PromptAdapter for Rows {
    fn virtual_tokens(&self) -> usize {
        self.0[0]
    }

    fn embeddings(&self, _pass: &Pass<'_>) -> peftbench_ops::Result<Var> {
        Ok(values(self.0))
    }
}

impl PrefixAdapter for Rows {
    fn keys_values(&self, _pass: &Pass<'_>) -> peftbench_ops::Result<(Var, Var)> {
        Ok((values(self.0), values(self.1)))
    }
}

impl StateAdapter for Rows {
    fn initial_state(&self, _pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        Ok(Some(values(self.0)))
    }

    fn conv_context(&self, _pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        Ok(Some(values(self.1)))
    }
}

#[test]
fn virtual_tokens_prefixes_and_states_change_nothing_about_that() {
    for folder in folders() {
        let plain = greedy(&*open(&folder), &prompts(), &limits()).unwrap();
        for kind in ["prompt", "prefix", "state"] {
            let (mut model, mut attached) = (open(&folder), 0);
            model.visit_slots(&mut |slot| match (kind, slot) {
                ("prompt", SlotMut::Prompt(slot)) => {
                    slot.attach(Box::new(Rows([3, slot.hidden], [0, 0])));
                    attached += 1;
                }
                ("prefix", SlotMut::Prefix(slot)) => {
                    slot.attach(Box::new(Rows([2, slot.width], [2, slot.width])));
                    attached += 1;
                }
                ("state", SlotMut::State(slot)) => {
                    slot.attach(Box::new(Rows([slot.inner, slot.state], [slot.context, slot.conv_width])));
                    attached += 1;
                }
                _ => {}
            });
            if attached > 0 {
                let what = format!("{} with {kind}", name(&folder));
                assert_ne!(greedy(&*model, &prompts(), &limits()).unwrap(), plain, "{what}: what is attached has an effect");
                check_batch(&what, &*model);
            }
        }
    }
}

#[test]
fn decoding_with_the_cache_is_decoding_without() {
    for folder in folders() {
        let model = open(&folder);
        let what = name(&folder);
        let limits = DecodeLimits { max_new_tokens: 10, ..DecodeLimits::default() };
        let prompts = prompts();
        for (prompt, new) in prompts.iter().zip(greedy(&*model, &prompts, &limits).unwrap()) {
            // Token by token through the cache, and once the whole sequence without.
            let ids: Vec<u32> = prompt.iter().chain(&new).copied().collect();
            let all = model.all_logits(&Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap(), None).unwrap();
            let mut cache = Cache::default();
            for (t, &id) in ids.iter().enumerate() {
                let tape = Tape::inference();
                let pass = Pass::evaluation(&tape);
                let hidden = model.forward(&pass, &Tensor::new(&[[id]], &Device::Cpu).unwrap(), Some(&mut cache)).unwrap();
                let logits = model.logits(&pass, &hidden).unwrap().value().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let expected = all.get(0).unwrap().get(t).unwrap().to_vec1::<f32>().unwrap();
                for (found, expected) in logits.iter().zip(&expected) {
                    assert!((found - expected).abs() <= 2e-5 + 1e-4 * expected.abs(), "{what} token {t}: {found} {expected}");
                }
                if let Some(decoded) = (t + 1).checked_sub(prompt.len()).and_then(|i| new.get(i)) {
                    let best = (0..expected.len()).max_by(|&a, &b| expected[a].total_cmp(&expected[b])).unwrap();
                    assert_eq!(*decoded, best as u32, "{what} token {t}");
                }
            }
        }
    }
}

/// A model that notes how many tokens each forward pass computes.
struct Counted {
    inner: Box<dyn Model>,
    passes: Mutex<Vec<(usize, usize)>>,
}

impl Network for Counted {
    fn arch(&self) -> &'static str {
        self.inner.arch()
    }

    fn num_layers(&self) -> usize {
        self.inner.num_layers()
    }

    fn hidden_size(&self) -> usize {
        self.inner.hidden_size()
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        self.inner.visit_slots(visitor);
    }

    fn multiply_adds_per_token(&self) -> u64 {
        self.inner.multiply_adds_per_token()
    }
}

impl Model for Counted {
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn forward(&self, pass: &Pass<'_>, ids: &Tensor, cache: Option<&mut Cache>) -> Result<Var> {
        self.passes.lock().unwrap().push(ids.dims2().unwrap());
        self.inner.forward(pass, ids, cache)
    }

    fn head(&self) -> Head<'_> {
        self.inner.head()
    }
}

#[test]
fn no_padding_and_nothing_that_has_ended_is_computed() {
    let model = Counted { inner: open(&folders()[0]), passes: Mutex::new(Vec::new()) };
    let (prompts, limits) = (prompts(), limits());
    let outputs = greedy(&model, &prompts, &limits).unwrap();
    let lengths: Vec<usize> = outputs.iter().map(Vec::len).collect();
    assert!(lengths.iter().max() > lengths.iter().min(), "sequences end at different times: {lengths:?}");
    let passes = model.passes.into_inner().unwrap();
    let computed: usize = passes.iter().map(|(batch, length)| batch * length).sum();
    // Every token is computed once, but the last of each sequence, behind which nothing is asked.
    let needed: usize = prompts.iter().map(Vec::len).sum::<usize>() + lengths.iter().map(|n| n - 1).sum::<usize>();
    assert_eq!(computed, needed, "{passes:?}");
    assert_eq!(passes.len(), 5 + lengths.iter().max().unwrap() - 1, "five lengths of prompts, then all open sequences at once");
}

#[test]
fn sequences_end_where_they_are_told() {
    let model = open(&folders()[0]);
    let prompts = prompts();
    let free = greedy(&*model, &prompts, &DecodeLimits { max_new_tokens: 8, ..DecodeLimits::default() }).unwrap();
    assert!(free.iter().all(|ids| ids.len() == 8));
    let stop = free[0][2..5].to_vec();
    let stopped = greedy(&*model, &prompts, &DecodeLimits { max_new_tokens: 8, eos: vec![], stop: vec![stop.clone()] }).unwrap();
    for (stopped, free) in stopped.iter().zip(&free) {
        let end = free.windows(3).position(|run| run == stop).map_or(8, |i| i + 3);
        assert_eq!(*stopped, free[..end]);
    }
    assert!(stopped[0].len() <= 5);
    let eos = vec![free[0][1], free[1][3]];
    let ended = greedy(&*model, &prompts, &DecodeLimits { max_new_tokens: 8, eos: eos.clone(), stop: vec![] }).unwrap();
    for (ended, free) in ended.iter().zip(&free) {
        let end = free.iter().position(|id| eos.contains(id)).map_or(8, |i| i + 1);
        assert_eq!(*ended, free[..end]);
    }
    let none = DecodeLimits { max_new_tokens: 0, ..DecodeLimits::default() };
    assert_eq!(greedy(&*model, &prompts, &none).unwrap(), vec![Vec::<u32>::new(); prompts.len()]);
    assert!(greedy(&*model, &[], &limits()).unwrap().is_empty());
}

#[test]
fn what_cannot_be_decoded_is_refused_with_the_reason() {
    let model = open(&folders()[0]);
    let says = |error: peftbench_models::ModelError, part: &str| assert!(error.to_string().contains(part), "{error}");
    says(greedy(&*model, &[vec![1], vec![]], &limits()).unwrap_err(), "prompt 1 has no tokens");
    let beams = |beams, length_penalty| BeamSearch { beams, length_penalty, ..BeamSearch::default() };
    says(beam_search(&*model, &[vec![1]], &limits(), &beams(0, 1.0)).unwrap_err(), "0 beams");
    says(beam_search(&*model, &[vec![1]], &limits(), &beams(2, f64::NAN)).unwrap_err(), "length penalty NaN");
    let drawn = |sampling: Sampling, streams: &mut [Stream]| sample(&*model, &[vec![1]], &limits(), &sampling, streams).unwrap_err();
    says(drawn(Sampling { temperature: 0.0, ..Sampling::default() }, &mut streams(1)), "`temperature` is 0");
    says(drawn(Sampling { top_k: Some(0), ..Sampling::default() }, &mut streams(1)), "`top_k` is 0");
    says(drawn(Sampling { top_p: 1.5, ..Sampling::default() }, &mut streams(1)), "`top_p` is 1.5");
    says(drawn(Sampling::default(), &mut streams(2)), "2 random streams for 1 prompts");
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/decoding.json")).unwrap()
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn beam_search_finds_what_hugging_face_finds() {
    let fixture = fixture();
    let prompts: Vec<Vec<u32>> = list(&fixture["prompts"]);
    let known: Vec<PathBuf> = folders();
    let mut checked = 0;
    for case in fixture["beam"].as_array().unwrap() {
        let Some(folder) = known.iter().find(|folder| name(folder) == case["model"]) else { continue };
        let search = BeamSearch {
            beams: case["beams"].as_u64().unwrap() as usize,
            length_penalty: case["length_penalty"].as_f64().unwrap(),
            early_stopping: match &case["early_stopping"] {
                Value::Bool(true) => EarlyStopping::WhenFull,
                Value::Bool(false) => EarlyStopping::Heuristic,
                never => {
                    assert_eq!(never, "never");
                    EarlyStopping::WhenHopeless
                }
            },
        };
        let limits = DecodeLimits { max_new_tokens: 10, eos: list(&case["eos"]), stop: Vec::new() };
        let found = beam_search(&*open(folder), &prompts, &limits, &search).unwrap();
        for (found, expected) in found.iter().zip(case["hypotheses"].as_array().unwrap()) {
            let hypothesis = |h: &Value| Hypothesis { ids: list(&h["ids"]), score: h["score"].as_f64().unwrap() };
            let expected: Vec<Hypothesis> = expected.as_array().unwrap().iter().map(hypothesis).collect();
            assert_same(&format!("{} {search:?} eos {:?}", name(folder), limits.eos), found, &expected);
        }
        checked += 1;
    }
    // The fixtures hold variants of some models besides, but at least one model of each architecture was searched, in twelve ways.
    assert!(checked >= 12 * ARCHITECTURES.len(), "{checked} searches");
}

#[test]
fn a_beam_of_one_is_greedy() {
    let model = open(&folders()[0]);
    let search = BeamSearch { beams: 1, ..BeamSearch::default() };
    let found = beam_search(&*model, &prompts(), &limits(), &search).unwrap();
    let best: Vec<Vec<u32>> = found.into_iter().map(|hypotheses| hypotheses[0].ids.clone()).collect();
    assert_eq!(best, greedy(&*model, &prompts(), &limits()).unwrap());
}

#[test]
fn greedy_finds_what_candle_transformers_finds() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/candle_transformers.json")).unwrap();
    let prompts: Vec<Vec<u32>> = list(&fixture["prompts"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, expected) in fixture["greedy"].as_object().unwrap() {
        // The shipped bases are pinned as the fixtures are; one that is pre-trained anew needs new tokens here.
        let folder =
            [root.join("tests/fixtures/parity"), root.join("../../bases")].iter().map(|place| place.join(name)).find(|path| path.is_dir());
        let expected: Vec<Vec<u32>> = list(expected);
        let limits = DecodeLimits { max_new_tokens: expected[0].len(), ..DecodeLimits::default() };
        assert_eq!(greedy(&*open(&folder.unwrap()), &prompts, &limits).unwrap(), expected, "{name}");
    }
}

#[test]
fn probabilities_are_filtered_as_hugging_face_filters_them() {
    for case in fixture()["warpers"].as_array().unwrap() {
        let sampling = Sampling {
            temperature: case["temperature"].as_f64().unwrap(),
            top_k: case["top_k"].as_u64().map(|k| k as usize),
            top_p: case["top_p"].as_f64().unwrap(),
        };
        let logits: Vec<f32> = list(&case["logits"]);
        let expected: Vec<f64> = list(&case["probabilities"]);
        let mut found = vec![0.0; logits.len()];
        sampling.probabilities(&logits).into_iter().for_each(|(id, probability)| found[id as usize] = probability);
        for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() < 1e-6, "{sampling:?}, token {id}: {found} {expected}");
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_probable() {
    let model = open(&folders()[0]);
    let prompt = [vec![5u32, 17, 3]];
    let ids = Tensor::new(&prompt[0][..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let logits = model.all_logits(&ids, None).unwrap().get(0).unwrap().get(2).unwrap().to_vec1::<f32>().unwrap();
    let sampling = Sampling { temperature: 0.8, top_k: Some(12), top_p: 0.9 };
    let probabilities = sampling.probabilities(&logits);
    let limits = DecodeLimits { max_new_tokens: 1, ..DecodeLimits::default() };
    let draws = 4000;
    let mut counts = [0u32; 64];
    for batch in 0..draws / 100 {
        let mut streams: Vec<Stream> = (0..100).map(|i| seed::stream(1, &format!("{}", batch * 100 + i))).collect();
        let drawn = sample(&*model, &vec![prompt[0].clone(); 100], &limits, &sampling, &mut streams).unwrap();
        drawn.iter().for_each(|ids| counts[ids[0] as usize] += 1);
    }
    // Pearson's statistic: its mean is the degrees of freedom, its variance twice that.
    let statistic: f64 =
        probabilities.iter().map(|&(id, p)| (f64::from(counts[id as usize]) - p * f64::from(draws)).powi(2) / (p * f64::from(draws))).sum();
    let freedom = (probabilities.len() - 1) as f64;
    assert!(probabilities.len() > 4 && statistic < freedom + 4.0 * (2.0 * freedom).sqrt(), "{statistic} of {freedom} degrees of freedom");
    let drawable: u32 = probabilities.iter().map(|&(id, _)| counts[id as usize]).sum();
    assert_eq!(drawable, draws, "nothing else is drawn");
}
