//! A bidirectional LSTM (Hochreiter and Schmidhuber, 1997) over the virtual tokens of P-tuning, as `torch.nn.LSTM` has it:
//!
//! i, f, g, o = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh,  c_t = σ(f) c_{t−1} + σ(i) tanh(g),  h_t = σ(o) tanh(c_t)
//!
//! A layer reads the tokens forwards and backwards and gives both h_t side by side. It keeps its input and weights: the recurrence
//! runs again in the backward pass.

use super::initializer::Initializer;
use crate::error::Result;
use peftbench_models::Pass;
use peftbench_ops::{Param, Result as OpsResult, Tensor, Var};

/// The layers, one upon the other.
#[derive(Debug, Clone)]
pub(crate) struct Lstm {
    layers: Vec<[Direction; 2]>,
    /// Dropout on what one layer hands to the next.
    dropout: f64,
}

/// One layer in one direction.
#[derive(Debug, Clone)]
struct Direction {
    /// W_ih [4 hidden, in], W_hh [4 hidden, hidden], b_ih and b_hh [4 hidden]; the four gates in torch's order i, f, g, o.
    tensors: [Param; 4],
    backwards: bool,
}

impl Lstm {
    /// `layers` layers from `input` to 2 · `hidden` columns, with torch's names behind `path` and its start, uniform within ±1/√hidden.
    pub fn new(path: &str, layers: usize, input: usize, hidden: usize, dropout: f64, init: &mut Initializer<'_>) -> Result<Self> {
        let bound = 1.0 / (hidden as f64).sqrt();
        let mut direction = |layer: usize, backwards: bool| -> Result<Direction> {
            let columns = if layer == 0 { input } else { 2 * hidden };
            let suffix = if backwards { "_reverse" } else { "" };
            let mut tensor = |name: &str, dims: &[usize]| -> Result<Param> {
                Ok(Param::trainable(format!("{path}.{name}_l{layer}{suffix}"), init.uniform(dims, bound)?))
            };
            let tensors = [
                tensor("weight_ih", &[4 * hidden, columns])?,
                tensor("weight_hh", &[4 * hidden, hidden])?,
                tensor("bias_ih", &[4 * hidden])?,
                tensor("bias_hh", &[4 * hidden])?,
            ];
            Ok(Direction { tensors, backwards })
        };
        let layers = (0..layers).map(|layer| Ok([direction(layer, false)?, direction(layer, true)?])).collect::<Result<_>>()?;
        Ok(Self { layers, dropout })
    }

    /// Its tensors, in torch's order.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.layers.iter().flatten().flat_map(|direction| &direction.tensors)
    }

    /// x [tokens, in] → [tokens, 2 hidden].
    pub fn forward(&self, pass: &Pass<'_>, x: Var) -> OpsResult<Var> {
        let tape = pass.tape;
        let mut x = x;
        for (i, directions) in self.layers.iter().enumerate() {
            if i > 0 {
                x = pass.dropout(&x, self.dropout)?;
            }
            let [forwards, backwards] = directions.each_ref().map(|direction| direction.forward(pass, &x));
            x = tape.cat(&[&forwards?, &backwards?], 1)?;
        }
        Ok(x)
    }
}

impl Direction {
    /// h_t of every token, [tokens, hidden].
    fn forward(&self, pass: &Pass<'_>, x: &Var) -> OpsResult<Var> {
        let [w_ih, w_hh, b_ih, b_hh] = self.tensors.each_ref().map(|param| pass.tape.param(param));
        let backwards = self.backwards;
        pass.tape.candle_fn("lstm", &[x, &w_ih, &w_hh, &b_ih, &b_hh], move |v| {
            let inputs = v[0].matmul(&v[1].t()?)?.broadcast_add(&v[3])?.broadcast_add(&v[4])?;
            run(&inputs, &v[2], backwards)
        })
    }
}

/// h_t [tokens, hidden] from W_ih x_t and both biases [tokens, 4 hidden] and W_hh [4 hidden, hidden].
fn run(inputs: &Tensor, w_hh: &Tensor, backwards: bool) -> OpsResult<Tensor> {
    let (tokens, hidden) = (inputs.dim(0)?, w_hh.dim(1)?);
    let w_hh = w_hh.t()?;
    let mut h = Tensor::zeros((1, hidden), inputs.dtype(), inputs.device())?;
    let mut c = h.clone();
    let mut all = Vec::with_capacity(tokens);
    for i in 0..tokens {
        let t = if backwards { tokens - 1 - i } else { i };
        let gates = (inputs.narrow(0, t, 1)? + h.matmul(&w_hh)?)?;
        let gate = |index: usize| gates.narrow(1, index * hidden, hidden);
        c = ((sigmoid(&gate(1)?)? * c)? + (sigmoid(&gate(0)?)? * gate(2)?.tanh()?)?)?;
        h = (sigmoid(&gate(3)?)? * c.tanh()?)?;
        all.push(h.clone());
    }
    if backwards {
        all.reverse();
    }
    Tensor::cat(&all, 0)
}

/// σ(x) = ½ (tanh(x / 2) + 1), which candle can differentiate.
fn sigmoid(x: &Tensor) -> OpsResult<Tensor> {
    (x * 0.5)?.tanh()?.affine(0.5, 0.5)
}
