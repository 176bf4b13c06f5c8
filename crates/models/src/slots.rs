//! The places where a method meets a model.
//!
//! Each slot computes its frozen part and then asks what is attached. The traits here are the whole contract: a method implements
//! one or more of them and attaches boxes of itself; it never sees the model.

use crate::pass::Pass;
use peftbench_ops::candle_fn::DerivedWeight;
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{Param, Result, Tensor, Var};
use peftbench_spec::{Candidate, Role, SlotKind};

/// Where a slot is and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Path in the names of the Hugging Face checkpoint: `backbone.layers.3.mixer.in_proj`.
    pub path: String,
    /// Layer index; none outside the layers.
    pub layer: Option<usize>,
    /// What it computes.
    pub role: Role,
}

impl SlotInfo {
    fn candidate(&self, kind: SlotKind) -> Candidate {
        Candidate { path: self.path.clone(), part_of: None, layer: self.layer, role: self.role, kind }
    }
}

/// A raw tensor: A_log, D, a convolution's weight, a norm's weight, a bias, an embedding.
pub struct ParamSlot {
    /// Place and role; the path is the tensor's name.
    pub info: SlotInfo,
    /// The tensor.
    pub param: Param,
    adapters: Vec<Box<dyn ParamAdapter>>,
}

/// What may be attached to a raw tensor. Every hook has the identity as its default.
pub trait ParamAdapter: Send + Sync {
    /// The tensor to use in place of `value`, in its shape.
    fn transform(&self, _pass: &Pass<'_>, value: Var) -> Result<Var> {
        Ok(value)
    }

    /// The rows [.., width] to use in place of those that `ids` [..] look up in a table. It leaves other uses of the table alone, such as
    /// a head that is tied to it.
    fn lookup(&self, _pass: &Pass<'_>, _ids: &Tensor, rows: Var) -> Result<Var> {
        Ok(rows)
    }
}

impl ParamSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo, param: Param) -> Self {
        Self { info, param, adapters: Vec::new() }
    }

    /// The tensor with what is attached.
    pub fn forward(&self, pass: &Pass<'_>) -> Result<Var> {
        self.adapters.iter().try_fold(pass.tape.param(&self.param), |value, adapter| adapter.transform(pass, value))
    }

    /// A linear layer's weight [out, in] with what is attached, stored as suits the pass.
    pub(crate) fn weight(&self, pass: &Pass<'_>) -> Result<Var> {
        match pass.column_weights {
            Some(weights) if self.adapters.is_empty() => weights.get(&self.param),
            _ => self.forward(pass),
        }
    }

    /// The rows `ids` [..] of a table [rows, width], with what is attached → [.., width].
    pub fn lookup(&self, pass: &Pass<'_>, ids: &Tensor) -> Result<Var> {
        let rows = pass.tape.embedding(&self.forward(pass)?, ids)?;
        self.adapters.iter().try_fold(rows, |rows, adapter| adapter.lookup(pass, ids, rows))
    }

    /// Attaches `adapter` behind those already there.
    pub fn attach(&mut self, adapter: Box<dyn ParamAdapter>) {
        self.adapters.push(adapter);
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }
}

/// A weight [out, in] applied to activations, with an optional bias and named row parts.
pub struct LinearSlot {
    /// Place and role; the path is the module's name, without `.weight`.
    pub info: SlotInfo,
    /// Weight as the checkpoint stores it: [out, in], or [in, out] if transposed.
    pub weight: ParamSlot,
    /// Bias [out].
    pub bias: Option<ParamSlot>,
    /// Named parts of the output rows, in order: `x` and `z` of Mamba's `in_proj`.
    pub parts: Vec<RowPart>,
    /// Whether the checkpoint stores the weight as [in, out], as GPT-2's `Conv1D` does. Adapters see [out, in] all the same.
    pub transposed: bool,
    adapters: Vec<Box<dyn LinearAdapter>>,
}

/// A named part of a linear layer's output rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPart {
    /// Name after the layer's: `x` in `in_proj.x`.
    pub name: &'static str,
    /// Output rows.
    pub rows: RowRanges,
}

/// What may be attached to a linear layer y = W x + b. Every hook has the identity as its default; they apply in this order.
pub trait LinearAdapter: Send + Sync {
    /// The input to use in place of x [batch, length, in].
    fn input(&self, _pass: &Pass<'_>, x: Var) -> Result<Var> {
        Ok(x)
    }

    /// The weight to use in place of W [out, in].
    fn weight(&self, _pass: &Pass<'_>, weight: Var) -> Result<Var> {
        Ok(weight)
    }

    /// A weight to use in place of W that is as large as W: it is computed again in the backward pass instead of being kept. The head has
    /// no such hook.
    fn derive(&self, _pass: &Pass<'_>) -> Option<DerivedWeight> {
        None
    }

    /// Low-rank updates of the output, computed together with W x.
    fn updates(&self, _pass: &Pass<'_>, _x: &Var) -> Result<Vec<LowRank>> {
        Ok(Vec::new())
    }

    /// Factors [out] on W x and its updates, before the bias.
    fn gain(&self, _pass: &Pass<'_>) -> Result<Option<Var>> {
        Ok(None)
    }

    /// The output to use in place of y [batch, length, out]; x is the layer's input. The head has no such hook: its logits are never
    /// whole in training.
    fn output(&self, _pass: &Pass<'_>, _x: &Var, y: Var) -> Result<Var> {
        Ok(y)
    }

    /// Whether the layer stays affine in x with this adapter, so that it can be merged into weight and bias.
    fn is_affine(&self) -> bool {
        true
    }
}

/// What a linear layer computes in one pass, before its output hooks: gain · (W x + updates) + bias.
pub struct Prepared {
    /// Input.
    pub x: Var,
    /// Weight [out, in].
    pub weight: Var,
    /// Bias [out].
    pub bias: Option<Var>,
    /// Low-rank updates.
    pub updates: Vec<LowRank>,
    /// Factors on the rows, [out].
    pub gain: Option<Var>,
}

impl LinearSlot {
    /// A slot with nothing attached. `parts` cover the rows in order, or are empty.
    pub fn new(info: SlotInfo, weight: Param, bias: Option<Param>, parts: Vec<RowPart>) -> Self {
        let param = |suffix: &str, param| ParamSlot::new(SlotInfo { path: format!("{}.{suffix}", info.path), ..info.clone() }, param);
        let (weight, bias) = (param("weight", weight), bias.map(|bias| param("bias", bias)));
        Self { weight, bias, info, parts, transposed: false, adapters: Vec::new() }
    }

    /// The same slot with a weight that is stored as [in, out].
    pub fn stored_transposed(self) -> Self {
        Self { transposed: true, ..self }
    }

    /// [out, in].
    pub fn dims(&self) -> (usize, usize) {
        let value = self.weight.param.value();
        let (first, second) = (value.dims()[0], value.dims()[1]);
        if self.transposed { (second, first) } else { (first, second) }
    }

    /// Multiply-adds a row of input.
    pub(crate) fn multiply_adds(&self) -> usize {
        let (out, input) = self.dims();
        out * input
    }

    /// Attaches `adapter` behind those already there.
    pub fn attach(&mut self, adapter: Box<dyn LinearAdapter>) {
        self.adapters.push(adapter);
    }

    /// Whether anything is attached, to the layer or to its tensors.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty() || self.weight.has_adapters() || self.bias.as_ref().is_some_and(ParamSlot::has_adapters)
    }

    /// Everything that x [.., in] meets in this layer, but for the output hooks.
    pub fn prepare(&self, pass: &Pass<'_>, x: &Var) -> Result<Prepared> {
        let x = self.adapters.iter().try_fold(x.clone(), |x, adapter| adapter.input(pass, x))?;
        let weight = match self.transposed {
            true => pass.tape.transpose(&self.weight.forward(pass)?, 0, 1)?,
            false => self.weight.weight(pass)?,
        };
        let weight = self.adapters.iter().try_fold(weight, |w, adapter| adapter.weight(pass, w))?;
        let bias = self.bias.as_ref().map(|bias| bias.forward(pass)).transpose()?;
        let scale = pass.scale_of(self.info.layer);
        let (mut updates, mut gain) = (Vec::new(), None);
        for adapter in &self.adapters {
            updates.extend(adapter.updates(pass, &x)?.into_iter().map(|update| LowRank { scale: update.scale * scale, ..update }));
            gain = match (gain, adapter.gain(pass)?) {
                (Some(first), Some(second)) => Some(pass.tape.mul(&first, &second)?),
                (first, second) => first.or(second),
            };
        }
        Ok(Prepared { x, weight, bias, updates, gain })
    }

    /// x [batch, length, in] → [batch, length, out].
    pub fn forward(&self, pass: &Pass<'_>, x: &Var) -> Result<Var> {
        let Prepared { x, weight, bias, updates, gain } = self.prepare(pass, x)?;
        let derived: Vec<DerivedWeight> = self.adapters.iter().filter_map(|adapter| adapter.derive(pass)).collect();
        let product = |bias: Option<&Var>| match (derived.as_slice(), updates.as_slice()) {
            ([], updates) => pass.tape.low_rank_linear(&x, &weight, bias, updates),
            (derived, []) => pass.tape.derived_linear(&x, &weight, bias, derived),
            (derived, updates) => pass.tape.low_rank_linear(&x, &pass.tape.derived_weight(&weight, derived)?, bias, updates),
        };
        let y = match gain {
            None => product(bias.as_ref())?,
            Some(gain) => {
                let y = pass.tape.mul(&product(None)?, &gain)?;
                bias.map_or(Ok(y.clone()), |bias| pass.tape.add(&y, &bias))?
            }
        };
        self.adapters.iter().try_fold(y, |y, adapter| adapter.output(pass, &x, y))
    }

    /// Whether all that is attached can be merged into weight and bias.
    pub fn is_affine(&self) -> bool {
        self.adapters.iter().all(|adapter| adapter.is_affine())
    }
}

/// The output of a mixer, attention or MLP sub-layer.
pub struct SublayerSlot {
    /// Place and role.
    pub info: SlotInfo,
    adapters: Vec<Box<dyn SublayerAdapter>>,
}

/// What may be attached to a sub-layer.
pub trait SublayerAdapter: Send + Sync {
    /// The output to use in place of y; x is the sub-layer's input, both [batch, length, hidden].
    fn output(&self, pass: &Pass<'_>, x: &Var, y: Var) -> Result<Var>;
}

impl SublayerSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo) -> Self {
        Self { info, adapters: Vec::new() }
    }

    /// The sub-layer's output with what is attached.
    pub fn forward(&self, pass: &Pass<'_>, x: &Var, y: Var) -> Result<Var> {
        self.adapters.iter().try_fold(y, |y, adapter| adapter.output(pass, x, y))
    }

    /// Attaches `adapter` behind those already there.
    pub fn attach(&mut self, adapter: Box<dyn SublayerAdapter>) {
        self.adapters.push(adapter);
    }
}

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
}

/// Keys and values in front of an attention layer's own.
pub struct PrefixSlot {
    /// Place and role.
    pub info: SlotInfo,
    /// Width of the keys, and of the values: key-value heads · head_dim.
    pub width: usize,
    adapter: Option<Box<dyn PrefixAdapter>>,
}

/// Virtual keys and values.
pub trait PrefixAdapter: Send + Sync {
    /// Keys and values, each [virtual tokens, width]; keys are used as they are, without rotation.
    fn keys_values(&self, pass: &Pass<'_>) -> Result<(Var, Var)>;
}

impl PrefixSlot {
    /// A slot with nothing attached.
    pub fn new(info: SlotInfo, width: usize) -> Self {
        Self { info, width, adapter: None }
    }

    /// k and v [batch, length, width] with the prefix in front.
    pub fn forward(&self, pass: &Pass<'_>, k: Var, v: Var) -> Result<(Var, Var)> {
        let Some(adapter) = &self.adapter else { return Ok((k, v)) };
        let (prefix_k, prefix_v) = adapter.keys_values(pass)?;
        let join = |prefix: &Var, own: &Var| {
            let prefix = pass.tape.broadcast_to(prefix, &[own.dims()[0], prefix.dims()[0], self.width])?;
            pass.tape.cat(&[&prefix, own], 1)
        };
        Ok((join(&prefix_k, &k)?, join(&prefix_v, &v)?))
    }

    /// Attaches `adapter` in place of any before.
    pub fn attach(&mut self, adapter: Box<dyn PrefixAdapter>) {
        self.adapter = Some(adapter);
    }
}

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
}

/// A slot of any kind, lent to a visitor.
pub enum SlotMut<'a> {
    /// See [`LinearSlot`]. Its weight and bias follow as [`SlotMut::Param`].
    Linear(&'a mut LinearSlot),
    /// See [`ParamSlot`].
    Param(&'a mut ParamSlot),
    /// See [`SublayerSlot`].
    Sublayer(&'a mut SublayerSlot),
    /// See [`PromptSlot`].
    Prompt(&'a mut PromptSlot),
    /// See [`PrefixSlot`].
    Prefix(&'a mut PrefixSlot),
    /// See [`StateSlot`].
    State(&'a mut StateSlot),
}

impl SlotMut<'_> {
    /// Place and role.
    pub fn info(&self) -> &SlotInfo {
        match self {
            Self::Linear(slot) => &slot.info,
            Self::Param(slot) => &slot.info,
            Self::Sublayer(slot) => &slot.info,
            Self::Prompt(slot) => &slot.info,
            Self::Prefix(slot) => &slot.info,
            Self::State(slot) => &slot.info,
        }
    }

    /// Whether anything is attached.
    pub fn has_adapters(&self) -> bool {
        match self {
            Self::Linear(slot) => slot.has_adapters(),
            Self::Param(slot) => slot.has_adapters(),
            Self::Sublayer(slot) => !slot.adapters.is_empty(),
            Self::Prompt(slot) => slot.adapter.is_some(),
            Self::Prefix(slot) => slot.adapter.is_some(),
            Self::State(slot) => slot.adapter.is_some(),
        }
    }

    /// What a target expression may match here: the slot, and its row parts.
    pub fn candidates(&self) -> Vec<Candidate> {
        let kind = match self {
            Self::Linear(_) => SlotKind::Linear,
            Self::Param(_) => SlotKind::Param,
            Self::Sublayer(_) => SlotKind::Sublayer,
            Self::Prompt(_) => SlotKind::Prompt,
            Self::Prefix(_) => SlotKind::Prefix,
            Self::State(_) => SlotKind::State,
        };
        let whole = self.info().candidate(kind);
        let parts: &[RowPart] = if let Self::Linear(slot) = self { &slot.parts } else { &[] };
        let part = |part: &RowPart| Candidate {
            path: format!("{}.{}", whole.path, part.name),
            part_of: Some(whole.path.clone()),
            ..whole.clone()
        };
        let parts: Vec<Candidate> = parts.iter().map(part).collect();
        std::iter::once(whole).chain(parts).collect()
    }
}

/// A visitor of slots.
pub type Visitor<'a> = dyn FnMut(SlotMut<'_>) + 'a;

/// Visits a linear slot, then its tensors.
pub(crate) fn visit_linear(slot: &mut LinearSlot, visitor: &mut Visitor<'_>) {
    visitor(SlotMut::Linear(slot));
    visitor(SlotMut::Param(&mut slot.weight));
    if let Some(bias) = &mut slot.bias {
        visitor(SlotMut::Param(bias));
    }
}
