//! DoRA (Liu et al., 2024): y = m ⊙ (W x + s · B A x) / ‖W + s · B A‖ + b, with one trained magnitude and one norm a row.
//!
//! The norm is taken as a constant in the backward pass, as in section 4.3 of the paper and in peft. W + s · B A is never built: with
//! ‖W‖² of each row at hand, since W is frozen, ‖W + s · B A‖² = ‖W‖² + 2 s Σ B ⊙ (W Aᵀ) + s² Σ B ⊙ (B A Aᵀ) by rows, which costs one
//! product of W with the rank-sized A and memory of [out, r]. It is computed again only where A or B has changed.
//!
//! m starts as the norms and A and B as LoRA's, so that the model starts unchanged. A step keeps, besides what LoRA's does, the output before it
//! is scaled.
//!
//! Dropout acts on the input of A alone; peft also drops the input of (m / ‖·‖ − 1) · W, with the same expectation.

use super::lora::{Attached, Lora, Pattern, Trained, rows_of};
use super::parts::{tensor_name, unsupported};
use super::{Options, spread};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use crate::selection::Chosen;
use candle_core::TensorId;
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{Role, SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::{Mutex, PoisonError};

/// Options: those of LoRA that make sense here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dora {
    /// Rank.
    #[serde(alias = "rank")]
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    #[serde(alias = "alpha")]
    pub lora_alpha: f64,
    /// Dropout on the input of A.
    #[serde(alias = "dropout")]
    pub lora_dropout: f64,
    /// Scale by `lora_alpha / √r` instead.
    pub use_rslora: bool,
    /// Ranks of some modules, as LoRA's.
    pub rank_pattern: Pattern<usize>,
    /// Alphas of some modules, as LoRA's.
    pub alpha_pattern: Pattern<f64>,
}

impl Default for Dora {
    fn default() -> Self {
        let Lora { r, lora_alpha, lora_dropout, use_rslora, rank_pattern, alpha_pattern, .. } = Lora::default();
        Self { r, lora_alpha, lora_dropout, use_rslora, rank_pattern, alpha_pattern }
    }
}

impl Dora {
    fn lora(&self) -> Lora {
        let Self { r, lora_alpha, lora_dropout, use_rslora, rank_pattern, alpha_pattern } = self.clone();
        Lora { r, lora_alpha, lora_dropout, use_rslora, rank_pattern, alpha_pattern, ..Lora::default() }
    }
}

impl Options for Dora {
    const PEFT_TYPE: Option<&'static str> = Some("LORA");
    const IGNORED: &'static [&'static str] = &["use_dora"];

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.lora().validate()
    }

    fn recognises(config: &Map<String, Value>) -> bool {
        config.get("peft_type").is_some_and(|found| found == "LORA") && config.get("use_dora") == Some(&Value::Bool(true))
    }
}

/// The factors m / ‖W + s · B A‖ of one layer or row part.
struct Gain {
    magnitude: Param,
    /// W of these rows as the checkpoint stores it, whole.
    weight: Param,
    transposed: bool,
    update: Trained,
    /// ‖W‖² by rows.
    squares: Tensor,
    out: usize,
    layer: Option<usize>,
    /// The norms, for the A and B they were computed from.
    norms: Mutex<Option<([TensorId; 2], Tensor)>>,
}

impl Gain {
    fn weight_rows(&self) -> Result<Tensor> {
        part_of(&self.weight, self.transposed, &self.update.rows)
    }

    /// ‖W + s · B A‖ by rows, [rows].
    fn norm(&self) -> Result<Tensor> {
        let (a, b, scale) = (self.update.a.value(), self.update.b.value(), self.update.scale);
        let key = [a.id(), b.id()];
        let mut kept = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, norm)) = &*kept
            && *of == key
        {
            return Ok(norm.clone());
        }
        let with_weight = self.weight_rows()?.matmul(&a.t()?)?;
        let with_itself = b.matmul(&a.matmul(&a.t()?)?)?;
        let cross = (b.mul(&with_weight)?.sum(1)? * (2.0 * scale))?;
        let own = (b.mul(&with_itself)?.sum(1)? * (scale * scale))?;
        // Rounding may leave a sum of 0 slightly below it.
        let norm = ((&self.squares + cross)? + own)?.relu()?.sqrt()?;
        *kept = Some((key, norm.clone()));
        Ok(norm)
    }
}

/// The rows `rows` of a layer's weight, [rows, in].
fn part_of(weight: &Param, transposed: bool, rows: &RowRanges) -> Result<Tensor> {
    let value = weight.value();
    let value = if transposed { value.t()? } else { value };
    if rows.len() == value.dim(0)? { Ok(value) } else { rows_of(&value, rows) }
}

impl LinearAdapter for Gain {
    fn gain(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        let tape = pass.tape;
        let norm = self.norm().map_err(|e| peftbench_ops::Error::Msg(e.to_string()))?;
        let mut gain = tape.mul(&tape.param(&self.magnitude), &Var::constant(norm.recip()?))?;
        let scale = pass.scale_of(self.layer);
        if scale != 1.0 {
            let one = Var::constant(norm.ones_like()?);
            gain = tape.add(&one, &tape.scale(&tape.sub(&gain, &one)?, scale)?)?;
        }
        // Rows outside a row part stay as they are.
        Ok(Some(spread(tape, &gain, 0, &self.update.rows, self.out, 1.0)?))
    }
}

/// Attaches the magnitudes of one layer or row part; they begin as the norms.
fn attach_magnitude(slot: &mut LinearSlot, chosen: &Chosen, update: &Trained) -> Result<Vec<AdapterParam>> {
    if slot.info.role == Role::LmHead {
        return Err(unsupported(
            "dora",
            "cannot scale the rows of the head, whose logits are never whole in training; take it away with `!lm_head`",
        ));
    }
    let weight = part_of(&slot.weight.param, slot.transposed, &update.rows)?;
    let squares = weight.sqr()?.sum(1)?;
    let magnitude = Param::trainable(tensor_name(chosen, "lora_magnitude_vector"), squares.sqrt()?);
    slot.attach(Box::new(Gain {
        magnitude: magnitude.clone(),
        weight: slot.weight.param.clone(),
        transposed: slot.transposed,
        update: update.clone(),
        squares,
        out: slot.dims().0,
        layer: chosen.layer,
        norms: Mutex::new(None),
    }));
    Ok(vec![AdapterParam::added(magnitude, chosen)])
}

impl Method for Dora {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        self.lora().default_targets(arch)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let lora = self.lora();
        let Attached { params, sizes, .. } = lora.attach_updates(model, context, &mut attach_magnitude)?;
        let mut config = lora.peft_config(model, &sizes);
        if let Value::Object(config) = &mut config {
            config.insert("use_dora".to_owned(), true.into());
        }
        Ok(Attachment::new(params, config))
    }
}
