//! Mixtures of experts.

use crate::builder::{Builder, LinearSpec};
use crate::cache::Cache;
use crate::causal_lm::Step;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::mlp::GatedMlp;
use crate::pass::Pass;
use crate::slots::{LinearSlot, Visitor, visit_linear};
use peftbench_ops::{DType, Tensor, Var};
use peftbench_spec::Role;

/// Gated MLPs of which each token uses the `active` that its router rates highest, weighted by the softmax over all of them
/// (Shazeer et al., 2017; without renormalisation, as Jamba has it).
pub(crate) struct Experts {
    router: LinearSlot,
    experts: Vec<GatedMlp>,
    active: usize,
}

/// Shape of a mixture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertsShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of an expert.
    pub inner: usize,
    /// How many experts there are.
    pub experts: usize,
    /// How many of them a token uses.
    pub active: usize,
    /// Terms of the residual stream, for fresh weights.
    pub residual_terms: usize,
}

/// Which tokens go to which experts: parallel lists, sorted by expert.
struct Routes {
    /// Index of the token.
    tokens: Vec<u32>,
    /// Index of the token's rating of the expert, in [tokens · experts].
    ratings: Vec<u32>,
    /// 1, or 0 where the token is there only to give an idle expert's tensors a gradient.
    factors: Vec<f32>,
    /// Entries of each expert.
    counts: Vec<usize>,
}

impl Experts {
    /// `router` and `experts.0`, `experts.1` … below the builder's prefix.
    pub fn new(builder: &Builder<'_>, shape: ExpertsShape) -> Result<Self> {
        let ExpertsShape { hidden, inner, experts, active, residual_terms } = shape;
        let expert = |i| GatedMlp::new(&builder.within(&format!("experts.{i}")), hidden, inner, false, residual_terms);
        Ok(Self {
            router: builder.linear("router", Role::Router, LinearSpec::new(experts, hidden))?,
            experts: (0..experts).map(expert).collect::<Result<_>>()?,
            active,
        })
    }

    /// x [batch, length, hidden] → the same shape. Each expert computes its own tokens only.
    fn apply(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let (tape, dims) = (pass.tape, x.dims().to_vec());
        let hidden = dims[dims.len() - 1];
        let ratings = tape.softmax(&self.router.forward(pass, x)?)?;
        let routes = self.route(ratings.value(), tape.is_recording())?;
        let entries = routes.tokens.len();
        let inputs = tape.reshape(&tape.select_rows(x, &routes.tokens)?, &[1, entries, hidden])?;
        let (mut outputs, mut start) = (Vec::new(), 0);
        for (expert, &count) in self.experts.iter().zip(&routes.counts).filter(|(_, count)| **count > 0) {
            outputs.push(expert.apply(pass, &tape.narrow(&inputs, 1, start, count)?)?);
            start += count;
        }
        let outputs = tape.reshape(&tape.cat(&outputs.iter().collect::<Vec<_>>(), 1)?, &[entries, hidden])?;
        let weights = tape.select_rows(&tape.reshape(&ratings, &[ratings.value().elem_count(), 1])?, &routes.ratings)?;
        let factors = Tensor::from_vec(routes.factors, (entries, 1), weights.value().device())?.to_dtype(weights.value().dtype())?;
        let weights = tape.mul(&weights, &Var::constant(factors))?;
        let summed = tape.index_add(&tape.mul(&outputs, &weights)?, &routes.tokens, x.value().elem_count() / hidden)?;
        Ok(tape.reshape(&summed, &dims)?)
    }

    /// The routes for ratings [batch, length, experts]; of equal ratings the first counts as higher. In training an expert that no token
    /// goes to gets the first one with a factor of 0, so that its tensors have a gradient, of zeros.
    fn route(&self, ratings: &Tensor, training: bool) -> Result<Routes> {
        let experts = self.experts.len();
        let ratings = ratings.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut tokens_of = vec![Vec::new(); experts];
        for (token, ratings) in ratings.chunks(experts).enumerate() {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| ratings[b].total_cmp(&ratings[a]));
            order.iter().take(self.active).for_each(|&expert| tokens_of[expert].push((token, 1.0)));
        }
        if training {
            tokens_of.iter_mut().filter(|tokens| tokens.is_empty()).for_each(|tokens| tokens.push((0, 0.0)));
        }
        let mut routes = Routes { tokens: Vec::new(), ratings: Vec::new(), factors: Vec::new(), counts: Vec::new() };
        for (expert, tokens) in tokens_of.into_iter().enumerate() {
            routes.counts.push(tokens.len());
            for (token, factor) in tokens {
                routes.tokens.push(token as u32);
                routes.ratings.push((token * experts + expert) as u32);
                routes.factors.push(factor);
            }
        }
        Ok(routes)
    }
}

impl Part for Experts {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visit_linear(&mut self.router, visitor);
        self.experts.iter_mut().for_each(|expert| expert.visit_slots(visitor));
    }

    fn multiply_adds_per_token(&self) -> usize {
        let one = self.experts.first().map_or(0, Part::multiply_adds_per_token);
        self.router.multiply_adds() + self.active * one
    }
}

impl<S> Layer<S> for Experts {
    fn forward(&self, step: &Step<'_>, _shared: &S, x: &Var, _cache: Option<&mut Cache>) -> Result<Var> {
        self.apply(step.pass, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::SlotMut;
    use crate::weights::Fresh;
    use peftbench_ops::device::host;
    use peftbench_ops::{Param, Tape};

    const SHAPE: ExpertsShape = ExpertsShape { hidden: 6, inner: 5, experts: 4, active: 2, residual_terms: 1 };

    fn experts() -> (Experts, Vec<Param>) {
        let mut experts = Experts::new(&Builder::new(&Fresh { seed: 3 }), SHAPE).unwrap();
        let mut params = Vec::new();
        experts.visit_slots(&mut |slot| {
            if let SlotMut::Param(slot) = slot {
                params.push(slot.param.clone());
            }
        });
        (experts, params)
    }

    fn input() -> Tensor {
        let values: Vec<f32> = (0..18).map(|i| ((i * 7) % 11) as f32 / 5.0 - 1.0).collect();
        Tensor::from_vec(values, (1, 3, 6), &host()).unwrap()
    }

    /// Every token through every expert, weighted with its rating where it is among the two highest.
    fn dense(experts: &Experts, x: &Tensor) -> Vec<f32> {
        let tape = Tape::inference();
        let pass = Pass::evaluation(&tape);
        let x = Var::constant(x.clone());
        let ratings = tape.softmax(&experts.router.forward(&pass, &x).unwrap()).unwrap();
        let ratings = ratings.value().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let mut sum = vec![0.0; 18];
        for (e, expert) in experts.experts.iter().enumerate() {
            let y = expert.apply(&pass, &x).unwrap().value().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
            for (t, row) in y.iter().enumerate() {
                let better = ratings[t].iter().filter(|&&rating| rating > ratings[t][e]).count();
                row.iter().enumerate().filter(|_| better < 2).for_each(|(i, y)| sum[t * 6 + i] += ratings[t][e] * y);
            }
        }
        sum
    }

    #[test]
    fn each_token_gets_the_weighted_sum_of_its_two_experts() {
        let (experts, _) = experts();
        for tape in [Tape::inference(), Tape::new()] {
            let found = experts.apply(&Pass::evaluation(&tape), &Var::constant(input())).unwrap();
            let found = found.value().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (found, expected) in found.iter().zip(dense(&experts, &input())) {
                assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
            }
        }
        assert_eq!(experts.multiply_adds_per_token(), 4 * 6 + 2 * 3 * 6 * 5);
    }

    #[test]
    fn an_idle_expert_has_a_gradient_of_zeros() {
        let (experts, params) = experts();
        // The router likes experts 1 and 2 wherever the input's first element is positive.
        let mut router = vec![0.0f32; 24];
        (router[6], router[12], router[18]) = (1.0, 2.0, -1.0);
        params[0].set(Tensor::from_vec(router, (4, 6), &host()).unwrap()).unwrap();
        let x = input().abs().unwrap().affine(1.0, 0.1).unwrap();
        params.iter().for_each(|p| p.set_trainable(true));
        let tape = Tape::new();
        let y = experts.apply(&Pass::evaluation(&tape), &Var::constant(x)).unwrap();
        let sum = tape.sum_all(&y).unwrap();
        let grads = tape.backward(&sum).unwrap();
        assert_eq!(grads.len(), params.len());
        for param in &params {
            let size = grads.get(param).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let idle = ["experts.0.", "experts.3."].iter().any(|name| param.name().contains(name));
            assert_eq!(size == 0.0, idle, "{}: {size}", param.name());
        }
    }
}
