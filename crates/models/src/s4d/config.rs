//! The configuration of a deep S4D network.

use crate::config::ModelConfig;
use crate::error::Result;
use peftbench_ops::s4d::Discretization;
use serde::Deserialize;

/// The keys of `config.json`. There is no common form of it for S4D; names are Hugging Face's where it has one for the thing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct S4dConfig {
    #[serde(rename = "model_type")]
    _model_type: String,
    pub problem_type: ProblemType,
    /// Channels.
    pub hidden_size: usize,
    /// Stored states a channel; each complex one stands for itself and its conjugate.
    pub state_size: usize,
    pub num_hidden_layers: usize,
    /// Channels of the classifier's input: 1 of a grey image, 3 of a coloured one.
    pub input_size: Option<usize>,
    /// The classifier's classes.
    pub num_labels: Option<usize>,
    #[serde(default)]
    pub diagonal: Diagonal,
    #[serde(default)]
    pub discretization: Rule,
    /// Fresh values of A.
    #[serde(default)]
    pub initialization: Initialization,
    /// Seed of fresh weights, for a folder that holds none: a random network is told by its config alone.
    #[serde(default)]
    pub initialization_seed: Option<u64>,
    /// Whether B is a tensor of its own rather than 1.
    #[serde(default)]
    pub input_matrix: bool,
    #[serde(default)]
    pub output: Output,
    pub residual: Option<Residual>,
    #[serde(default)]
    pub norm: NormPlace,
    #[serde(default = "default_epsilon")]
    pub layer_norm_eps: f64,
    /// Of whole channels, behind GELU and behind each layer.
    #[serde(default)]
    pub dropout: f64,
}

fn default_epsilon() -> f64 {
    1e-5
}

/// What the network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemType {
    /// A sequence of `hidden_size` channels to another one.
    Regression,
    /// A sequence to one of `num_labels` classes.
    SingleLabelClassification,
}

/// The numbers on the diagonal of A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Diagonal {
    /// As in S4D.
    #[default]
    Complex,
    /// As in S4D-Real, and in the theory of arXiv 2410.09016.
    Real,
}

/// How the state space is made discrete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rule {
    /// Zero-order hold.
    #[default]
    Zoh,
    /// The trapezoid rule.
    Bilinear,
}

impl From<Rule> for Discretization {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Zoh => Self::ZeroOrderHold,
            Rule::Bilinear => Self::Bilinear,
        }
    }
}

/// Fresh values of A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Initialization {
    /// S4D-Lin, −1/2 + iπn, and with a real diagonal S4D-Real, −(n + 1).
    #[default]
    Lin,
    /// −U(0, 1) + iπ times a whole number below `state_size`: the synthetic experiments of arXiv 2410.09016.
    Random,
}

/// What follows the state space in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Output {
    /// ReLU(W y + β): arXiv 2410.09016.
    #[default]
    Relu,
    /// GLU(W GELU(y) + β), W twice as high: the S4D authors' minimal implementation.
    Glu,
}

/// How a layer's input passes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Residual {
    /// Not at all: the published synthetic regression.
    None,
    /// It is added to the layer's output: the published classifier.
    Identity,
    /// ReLU(W y + β + u ⊙ x) with a trained u: the deep S4 layer of the paper's theory.
    Weighted,
}

/// Where a layer norm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NormPlace {
    /// Nowhere: the code published with arXiv 2410.09016 makes layer norms but never applies them.
    #[default]
    None,
    /// On a layer's input, beside the residual.
    Pre,
    /// Behind the residual's sum.
    Post,
}

impl S4dConfig {
    /// Reads the keys and refuses what does not go together.
    pub fn parse(config: &ModelConfig) -> Result<Self> {
        let parsed: Self = config.parse()?;
        let classifies = parsed.problem_type == ProblemType::SingleLabelClassification;
        for (key, present) in [("input_size", parsed.input_size.is_some()), ("num_labels", parsed.num_labels.is_some())] {
            if present != classifies {
                let verb = if classifies { "is missing for" } else { "has no meaning with" };
                return Err(config.unsupported(format!("`{key}` {verb} `problem_type` {}", config.values["problem_type"])));
            }
        }
        if parsed.output == Output::Glu && parsed.residual == Some(Residual::Weighted) {
            return Err(config.unsupported("`residual = \"weighted\"` stands inside a ReLU; use it with `output = \"relu\"`"));
        }
        if !(0.0..1.0).contains(&parsed.dropout) {
            return Err(config.unsupported(format!("`dropout` is {}; expected at least 0 and below 1", parsed.dropout)));
        }
        Ok(parsed)
    }

    /// The residual, by default that of the code published with arXiv 2410.09016.
    pub fn residual(&self) -> Residual {
        self.residual.unwrap_or(match self.problem_type {
            ProblemType::Regression => Residual::None,
            ProblemType::SingleLabelClassification => Residual::Identity,
        })
    }

    /// Real numbers a state: 2 where it is complex.
    pub fn components(&self) -> usize {
        match self.diagonal {
            Diagonal::Complex => 2,
            Diagonal::Real => 1,
        }
    }
}
