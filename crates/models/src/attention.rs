//! Self-attention: what every attention layer does behind its projections, and the form with four separate ones.

use crate::builder::{Builder, LinearSpec};
use crate::cache::{Cache, LayerCache};
use crate::causal_lm::Step;
use crate::error::Result;
use crate::rotary::RotaryTables;
use crate::slots::{LinearSlot, PrefixSlot, SlotMut, Visitor, visit_linear};
use peftbench_ops::attention::Heads;
use peftbench_ops::{DType, Tensor, Var};
use peftbench_spec::Role;

/// Attention over cached and virtual keys: the part without weights.
pub(crate) struct Attend {
    /// Index of the layer in the cache.
    pub layer: usize,
    /// Its heads.
    pub heads: Heads,
    /// Virtual keys and values.
    pub prefix: PrefixSlot,
}

impl Attend {
    /// q [batch, length, query heads · dim]; k and v [batch, length, key-value heads · dim], rotated where the model rotates.
    pub fn forward(&self, step: &Step<'_>, q: &Var, k: Var, v: Var, cache: Option<&mut Cache>) -> Result<Var> {
        let (k, v) = match cache.as_ref().and_then(|cache| cache.get(self.layer)) {
            Some(LayerCache::Attention { keys, values }) => {
                let join = |before: &Tensor, own: &Var| Tensor::cat(&[before, own.value()], 1).map(Var::constant);
                (join(keys, &k)?, join(values, &v)?)
            }
            _ => self.prefix.forward(step.pass, k, v)?,
        };
        if let Some(cache) = cache {
            cache.put(self.layer, LayerCache::Attention { keys: k.value().clone(), values: v.value().clone() });
        }
        let mask = step.mask.as_ref().map(|mask| key_mask(mask, k.dims()[1])).transpose()?;
        Ok(step.pass.tape.attention(q, &k, &v, self.heads, mask.as_ref())?)
    }
}

/// The mask [batch, positions] with ones in front for the keys of a prefix.
fn key_mask(mask: &Tensor, keys: usize) -> Result<Tensor> {
    let (batch, positions) = mask.dims2()?;
    match keys - positions {
        0 => Ok(mask.clone()),
        prefix => Ok(Tensor::cat(&[&Tensor::ones((batch, prefix), DType::U8, mask.device())?, mask], 1)?),
    }
}

/// Attention with a projection each for queries, keys, values and output.
pub(crate) struct SelfAttention {
    q_proj: LinearSlot,
    k_proj: LinearSlot,
    v_proj: LinearSlot,
    o_proj: LinearSlot,
    attend: Attend,
}

/// Which of the projections have a bias, and how many outputs the residual stream adds up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Projections<'a> {
    /// Biases of queries, keys and values.
    pub qkv_bias: bool,
    /// Bias of the output.
    pub output_bias: bool,
    /// Name of the output projection.
    pub output: &'a str,
    /// Terms of the residual stream, for fresh weights.
    pub residual_terms: usize,
}

impl SelfAttention {
    /// `q_proj`, `k_proj`, `v_proj` and the output projection of layer `layer`, below the builder's prefix.
    pub fn new(builder: &Builder<'_>, layer: usize, hidden: usize, heads: Heads, projections: Projections<'_>) -> Result<Self> {
        let (q, kv) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let input = |name, role, out| builder.linear(name, role, LinearSpec::new(out, hidden).bias(projections.qkv_bias));
        let output = LinearSpec::new(hidden, q).bias(projections.output_bias).residual(projections.residual_terms);
        Ok(Self {
            q_proj: input("q_proj", Role::QProj, q)?,
            k_proj: input("k_proj", Role::KProj, kv)?,
            v_proj: input("v_proj", Role::VProj, kv)?,
            o_proj: builder.linear(projections.output, Role::OProj, output)?,
            attend: Attend { layer, heads, prefix: PrefixSlot::new(builder.info("prefix", Role::KProj), kv) },
        })
    }

    /// x [batch, length, hidden] → the same shape; queries and keys are rotated where `rotary` is given.
    pub fn forward(&self, step: &Step<'_>, x: &Var, rotary: Option<&RotaryTables>, cache: Option<&mut Cache>) -> Result<Var> {
        let pass = step.pass;
        let rotate = |x: Var| match rotary {
            Some(tables) => pass.tape.rotary(&x, &tables.cos, &tables.sin, self.attend.heads.dim),
            None => Ok(x),
        };
        let q = rotate(self.q_proj.forward(pass, x)?)?;
        let k = rotate(self.k_proj.forward(pass, x)?)?;
        let v = self.v_proj.forward(pass, x)?;
        let attended = self.attend.forward(step, &q, k, v, cache)?;
        Ok(self.o_proj.forward(pass, &attended)?)
    }

    /// Shows every slot.
    pub fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        for linear in [&mut self.q_proj, &mut self.k_proj, &mut self.v_proj, &mut self.o_proj] {
            visit_linear(linear, visitor);
        }
        visitor(SlotMut::Prefix(&mut self.attend.prefix));
    }

    /// Multiply-adds a token of the projections.
    pub fn multiply_adds_per_token(&self) -> usize {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].into_iter().map(LinearSlot::multiply_adds).sum()
    }
}
