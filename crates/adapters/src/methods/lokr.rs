//! LoKr (KronA, Edalati et al., 2022; LyCORIS, Yeh et al., 2024): W + s · w1 ⊗ w2, s = alpha / r, where w2, and on demand w1, is a
//! product of rank r if that is smaller.
//!
//! w1 starts at zero, so that the model starts unchanged. The Kronecker product is never built: with x as a matrix [c, d], (w1 ⊗ w2) x is
//! w1 x w2ᵀ. A step keeps x and x w2ᵀ.

use super::initializer::Initializer;
use super::loha::{LYCORIS_IGNORED, check_lycoris};
use super::lora::{Pattern, check_fits};
use super::parts::{attach_linear, linear_config, projection_targets, tensor_name};
use super::{Options, spread};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::{Chosen, rows_of};
use peftbench_models::slots::LinearAdapter;
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Tape, Tensor, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lokr {
    /// Rank of a factor that is a product.
    #[serde(alias = "rank")]
    pub r: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Whether w1 may be a product too.
    pub decompose_both: bool,
    /// Rows and columns of w1 come as near to this as divisors allow; -1: to the root of the layer's.
    pub decompose_factor: i64,
    /// Ranks of modules whose path ends in the key, a regular expression.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of modules whose path ends in the key.
    pub alpha_pattern: Pattern<f64>,
}

impl Default for Lokr {
    fn default() -> Self {
        let (rank_pattern, alpha_pattern) = (Pattern::default(), Pattern::default());
        Self { r: 8, alpha: 8.0, decompose_both: false, decompose_factor: -1, rank_pattern, alpha_pattern }
    }
}

impl Options for Lokr {
    const PEFT_TYPE: Option<&'static str> = Some("LOKR");
    const IGNORED: &'static [&'static str] = LYCORIS_IGNORED;

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        check_lycoris(self.r, self.alpha, &self.rank_pattern, &self.alpha_pattern)?;
        match self.decompose_factor {
            -1 | 1.. => Ok(()),
            other => Err(SpecError::at("decompose_factor", format!("expected -1 or a number of at least 1, found {other}"))),
        }
    }
}

/// `dimension` as a product m · n, m ≤ n unless the factor divides it: m is the factor if that divides it, else the largest divisor not
/// above the factor and the root; LyCORIS's `factorization`.
fn factorization(dimension: usize, factor: i64) -> (usize, usize) {
    let limit = usize::try_from(factor).unwrap_or(dimension);
    if factor > 0 && dimension.is_multiple_of(limit) {
        return (limit, dimension / limit);
    }
    let (mut m, mut n) = (1, dimension);
    while m < n {
        let next = (m + 1..=dimension).find(|candidate| dimension.is_multiple_of(*candidate)).unwrap_or(dimension);
        if next + dimension / next > 1 + dimension || next > limit {
            break;
        }
        (m, n) = (next, dimension / next);
    }
    (m.min(n), m.max(n))
}

/// A factor of the Kronecker product: whole, or a product of two.
#[derive(Clone)]
enum Factor {
    Whole(Param),
    Product(Param, Param),
}

impl Factor {
    fn value(&self, tape: &Tape) -> peftbench_ops::Result<Var> {
        match self {
            Self::Whole(w) => Ok(tape.param(w)),
            Self::Product(a, b) => tape.matmul(&tape.param(a), &tape.param(b)),
        }
    }

    fn params(&self) -> Vec<Param> {
        match self {
            Self::Whole(w) => vec![w.clone()],
            Self::Product(a, b) => vec![a.clone(), b.clone()],
        }
    }
}

struct Update {
    w1: Factor,
    w2: Factor,
    scale: f64,
    rows: RowRanges,
    layer: Option<usize>,
}

impl LinearAdapter for Update {
    fn output(&self, pass: &Pass<'_>, x: &Var, y: Var) -> peftbench_ops::Result<Var> {
        let tape = pass.tape;
        // The factor of the update goes into the small matrix.
        let w1 = tape.scale(&self.w1.value(tape)?, self.scale * pass.scale_of(self.layer))?;
        let w2 = self.w2.value(tape)?;
        let ([a, c], [b, d]) = ([w1.dims()[0], w1.dims()[1]], [w2.dims()[0], w2.dims()[1]]);
        let count = x.value().elem_count() / (c * d);
        let x = tape.reshape(x, &[count, c, d])?;
        let inner = tape.transpose(&tape.linear(&x, &w2, None)?, 1, 2)?;
        let outer = tape.transpose(&tape.linear(&inner, &w1, None)?, 1, 2)?;
        let mut dims = y.dims().to_vec();
        let last = dims.len() - 1;
        dims[last] = a * b;
        let update = tape.reshape(&outer, &dims)?;
        tape.add(&y, &spread(tape, &update, last, &self.rows, y.dims()[last], 0.0)?)
    }
}

impl Lokr {
    /// The factors for a matrix [out, input] as peft shapes them. w1 begins at 0.
    fn factors(&self, chosen: &Chosen, rank: usize, (out, input): (usize, usize), init: &mut Initializer<'_>) -> Result<(Factor, Factor)> {
        let ((a, b), (c, d)) = (factorization(out, self.decompose_factor), factorization(input, self.decompose_factor));
        let param = |which: &str, value: Tensor| Param::trainable(tensor_name(chosen, &format!("lokr_{which}")), value);
        let is_product = |rows: usize, columns: usize| 2 * rank < rows.max(columns);
        let w1 = if self.decompose_both && is_product(a, c) {
            Factor::Product(param("w1_a", init.zeros((a, rank))?), param("w1_b", init.kaiming_uniform(rank, c)?))
        } else {
            Factor::Whole(param("w1", init.zeros((a, c))?))
        };
        let w2 = if is_product(b, d) {
            Factor::Product(param("w2_a", init.kaiming_uniform(b, rank)?), param("w2_b", init.kaiming_uniform(rank, d)?))
        } else {
            Factor::Whole(param("w2", init.kaiming_uniform(b, d)?))
        };
        Ok((w1, w2))
    }
}

impl Method for Lokr {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let loading = context.loading;
        let params = attach_linear(model, context, "lokr", &mut |slot, chosen, init| {
            let (place, rows) = (chosen.path(), rows_of(chosen, slot));
            let rank = self.rank_pattern.find("rank_pattern", &place)?.unwrap_or(self.r);
            let alpha = self.alpha_pattern.find("alpha_pattern", &place)?.unwrap_or(self.alpha);
            let dims = (rows.len(), slot.dims().1);
            check_fits("r", rank, dims, &place, loading)?;
            let (w1, w2) = self.factors(chosen, rank, dims, init)?;
            let params = w1.params().into_iter().chain(w2.params()).collect();
            slot.attach(Box::new(Update { w1, w2, scale: alpha / rank as f64, rows, layer: chosen.layer }));
            Ok(params)
        })?;
        Ok(Attachment::new(params, linear_config("LOKR", self, model, context.chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples in LyCORIS's own documentation of `factorization`.
    #[test]
    fn factorizations_are_those_of_lycoris() {
        for (dimension, factor, expected) in [
            (127, -1, (1, 127)),
            (128, -1, (8, 16)),
            (250, -1, (10, 25)),
            (360, -1, (18, 20)),
            (512, -1, (16, 32)),
            (1024, -1, (32, 32)),
            (127, 2, (1, 127)),
            (128, 2, (2, 64)),
            (250, 2, (2, 125)),
            (127, 4, (1, 127)),
            (128, 4, (4, 32)),
            (250, 4, (2, 125)),
            (360, 4, (4, 90)),
            (512, 4, (4, 128)),
            (250, 8, (5, 50)),
            (250, 16, (10, 25)),
        ] {
            assert_eq!(factorization(dimension, factor), expected, "{dimension} {factor}");
        }
    }
}
