//! AdaLoRA (Zhang et al., 2023): y = W x + (lora_alpha / init_r) · B diag(E) A x, and E prunes: by and by the entries of all layers that matter
//! least are set to 0, until target_r a layer are left on average.
//!
//! E starts at zero, A and B normal with deviation 0.02. A step keeps what LoRA's does.
//!
//! A and B are kept near to orthonormal by orth_reg_weight · mean ‖Pᵀ P − I‖ in the loss, so that E ranks like singular values. The schedule
//! and its scores are those of peft's `RankAllocator`; they follow every optimizer step and are part of a checkpoint. As in peft the
//! divisor is init_r + 1e-5 throughout.

mod allocator;
mod files;

use super::initializer::Initializer;
use super::lora::check_fits;
use super::parts::{at_least_one, dropout_rate, finite, linear_config, projection_targets, tensor_name};
use super::{Options, try_visit};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method, Training, TrainingStep};
use crate::selection::rows_of;
use allocator::Allocator;
use files::Pruned;
use peftbench_models::slots::{LinearAdapter, SlotMut};
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{DType, Param, Tape, Tensor, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaLora {
    /// Rank of every layer at the beginning.
    pub init_r: usize,
    /// Mean rank at the end.
    pub target_r: usize,
    /// The update is scaled by `lora_alpha / init_r`.
    #[serde(alias = "alpha")]
    pub lora_alpha: f64,
    /// Dropout on the input of A.
    #[serde(alias = "dropout")]
    pub lora_dropout: f64,
    /// Steps before the ranks begin to fall.
    pub tinit: u64,
    /// Steps at the end in which they stay.
    pub tfinal: u64,
    /// Steps from one allocation to the next.
    #[serde(rename = "deltaT")]
    pub delta_t: u64,
    /// Smoothing of the sensitivities.
    pub beta1: f64,
    /// Smoothing of their uncertainties.
    pub beta2: f64,
    /// Weight of the orthogonal term in the loss.
    pub orth_reg_weight: f64,
    /// Steps of the schedule; 0 for the steps of the run.
    pub total_step: u64,
}

impl Default for AdaLora {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            total_step: 0,
        }
    }
}

impl Options for AdaLora {
    const PEFT_TYPE: Option<&'static str> = Some("ADALORA");
    /// peft's `r` has no meaning for this method; which ranks are left is told by the tensors.
    const IGNORED: &'static [&'static str] = &["r", "rank_pattern"];

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("init_r", self.init_r)?;
        at_least_one("target_r", self.target_r)?;
        if self.target_r > self.init_r {
            let problem = format!("expected at most init_r = {}, found {}", self.init_r, self.target_r);
            return Err(SpecError::at("target_r", problem));
        }
        finite("lora_alpha", self.lora_alpha)?;
        dropout_rate("lora_dropout", self.lora_dropout)?;
        if self.delta_t == 0 {
            return Err(SpecError::at("deltaT", "expected at least 1 step, found 0"));
        }
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(SpecError::at(key, format!("expected a number between 0 and 1, found {beta}")));
            }
        }
        if !(self.orth_reg_weight >= 0.0 && self.orth_reg_weight.is_finite()) {
            return Err(SpecError::at("orth_reg_weight", format!("expected a number of at least 0, found {}", self.orth_reg_weight)));
        }
        if self.total_step == 0 { Ok(()) } else { self.check_schedule(self.total_step) }
    }
}

impl AdaLora {
    /// Refuses a schedule of `total` steps in which no rank could fall.
    pub(super) fn check_schedule(&self, total: u64) -> peftbench_spec::error::Result<()> {
        match self.tinit + self.tfinal < total {
            true => Ok(()),
            false => {
                let problem =
                    format!("tinit {} and tfinal {} leave none of {total} steps for pruning; make them smaller", self.tinit, self.tfinal);
                Err(SpecError::at("tinit", problem))
            }
        }
    }
}

/// A, E and B of one layer or row part.
#[derive(Debug, Clone)]
struct Triple {
    /// Path of the module.
    path: String,
    /// [init_r, in].
    a: Param,
    /// [init_r, 1].
    e: Param,
    /// [out, init_r].
    b: Param,
}

struct Update {
    triple: Triple,
    scale: f64,
    dropout: f64,
    rows: RowRanges,
}

impl LinearAdapter for Update {
    fn updates(&self, pass: &Pass<'_>, x: &Var) -> peftbench_ops::Result<Vec<LowRank>> {
        let tape = pass.tape;
        let a = tape.mul(&tape.param(&self.triple.a), &tape.param(&self.triple.e))?;
        let input = (pass.dropout.is_some() && self.dropout > 0.0).then(|| pass.dropout(x, self.dropout)).transpose()?;
        Ok(vec![LowRank { a, b: tape.param(&self.triple.b), scale: self.scale, rows: self.rows.clone(), input }])
    }
}

/// The orthogonal term and the rank schedule.
#[derive(Debug)]
struct Schedule {
    options: AdaLora,
    allocator: Allocator,
}

impl Training for Schedule {
    fn penalty(&self, tape: &Tape) -> Result<Option<Var>> {
        let triples = self.allocator.triples();
        let weight = self.options.orth_reg_weight / (2 * triples.len()) as f64;
        let mut sum: Option<Var> = None;
        for triple in triples.iter().filter(|_| weight > 0.0) {
            for (param, by_rows) in [(&triple.a, true), (&triple.b, false)] {
                let term = departure_from_orthonormal(tape, &tape.param(param), by_rows)?;
                sum = Some(match sum {
                    Some(sum) => tape.add(&sum, &term)?,
                    None => term,
                });
            }
        }
        Ok(sum.map(|sum| tape.scale(&sum, weight)).transpose()?)
    }

    fn after_step(&self, step: &TrainingStep<'_>) -> Result<()> {
        let total = if self.options.total_step == 0 { step.total } else { self.options.total_step };
        self.options.check_schedule(total)?;
        self.allocator.follow(&self.options, total, step)
    }

    fn state(&self) -> Vec<Param> {
        self.allocator.state()
    }
}

/// ‖P Pᵀ − I‖, or ‖Pᵀ P − I‖ where the columns are meant, as a scalar. It keeps nothing but P.
fn departure_from_orthonormal(tape: &Tape, p: &Var, by_rows: bool) -> peftbench_ops::Result<Var> {
    let departure = move |p: &Tensor| -> peftbench_ops::Result<(Tensor, Tensor)> {
        let gram = if by_rows { p.matmul(&p.t()?)? } else { p.t()?.matmul(p)? };
        let off = (&gram - Tensor::eye(gram.dim(0)?, gram.dtype(), gram.device())?)?;
        let norm = off.sqr()?.sum_all()?.sqrt()?;
        Ok((off, norm))
    };
    let (_, norm) = departure(p.value())?;
    let saved = || vec![p.value().clone()];
    Ok(tape.record("orthogonality", &[p], norm, saved, move |back| {
        let p = &back.saved[0];
        let (off, norm) = departure(p)?;
        // At the minimum any direction is a slope; torch takes 0.
        let factor = if norm.to_dtype(DType::F64)?.to_scalar::<f64>()? > 0.0 { ((&back.grad * 2.0)? / &norm)? } else { norm.zeros_like()? };
        let slope = if by_rows { off.matmul(p)? } else { p.matmul(&off)? };
        Ok(vec![Some(slope.broadcast_mul(&factor)?)])
    }))
}

impl Method for AdaLora {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let (mut params, mut triples) = (Vec::new(), Vec::new());
        let rank = self.init_r;
        let init = &mut Initializer::of(model, context.init);
        try_visit(model, &mut |slot| {
            let SlotMut::Linear(slot) = slot else { return Ok(()) };
            let (path, input) = (slot.info.path.clone(), slot.dims().1);
            for chosen in context.chosen.iter().filter(|c| c.slot == path) {
                let (path, rows) = (chosen.path(), rows_of(chosen, slot));
                check_fits("init_r", rank, (rows.len(), input), &path, context.loading)?;
                let param = |which: &str, value| Param::trainable(tensor_name(chosen, &format!("lora_{which}")), value);
                let triple = Triple {
                    a: param("A", init.normal((rank, input), 0.02)?),
                    e: param("E", init.zeros((rank, 1))?),
                    b: param("B", init.normal((rows.len(), rank), 0.02)?),
                    path: path.clone(),
                };
                params.extend([&triple.a, &triple.e, &triple.b].map(|param| AdapterParam::added(param.clone(), chosen)));
                let scale = self.lora_alpha / (rank as f64 + 1e-5);
                slot.attach(Box::new(Update { triple: triple.clone(), scale, dropout: self.lora_dropout, rows }));
                triples.push(triple);
            }
            Ok(())
        })?;
        let config = linear_config("ADALORA", self, model, context.chosen);
        let allocator = Allocator::new(triples, init)?;
        let pruned = Pruned::new(allocator.clone(), self.clone());
        let schedule = Schedule { options: self.clone(), allocator };
        Ok(Attachment { forms: vec![Arc::new(pruned)], training: vec![Arc::new(schedule)], ..Attachment::new(params, config) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orthogonal_terms_gradient_agrees_with_finite_differences() {
        let mut stream = peftbench_spec::seed::stream(1, "orthogonality");
        for by_rows in [true, false] {
            let p = Param::trainable("p", Initializer::on_cpu(&mut stream).normal((3, 5), 1.0).unwrap().to_dtype(DType::F64).unwrap());
            let value = || {
                let tape = Tape::new();
                let term = departure_from_orthonormal(&tape, &tape.param(&p), by_rows).unwrap();
                (term.value().to_scalar::<f64>().unwrap(), tape.backward(&term).unwrap())
            };
            let slope = value().1.get(&p).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let start = p.value().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for i in 0..15 {
                let at = |delta: f64| {
                    let mut moved = start.clone();
                    moved[i] += delta;
                    p.set(Tensor::from_vec(moved, (3, 5), &peftbench_ops::device::host()).unwrap()).unwrap();
                    value().0
                };
                let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!((numeric - slope[i]).abs() < 1e-6, "{numeric} {}", slope[i]);
            }
        }
        // An orthonormal matrix stays where it is.
        let p = Param::trainable("p", Tensor::eye(3, DType::F64, &peftbench_ops::device::host()).unwrap());
        let tape = Tape::new();
        let term = departure_from_orthonormal(&tape, &tape.param(&p), true).unwrap();
        assert_eq!(tape.backward(&term).unwrap().get(&p).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.0);
    }
}
