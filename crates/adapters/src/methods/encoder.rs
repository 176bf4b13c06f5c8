//! Trained virtual tokens, plain or as the output of a small network: what prefix tuning and P-tuning share.

use super::initializer::Initializer;
use super::lstm::Lstm;
use crate::error::Result;
use crate::folder::FileTensors;
use crate::method::FileForm;
use peftbench_models::Pass;
use peftbench_ops::{Param, Result as OpsResult, Tape, Tensor, Var};
use serde_json::{Map, Value};

/// What lies between two layers of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// tanh, in prefix tuning.
    Tanh,
    /// max(x, 0), in P-tuning.
    Relu,
}

/// Embeddings [tokens, width] and the network behind them: perhaps an LSTM, then linear layers.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    embedding: Param,
    lstm: Option<Lstm>,
    /// Weight [out, in] and bias [out] of each layer.
    layers: Vec<(Param, Param)>,
    between: Between,
    /// What the outcome is called in the adapter file.
    outcome: String,
}

/// peft's names begin so; the file of an adapter holds only the outcome under a name of its own.
const PREFIX: &str = "prompt_encoder.default";

/// Keys of `adapter_config.json` that the tensors tell, or that only Hugging Face needs.
pub(crate) const PROMPT_KEYS: [&str; 9] = [
    "token_dim",
    "num_layers",
    "num_attention_heads",
    "num_transformer_submodules",
    "prefix_projection",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "network",
];

/// Whether an adapter file has the network beside its outcome: `network` is a key of our own.
pub(crate) fn has_network(config: &Map<String, Value>) -> bool {
    config.get("network").is_some_and(|found| found == true)
}

impl Encoder {
    /// Embeddings without a network: they are the outcome, and bear its name.
    pub fn plain(outcome: &str, start: Tensor) -> Self {
        let embedding = Param::trainable(outcome, start);
        Self { embedding, lstm: None, layers: Vec::new(), between: Between::Tanh, outcome: outcome.to_owned() }
    }

    /// Standard normal embeddings [tokens, width], and a linear layer between each two of `widths`, with torch's default start. `name` is
    /// what peft calls the layers: `transform`, `mlp_head`.
    pub fn network(
        outcome: &str,
        name: &str,
        (tokens, width): (usize, usize),
        widths: &[usize],
        between: Between,
        init: &mut Initializer<'_>,
    ) -> Result<Self> {
        let embedding = Param::trainable(format!("{PREFIX}.embedding.weight"), init.normal((tokens, width), 1.0)?);
        let layer = |(i, pair): (usize, &[usize])| {
            // An activation stands between two layers in peft's list of modules.
            let (path, bound) = (format!("{PREFIX}.{name}.{}", 2 * i), 1.0 / (pair[0] as f64).sqrt());
            let weight = Param::trainable(format!("{path}.weight"), init.uniform((pair[1], pair[0]), bound)?);
            Ok((weight, Param::trainable(format!("{path}.bias"), init.uniform(pair[1], bound)?)))
        };
        let layers = widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { embedding, lstm: None, layers, between, outcome: outcome.to_owned() })
    }

    /// The same with an LSTM between the embeddings and the linear layers, which are made for its width of 2 · `hidden`.
    pub fn with_lstm(self, layers: usize, hidden: usize, dropout: f64, init: &mut Initializer<'_>) -> Result<Self> {
        let width = self.embedding.value().dims()[1];
        let lstm = Lstm::new(&format!("{PREFIX}.lstm_head"), layers, width, hidden, dropout, init)?;
        Ok(Self { lstm: Some(lstm), ..self })
    }

    /// Starts at an outcome of zeros.
    pub fn zeroed(self) -> Result<Self> {
        let zero = |param: &Param| param.set(param.value().zeros_like()?);
        match self.layers.last() {
            Some((weight, bias)) => [weight, bias].into_iter().try_for_each(zero)?,
            None => zero(&self.embedding)?,
        }
        Ok(self)
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.embedding.value().dims()[0]
    }

    /// Every trained tensor.
    pub fn params(&self) -> Vec<Param> {
        let layers = self.layers.iter().flat_map(|(weight, bias)| [weight, bias]);
        std::iter::once(&self.embedding).chain(self.lstm.iter().flat_map(Lstm::params)).chain(layers).cloned().collect()
    }

    /// Whether there is a network.
    pub fn has_network(&self) -> bool {
        !self.layers.is_empty()
    }

    /// The columns `start..start + width` of the outcome, [tokens, width]; of the last layer only these rows are used.
    pub fn columns(&self, pass: &Pass<'_>, start: usize, width: usize) -> OpsResult<Var> {
        let tape = pass.tape;
        let mut x = tape.param(&self.embedding);
        if let Some(lstm) = &self.lstm {
            x = lstm.forward(pass, x)?;
        }
        let Some(((weight, bias), inner)) = self.layers.split_last() else { return tape.narrow(&x, 1, start, width) };
        for (weight, bias) in inner {
            x = self.activate(tape, &tape.linear(&x, &tape.param(weight), Some(&tape.param(bias)))?)?;
        }
        let (weight, bias) = (tape.narrow(&tape.param(weight), 0, start, width)?, tape.narrow(&tape.param(bias), 0, start, width)?);
        tape.linear(&x, &weight, Some(&bias))
    }

    /// The whole outcome.
    pub fn all(&self, pass: &Pass<'_>) -> OpsResult<Var> {
        let width = self.layers.last().map_or(&self.embedding, |(weight, _)| weight).value().dims()[usize::from(!self.has_network())];
        self.columns(pass, 0, width)
    }

    fn activate(&self, tape: &Tape, x: &Var) -> OpsResult<Var> {
        match self.between {
            Between::Tanh => tape.tanh(x),
            Between::Relu => tape.activation(x, peftbench_ops::activation::Activation::Relu),
        }
    }
}

/// The file has the outcome, which is all that Hugging Face saves and reads, and beside it the network, to train on.
impl FileForm for Encoder {
    fn params(&self) -> Vec<Param> {
        self.params()
    }

    fn write(&self) -> Result<Vec<(String, Tensor)>> {
        let outcome = self.all(&Pass::evaluation(&Tape::inference()))?.value().contiguous()?;
        let network = self.params().into_iter().map(|param| (network_name(&param), param.value()));
        Ok(std::iter::once((self.outcome.clone(), outcome)).chain(network).collect())
    }

    fn read(&self, file: &mut FileTensors) -> Result<()> {
        file.take(&self.outcome)?;
        for param in self.params() {
            param.set(file.take_shaped(&network_name(&param), param.value().dims())?)?;
        }
        Ok(())
    }
}

/// A name that peft does not take for one of its own: it would refuse the other shape.
fn network_name(param: &Param) -> String {
    param.name().replacen(PREFIX, "reparametrisation", 1)
}
