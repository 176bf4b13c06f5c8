//! LoHa (FedPara, Hyeon-Woo, Ye-Bin and Oh, 2022; LyCORIS, Yeh et al., 2024): W + s · (w1_a w1_b) ⊙ (w2_a w2_b), s = alpha / r.
//!
//! w2_b starts at zero and the others Kaiming-uniform, so that the model starts unchanged.
//!
//! The product of two matrices of rank r is one of rank r²: with the rows of w1_b times those of w2_b, each with each, as A [r², in], and
//! the columns of w1_a times those of w2_a as B [out, r²], it is a low-rank update that needs neither ΔW nor the gradient of a whole
//! weight. Where r² is too large for that to pay, ΔW is built, and built again in the backward pass.

use super::initializer::Initializer;
use super::lora::{Pattern, check_fits};
use super::parts::{at_least_one, finite, linear_config, projection_targets, tensor_name};
use super::{Options, try_visit};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use crate::selection::rows_of;
use peftbench_models::slots::{LinearAdapter, SlotMut};
use peftbench_models::{Network, Pass};
use peftbench_ops::candle_fn::DerivedWeight;
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{Role, SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loha {
    /// Rank of each of the two products.
    #[serde(alias = "rank")]
    pub r: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Ranks of modules whose path ends in the key, a regular expression.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of modules whose path ends in the key.
    pub alpha_pattern: Pattern<f64>,
}

impl Default for Loha {
    fn default() -> Self {
        Self { r: 8, alpha: 8.0, rank_pattern: Pattern::default(), alpha_pattern: Pattern::default() }
    }
}

/// Options of peft's LyCORIS layers that act in training alone, and what concerns convolutions.
pub(crate) const LYCORIS_IGNORED: &[&str] = &["rank_dropout", "module_dropout", "rank_dropout_scale", "use_effective_conv2d"];

/// Checks ranks and alphas of the LyCORIS methods.
pub(crate) fn check_lycoris(r: usize, alpha: f64, ranks: &Pattern<usize>, alphas: &Pattern<f64>) -> peftbench_spec::error::Result<()> {
    at_least_one("r", r)?;
    finite("alpha", alpha)?;
    ranks.entries("rank_pattern")?.iter().try_for_each(|(key, rank)| at_least_one(key, *rank))?;
    alphas.entries("alpha_pattern")?.iter().try_for_each(|(key, alpha)| finite(key, *alpha))
}

impl Options for Loha {
    const PEFT_TYPE: Option<&'static str> = Some("LOHA");
    const IGNORED: &'static [&'static str] = LYCORIS_IGNORED;

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        check_lycoris(self.r, self.alpha, &self.rank_pattern, &self.alpha_pattern)
    }
}

/// The update of one layer or row part: w1_a, w1_b, w2_a, w2_b.
struct Update {
    factors: [Param; 4],
    scale: f64,
    rows: RowRanges,
    out: usize,
    layer: Option<usize>,
    /// Whether it is computed as an update of rank r².
    low_rank: bool,
}

impl LinearAdapter for Update {
    fn updates(&self, pass: &Pass<'_>, _x: &Var) -> peftbench_ops::Result<Vec<LowRank>> {
        if !self.low_rank {
            return Ok(Vec::new());
        }
        let tape = pass.tape;
        let [w1_a, w1_b, w2_a, w2_b] = self.factors.each_ref().map(|factor| tape.param(factor));
        let (rows, rank, input) = (w1_a.dims()[0], w1_a.dims()[1], w1_b.dims()[1]);
        let a = tape.mul(&tape.reshape(&w1_b, &[rank, 1, input])?, &tape.reshape(&w2_b, &[1, rank, input])?)?;
        let b = tape.mul(&tape.reshape(&w1_a, &[rows, rank, 1])?, &tape.reshape(&w2_a, &[rows, 1, rank])?)?;
        let (a, b) = (tape.reshape(&a, &[rank * rank, input])?, tape.reshape(&b, &[rows, rank * rank])?);
        Ok(vec![LowRank { a, b, scale: self.scale, rows: self.rows.clone(), input: None }])
    }

    fn derive(&self, pass: &Pass<'_>) -> Option<DerivedWeight> {
        if self.low_rank {
            return None;
        }
        let (rows, out, scale) = (self.rows.clone(), self.out, self.scale * pass.scale_of(self.layer));
        let function = move |weight: &Tensor, f: &[Tensor]| -> peftbench_ops::Result<Tensor> {
            let change = (f[0].matmul(&f[1])?.mul(&f[2].matmul(&f[3])?)? * scale)?;
            let (mut parts, mut taken, mut end) = (Vec::new(), 0, 0);
            for range in rows.iter() {
                parts.push(weight.narrow(0, end, range.start - end)?);
                parts.push((weight.narrow(0, range.start, range.len())? + change.narrow(0, taken, range.len())?)?);
                (taken, end) = (taken + range.len(), range.end);
            }
            parts.push(weight.narrow(0, end, out - end)?);
            parts.retain(|part| part.elem_count() > 0);
            if let [whole] = parts.as_slice() { Ok(whole.clone()) } else { Tensor::cat(&parts, 0) }
        };
        Some(DerivedWeight { params: self.factors.iter().map(|factor| pass.tape.param(factor)).collect(), function: Rc::new(function) })
    }
}

/// Whether the three products with factors of rank r² cost less than the gradient of a whole weight.
fn pays_as_low_rank(rank: usize, out: usize, input: usize) -> bool {
    3 * rank * rank * (out + input) <= out * input
}

impl Method for Loha {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let mut params = Vec::new();
        let init = &mut Initializer::of(model, context.init);
        try_visit(model, &mut |slot| {
            let SlotMut::Linear(slot) = slot else { return Ok(()) };
            let (path, (out, input)) = (slot.info.path.clone(), slot.dims());
            for chosen in context.chosen.iter().filter(|c| c.slot == path) {
                let (place, rows) = (chosen.path(), rows_of(chosen, slot));
                let rank = self.rank_pattern.find("rank_pattern", &place)?.unwrap_or(self.r);
                let alpha = self.alpha_pattern.find("alpha_pattern", &place)?.unwrap_or(self.alpha);
                check_fits("r", rank, (rows.len(), input), &place, context.loading)?;
                let param = |which: &str, value: Tensor| Param::trainable(tensor_name(chosen, &format!("hada_{which}")), value);
                // One zero is enough for the model to start unchanged; as peft has it, the other three are Kaiming-uniform.
                let factors = [
                    param("w1_a", init.kaiming_uniform(rows.len(), rank)?),
                    param("w1_b", init.kaiming_uniform(rank, input)?),
                    param("w2_a", init.kaiming_uniform(rows.len(), rank)?),
                    param("w2_b", init.zeros((rank, input))?),
                ];
                params.extend(factors.iter().map(|factor| AdapterParam::added(factor.clone(), chosen)));
                // The head takes updates only.
                let low_rank = slot.info.role == Role::LmHead || pays_as_low_rank(rank, rows.len(), input);
                let scale = alpha / rank as f64;
                slot.attach(Box::new(Update { factors, scale, rows, out, layer: chosen.layer, low_rank }));
            }
            Ok(())
        })?;
        Ok(Attachment::new(params, linear_config("LOHA", self, model, context.chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_models::slots::{LinearSlot, SlotInfo};
    use peftbench_ops::Tape;
    use peftbench_spec::seed;

    /// Output and gradients of a layer [6, 5] of which rows 1..5 are updated.
    fn run(low_rank: bool) -> Vec<Tensor> {
        let mut stream = seed::stream(1, "loha");
        let mut init = Initializer::on_cpu(&mut stream);
        let mut draw = |rows: usize, columns: usize| init.normal((rows, columns), 0.5).unwrap();
        let info = SlotInfo { path: "layer".to_owned(), layer: None, role: Role::QProj };
        let mut slot = LinearSlot::new(info, Param::frozen("layer.weight", draw(6, 5)), None, Vec::new());
        let factors = [draw(4, 2), draw(2, 5), draw(4, 2), draw(2, 5)].map(|value| Param::trainable("factor", value));
        let update = Update { factors: factors.clone(), scale: 1.5, rows: (1..5).into(), out: 6, layer: None, low_rank };
        slot.attach(Box::new(update));
        let tape = Tape::new();
        let x = Param::trainable("x", draw(3, 5));
        let y = slot.forward(&Pass::evaluation(&tape), &tape.param(&x)).unwrap();
        let value = y.value().clone();
        let grads = tape.backward_from(&y, draw(3, 6)).unwrap();
        std::iter::once(value).chain(factors.iter().chain([&x]).map(|param| grads.get(param).unwrap().clone())).collect()
    }

    #[test]
    fn both_ways_to_compute_it_agree() {
        for (a, b) in run(true).iter().zip(run(false)) {
            let off = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-5, "{off}");
        }
        assert!(pays_as_low_rank(8, 768, 768) && !pays_as_low_rank(32, 768, 768));
    }
}
