//! OFT, orthogonal fine-tuning (Qiu et al., 2023, "Controlling text-to-image diffusion by orthogonal finetuning"; input-centric as in
//! OFTv2, Qiu et al., 2025): y = W R x + b with R block-diagonal and orthogonal, the Cayley transform of a trained skew-symmetric matrix.
//!
//! The skew-symmetric matrix starts at zero, so that R is the identity. The blocks are applied to the input; neither R nor W R is ever formed. A step keeps the input and the blocks.

use super::Options;
use super::initializer::Initializer;
use super::parts::{attach_linear, between, dropout_rate, linear_config, projection_targets, refuse_part, tensor_name};
use super::rotation::{Skew, cayley, cayley_neumann, drop_blocks};
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::{Param, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oft {
    /// Blocks a layer; 0 to give `oft_block_size` instead.
    pub r: usize,
    /// Rows of a block; 0 to give `r` instead.
    pub oft_block_size: usize,
    /// Share of the blocks that are the identity in a training step.
    pub module_dropout: f64,
    /// Whether all blocks of a layer are one.
    pub block_share: bool,
    /// Neumann's series in place of the inverse: cheaper, and orthogonal only nearly.
    pub use_cayley_neumann: bool,
    /// Terms of the series.
    pub num_cayley_neumann_terms: usize,
    /// Start at the identity; otherwise at a random rotation.
    pub init_weights: bool,
}

impl Default for Oft {
    fn default() -> Self {
        Self {
            r: 0,
            oft_block_size: 32,
            module_dropout: 0.0,
            block_share: false,
            use_cayley_neumann: true,
            num_cayley_neumann_terms: 5,
            init_weights: true,
        }
    }
}

impl Options for Oft {
    const PEFT_TYPE: Option<&'static str> = Some("OFT");
    const IGNORED: &'static [&'static str] = &["eps"];

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        if (self.r == 0) == (self.oft_block_size == 0) {
            let problem = format!("expected one of `r` and `oft_block_size` to be 0, found {} and {}", self.r, self.oft_block_size);
            return Err(SpecError::at("oft_block_size", problem));
        }
        if self.num_cayley_neumann_terms < 2 {
            let problem = format!("expected at least 2 terms, found {}", self.num_cayley_neumann_terms);
            return Err(SpecError::at("num_cayley_neumann_terms", problem));
        }
        dropout_rate("module_dropout", self.module_dropout)
    }
}

impl Oft {
    /// Blocks and their rows for a layer of `input` inputs.
    fn shape(&self, input: usize, path: &str) -> Result<(usize, usize)> {
        let (field, given) = if self.r > 0 { ("r", self.r) } else { ("oft_block_size", self.oft_block_size) };
        if !input.is_multiple_of(given) {
            return Err(SpecError::at(field, format!("{given} does not divide the {input} inputs of `{path}`")).into());
        }
        let (blocks, side) = if self.r > 0 { (given, input / given) } else { (input / given, given) };
        match side {
            1 => Err(SpecError::at(field, format!("blocks of one row cannot rotate anything; `{path}` has {input} inputs")).into()),
            _ => Ok((blocks, side)),
        }
    }

    fn attach_to(&self, slot: &mut LinearSlot, chosen: &crate::selection::Chosen, init: &mut Initializer<'_>) -> Result<Vec<Param>> {
        refuse_part("oft", chosen)?;
        let (blocks, side) = self.shape(slot.dims().1, &chosen.path())?;
        let dims = [if self.block_share { 1 } else { blocks }, side * (side - 1) / 2];
        let start = if self.init_weights { init.zeros(&dims)? } else { init.normal(&dims, 0.1)? };
        let weight = Param::trainable(tensor_name(chosen, "oft_R.weight"), start);
        let terms = self.use_cayley_neumann.then_some(self.num_cayley_neumann_terms);
        let dropout = self.module_dropout;
        slot.attach(Box::new(Rotation {
            weight: weight.clone(),
            skew: Skew::new(side, init)?,
            blocks,
            terms,
            dropout,
            layer: chosen.layer,
        }));
        Ok(vec![weight])
    }
}

/// The rotation of one layer's input.
struct Rotation {
    weight: Param,
    skew: Skew,
    blocks: usize,
    /// Terms of Neumann's series, if it is used.
    terms: Option<usize>,
    dropout: f64,
    layer: Option<usize>,
}

impl LinearAdapter for Rotation {
    fn input(&self, pass: &Pass<'_>, x: Var) -> peftbench_ops::Result<Var> {
        let tape = pass.tape;
        let skew = self.skew.blocks(tape, &tape.param(&self.weight))?;
        let mut blocks = match self.terms {
            Some(terms) => cayley_neumann(tape, &skew, terms)?,
            None => cayley(tape, &skew)?,
        };
        blocks = drop_blocks(pass, &blocks, self.dropout)?;
        if blocks.dims()[0] != self.blocks {
            let side = blocks.dims()[1];
            blocks = tape.broadcast_to(&blocks, &[self.blocks, side, side])?;
        }
        let rotated = tape.block_linear(&x, &blocks)?;
        between(pass, self.layer, &x, rotated)
    }
}

impl Method for Oft {
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
        let params = attach_linear(model, context, "oft", &mut |slot, chosen, init| self.attach_to(slot, chosen, init))?;
        Ok(Attachment::new(params, linear_config("OFT", self, model, context.chosen)))
    }
}
