//! The start of a state space, and what may be added to it.

use super::SlotInfo;
use crate::pass::Pass;
use peftbench_ops::{Result, Var};

/// What an SSM layer starts from.
pub struct StateSlot {
    /// Place and role.
    pub info: SlotInfo,
    /// Inner width: channels of the state. In Mamba-2 these are heads · head_dim.
    pub inner: usize,
    /// States a channel.
    pub state: usize,
    /// Inputs of the convolution before the first: its taps less one.
    pub context: usize,
    /// Channels of the convolution: the inner width, and in Mamba-2 those of B and C too.
    pub conv_width: usize,
    /// What else than a start can be attached here.
    pub extensions: StateExtensions,
    adapter: Option<Box<dyn StateAdapter>>,
}

/// Which hooks of a [`StateAdapter`] an SSM layer asks, besides initial state and convolution context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateExtensions {
    /// Width of [`StateAdapter::virtual_inputs`]; 0 in a layer that takes none.
    pub virtual_width: usize,
    /// [`StateAdapter::extra_states`].
    pub extra_states: bool,
    /// [`StateAdapter::output_offset`].
    pub output_offset: bool,
}

/// States that are added to each channel of a selective scan.
pub struct ExtraStates {
    /// Their A_log, [inner, extra].
    pub a_log: Var,
    /// The projection of the convolved input to their B, [extra, inner].
    pub b: Var,
    /// The projection to their C, [extra, inner].
    pub c: Var,
}

/// What a method may attach to an SSM layer: a learned start, and more. Every hook has nothing as its default.
pub trait StateAdapter: Send + Sync {
    /// The state before the first token, [inner, state]; zeros where absent.
    fn initial_state(&self, _pass: &Pass<'_>) -> Result<Option<Var>> {
        Ok(None)
    }

    /// The convolution's inputs before the first token, [context, conv_width]; zeros where absent.
    fn conv_context(&self, _pass: &Pass<'_>) -> Result<Option<Var>> {
        Ok(None)
    }

    /// Inputs of the convolution and the scan in front of the first token, [virtual tokens, virtual_width]; what comes out there is dropped.
    /// In Mamba-1 they are u, in Mamba-2 x, B, C and dt as `in_proj` makes them.
    fn virtual_inputs(&self, _pass: &Pass<'_>) -> Result<Option<Var>> {
        Ok(None)
    }

    /// States to add to each channel.
    fn extra_states(&self, _pass: &Pass<'_>) -> Result<Option<ExtraStates>> {
        Ok(None)
    }

    /// What to add to the output of the scan, [batch, length, inner], from its C [batch, length, groups · state]. Where the scan has gated its
    /// output already, `gate` z [batch, length, inner] says with what: the offset is then times silu(z).
    fn output_offset(&self, _pass: &Pass<'_>, _c: &Var, _gate: Option<&Var>) -> Result<Option<Var>> {
        Ok(None)
    }
}

impl StateSlot {
    /// A slot with nothing attached, before a convolution over the inner width.
    pub fn new(info: SlotInfo, inner: usize, state: usize, context: usize) -> Self {
        Self { info, inner, state, context, conv_width: inner, extensions: StateExtensions::default(), adapter: None }
    }

    /// The slot before a convolution over `conv_width` channels.
    pub fn with_conv_width(self, conv_width: usize) -> Self {
        Self { conv_width, ..self }
    }

    /// Virtual inputs of what has no cache yet, where something is attached that makes them.
    pub(crate) fn virtual_inputs(&self, pass: &Pass<'_>) -> Result<Option<Var>> {
        self.adapter.as_ref().map_or(Ok(None), |adapter| adapter.virtual_inputs(pass))
    }

    /// States to add, where something is attached that has some.
    pub(crate) fn extra_states(&self, pass: &Pass<'_>) -> Result<Option<ExtraStates>> {
        self.adapter.as_ref().map_or(Ok(None), |adapter| adapter.extra_states(pass))
    }

    /// y with what is attached added; see [`StateAdapter::output_offset`].
    pub(crate) fn offset(&self, pass: &Pass<'_>, c: &Var, gate: Option<&Var>, y: Var) -> Result<Var> {
        match self.adapter.as_ref().map_or(Ok(None), |adapter| adapter.output_offset(pass, c, gate))? {
            Some(offset) => pass.tape.add(&y, &offset),
            None => Ok(y),
        }
    }

    /// The same slot in a layer that asks more hooks.
    pub fn with(self, extensions: StateExtensions) -> Self {
        Self { extensions, ..self }
    }

    /// Initial state [batch, inner, state] and convolution context [batch, context, conv_width], where something is attached.
    pub fn forward(&self, pass: &Pass<'_>, batch: usize) -> Result<(Option<Var>, Option<Var>)> {
        let Some(adapter) = &self.adapter else { return Ok((None, None)) };
        let stretch = |value: Option<Var>, dims: [usize; 3]| value.map(|value| pass.tape.broadcast_to(&value, &dims)).transpose();
        let state = stretch(adapter.initial_state(pass)?, [batch, self.inner, self.state])?;
        Ok((state, stretch(adapter.conv_context(pass)?, [batch, self.context, self.conv_width])?))
    }

    /// Attaches `adapter` in place of any before.
    pub fn attach(&mut self, adapter: Box<dyn StateAdapter>) {
        self.adapter = Some(adapter);
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        self.adapter.is_some()
    }
}
