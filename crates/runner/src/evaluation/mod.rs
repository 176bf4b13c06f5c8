//! Evaluation of a split: [`choice`] scores options by likelihood, [`generation`] decodes.

pub mod choice;
pub mod generation;

use crate::error::Result;
use choice::Question;
use peftbench_datasets::{Example, Scoring, Task, TextTokenizer, encode_example};
use peftbench_models::Model;
use peftbench_ops::Device;
use peftbench_spec::event::{MetricValue, Prediction};

/// A split, encoded once and evaluated any number of times.
pub struct EvalSplit {
    examples: Vec<Example>,
    encoded: Encodings,
    batch_size: usize,
}

/// What the model reads, an entry for each example.
enum Encodings {
    Choice { questions: Vec<Question>, normalise: bool },
    Generation { prompts: Vec<Vec<u32>>, max_new_tokens: usize, stop: &'static str },
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
    /// Tokens read and generated, padding included.
    pub tokens: u64,
}

impl EvalSplit {
    /// Encodes the examples of a split. `batch_size` bounds the sequences of one pass.
    pub fn new(examples: Vec<Example>, task: &dyn Task, tokenizer: &TextTokenizer, max_length: usize, batch_size: usize) -> Result<Self> {
        let encode = |example: &Example, answer: &str, room| encode_example(tokenizer, &example.prompt, answer, false, room);
        let encoded = match task.scoring() {
            Scoring::Choice { normalise } => {
                let question = |example: &Example| -> Result<Question> {
                    let options = example.choices.iter().map(|choice| encode(example, choice, max_length));
                    Ok(Question::new(&options.collect::<std::result::Result<Vec<_>, _>>()?))
                };
                Encodings::Choice { questions: examples.iter().map(question).collect::<Result<_>>()?, normalise }
            }
            Scoring::Generate { max_new_tokens, stop } => {
                let room = max_length.saturating_sub(max_new_tokens).max(2);
                let prompt = |example| -> Result<Vec<u32>> { Ok(encode(example, "", room)?.ids) };
                Encodings::Generation { prompts: examples.iter().map(prompt).collect::<Result<_>>()?, max_new_tokens, stop }
            }
        };
        Ok(Self { examples, encoded, batch_size })
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
        let (predictions, loss, tokens) = match &self.encoded {
            Encodings::Choice { questions, normalise } => {
                let scores = choice::score(model, questions, self.batch_size, device)?;
                let chosen = choice::choose(&self.examples, questions, &scores, *normalise);
                (chosen.answers, chosen.loss, scores.tokens)
            }
            Encodings::Generation { prompts, max_new_tokens, stop } => {
                let (texts, tokens) = generation::generate(model, tokenizer, prompts, *max_new_tokens, stop, self.batch_size)?;
                (texts, None, tokens)
            }
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
}
