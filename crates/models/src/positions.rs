//! Learned position embeddings.

use crate::builder::Builder;
use crate::causal_lm::Step;
use crate::error::{ModelError, Result};
use crate::slots::{ParamSlot, SlotMut, Visitor};
use peftbench_ops::{DType, Tensor, Var};

/// A table with a row for each position.
pub(crate) struct LearnedPositions {
    table: ParamSlot,
    counting: Counting,
}

/// How a model numbers its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// By index, padding included, as GPT-2's `forward` does. With a cache padding does not count, as in Hugging Face's `generate`.
    Index,
    /// By index among what is no padding, with and without a cache; the first token has row 2. OPT's.
    WithoutPadding,
}

impl Counting {
    /// Rows in front of that of the first token.
    fn offset(self) -> usize {
        match self {
            Self::Index => 0,
            Self::WithoutPadding => 2,
        }
    }
}

impl LearnedPositions {
    /// The table `name.weight`, for `positions` tokens.
    pub fn new(builder: &Builder<'_>, name: &str, positions: usize, width: usize, counting: Counting) -> Result<Self> {
        Ok(Self { table: builder.embedding(name, positions + counting.offset(), width)?, counting })
    }

    /// x [batch, length, width] with the embeddings of the pass's positions added.
    pub fn add(&self, step: &Step<'_>, x: &Var) -> Result<Var> {
        let (rows, offset) = (self.table.param.value().dims()[0], self.counting.offset());
        let ids = match &step.mask {
            Some(mask) if step.cached || self.counting == Counting::WithoutPadding => counted(mask, step.length, offset + step.prefix)?,
            _ => step.positions().iter().map(|position| position + offset).collect(),
        };
        if let Some(beyond) = ids.iter().find(|&&id| id >= rows) {
            let problem = format!("sequences have at most {} tokens here, but one has {}", rows - offset, beyond + 1 - offset);
            return Err(ModelError::Unsupported { origin: self.table.info.path.clone(), problem: format!("{problem}; shorten it") });
        }
        let dims = if ids.len() == step.length { vec![step.length] } else { vec![ids.len() / step.length, step.length] };
        let ids = Tensor::from_vec(ids.into_iter().map(|id| id as u32).collect(), dims, step.device)?;
        Ok(step.pass.tape.add(x, &self.table.lookup(step.pass, &ids)?)?)
    }

    /// Shows the table.
    pub fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visitor(SlotMut::Param(&mut self.table));
    }
}

/// The rows of the last `length` positions of a mask [batch, positions]: what is no padding counts, and padding itself has the row in
/// front of the first.
fn counted(mask: &Tensor, length: usize, offset: usize) -> Result<Vec<usize>> {
    let rows = |mask: &Vec<u8>| {
        let count = |count: &mut usize, &keep: &u8| {
            *count += usize::from(keep != 0);
            Some((if keep != 0 { *count + offset } else { offset }).saturating_sub(1))
        };
        mask.iter().scan(0, count).skip(mask.len() - length).collect::<Vec<_>>()
    };
    Ok(mask.to_dtype(DType::U8)?.to_vec2::<u8>()?.iter().flat_map(rows).collect())
}
