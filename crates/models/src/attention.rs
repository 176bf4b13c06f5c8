//! Self-attention: what every attention layer does behind its projections, and the form with four separate ones.

use crate::builder::{Builder, LinearSpec};
use crate::cache::{Cache, LayerCache};
use crate::causal_lm::Step;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::slots::{LinearSlot, PrefixSlot, SlotMut, Visitor, visit_linear};
use peftbench_ops::attention::Heads;
use peftbench_ops::key_values::KeyValues;
use peftbench_ops::rotary::RotaryTables;
use peftbench_ops::{DType, Tensor, Var};
use peftbench_spec::Role;

/// Attention over cached and virtual keys: the part without weights.
pub(crate) struct Attend {
    /// Index of the layer in the cache.
    layer: usize,
    /// Its heads.
    pub heads: Heads,
    /// Virtual keys and values.
    prefix: PrefixSlot,
    /// ALiBi's slope of each query head.
    alibi: Option<Vec<f32>>,
}

impl Attend {
    /// Attention of layer `layer`, with a prefix below the builder's.
    pub fn new(builder: &Builder<'_>, layer: usize, heads: Heads) -> Self {
        let prefix = PrefixSlot::new(builder.info("prefix", Role::KProj), heads.key_value * heads.dim);
        Self { layer, heads, prefix, alibi: None }
    }

    /// With slope · position of the key added to the scores, a slope a query head.
    pub fn with_alibi(self, slopes: Vec<f32>) -> Self {
        Self { alibi: Some(slopes), ..self }
    }

    /// q [batch, length, query heads · dim]; k and v [batch, length, key-value heads · dim], rotated where the model rotates.
    pub fn forward(&self, step: &Step<'_>, q: &Var, k: Var, v: Var, cache: Option<&mut Cache>) -> Result<Var> {
        let tape = step.pass.tape;
        let mask = |keys: usize| step.mask.as_ref().map(|mask| key_mask(mask, step.padding, keys)).transpose();
        let mut cache = cache;
        if let Some(LayerCache::Attention(all)) = cache.as_mut().and_then(|cache| cache.get_mut(self.layer)) {
            all.append(k.value(), v.value())?;
            let mask = mask(all.tokens())?;
            return Ok(tape.cached_attention(q, all, self.heads, mask.as_ref(), self.alibi.as_deref())?);
        }
        let (k, v) = self.prefix.forward(step.pass, k, v)?;
        let mask = mask(k.dims()[1])?;
        let Some(cache) = cache else {
            return Ok(tape.attention(q, &k, &v, self.heads, mask.as_ref(), self.alibi.as_deref())?);
        };
        let all = KeyValues::new(k.value(), v.value())?;
        let attended = tape.cached_attention(q, &all, self.heads, mask.as_ref(), self.alibi.as_deref())?;
        cache.put(self.layer, LayerCache::Attention(all));
        Ok(attended)
    }

    /// Shows the prefix.
    pub fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visitor(SlotMut::Prefix(&mut self.prefix));
    }
}

/// The mask [batch, positions] with ones for the keys of a prefix: in front, but behind a sequence's padding in the cache.
fn key_mask(mask: &Tensor, padding: &[usize], keys: usize) -> Result<Tensor> {
    let (batch, positions) = mask.dims2()?;
    let prefix = keys - positions;
    if prefix == 0 {
        return Ok(mask.clone());
    }
    if padding.is_empty() {
        return Ok(Tensor::cat(&[&Tensor::ones((batch, prefix), DType::U8, mask.device())?, mask], 1)?);
    }
    let with_prefix = |(mask, &padding): (Vec<u8>, &usize)| {
        let mut mask = mask;
        mask.splice(padding..padding, std::iter::repeat_n(1, prefix));
        mask
    };
    let rows: Vec<u8> = mask.to_vec2::<u8>()?.into_iter().zip(padding).flat_map(with_prefix).collect();
    Ok(Tensor::from_vec(rows, (batch, keys), mask.device())?)
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
            attend: Attend::new(builder, layer, heads),
        })
    }

    /// x [batch, length, hidden] → the same shape; `place` puts positions into queries and keys.
    fn attend(&self, step: &Step<'_>, x: &Var, place: impl Fn(Var) -> Result<Var>, cache: Option<&mut Cache>) -> Result<Var> {
        let pass = step.pass;
        let q = place(self.q_proj.forward(pass, x)?)?;
        let k = place(self.k_proj.forward(pass, x)?)?;
        let v = self.v_proj.forward(pass, x)?;
        let attended = self.attend.forward(step, &q, k, v, cache)?;
        Ok(self.o_proj.forward(pass, &attended)?)
    }
}

impl Part for SelfAttention {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        for linear in [&mut self.q_proj, &mut self.k_proj, &mut self.v_proj, &mut self.o_proj] {
            visit_linear(linear, visitor);
        }
        self.attend.visit_slots(visitor);
    }

    fn multiply_adds_per_token(&self) -> usize {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].into_iter().map(LinearSlot::multiply_adds).sum()
    }
}

impl Layer<()> for SelfAttention {
    fn forward(&self, step: &Step<'_>, (): &(), x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        self.attend(step, x, Ok, cache)
    }
}

impl Layer<RotaryTables> for SelfAttention {
    fn forward(&self, step: &Step<'_>, tables: &RotaryTables, x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        self.attend(step, x, |x| Ok(step.pass.tape.rotary(&x, tables, self.attend.heads.dim)?), cache)
    }
}
