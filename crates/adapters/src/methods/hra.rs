//! HRA, Householder reflection adaptation (Yuan, Liu and Xu, 2024, "Bridging the gap between low-rank and orthogonal adaptation via
//! Householder reflection adaptation"): y = W H x + b with H = H₁ … Hᵣ, Hᵢ = I − 2 vᵢ vᵢᵀ, vᵢ = uᵢ / ‖uᵢ‖.
//!
//! The vectors start in equal pairs, whose reflections cancel.
//!
//! The product of the reflections is I − V T Vᵀ with a triangular T whose inverse is ½ I + the part of VᵀV above its diagonal (Joffrain et
//! al., 2006), so that a step costs what a LoRA of rank r costs and keeps the input and its r products, not r reflected inputs.

use super::Options;
use super::initializer::Initializer;
use super::parts::{at_least_one, attach_linear, linear_config, projection_targets, refuse_part, tensor_name};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::{DType, Param, Tape, Tensor, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(non_snake_case, reason = "Hugging Face's name of the option")]
pub struct Hra {
    /// Reflections.
    pub r: usize,
    /// Orthogonalise the vectors first (Gram-Schmidt). H is then I − 2 Q Qᵀ, which is never the identity: it starts at random vectors.
    pub apply_GS: bool,
    /// Start with pairs of equal vectors, whose reflections cancel; otherwise at random vectors.
    pub init_weights: bool,
}

impl Default for Hra {
    fn default() -> Self {
        Self { r: 8, apply_GS: false, init_weights: true }
    }
}

impl Options for Hra {
    const PEFT_TYPE: Option<&'static str> = Some("HRA");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("r", self.r)?;
        match !self.r.is_multiple_of(2) && self.init_weights && !self.apply_GS {
            true => {
                Err(SpecError::at("r", format!("the start in pairs needs an even number, found {}; or set `init_weights = false`", self.r)))
            }
            false => Ok(()),
        }
    }
}

impl Hra {
    fn attach_to(&self, slot: &mut LinearSlot, chosen: &Chosen, init: &mut Initializer<'_>) -> Result<Vec<Param>> {
        refuse_part("hra", chosen)?;
        let input = slot.dims().1;
        if self.r > input {
            return Err(
                SpecError::at("r", format!("{} reflections are more than the {input} inputs of `{}`", self.r, chosen.path())).into()
            );
        }
        let in_pairs = self.init_weights && !self.apply_GS;
        let drawn = if in_pairs { self.r / 2 } else { self.r };
        // As torch's Kaiming-uniform with a = √5, which takes the second dimension for the fan-in.
        let mut start = init.kaiming_uniform(input, drawn)?;
        if in_pairs {
            start = start.unsqueeze(2)?.broadcast_as((input, drawn, 2))?.contiguous()?.reshape((input, self.r))?;
        }
        let u = Param::trainable(tensor_name(chosen, "hra_u"), start);
        slot.attach(Box::new(Reflections { u: u.clone(), orthogonalise: self.apply_GS, layer: chosen.layer }));
        Ok(vec![u])
    }
}

/// The reflections of one layer's input.
struct Reflections {
    /// [in, r].
    u: Param,
    orthogonalise: bool,
    layer: Option<usize>,
}

/// Columns divided by their norms.
fn normalised(u: &Tensor) -> peftbench_ops::Result<Tensor> {
    u.broadcast_div(&u.sqr()?.sum_keepdim(0)?.sqrt()?)
}

/// Columns made orthonormal, one after the other.
fn orthonormal(u: &Tensor) -> peftbench_ops::Result<Tensor> {
    let mut columns: Vec<Tensor> = Vec::new();
    for i in 0..u.dim(1)? {
        let mut column = u.narrow(1, i, 1)?;
        for earlier in &columns {
            let along = (earlier * &column)?.sum_keepdim(0)?;
            column = (column - earlier.broadcast_mul(&along)?)?;
        }
        columns.push(normalised(&column)?);
    }
    Tensor::cat(&columns, 1)
}

impl Reflections {
    /// V and V T, both [in, r]: H = I − V T Vᵀ.
    fn factors(&self, tape: &Tape) -> peftbench_ops::Result<(Var, Var)> {
        let u = tape.param(&self.u);
        if self.orthogonalise {
            let v = tape.candle_fn("orthonormal", &[&u], |u| orthonormal(&u[0]))?;
            let scaled = tape.scale(&v, 2.0)?;
            return Ok((v, scaled));
        }
        let v = tape.candle_fn("normalised", &[&u], |u| normalised(&u[0]))?;
        let (r, device) = (v.dims()[1], v.value().device().clone());
        let above: Vec<f32> = (0..r * r).map(|i| if i / r < i % r { 1.0 } else { 0.0 }).collect();
        let above = Tensor::from_vec(above, (r, r), &device)?;
        let half = Var::constant((Tensor::eye(r, DType::F32, &device)? * 0.5)?);
        let gram = tape.mul(&tape.matmul(&tape.transpose(&v, 0, 1)?, &v)?, &Var::constant(above))?;
        let t = tape.inverse(&tape.add(&gram, &half)?)?;
        let vt = tape.matmul(&v, &t)?;
        Ok((v, vt))
    }
}

impl LinearAdapter for Reflections {
    fn input(&self, pass: &Pass<'_>, x: Var) -> peftbench_ops::Result<Var> {
        let tape = pass.tape;
        // x Hᵀ = x − (x V) (V T)ᵀ for rows x.
        let (v, vt) = self.factors(tape)?;
        let products = tape.linear(&x, &tape.transpose(&v, 0, 1)?, None)?;
        let change = tape.linear(&products, &tape.scale(&vt, -pass.scale_of(self.layer))?, None)?;
        tape.add(&x, &change)
    }
}

impl Method for Hra {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn starts_as_base(&self) -> bool {
        self.init_weights && !self.apply_GS
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let params = attach_linear(model, context, "hra", &mut |slot, chosen, init| self.attach_to(slot, chosen, init))?;
        Ok(Attachment::new(params, linear_config("HRA", self, model, context.chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed;

    /// H by multiplying the reflections out.
    fn product(u: &Tensor) -> Tensor {
        let v = normalised(u).unwrap();
        let n = u.dim(0).unwrap();
        (0..u.dim(1).unwrap()).fold(Tensor::eye(n, u.dtype(), u.device()).unwrap(), |h, i| {
            let v = v.narrow(1, i, 1).unwrap();
            let twice = (h.matmul(&v).unwrap().matmul(&v.t().unwrap()).unwrap() * 2.0).unwrap();
            (h - twice).unwrap()
        })
    }

    #[test]
    fn the_compact_form_is_the_product_of_the_reflections() {
        let u = Initializer::on_cpu(&mut seed::stream(0, "u")).uniform((7, 4), 1.0).unwrap();
        let h = product(&u);
        let (v, vt) = Reflections { u: Param::frozen("u", u), orthogonalise: false, layer: None }.factors(&Tape::inference()).unwrap();
        let compact = (Tensor::eye(7, h.dtype(), h.device()).unwrap() - vt.value().matmul(&v.value().t().unwrap()).unwrap()).unwrap();
        let error = (h - compact).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 1e-6, "{error}");
    }

    #[test]
    fn gram_schmidt_gives_orthonormal_columns() {
        let q = orthonormal(&Initializer::on_cpu(&mut seed::stream(0, "u")).uniform((7, 4), 1.0).unwrap()).unwrap();
        let error = (q.t().unwrap().matmul(&q).unwrap() - Tensor::eye(4, q.dtype(), q.device()).unwrap()).unwrap();
        assert!(error.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }
}
