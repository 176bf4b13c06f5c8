//! Evaluation of a split: [`choice`] scores options by likelihood, [`generation`] decodes.

pub mod choice;
pub mod generation;

use crate::error::Result;
use choice::Question;
use generation::Decoding;
use peftbench_datasets::format::Truncation;
use peftbench_datasets::metrics::{self, Item, Likelihood, Scores};
use peftbench_datasets::{Encoded, Example, Format, Scoring, Task, TextTokenizer, encode_evaluation, encode_training};
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
    /// Options of which one is chosen.
    Choice { questions: Vec<Question>, normalise: bool },
    /// Prompts that are gone on with.
    Generation { prompts: Vec<Vec<u32>>, decoding: Decoding },
    /// Texts whose probability is measured, each the only option of a question.
    Text { questions: Vec<Question> },
}

/// What an evaluation found.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Metrics, the primary one first.
    pub metrics: Vec<MetricValue>,
    /// One per example, in order.
    pub predictions: Vec<Prediction>,
    /// Mean loss of the right options' tokens, where options are scored or a text is measured.
    pub loss: Option<f64>,
    /// Tokens read and generated, padding included.
    pub tokens: u64,
}

impl EvalSplit {
    /// Encodes the examples of a split, without those that the task's format drops. `batch_size` bounds the sequences of one pass.
    pub fn new(
        mut examples: Vec<Example>,
        task: &dyn Task,
        tokenizer: &TextTokenizer,
        max_length: usize,
        batch_size: usize,
    ) -> Result<Self> {
        let reader = Reader { tokenizer, format: task.format(), max_length };
        if reader.format.truncation == Truncation::Drop {
            examples = reader.short_enough(examples)?;
        }
        let one_text = |example: &Example| reader.question(example, std::slice::from_ref(&example.answer));
        let encoded = match reader.format.scoring {
            Scoring::Likelihood | Scoring::MeanLikelihood => {
                let questions = examples.iter().map(|example| reader.question(example, &example.choices)).collect::<Result<_>>()?;
                Encodings::Choice { questions, normalise: reader.format.scoring == Scoring::MeanLikelihood }
            }
            Scoring::Perplexity => Encodings::Text { questions: examples.iter().map(one_text).collect::<Result<_>>()? },
            Scoring::Generation => {
                let prompts = examples.iter().map(|example| Ok(reader.read(example, "")?.ids)).collect::<Result<_>>()?;
                Encodings::Generation { prompts, decoding: Decoding::of(reader.format) }
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
        let (predictions, scores, loss, tokens) = match &self.encoded {
            Encodings::Choice { questions, normalise } => {
                let scores = choice::score(model, questions, self.batch_size, device)?;
                let chosen = choice::choose(&self.examples, questions, &scores, *normalise);
                let found = task.score(&self.examples, &chosen.answers)?;
                (chosen.answers, found, chosen.loss, scores.tokens)
            }
            Encodings::Generation { prompts, decoding } => {
                let (texts, tokens) = generation::generate(model, tokenizer, prompts, decoding, self.batch_size)?;
                let found = task.score(&self.examples, &texts)?;
                (texts, found, None, tokens)
            }
            Encodings::Text { questions } => {
                let scores = choice::score(model, questions, self.batch_size, device)?;
                let likelihoods: Vec<Likelihood> = scores.first_options(questions).collect();
                (vec![String::new(); self.examples.len()], measure(task, &likelihoods)?, mean_loss(&likelihoods), scores.tokens)
            }
        };
        let item = |((example, prediction), score): ((&Example, String), f64)| Prediction {
            item_id: example.id.clone(),
            score,
            prediction,
            target: example.answer.clone(),
        };
        let predictions = self.examples.iter().zip(predictions).zip(scores.items).map(item).collect();
        Ok(Evaluation { metrics: scores.values, predictions, loss, tokens })
    }
}

/// The metrics of a task of plain text.
fn measure(task: &dyn Task, likelihoods: &[Likelihood]) -> Result<Scores> {
    let items: Vec<Item<'_>> = likelihoods.iter().map(|&one| Item { likelihood: Some(one), ..Item::new("", &[]) }).collect();
    let mut all = Scores { values: Vec::new(), items: Vec::new() };
    for (rank, metric) in task.format().metrics.iter().enumerate() {
        let found = metrics::build(metric)?.score(&items)?;
        all.values.extend(found.values);
        if rank == 0 {
            all.items = found.items;
        }
    }
    Ok(all)
}

/// Mean loss of a token in nats; none where there is none.
fn mean_loss(likelihoods: &[Likelihood]) -> Option<f64> {
    let (nats, tokens) = likelihoods.iter().fold((0.0, 0), |(nats, tokens), one| (nats + one.nats, tokens + one.tokens));
    (tokens > 0).then(|| nats / tokens as f64)
}

/// How examples of one task become what one model reads.
struct Reader<'a> {
    tokenizer: &'a TextTokenizer,
    format: &'a Format,
    max_length: usize,
}

impl Reader<'_> {
    fn read(&self, example: &Example, answer: &str) -> Result<Encoded> {
        // What is too long to be kept was left out before; a prompt alone is never longer than with its answer.
        let encoded = encode_evaluation(self.tokenizer, self.format, example, answer, self.max_length)?;
        Ok(encoded.unwrap_or_else(|| Encoded { ids: Vec::new(), prompt_len: 0, loss_start: 0, truncated: true }))
    }

    fn question(&self, example: &Example, options: &[String]) -> Result<Question> {
        let options: Vec<Encoded> = options.iter().map(|option| self.read(example, option)).collect::<Result<_>>()?;
        Ok(Question::new(&options))
    }

    /// The examples that are short enough with their answer and each of their options.
    fn short_enough(&self, examples: Vec<Example>) -> Result<Vec<Example>> {
        let mut kept = Vec::with_capacity(examples.len());
        for example in examples {
            let mut fits = encode_training(self.tokenizer, self.format, &example, self.max_length)?.is_some();
            for option in &example.choices {
                fits &= encode_evaluation(self.tokenizer, self.format, &example, option, self.max_length)?.is_some();
            }
            if fits {
                kept.push(example);
            }
        }
        Ok(kept)
    }
}
