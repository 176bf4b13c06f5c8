//! Evaluation of a split: options by likelihood, or greedy generation.

use crate::batch;
use crate::error::Result;
use peftbench_datasets::{Encoded, Example, Scoring, Task, TextTokenizer, batching, encode_example};
use peftbench_models::decoding::{DecodeLimits, greedy};
use peftbench_models::{Model, Pass};
use peftbench_ops::{Device, Tape};
use peftbench_spec::event::{MetricValue, Prediction};
use std::collections::BTreeMap;

/// A split, encoded once and evaluated any number of times.
pub struct EvalSplit {
    examples: Vec<Example>,
    encoded: Vec<Item>,
    scoring: Scoring,
    batch_size: usize,
}

/// One example's sequences: prompt and option for each option, or the prompt alone.
struct Item {
    sequences: Vec<Encoded>,
}

/// What an evaluation found.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Metrics, the primary one first.
    pub metrics: Vec<MetricValue>,
    /// One per example, in order.
    pub predictions: Vec<Prediction>,
    /// Mean loss of the right options' tokens, where options are scored.
    pub loss: Option<f64>,
    /// Tokens read and generated.
    pub tokens: u64,
}

impl EvalSplit {
    /// Encodes the examples of a split.
    pub fn new(examples: Vec<Example>, task: &dyn Task, tokenizer: &TextTokenizer, max_length: usize, batch_size: usize) -> Result<Self> {
        let scoring = task.scoring();
        let encode = |example: &Example| -> Result<Item> {
            let sequences = match scoring {
                Scoring::Choice { .. } => example
                    .choices
                    .iter()
                    .map(|choice| encode_example(tokenizer, &example.prompt, choice, false, max_length))
                    .collect::<std::result::Result<_, _>>()?,
                Scoring::Generate { max_new_tokens, .. } => {
                    let room = max_length.saturating_sub(max_new_tokens).max(2);
                    vec![encode_example(tokenizer, &example.prompt, "", false, room)?]
                }
            };
            Ok(Item { sequences })
        };
        let encoded = examples.iter().map(encode).collect::<Result<_>>()?;
        Ok(Self { examples, encoded, scoring, batch_size })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Evaluates the model as it stands.
    pub fn evaluate(&self, model: &dyn Model, task: &dyn Task, tokenizer: &TextTokenizer, device: &Device) -> Result<Evaluation> {
        let (predictions, loss, tokens) = match self.scoring {
            Scoring::Choice { normalise } => self.choose(model, normalise, device)?,
            Scoring::Generate { max_new_tokens, stop } => self.generate(model, tokenizer, max_new_tokens, stop)?,
        };
        let metrics = task.score(&self.examples, &predictions);
        let item = |(example, prediction): (&Example, String)| Prediction {
            item_id: example.id.clone(),
            score: task.item_score(example, &prediction),
            prediction,
            target: example.answer.clone(),
        };
        Ok(Evaluation { metrics, predictions: self.examples.iter().zip(predictions).map(item).collect(), loss, tokens })
    }

    /// The likeliest option of each example, the first of equals.
    fn choose(&self, model: &dyn Model, normalise: bool, device: &Device) -> Result<(Vec<String>, Option<f64>, u64)> {
        if self.options_are_one_token() {
            return self.choose_by_next_token(model, device);
        }
        let flat: Vec<(usize, &Encoded)> =
            self.encoded.iter().enumerate().flat_map(|(i, item)| item.sequences.iter().map(move |s| (i, s))).collect();
        let lengths: Vec<usize> = flat.iter().map(|(_, s)| s.ids.len()).collect();
        let mut scores = vec![0.0; flat.len()];
        let mut tokens = 0;
        for indices in batching::eval_batches(&lengths, self.batch_size) {
            let sequences: Vec<&Encoded> = indices.iter().map(|&i| flat[i].1).collect();
            let batch = batch::join(&sequences, device)?;
            let log_probs = log_probs(model, &batch)?;
            tokens += batch.tokens;
            let length = batch.ids.dims()[1];
            for (row, log_prob) in batch.rows.iter().zip(log_probs) {
                scores[indices[*row as usize / length]] += log_prob;
            }
        }
        let mut grouped: Vec<Vec<(f64, usize)>> = vec![Vec::new(); self.examples.len()];
        for ((i, sequence), score) in flat.iter().zip(scores) {
            grouped[*i].push((score, sequence.ids.len() - sequence.prompt_len));
        }
        let rank = |(score, length): &(f64, usize)| if normalise { score / (*length).max(1) as f64 } else { *score };
        let (mut chosen, mut nats, mut labels) = (Vec::new(), 0.0, 0);
        for (example, options) in self.examples.iter().zip(&grouped) {
            chosen.push(best(options.iter().map(rank)).map_or_else(String::new, |i| example.choices[i].clone()));
            if let Some(right) = example.choices.iter().position(|choice| *choice == example.answer) {
                nats -= options[right].0;
                labels += options[right].1;
            }
        }
        Ok((chosen, (labels > 0).then(|| nats / labels as f64), tokens))
    }

    /// Whether every option of every example is a single token behind the same prompt, so that one pass scores them all.
    fn options_are_one_token(&self) -> bool {
        self.encoded.iter().all(|item| item.sequences.iter().all(|s| s.ids.len() == s.prompt_len + 1))
    }

    fn choose_by_next_token(&self, model: &dyn Model, device: &Device) -> Result<(Vec<String>, Option<f64>, u64)> {
        let lengths: Vec<usize> = self.encoded.iter().map(|item| item.sequences.first().map_or(0, |s| s.ids.len())).collect();
        let mut chosen = vec![String::new(); self.examples.len()];
        let (mut nats, mut tokens) = (0.0, 0);
        for indices in batching::eval_batches(&lengths, self.batch_size) {
            let sequences: Vec<&Encoded> = indices.iter().filter_map(|&i| self.encoded[i].sequences.first()).collect();
            let batch = batch::join(&sequences, device)?;
            tokens += batch.tokens;
            let tape = Tape::inference();
            let pass = Pass::evaluation(&tape);
            let hidden = model.forward(&pass, &batch.ids, None)?;
            // Each example's row once for each of its options.
            let options: Vec<(usize, u32)> = indices
                .iter()
                .enumerate()
                .flat_map(|(b, &i)| self.encoded[i].sequences.iter().map(move |s| (b, s.ids[s.prompt_len])))
                .collect();
            let rows: Vec<u32> = options.iter().map(|(b, _)| batch.rows[*b]).collect();
            let labels: Vec<u32> = options.iter().map(|(_, label)| *label).collect();
            let mut scores = model.log_probs(&pass, &hidden, &rows, &labels)?.into_iter();
            for &i in &indices {
                let example = &self.examples[i];
                let scores: Vec<f64> = scores.by_ref().take(example.choices.len()).collect();
                chosen[i] = best(scores.iter().copied()).map_or_else(String::new, |k| example.choices[k].clone());
                nats -= example.choices.iter().position(|choice| *choice == example.answer).map_or(0.0, |right| scores[right]);
            }
        }
        Ok((chosen, Some(nats / self.examples.len().max(1) as f64), tokens))
    }

    /// The generated text of each example, up to `stop`. Prompts of one length are decoded together, so that none is padded.
    fn generate(
        &self,
        model: &dyn Model,
        tokenizer: &TextTokenizer,
        max_new_tokens: usize,
        stop: &str,
    ) -> Result<(Vec<String>, Option<f64>, u64)> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, item) in self.encoded.iter().enumerate() {
            by_length.entry(item.sequences[0].ids.len()).or_default().push(i);
        }
        let limits = DecodeLimits { max_new_tokens, eos: tokenizer.eos_id() };
        let mut texts = vec![String::new(); self.examples.len()];
        let mut tokens = 0;
        for indices in by_length.values().flat_map(|indices| indices.chunks(self.batch_size)) {
            let prompts: Vec<Vec<u32>> = indices.iter().map(|&i| self.encoded[i].sequences[0].ids.clone()).collect();
            for (&i, ids) in indices.iter().zip(greedy(model, &prompts, limits)?) {
                tokens += (prompts[0].len() + ids.len()) as u64;
                let text = tokenizer.decode(&ids)?;
                texts[i] = text.split(stop).next().unwrap_or_default().trim().to_owned();
            }
        }
        Ok((texts, None, tokens))
    }
}

/// Index of the largest value, the first of equals.
fn best(values: impl Iterator<Item = f64>) -> Option<usize> {
    let larger = |best: Option<(usize, f64)>, (i, value): (usize, f64)| match best {
        Some((_, top)) if top >= value => best,
        _ => Some((i, value)),
    };
    values.enumerate().fold(None, larger).map(|(i, _)| i)
}

fn log_probs(model: &dyn Model, batch: &batch::Batch) -> Result<Vec<f64>> {
    let tape = Tape::inference();
    let pass = Pass::evaluation(&tape);
    let hidden = model.forward(&pass, &batch.ids, None)?;
    Ok(model.log_probs(&pass, &hidden, &batch.rows, &batch.labels)?)
}
