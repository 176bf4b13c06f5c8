//! Self-attention with one projection for queries, keys and values.

use crate::attention::Attend;
use crate::builder::{Builder, LinearSpec};
use crate::cache::Cache;
use crate::causal_lm::Step;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::slots::{LinearSlot, Visitor, visit_linear};
use peftbench_ops::Var;
use peftbench_spec::Role;

/// The order of the fused projection's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FusedLayout {
    /// All queries, all keys, all values: GPT-2's.
    Blocks,
    /// Query, key and value of each head: BLOOM's.
    Heads,
}

/// Names and form of the projections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FusedProjections<'a> {
    /// Name of the fused projection.
    pub input: &'a str,
    /// Name of the output projection.
    pub output: &'a str,
    /// Order of the fused rows.
    pub layout: FusedLayout,
    /// Whether weights are stored as [in, out].
    pub transposed: bool,
    /// Factor on the scores besides 1 / √head_dim.
    pub score_factor: f64,
    /// Terms of the residual stream, for fresh weights.
    pub residual_terms: usize,
}

/// Attention whose projections, both with a bias, are as wide as the residual stream.
pub(crate) struct FusedAttention {
    input: LinearSlot,
    output: LinearSlot,
    attend: Attend,
    layout: FusedLayout,
    score_factor: f64,
}

impl FusedAttention {
    /// The projections of `attend`, below the builder's prefix; the fused one has the parts `q`, `k` and `v`.
    pub fn new(builder: &Builder<'_>, attend: Attend, projections: FusedProjections<'_>) -> Result<Self> {
        let FusedProjections { layout, transposed, .. } = projections;
        let (heads, dim) = (attend.heads.query, attend.heads.dim);
        let (width, parts) = (heads * dim, |rows| [("q", rows), ("k", rows), ("v", rows)]);
        let input = LinearSpec::new(3 * width, width).bias(true).transposed(transposed);
        let input = match layout {
            FusedLayout::Blocks => input.parts(&parts(width)),
            FusedLayout::Heads => input.interleaved_parts(heads, &parts(dim)),
        };
        let output = LinearSpec::new(width, width).bias(true).transposed(transposed).residual(projections.residual_terms);
        Ok(Self {
            input: builder.linear(projections.input, Role::QkvProj, input)?,
            output: builder.linear(projections.output, Role::OProj, output)?,
            attend,
            layout,
            score_factor: projections.score_factor,
        })
    }

    /// Queries, keys and values, [batch, length, hidden] each, of fused ones.
    fn split(&self, step: &Step<'_>, fused: &Var) -> Result<[Var; 3]> {
        let (tape, heads) = (step.pass.tape, self.attend.heads);
        let (batch, length, width) = (fused.dims()[0], fused.dims()[1], heads.query * heads.dim);
        let by_head = match self.layout {
            FusedLayout::Blocks => None,
            FusedLayout::Heads => Some(tape.reshape(fused, &[batch, length, heads.query, 3, heads.dim])?),
        };
        let part = |i: usize| match &by_head {
            None => tape.narrow(fused, 2, i * width, width),
            Some(by_head) => tape.reshape(&tape.narrow(by_head, 3, i, 1)?, &[batch, length, width]),
        };
        Ok([part(0)?, part(1)?, part(2)?])
    }
}

impl Part for FusedAttention {
    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visit_linear(&mut self.input, visitor);
        visit_linear(&mut self.output, visitor);
        self.attend.visit_slots(visitor);
    }

    fn multiply_adds_per_token(&self) -> usize {
        self.input.multiply_adds() + self.output.multiply_adds()
    }
}

impl Layer<()> for FusedAttention {
    fn forward(&self, step: &Step<'_>, (): &(), x: &Var, cache: Option<&mut Cache>) -> Result<Var> {
        let [q, k, v] = self.split(step, &self.input.forward(step.pass, x)?)?;
        let q = if self.score_factor == 1.0 { q } else { step.pass.tape.scale(&q, self.score_factor)? };
        let attended = self.attend.forward(step, &q, k, v, cache)?;
        Ok(self.output.forward(step.pass, &attended)?)
    }
}
