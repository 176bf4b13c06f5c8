//! Options scored by their likelihood behind the prompt.
//!
//! The options of an example share its prompt, which is therefore read once. A batch has examples with prompts of nearly one length, read
//! up to the last token but one of the shortest, so that nothing is padded; the cache is repeated for every option; and what is left of
//! the sequences is read with padding on the right, where a causal model needs no mask.

use crate::error::Result;
use peftbench_datasets::metrics::Likelihood;
use peftbench_datasets::{Encoded, Example};
use peftbench_models::{Cache, Model, Pass};
use peftbench_ops::{Device, Tape, Tensor};

/// Most tokens by which the shared starts of the examples of a batch differ. What a prompt has more than the shortest one of its batch is
/// read for each of its options again; larger batches make up for a few such tokens, not for many.
const MAX_SPREAD: usize = 4;

/// One example: what is read, and which tokens are scored.
#[derive(Debug, Clone)]
pub struct Question {
    /// Token sequences up to the one before the last scored token. Options that differ only in the last token are one sequence.
    sequences: Vec<Vec<u32>>,
    options: Vec<ScoredOption>,
    /// Tokens at the start that all sequences have in common and that no scored token follows directly; 0 if there is but one sequence.
    shared: usize,
}

#[derive(Debug, Clone)]
struct ScoredOption {
    sequence: usize,
    /// Position in the sequence from which the first of the labels is predicted.
    first: usize,
    labels: Vec<u32>,
}

/// Log-likelihoods of all options.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Sum of log p over the tokens of each option of each question, in nats.
    pub log_likelihoods: Vec<Vec<f64>>,
    /// Tokens read, padding included.
    pub tokens: u64,
}

/// The likeliest options.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The text of each example's likeliest option, the first of equals.
    pub answers: Vec<String>,
    /// Mean loss of the right options' tokens, in nats.
    pub loss: Option<f64>,
}

impl Scores {
    /// How likely each question's first option is.
    pub fn first_options<'a>(&'a self, questions: &'a [Question]) -> impl Iterator<Item = Likelihood> + 'a {
        let first = |(scores, question): (&Vec<f64>, &Question)| {
            Some(Likelihood { nats: -*scores.first()?, tokens: question.label_counts().next()? })
        };
        self.log_likelihoods.iter().zip(questions).filter_map(first)
    }
}

impl Question {
    /// A question with these options, each encoded behind the prompt.
    pub fn new(options: &[Encoded]) -> Self {
        let mut question = Self { sequences: Vec::new(), options: Vec::new(), shared: 0 };
        for option in options {
            // An empty prompt leaves nothing to predict the first token from.
            let start = option.prompt_len.max(1).min(option.ids.len());
            let read = &option.ids[..option.ids.len().saturating_sub(1).max(start)];
            let known = question.sequences.iter().position(|sequence| sequence == read);
            let sequence = known.unwrap_or_else(|| {
                question.sequences.push(read.to_vec());
                question.sequences.len() - 1
            });
            question.options.push(ScoredOption { sequence, first: start.saturating_sub(1), labels: option.ids[start..].to_vec() });
        }
        if let [first, others @ ..] = &question.sequences[..]
            && !others.is_empty()
        {
            let common = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
            let firsts = question.options.iter().map(|option| option.first);
            question.shared = others.iter().map(common).chain(firsts).min().unwrap_or(0);
        }
        question
    }

    /// Number of tokens that are scored of each option.
    fn label_counts(&self) -> impl Iterator<Item = usize> + '_ {
        self.options.iter().map(|option| option.labels.len())
    }
}

/// Scores every option of every question; a pass has at most `batch_size` sequences, but for a question with more of its own.
pub fn score(model: &dyn Model, questions: &[Question], batch_size: usize, device: &Device) -> Result<Scores> {
    let mut scores = Scores { log_likelihoods: vec![Vec::new(); questions.len()], tokens: 0 };
    for indices in batches(questions, batch_size) {
        let batch: Vec<&Question> = indices.iter().map(|&i| &questions[i]).collect();
        let (found, tokens) = score_batch(model, &batch, device)?;
        scores.tokens += tokens;
        for (i, log_likelihoods) in indices.into_iter().zip(found) {
            scores.log_likelihoods[i] = log_likelihoods;
        }
    }
    Ok(scores)
}

/// Questions that are scored together: neighbours in shared length, then in whole length.
fn batches(questions: &[Question], batch_size: usize) -> Vec<Vec<usize>> {
    let longest = |question: &Question| question.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..questions.len()).filter(|&i| !questions[i].sequences.is_empty()).collect();
    order.sort_by_key(|&i| (questions[i].shared, longest(&questions[i])));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut sequences = 0;
    for i in order {
        let question = &questions[i];
        sequences += question.sequences.len();
        match batches.last_mut() {
            Some(batch) if sequences <= batch_size && question.shared - questions[batch[0]].shared <= MAX_SPREAD => batch.push(i),
            _ => {
                sequences = question.sequences.len();
                batches.push(vec![i]);
            }
        }
    }
    batches
}

/// Log-likelihoods of the options of each question, and the tokens read.
fn score_batch(model: &dyn Model, questions: &[&Question], device: &Device) -> Result<(Vec<Vec<f64>>, u64)> {
    let shared = questions.iter().map(|question| question.shared).min().unwrap_or(0);
    let mut tokens = questions.len() * shared;
    let mut cache = (shared > 0).then(|| read_starts(model, questions, shared, device)).transpose()?;
    let rests: Vec<&[u32]> = questions.iter().flat_map(|q| q.sequences.iter().map(|sequence| &sequence[shared..])).collect();
    let length = rests.iter().map(|rest| rest.len()).max().unwrap_or(0);
    tokens += rests.len() * length;
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &padded(&rests, length, device)?, cache.as_mut())?;
    drop(cache);
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let mut first_sequence = 0;
    for question in questions {
        for option in &question.options {
            let start = (first_sequence + option.sequence) * length + option.first - shared;
            rows.extend((start as u32..).take(option.labels.len()));
            labels.extend_from_slice(&option.labels);
        }
        first_sequence += question.sequences.len();
    }
    let mut log_probs = model.log_probs(&pass, &hidden, &rows, &labels)?.into_iter();
    let sums = |question: &&Question| question.label_counts().map(|count| log_probs.by_ref().take(count).sum()).collect();
    Ok((questions.iter().map(sums).collect(), tokens as u64))
}

/// The cache behind the first `shared` tokens of every question, repeated for each of its sequences.
fn read_starts(model: &dyn Model, questions: &[&Question], shared: usize, device: &Device) -> Result<Cache> {
    let starts: Vec<&[u32]> = questions.iter().map(|question| &question.sequences[0][..shared]).collect();
    let tape = Tape::inference();
    let mut cache = Cache::default();
    model.forward(&Pass::evaluation(&tape), &padded(&starts, shared, device)?, Some(&mut cache))?;
    let repeated = questions.iter().enumerate().flat_map(|(i, question)| vec![i as u32; question.sequences.len()]);
    Ok(cache.select(&repeated.collect::<Vec<_>>())?)
}

/// Sequences as [sequences, length], padded on the right.
fn padded(sequences: &[&[u32]], length: usize, device: &Device) -> Result<Tensor> {
    let row = |sequence: &&[u32]| sequence.iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<_>>();
    Ok(Tensor::from_vec(sequences.iter().flat_map(row).collect::<Vec<u32>>(), (sequences.len(), length), device)?)
}

/// The option with the largest log-likelihood of each example, with `normalise` the largest mean over its tokens.
pub fn choose(examples: &[Example], questions: &[Question], scores: &Scores, normalise: bool) -> Chosen {
    let (mut answers, mut nats, mut labels) = (Vec::new(), 0.0, 0);
    for ((example, question), scores) in examples.iter().zip(questions).zip(&scores.log_likelihoods) {
        let counts: Vec<usize> = question.label_counts().collect();
        let ranks = scores.iter().zip(&counts).map(|(score, count)| if normalise { score / (*count).max(1) as f64 } else { *score });
        answers.push(best(ranks).map_or_else(String::new, |i| example.choices[i].clone()));
        if let Some(right) = example.choices.iter().position(|choice| *choice == example.answer) {
            nats -= scores[right];
            labels += counts[right];
        }
    }
    Chosen { answers, loss: (labels > 0).then(|| nats / labels as f64) }
}

/// Index of the largest value, the first of equals.
fn best(values: impl Iterator<Item = f64>) -> Option<usize> {
    let larger = |best: Option<(usize, f64)>, (i, value): (usize, f64)| match best {
        Some((_, top)) if top >= value => best,
        _ => Some((i, value)),
    };
    values.enumerate().fold(None, larger).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_models::config::ModelConfig;
    use peftbench_models::model;
    use peftbench_models::slots::{PrefixAdapter, PromptAdapter, SlotMut, StateAdapter};
    use peftbench_models::weights::{Fresh, Init, Weights};
    use peftbench_ops::{Result as OpsResult, Var};
    use serde_json::{Value, json};

    const TOLERANCE: f64 = 2e-5;

    fn tiny(arch: &str) -> Box<dyn Model> {
        let values = match arch {
            "llama" => json!({"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2}),
            _ => json!({"model_type": "mamba", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
        };
        let Value::Object(values) = values else { unreachable!() };
        let mut model = model::build(&ModelConfig::from_values(values, arch.to_owned()).unwrap(), &Fresh { seed: 1 }).unwrap();
        // Matrices large enough for every token to have its say.
        for param in model.params().iter().filter(|p| p.value().dims().len() == 2 && !p.name().ends_with("A_log")) {
            param.set((param.value() * 10.0).unwrap()).unwrap();
        }
        model
    }

    fn learned(name: &str, dims: &[usize]) -> Tensor {
        Fresh { seed: 2 }.tensor(name, dims, Init::Normal(1.0)).unwrap()
    }

    struct Learned(Tensor, Tensor);

    impl PromptAdapter for Learned {
        fn virtual_tokens(&self) -> usize {
            self.0.dims()[0]
        }

        fn embeddings(&self, _pass: &Pass<'_>) -> OpsResult<Var> {
            Ok(Var::constant(self.0.clone()))
        }
    }

    impl PrefixAdapter for Learned {
        fn keys_values(&self, _pass: &Pass<'_>) -> OpsResult<(Var, Var)> {
            Ok((Var::constant(self.0.clone()), Var::constant(self.1.clone())))
        }
    }

    impl StateAdapter for Learned {
        fn initial_state(&self, _pass: &Pass<'_>) -> OpsResult<Option<Var>> {
            Ok(Some(Var::constant(self.0.clone())))
        }

        fn conv_context(&self, _pass: &Pass<'_>) -> OpsResult<Option<Var>> {
            Ok(Some(Var::constant(self.1.clone())))
        }
    }

    /// Virtual tokens in front, and prefixes or initial states in every layer.
    fn attach_all(model: &mut dyn Model) {
        model.visit_slots(&mut |slot| match slot {
            SlotMut::Prompt(slot) => slot.attach(Box::new(Learned(learned("prompt", &[3, 16]), learned("unused", &[1])))),
            SlotMut::Prefix(slot) => slot.attach(Box::new(Learned(learned("k", &[2, slot.width]), learned("v", &[2, slot.width])))),
            SlotMut::State(slot) => {
                let (state, context) = (learned("h", &[slot.inner, slot.state]), learned("c", &[slot.context, slot.inner]));
                slot.attach(Box::new(Learned(state, context)));
            }
            _ => {}
        });
    }

    fn encoded(prompt: &[u32], option: &[u32]) -> Encoded {
        Encoded { ids: [prompt, option].concat(), prompt_len: prompt.len(), loss_start: prompt.len(), truncated: false }
    }

    /// Options of several lengths behind prompts of several lengths, among them: single tokens, an empty prompt, an empty option, an
    /// option that begins another, and prompts cut to different lengths.
    fn questions() -> Vec<Vec<Encoded>> {
        let prompt = |length: u32, start: u32| (0..length).map(|i| (start + 7 * i) % 40).collect::<Vec<_>>();
        let options: [&[u32]; 4] = [&[5, 6, 7], &[5, 6], &[9], &[5, 8, 1, 2]];
        let mut all: Vec<Vec<Encoded>> = [9, 3, 9, 11, 25, 1, 0, 10]
            .iter()
            .zip(3..)
            .map(|(&length, start)| options.iter().map(|option| encoded(&prompt(length, start), option)).collect())
            .collect();
        all.extend([4, 12].map(|length| vec![encoded(&prompt(length, 1), &[3]), encoded(&prompt(length, 1), &[4])]));
        all.push(vec![encoded(&prompt(6, 2), &[]), encoded(&prompt(6, 2), &[8, 8])]);
        all.push(vec![encoded(&prompt(6, 2), &[1]), encoded(&prompt(6, 2)[1..], &[8, 8])]);
        all
    }

    /// Every token's log-likelihood from a pass over its own sequence alone, without cache or padding.
    fn alone(model: &dyn Model, option: &Encoded) -> f64 {
        let tape = Tape::inference();
        let pass = Pass::evaluation(&tape);
        let hidden =
            model.forward(&pass, &padded(&[&option.ids], option.ids.len(), &peftbench_ops::device::host()).unwrap(), None).unwrap();
        let scored = option.prompt_len.max(1)..option.ids.len();
        let rows: Vec<u32> = scored.clone().map(|position| position as u32 - 1).collect();
        model.log_probs(&pass, &hidden, &rows, &option.ids[scored]).unwrap().iter().sum()
    }

    #[test]
    fn shared_prompts_give_the_scores_of_each_option_alone() {
        for (arch, adapted) in [("llama", false), ("llama", true), ("mamba", false), ("mamba", true)] {
            let mut model = tiny(arch);
            if adapted {
                attach_all(&mut *model);
            }
            let encoded = questions();
            let expected: Vec<Vec<f64>> = encoded.iter().map(|options| options.iter().map(|o| alone(&*model, o)).collect()).collect();
            let questions: Vec<Question> = encoded.iter().map(|options| Question::new(options)).collect();
            for batch_size in [1, 9, 64] {
                let found = score(&*model, &questions, batch_size, &peftbench_ops::device::host()).unwrap().log_likelihoods;
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert_eq!(found.len(), expected.len());
                    for (a, b) in found.iter().zip(expected) {
                        assert!((a - b).abs() < TOLERANCE, "{arch}, adapted {adapted}, batch {batch_size}, question {i}: {a}, alone {b}");
                    }
                }
            }
            // The test would not see a lost prompt if prompts did not matter.
            assert!((expected[0][0] - expected[2][0]).abs() > 100.0 * TOLERANCE, "{expected:?}");
        }
    }

    #[test]
    fn prompts_are_read_once_and_one_token_options_cost_one_sequence() {
        let questions: Vec<Question> = questions().iter().map(|options| Question::new(options)).collect();
        // [5, 6] and [5, 8, 1] read beside [5] and nothing; the prompt's last token is read with them.
        let first = &questions[0];
        assert_eq!((first.sequences.len(), first.shared), (4, 8));
        let single = &questions[8];
        assert_eq!((single.sequences.as_slice(), single.shared), ([vec![1, 8, 15, 22]].as_slice(), 0));
        let model = tiny("mamba");
        // 8 tokens of the prompt, then 4 sequences of its last token and at most 3 of the option.
        assert_eq!(score(&*model, &questions[..1], 8, &peftbench_ops::device::host()).unwrap().tokens, 8 + 4 * 4);
        assert_eq!(score(&*model, &questions[8..9], 8, &peftbench_ops::device::host()).unwrap().tokens, 4);
    }

    #[test]
    fn the_likeliest_option_wins_by_sum_or_by_mean() {
        let example = Example { choices: vec!["long".into(), "short".into()], answer: "short".into(), ..Example::default() };
        let questions = [Question::new(&[encoded(&[1, 2], &[3, 4, 5, 6]), encoded(&[1, 2], &[3])])];
        let scores = Scores { log_likelihoods: vec![vec![-4.0, -2.0]], tokens: 0 };
        let by = |normalise| choose(std::slice::from_ref(&example), &questions, &scores, normalise);
        assert_eq!((by(false).answers, by(false).loss), (vec!["short".to_owned()], Some(2.0)));
        assert_eq!(by(true).answers, ["long"]);
        assert_eq!((best([f64::NEG_INFINITY, 1.0, 1.0].into_iter()), best(std::iter::empty())), (Some(1), None));
    }
}
