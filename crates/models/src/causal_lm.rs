//! The frame that every decoder-only language model shares: embedding, virtual tokens, layers, last norm, head.
//!
//! An architecture is a [`Decoder`], what comes before and behind its layers and what these share, and its layers, put together from the
//! parts of [`layer`](crate::layer).

use crate::block::Blocks;
use crate::cache::Cache;
use crate::error::Result;
use crate::layer::{Layer, Part};
use crate::model::{Head, Model, Network};
use crate::norm::Norm;
use crate::pass::Pass;
use crate::slots::{LinearSlot, ParamSlot, PromptSlot, SlotMut, Visitor, visit_linear};
use peftbench_ops::{Device, Tensor, Var};
use std::rc::Rc;

/// What one architecture adds to the frame.
pub(crate) trait Decoder: Send + Sync {
    /// What all layers of a pass share: rotary tables, attention biases.
    type Shared: 'static;

    /// Hugging Face's `model_type`.
    fn arch(&self) -> &'static str;

    /// What the layers share in this pass.
    fn shared(&self, step: &Step<'_>) -> Result<Self::Shared>;

    /// The input of the first layer, from the embedded tokens [batch, length, hidden]: learned positions, a norm.
    fn embed(&self, _step: &Step<'_>, x: Var) -> Result<Var> {
        Ok(x)
    }

    /// What the head reads, from the normed output of the last layer.
    fn head_input(&self, _pass: &Pass<'_>, x: Var) -> Result<Var> {
        Ok(x)
    }

    /// Shows the slots that `embed` and `head_input` use.
    fn visit_slots(&mut self, _visitor: &mut Visitor<'_>) {}
}

/// A decoder with nothing but layers.
pub(crate) struct Plain {
    /// Hugging Face's `model_type`.
    pub arch: &'static str,
}

impl Decoder for Plain {
    type Shared = ();

    fn arch(&self) -> &'static str {
        self.arch
    }

    fn shared(&self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }
}

/// The positions that one pass computes: `length` of them, virtual tokens included, behind `start` that the cache has seen.
pub(crate) struct Step<'a> {
    /// The pass.
    pub pass: &'a Pass<'a>,
    /// Positions before.
    pub start: usize,
    /// Positions computed.
    pub length: usize,
    /// Padding mask over all of them, [batch, start + length] of u8; absent where nothing is padding.
    pub mask: Option<Tensor>,
    /// Positions that padding takes up in front of each sequence in the cache; empty where none does.
    pub padding: &'a [usize],
    /// Whether a cache goes with the pass.
    pub cached: bool,
    /// Virtual keys in front of every sequence, which take up positions.
    pub prefix: usize,
    /// Where tables for this pass belong.
    pub device: &'a Device,
}

impl Step<'_> {
    /// The positions of the tokens as their sequences count them: `length` of them where all sequences count alike, otherwise
    /// batch · length, sequence by sequence.
    pub fn positions(&self) -> Vec<usize> {
        let behind =
            |padding: usize| (self.start..self.start + self.length).map(move |position| position.saturating_sub(padding) + self.prefix);
        match self.padding {
            [] => behind(0).collect(),
            padding => padding.iter().flat_map(|&padding| behind(padding)).collect(),
        }
    }

    /// x [batch, length, width] with padding positions set to 0.
    pub fn masked(&self, x: &Var) -> Result<Var> {
        self.masked_behind(0, x)
    }

    /// The same for x [batch, front + length, width], whose first positions are never padding.
    pub fn masked_behind(&self, front: usize, x: &Var) -> Result<Var> {
        let Some(mask) = &self.mask else { return Ok(x.clone()) };
        let own = mask.narrow(1, self.start, self.length)?;
        let ones = Tensor::ones((own.dims()[0], front), own.dtype(), own.device())?;
        let mask = if front == 0 { own } else { Tensor::cat(&[&ones, &own], 1)? };
        let mask = mask.to_dtype(x.value().dtype())?.unsqueeze(2)?;
        Ok(self.pass.tape.mul(x, &Var::constant(mask))?)
    }
}

/// A decoder-only language model.
pub(crate) struct CausalLm<D, L> {
    /// What the architecture adds.
    pub decoder: D,
    /// Token embedding [vocabulary, hidden].
    pub embeddings: ParamSlot,
    /// Virtual tokens.
    pub prompt: PromptSlot,
    /// The layers.
    pub layers: Blocks<L>,
    /// The norm behind the last layer.
    pub norm: Norm,
    /// The head, absent where it is the embedding.
    pub head: Option<LinearSlot>,
}

impl<D, L> CausalLm<D, L> {
    /// The mask over the cache's positions, the virtual tokens and the pass's own, where any of them is padding.
    fn mask(&self, pass: &Pass<'_>, before: Option<&Tensor>, start: usize, ids: &Tensor, length: usize) -> Result<Option<Tensor>> {
        if pass.mask.is_none() && before.is_none() {
            return Ok(None);
        }
        let (batch, own) = ids.dims2()?;
        let ones = |length: usize| Tensor::ones((batch, length), peftbench_ops::DType::U8, ids.device());
        let before = before.map_or_else(|| ones(start), |mask| Ok(mask.clone()))?;
        let given = pass.mask.map_or_else(|| ones(own), |mask| mask.to_dtype(peftbench_ops::DType::U8))?;
        Ok(Some(Tensor::cat(&[&before, &ones(length - own)?, &given], 1)?))
    }
}

impl<D: Decoder, L: Part + 'static> Network for CausalLm<D, L> {
    fn arch(&self) -> &'static str {
        self.decoder.arch()
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn hidden_size(&self) -> usize {
        self.prompt.hidden
    }

    fn visit_slots(&mut self, visitor: &mut Visitor<'_>) {
        visitor(SlotMut::Prompt(&mut self.prompt));
        visitor(SlotMut::Param(&mut self.embeddings));
        self.decoder.visit_slots(visitor);
        for layer in self.layers.iter() {
            layer.write().visit_slots(visitor);
        }
        self.norm.visit_slots(visitor);
        if let Some(head) = &mut self.head {
            visit_linear(head, visitor);
        }
    }

    fn multiply_adds_per_token(&self) -> u64 {
        self.layers.iter().map(|layer| layer.read().multiply_adds_per_token() as u64).sum()
    }
}

impl<D: Decoder, L: Layer<D::Shared> + 'static> Model for CausalLm<D, L> {
    fn vocab_size(&self) -> usize {
        self.embeddings.param.value().dims()[0]
    }

    fn forward(&self, pass: &Pass<'_>, ids: &Tensor, mut cache: Option<&mut Cache>) -> Result<Var> {
        let own = ids.dims()[1];
        let start = cache.as_ref().map_or(0, |cache| cache.position);
        let mut x = self.embeddings.lookup(pass, ids)?;
        if start == 0 {
            x = self.prompt.forward(pass, x)?;
        }
        let length = x.dims()[1];
        let mask = self.mask(pass, cache.as_ref().and_then(|cache| cache.mask.as_ref()), start, ids, length)?;
        let padding = cache.as_ref().map_or_else(Vec::new, |cache| cache.padding.clone());
        let cached = cache.is_some();
        let prefix = self.prompt.prefix_tokens;
        let step = Step { pass, start, length, mask, padding: &padding, cached, prefix, device: ids.device() };
        x = self.decoder.embed(&step, x)?;
        pass.observe(&x);
        let shared = Rc::new(self.decoder.shared(&step)?);
        for (i, layer) in self.layers.iter().enumerate() {
            pass.tape.enter_scope(format!("layers.{i}"));
            x = layer.forward(&step, &shared, &x, cache.as_deref_mut())?;
            pass.observe(&x);
        }
        pass.tape.enter_scope("head");
        if let Some(cache) = cache {
            cache.position += length;
            cache.mask = step.mask;
        }
        let x = if length > own { pass.tape.narrow(&x, 1, length - own, own)? } else { x };
        let x = self.decoder.head_input(pass, self.norm.forward(pass, &x)?)?;
        pass.observe(&x);
        Ok(x)
    }

    fn head(&self) -> Head<'_> {
        match &self.head {
            Some(head) => Head::Linear(head),
            None => Head::Tied(&self.embeddings),
        }
    }
}
