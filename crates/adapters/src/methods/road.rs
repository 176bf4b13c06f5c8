//! RoAd, 2D rotary adaptation (Liao and Monz, 2024, "3-in-1: 2D rotary adaptation for efficient finetuning, efficient batching and
//! composability"): the outputs y = W x + b of a layer are taken in pairs, and each pair is turned and stretched,
//!
//! y'ᵢ = αᵢ cos θᵢ · yᵢ − αᵢ sin θᵢ · yⱼ,  y'ⱼ = αⱼ sin θⱼ · yᵢ + αⱼ cos θⱼ · yⱼ
//!
//! where i and j are half a group of `group_size` outputs apart. The variants differ in what a pair shares: `road_1` one θ and one α,
//! `road_2` nothing, and in `road_4` the two columns of the matrix have a θ and an α each.
//!
//! θ starts at 0 and α at 1, so that the model starts unchanged. A step keeps the layer's output; no matrix [out, out] is ever
//! formed.

use super::initializer::Initializer;
use super::parts::{attach_linear, between, linear_config, projection_targets, tensor_name};
use super::{Options, spread};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::{Chosen, rows_of};
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Tensor, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Road {
    /// What the two outputs of a pair share: `road_1`, `road_2` or `road_4`.
    pub variant: Variant,
    /// Outputs of a group, whose first half is paired with its second.
    pub group_size: usize,
    /// Start at the identity; otherwise at random angles and factors.
    pub init_weights: bool,
}

/// What the outputs of a pair share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Variant {
    /// An angle and a factor a pair.
    #[serde(rename = "road_1")]
    Shared,
    /// An angle and a factor an output.
    #[serde(rename = "road_2")]
    EachOutput,
    /// An angle and a factor an element of the pair's matrix.
    #[serde(rename = "road_4")]
    EachElement,
}

impl Default for Road {
    fn default() -> Self {
        Self { variant: Variant::Shared, group_size: 64, init_weights: true }
    }
}

impl Options for Road {
    const PEFT_TYPE: Option<&'static str> = Some("ROAD");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        match self.group_size >= 2 && self.group_size.is_multiple_of(2) {
            true => Ok(()),
            false => Err(SpecError::at("group_size", format!("expected an even number of at least 2, found {}", self.group_size))),
        }
    }
}

impl Road {
    fn attach_to(&self, slot: &mut LinearSlot, chosen: &Chosen, init: &mut Initializer<'_>) -> Result<Vec<Param>> {
        let (rows, group) = (rows_of(chosen, slot), self.group_size);
        let fill = |range: &std::ops::Range<usize>| range.start.is_multiple_of(group) && range.len().is_multiple_of(group);
        if !(rows.iter().all(fill) && slot.dims().0.is_multiple_of(group)) {
            let problem =
                format!("groups of {group} do not fill the {} outputs of `{}` [{}, ..]", rows.len(), chosen.path(), slot.dims().0);
            return Err(SpecError::at("group_size", problem).into());
        }
        let size = match self.variant {
            Variant::Shared => rows.len() / 2,
            Variant::EachOutput => rows.len(),
            Variant::EachElement => 2 * rows.len(),
        };
        let (theta, alpha) = match self.init_weights {
            true => (init.zeros(size)?, init.ones(size)?),
            false => (init.normal(size, 0.5)?, (init.normal(size, 0.5)? + 1.0)?),
        };
        let theta = Param::trainable(tensor_name(chosen, "road_theta"), theta);
        let alpha = Param::trainable(tensor_name(chosen, "road_alpha"), alpha);
        let (variant, layer) = (self.variant, chosen.layer);
        slot.attach(Box::new(Rotation { theta: theta.clone(), alpha: alpha.clone(), variant, group, rows, layer }));
        Ok(vec![theta, alpha])
    }
}

/// The rotation of one layer's outputs, or of some of its rows.
struct Rotation {
    theta: Param,
    alpha: Param,
    variant: Variant,
    group: usize,
    rows: RowRanges,
    layer: Option<usize>,
}

/// The factors of each output itself, and those of its partner but for the sign: [2, rows].
fn factors(variant: Variant, group: usize, theta: &Tensor, alpha: &Tensor) -> peftbench_ops::Result<Tensor> {
    // For each output its own value, or its pair's.
    let spread = |t: &Tensor| -> peftbench_ops::Result<[Tensor; 2]> {
        match variant {
            Variant::Shared => {
                let pairs = t.reshape(((), 1, group / 2))?;
                let both = Tensor::cat(&[&pairs, &pairs], 1)?.flatten_all()?;
                Ok([both.clone(), both])
            }
            Variant::EachOutput => Ok([t.clone(), t.clone()]),
            Variant::EachElement => {
                let columns = t.reshape(((), 2, group))?;
                Ok([columns.narrow(1, 0, 1)?.flatten_all()?, columns.narrow(1, 1, 1)?.flatten_all()?])
            }
        }
    };
    let ([own_theta, other_theta], [own_alpha, other_alpha]) = (spread(theta)?, spread(alpha)?);
    Tensor::stack(&[(own_theta.cos()? * own_alpha)?, (other_theta.sin()? * other_alpha)?], 0)
}

impl LinearAdapter for Rotation {
    fn output(&self, pass: &Pass<'_>, _x: &Var, y: Var) -> peftbench_ops::Result<Var> {
        let (tape, variant, group) = (pass.tape, self.variant, self.group);
        let (theta, alpha) = (tape.param(&self.theta), tape.param(&self.alpha));
        let factors = tape.candle_fn("road_factors", &[&theta, &alpha], move |v| factors(variant, group, &v[0], &v[1]))?;
        // Outputs outside a row part stay as they are.
        let (rows, out) = (self.rows.len(), y.dims()[y.dims().len() - 1]);
        let of = |index: usize, fill: f32| {
            let row = tape.reshape(&tape.narrow(&factors, 0, index, 1)?, &[rows])?;
            spread(tape, &row, 0, &self.rows, out, fill)
        };
        let (own, other) = (of(0, 1.0)?, of(1, 0.0)?);
        let rotated = tape.mix_pairs(&y, &own, &other, group)?;
        between(pass, self.layer, &y, rotated)
    }
}

impl Method for Road {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn starts_as_base(&self) -> bool {
        self.init_weights
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let params = attach_linear(model, context, "road", &mut |slot, chosen, init| self.attach_to(slot, chosen, init))?;
        Ok(Attachment::new(params, linear_config("ROAD", self, model, context.chosen)))
    }
}
