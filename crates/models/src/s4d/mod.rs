//! Deep S4D: a stack of state spaces, each followed by a linear mixing of its channels (Gu, Goel, Gupta and Ré, 2022), as the
//! experiments on S4 of *Parameter-Efficient Fine-Tuning of State Space Models* (arXiv 2410.09016) use it.
//!
//! It reads sequences of numbers rather than of tokens, so it is a [`Network`] and not a language model: either a regression of one
//! sequence on another, with nothing before and behind the layers, or a classifier with an encoder, mean pooling over time and a decoder.
//! Tensors are named as in the S4D authors' minimal implementation: `layers.0.kernel.log_A_real`, `layers.0.D`,
//! `layers.0.output_linear.weight` (`output_linear.0.weight` with a gated output), `norms.0.weight`, `encoder.weight`, `decoder.weight`.

mod config;
mod layer;

use crate::builder::{Builder, LinearSpec};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::model::Network;
use crate::pass::Pass;
use crate::slots::{LinearSlot, PromptSlot, SlotMut, Visitor, visit_linear};
use crate::weights::{Fresh, Init, Weights};
use config::{ProblemType, S4dConfig};
use layer::Layer;
use peftbench_ops::{Device, Tensor, Var};
use peftbench_spec::Role;
use std::path::Path;

/// `model_type` of its config.
pub const S4D: &str = "s4d";

/// The network.
pub struct S4d {
    hidden_size: usize,
    classifier: Option<Classifier>,
    prompt: PromptSlot,
    layers: Vec<Layer>,
}

/// What a classifier has around the layers.
struct Classifier {
    encoder: LinearSlot,
    decoder: LinearSlot,
}

/// What the output is held against.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// The sequence to be met, [batch, length, hidden].
    Sequence(&'a Tensor),
    /// The class of each sequence.
    Labels(&'a [u32]),
}

impl S4d {
    /// Builds the network from its config and a source of tensors.
    pub fn new(config: &ModelConfig, weights: &dyn Weights) -> Result<Self> {
        let parsed = S4dConfig::parse(config)?;
        let weights = OneTap(weights);
        let builder = Builder::new(&weights);
        let linear = |name: &str, role, out: usize, input: usize| {
            let bound = Init::Uniform(1.0 / (input as f64).sqrt());
            builder.linear(name, role, LinearSpec::new(out, input).init(bound).bias_init(bound))
        };
        let hidden_size = parsed.hidden_size;
        let classifier = match (parsed.problem_type, parsed.input_size, parsed.num_labels) {
            (ProblemType::SingleLabelClassification, Some(input), Some(labels)) => Some(Classifier {
                encoder: linear("encoder", Role::Embedding, hidden_size, input)?,
                decoder: linear("decoder", Role::LmHead, labels, hidden_size)?,
            }),
            _ => None,
        };
        let layers = (0..parsed.num_hidden_layers).map(|layer| Layer::new(&builder, &parsed, layer)).collect::<Result<_>>()?;
        Ok(Self { hidden_size, classifier, prompt: PromptSlot::new(builder.info("prompt", Role::Prompt), hidden_size), layers })
    }

    /// Loads the network from a folder with `config.json` and safetensors files; without these it is as random as `initialization_seed` of
    /// the config makes it.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let config = ModelConfig::read(folder)?;
        if config.model_type != S4D {
            return Err(config.unsupported(format!("`model_type` is `{}`, expected `{S4D}`", config.model_type)));
        }
        let has_weights = std::fs::read_dir(folder)
            .is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|e| e == "safetensors"))));
        match S4dConfig::parse(&config)?.initialization_seed {
            Some(seed) if !has_weights => Self::new(&config, &Fresh { seed }),
            _ => Self::new(&config, &Checkpoint::open(folder, device)?),
        }
    }

    /// Sequences to the network's output: [batch, length, hidden] to the same shape in a regression, [batch, length, input] to logits
    /// [batch, labels] in a classifier. Virtual steps, where a method has put some in front, are neither in the output nor in the mean.
    pub fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let (tape, length) = (pass.tape, x.value().dims3()?.1);
        if pass.mask.is_some() {
            let problem = "sequences of one batch have one length here; leave the padding mask out".to_owned();
            return Err(ModelError::Unsupported { origin: "s4d".to_owned(), problem });
        }
        let encoded = self.classifier.as_ref().map_or_else(|| Ok(x.clone()), |classifier| classifier.encoder.forward(pass, x))?;
        let mut x = self.prompt.forward(pass, encoded)?;
        for (i, layer) in self.layers.iter().enumerate() {
            tape.enter_scope(format!("layers.{i}"));
            pass.observe(&x);
            x = layer.forward(pass, &x)?;
        }
        tape.enter_scope("head");
        let total = x.dims()[1];
        let x = if total > length { tape.narrow(&x, 1, total - length, length)? } else { x };
        pass.observe(&x);
        match &self.classifier {
            Some(classifier) => Ok(classifier.decoder.forward(pass, &tape.mean(&x, 1)?)?),
            None => Ok(x),
        }
    }

    /// The loss of an output of [`S4d::forward`]: mean squared error against a sequence, mean cross-entropy in nats against labels.
    pub fn loss(&self, pass: &Pass<'_>, output: &Var, target: Target<'_>) -> Result<Var> {
        let tape = pass.tape;
        match (target, &self.classifier) {
            (Target::Sequence(target), None) => {
                let difference = tape.sub(output, &Var::constant(target.clone()))?;
                let squares = tape.sum_all(&tape.mul(&difference, &difference)?)?;
                Ok(tape.scale(&squares, 1.0 / target.elem_count().max(1) as f64)?)
            }
            (Target::Labels(labels), Some(_)) => {
                // The operator multiplies by a head; these are logits already.
                let identity = Tensor::eye(output.dims()[1], output.value().dtype(), output.value().device())?;
                Ok(tape.cross_entropy(output, &Var::constant(identity), None, labels)?)
            }
            (Target::Sequence(_), Some(_)) => Err(unfit("a classifier is held against labels, not against a sequence")),
            (Target::Labels(_), None) => Err(unfit("a regression is held against a sequence, not against labels")),
        }
    }
}

/// A source that drops the tap of convolutions with one: the S4D authors' `output_linear` is such a convolution, its weight
/// [out, in, 1].
struct OneTap<'a>(&'a dyn Weights);

impl Weights for OneTap<'_> {
    fn tensor(&self, name: &str, dims: &[usize], init: Init) -> Result<Tensor> {
        let tapped = [dims, &[1]].concat();
        match self.0.tensor(name, dims, init) {
            Err(ModelError::WrongShape { found, .. }) if found == tapped => Ok(self.0.tensor(name, &tapped, init)?.squeeze(dims.len())?),
            result => result,
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

fn unfit(problem: &str) -> ModelError {
    ModelError::Unsupported { origin: "s4d".to_owned(), problem: problem.to_owned() }
}

impl Network for S4d {
    fn arch(&self) -> &'static str {
        S4D
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        if let Some(classifier) = &mut self.classifier {
            visit_linear(&mut classifier.encoder, visitor);
        }
        visitor(SlotMut::Prompt(&mut self.prompt));
        for layer in &mut self.layers {
            layer.visit_slots(visitor);
        }
        if let Some(classifier) = &mut self.classifier {
            visit_linear(&mut classifier.decoder, visitor);
        }
    }

    fn multiply_adds_per_token(&self) -> u64 {
        let encoder = self.classifier.as_ref().map_or(0, |classifier| classifier.encoder.multiply_adds());
        let layers: usize = self.layers.iter().map(Layer::multiply_adds).sum();
        (encoder + layers) as u64
    }
}
