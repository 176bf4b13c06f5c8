//! Virtual tokens.

use super::SlotInfo;
use crate::pass::Pass;
use peftbench_ops::{Result, Var};

/// The embedded input sequence.
pub struct PromptSlot {
    /// Place and role.
    pub info: SlotInfo,
    /// Width of an embedding.
    pub hidden: usize,
    /// Virtual keys in front of the attention layers' own: every token counts its position behind them.
    pub prefix_tokens: usize,
    adapter: Option<Box<dyn PromptAdapter>>,
}

/// Virtual tokens in front of the input.
pub trait PromptAdapter: Send + Sync {
    /// How many.
    fn virtual_tokens(&self) -> usize;

    /// Their embeddings, [virtual tokens, hidden].
    fn embeddings(&self, pass: &Pass<'_>) -> Result<Var>;
}

impl PromptSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo, hidden: usize) -> Self {
        Self { info, hidden, prefix_tokens: 0, adapter: None }
    }

    /// Virtual tokens in front of every sequence.
    pub fn virtual_tokens(&self) -> usize {
        self.adapter.as_ref().map_or(0, |adapter| adapter.virtual_tokens())
    }

    /// x [batch, length, hidden] with the virtual tokens in front.
    pub fn forward(&self, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let Some(adapter) = &self.adapter else { return Ok(x) };
        let prompt = adapter.embeddings(pass)?;
        let prompt = pass.tape.broadcast_to(&prompt, &[x.dims()[0], adapter.virtual_tokens(), self.hidden])?;
        pass.tape.cat(&[&prompt, &x], 1)
    }

    /// Attaches `adapter` in place of any before.
    pub fn attach(&mut self, adapter: Box<dyn PromptAdapter>) {
        self.adapter = Some(adapter);
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        self.adapter.is_some()
    }
}
