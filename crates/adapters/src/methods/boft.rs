//! BOFT (Liu et al., 2024, "Parameter-efficient orthogonal finetuning via butterfly factorization"): OFT with R a product of butterfly
//! factors, y = s ⊙ (W R x) + b, R = B₀ᵀ … Bₘ₋₁ᵀ. Factor i is block-diagonal in an order of the inputs that brings together what is
//! 2ⁱ half-blocks apart; s starts at 1.
//!
//! The generators start at zero. Each factor is applied to the input through a change of order and small blocks; no matrix of [in, in] is formed. A step keeps the
//! input of each factor.

use super::initializer::Initializer;
use super::parts::{attach_linear, between, dropout_rate, linear_config, projection_targets, refuse_part, tensor_name};
use super::rotation::{cayley, drop_blocks};
use super::{Options, Tensors};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Tape, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boft {
    /// Rows of a block; 0 to give `boft_block_num` instead.
    pub boft_block_size: usize,
    /// Blocks a layer; 0 to give `boft_block_size` instead.
    pub boft_block_num: usize,
    /// Factors; 1 is OFT.
    pub boft_n_butterfly_factor: usize,
    /// Share of the blocks of one factor that are the identity in a training step.
    pub boft_dropout: f64,
    /// Start at the identity; otherwise at a random rotation and random factors s.
    pub init_weights: bool,
}

impl Default for Boft {
    fn default() -> Self {
        Self { boft_block_size: 4, boft_block_num: 0, boft_n_butterfly_factor: 1, boft_dropout: 0.0, init_weights: true }
    }
}

impl Options for Boft {
    const PEFT_TYPE: Option<&'static str> = Some("BOFT");

    /// Without CUDA Hugging Face makes one factor, whatever its config says.
    fn correct(options: &mut Map<String, Value>, tensors: &Tensors) {
        let found = tensors.iter().find(|(name, _)| name.ends_with(".boft_R")).and_then(|(_, tensor)| tensor.dims().first());
        if let Some(factors) = found {
            options.insert("boft_n_butterfly_factor".to_owned(), (*factors).into());
        }
    }

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        let (size, number) = (self.boft_block_size, self.boft_block_num);
        if (size == 0) == (number == 0) {
            let problem = format!("expected one of `boft_block_size` and `boft_block_num` to be 0, found {size} and {number}");
            return Err(SpecError::at("boft_block_size", problem));
        }
        if !(1..=32).contains(&self.boft_n_butterfly_factor) {
            let problem = format!("expected 1 to 32 factors, found {}", self.boft_n_butterfly_factor);
            return Err(SpecError::at("boft_n_butterfly_factor", problem));
        }
        dropout_rate("boft_dropout", self.boft_dropout)
    }
}

impl Boft {
    /// Blocks and their rows for a layer of `input` inputs.
    fn shape(&self, input: usize, path: &str) -> Result<(usize, usize)> {
        let by_size = self.boft_block_size > 0;
        let (field, given) = if by_size { ("boft_block_size", self.boft_block_size) } else { ("boft_block_num", self.boft_block_num) };
        if !input.is_multiple_of(given) {
            return Err(SpecError::at(field, format!("{given} does not divide the {input} inputs of `{path}`")).into());
        }
        let (blocks, side) = if by_size { (input / given, given) } else { (given, input / given) };
        let factors = self.boft_n_butterfly_factor;
        if factors > 1 && !(blocks.is_multiple_of(1 << (factors - 1)) && side.is_multiple_of(2)) {
            let problem = format!(
                "{factors} factors need blocks of an even number of rows, in a multiple of {}; `{path}` has {blocks} blocks of {side}",
                1u64 << (factors - 1)
            );
            return Err(SpecError::at("boft_n_butterfly_factor", problem).into());
        }
        Ok((blocks, side))
    }

    fn attach_to(&self, slot: &mut LinearSlot, chosen: &Chosen, init: &mut Initializer<'_>) -> Result<Vec<Param>> {
        refuse_part("boft", chosen)?;
        let (out, input) = slot.dims();
        let (blocks, side) = self.shape(input, &chosen.path())?;
        let (dims, scale_dims) = ([self.boft_n_butterfly_factor, blocks, side, side], [out, 1]);
        let ones = init.ones(&scale_dims)?;
        let (start, scale) = match self.init_weights {
            true => (init.zeros(&dims)?, ones),
            false => (init.normal(&dims, 0.1)?, (ones + init.normal(&scale_dims, 0.1)?)?),
        };
        let blocks = Param::trainable(tensor_name(chosen, "boft_R"), start);
        let scale = Param::trainable(tensor_name(chosen, "boft_s"), scale);
        let adapter = Butterfly { blocks: blocks.clone(), scale: scale.clone(), dropout: self.boft_dropout, layer: chosen.layer };
        slot.attach(Box::new(adapter));
        Ok(vec![blocks, scale])
    }
}

/// The factors of one layer's rotation, and the scaling of its output.
struct Butterfly {
    /// [factors, blocks, b, b], of which only the skew-symmetric half counts.
    blocks: Param,
    /// [out, 1].
    scale: Param,
    dropout: f64,
    layer: Option<usize>,
}

/// x [rows, in] in the order of factor `i`, or back from it: of every 2ⁱ⁺¹ half-blocks the first 2ⁱ and the others alternate.
fn reorder(tape: &Tape, x: &Var, factor: usize, side: usize, back: bool) -> peftbench_ops::Result<Var> {
    if factor == 0 {
        return Ok(x.clone());
    }
    let (rows, input, apart) = (x.dims()[0], x.dims()[1], 1 << factor);
    let groups = input / (apart * side);
    let split = if back { [rows, groups, apart, 2, side / 2] } else { [rows, groups, 2, apart, side / 2] };
    let swapped = tape.transpose(&tape.reshape(x, &split)?, 2, 3)?;
    tape.reshape(&swapped, &[rows, input])
}

impl LinearAdapter for Butterfly {
    fn input(&self, pass: &Pass<'_>, x: Var) -> peftbench_ops::Result<Var> {
        let tape = pass.tape;
        let (factors, blocks, side, _) = self.blocks.value().dims4()?;
        let raw = tape.reshape(&tape.param(&self.blocks), &[factors * blocks, side, side])?;
        let skew = tape.scale(&tape.sub(&raw, &tape.transpose(&raw, 1, 2)?)?, 0.5)?;
        let rotations = cayley(tape, &skew)?;
        let input = blocks * side;
        let rows = x.value().elem_count() / input;
        let mut rotated = tape.reshape(&x, &[rows, input])?;
        for factor in (0..factors).rev() {
            let own = drop_blocks(pass, &tape.narrow(&rotations, 0, factor * blocks, blocks)?, self.dropout / factors as f64)?;
            let ordered = reorder(tape, &rotated, factor, side, false)?;
            rotated = reorder(tape, &tape.block_linear(&ordered, &own)?, factor, side, true)?;
        }
        let rotated = tape.reshape(&rotated, x.dims())?;
        between(pass, self.layer, &x, rotated)
    }

    fn gain(&self, pass: &Pass<'_>) -> peftbench_ops::Result<Option<Var>> {
        let scale = pass.tape.reshape(&pass.tape.param(&self.scale), &[self.scale.elem_count()])?;
        let ones = Var::constant(scale.value().ones_like()?);
        Ok(Some(between(pass, self.layer, &ones, scale)?))
    }
}

impl Method for Boft {
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
        let params = attach_linear(model, context, "boft", &mut |slot, chosen, init| self.attach_to(slot, chosen, init))?;
        Ok(Attachment::new(params, linear_config("BOFT", self, model, context.chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_ops::Tensor;

    #[test]
    fn the_order_of_a_factor_is_hugging_face_s_permutation_and_back() {
        // peft's block_butterfly_perm(n = 16, b = 4 blocks / 2, half-blocks of 2): within 8 inputs the half-blocks 0, 2, 1, 3.
        let tape = Tape::inference();
        let x = Var::constant(Tensor::arange(0f32, 16.0, &peftbench_ops::device::host()).unwrap().reshape((1, 16)).unwrap());
        let ordered = reorder(&tape, &x, 1, 4, false).unwrap();
        let expected = [0., 1., 4., 5., 2., 3., 6., 7., 8., 9., 12., 13., 10., 11., 14., 15.];
        assert_eq!(ordered.value().to_vec2::<f32>().unwrap()[0], expected);
        let x = Var::constant(Tensor::arange(0f32, 32.0, &peftbench_ops::device::host()).unwrap().reshape((1, 32)).unwrap());
        let there = reorder(&tape, &x, 2, 4, false).unwrap();
        // Factor 2: half-blocks 0, 4, 1, 5, 2, 6, 3, 7 of 16 inputs.
        assert_eq!(there.value().to_vec2::<f32>().unwrap()[0][..8], [0., 1., 8., 9., 2., 3., 10., 11.]);
        let back = reorder(&tape, &there, 2, 4, true).unwrap();
        assert_eq!(back.value().to_vec2::<f32>().unwrap(), x.value().to_vec2::<f32>().unwrap());
    }
}
