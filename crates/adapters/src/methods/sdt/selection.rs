//! What trains of a layer, as index tensors that are saved with the adapter, and the adapters that add it.

use super::options::Counts;
use super::ranking::{Scores, StateSpace, descending};
use crate::method::SelectedDimension;
use crate::methods::parts::tensor_name;
use crate::selection::Chosen;
use peftbench_models::Pass;
use peftbench_models::slots::{LinearAdapter, ParamAdapter};
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{DType, Param, Result, Tensor, Var};
use peftbench_spec::Role;

/// A_log of what is pruned: A = −e^10, so that Ā is 0 at any step worth the name (the released code's value).
pub(super) const PRUNED_A_LOG: f64 = 10.0;

/// The chosen channels and states of one layer. The indices lie in frozen tensors, as loading an adapter sets them.
pub(super) struct Selection {
    /// Channels that train, ascending, [channels].
    channels: Param,
    /// States of each that train, ascending, [channels, states].
    states: Param,
    /// Channels that are pruned, [zero channels]; absent where none are.
    zero_channels: Option<Param>,
    /// States of each training channel that are pruned, [channels, zero states].
    zero_states: Option<Param>,
    /// Channels and states of the layer.
    total: (usize, usize),
    /// Where pruning is done.
    pruned_role: Role,
    /// What the chosen pairs scored, [channels, states]; absent where an adapter is loaded or a run planned.
    scores: Vec<f64>,
}

impl Selection {
    /// The first in the ranking train, the last are pruned.
    pub fn new(first: &Chosen, layer: &StateSpace, counts: Counts, scores: &Scores) -> Result<Self> {
        let order = descending(&scores.channels);
        let mut channels: Vec<usize> = order[..counts.channels].to_vec();
        channels.sort_unstable();
        let (mut states, mut zero_states, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for &channel in &channels {
            let own = &scores.states[channel * layer.states..(channel + 1) * layer.states];
            let order = descending(own);
            let ascending = |part: &[usize]| {
                let mut part = part.to_vec();
                part.sort_unstable();
                part
            };
            let chosen = ascending(&order[..counts.states]);
            found.extend(chosen.iter().map(|&state| own[state]));
            states.extend(chosen);
            zero_states.extend(ascending(&order[layer.states - counts.zero_states..]));
        }
        let mut zero_channels = order[layer.channels - counts.zero_channels..].to_vec();
        zero_channels.sort_unstable();
        let indices = |name: &str, values: &[usize], dims: &[usize]| -> Result<Param> {
            let values: Vec<f32> = values.iter().map(|&index| index as f32).collect();
            Ok(Param::frozen(tensor_name(first, name), Tensor::from_vec(values, dims, &layer.device)?))
        };
        let some = |name, values: &[usize], dims: &[usize]| (!values.is_empty()).then(|| indices(name, values, dims)).transpose();
        Ok(Self {
            channels: indices("sdt_channels", &channels, &[counts.channels])?,
            states: indices("sdt_states", &states, &[counts.channels, counts.states])?,
            zero_channels: some("sdt_zero_channels", &zero_channels, &[counts.zero_channels])?,
            zero_states: some("sdt_zero_states", &zero_states, &[counts.channels, counts.zero_states])?,
            total: (layer.channels, layer.states),
            pruned_role: layer.pruned_role,
            scores: if scores.known { found } else { Vec::new() },
        })
    }

    /// Channels of the layer.
    pub fn total_channels(&self) -> usize {
        self.total.0
    }

    /// States of a channel.
    pub fn total_states(&self) -> usize {
        self.total.1
    }

    /// Channels that train.
    pub fn channels(&self) -> usize {
        self.channels.elem_count()
    }

    /// States of each that train.
    pub fn states(&self) -> usize {
        self.states.elem_count() / self.channels()
    }

    /// The role of the tensor in which pruning is done: A_log becomes [`PRUNED_A_LOG`], S4D's C becomes 0.
    pub fn pruned_role(&self) -> Role {
        self.pruned_role
    }

    /// What is saved of it.
    pub fn buffers(&self) -> impl Iterator<Item = &Param> {
        [&self.channels, &self.states].into_iter().chain(&self.zero_channels).chain(&self.zero_states)
    }

    /// For the record: what trains and what is pruned.
    pub fn dimensions(&self, layer: usize, path: &str) -> Vec<SelectedDimension> {
        let (num_channels, num_states) = self.total;
        let dimension = |channel, state, trained, score| {
            let path = path.to_owned();
            SelectedDimension { path, layer, channel, state, trained, score, num_channels, num_states }
        };
        let trained = self.pairs(&self.states).into_iter().enumerate();
        let mut all: Vec<SelectedDimension> =
            trained.map(|(i, (channel, state))| dimension(channel, Some(state), true, self.scores.get(i).copied())).collect();
        let zero_states = self.zero_states.iter().flat_map(|states| self.pairs(states));
        all.extend(zero_states.map(|(channel, state)| dimension(channel, Some(state), false, None)));
        let zero_channels = self.zero_channels.iter().flat_map(indices);
        all.extend(zero_channels.map(|channel| dimension(channel, None, false, None)));
        all
    }

    /// (channel, state) of each entry of `states` [channels, ..].
    fn pairs(&self, states: &Param) -> Vec<(usize, usize)> {
        let (channels, each) = (indices(&self.channels), states.elem_count() / self.channels());
        indices(states).enumerate().map(|(i, state)| (channels.clone().nth(i / each).unwrap_or(0), state)).collect()
    }

    /// For every channel and state which trained pair it is, or the number of pairs where it is none: [channels · states].
    fn places(&self) -> Vec<u32> {
        let pairs = self.pairs(&self.states);
        let mut places = vec![pairs.len() as u32; self.total.0 * self.total.1];
        for (i, (channel, state)) in pairs.into_iter().enumerate() {
            // An index that a damaged adapter file has beyond the layer changes nothing.
            if let Some(place) = places.get_mut(channel * self.total.1 + state) {
                *place = i as u32;
            }
        }
        places
    }

    /// 1 for every channel and state that is pruned, [channels · states]; none where nothing is.
    fn pruned(&self) -> Option<Vec<f32>> {
        if self.zero_channels.is_none() && self.zero_states.is_none() {
            return None;
        }
        let states = self.total.1;
        let whole = self.zero_channels.iter().flat_map(indices).flat_map(|channel| (0..states).map(move |state| (channel, state)));
        let mut mask = vec![0.0; self.total.0 * states];
        for (channel, state) in whole.chain(self.zero_states.iter().flat_map(|states| self.pairs(states))) {
            if let Some(entry) = mask.get_mut(channel * states + state) {
                *entry = 1.0;
            }
        }
        Some(mask)
    }

    /// One row for each chosen channel, 1 in its column: [channels, all channels].
    fn one_hot(&self) -> Result<Tensor> {
        let total = self.total.0;
        let mut rows = vec![0f32; self.channels() * total];
        for (i, channel) in indices(&self.channels).enumerate().filter(|(_, channel)| *channel < total) {
            rows[i * total + channel] = 1.0;
        }
        Tensor::from_vec(rows, (self.channels(), total), self.channels.value().device())
    }
}

/// The numbers in an index tensor.
fn indices(param: &Param) -> std::vec::IntoIter<usize> {
    let values = param.value().flatten_all().and_then(|flat| flat.to_vec1::<f32>()).unwrap_or_default();
    values.into_iter().map(|value| value as usize).collect::<Vec<_>>().into_iter()
}

/// The trained `values` [pairs, width] at their `places` [n], and zeros elsewhere: [n, width].
fn scatter(pass: &Pass<'_>, values: &Var, places: Vec<u32>) -> Result<Var> {
    let (tape, width) = (pass.tape, values.dims()[1]);
    let device = values.value().device();
    let none = Var::constant(Tensor::zeros((1, width), values.value().dtype(), device)?);
    let count = places.len();
    tape.embedding(&tape.cat(&[values, &none], 0)?, &Tensor::from_vec(places, count, device)?)
}

/// Adds to the chosen entries of a raw tensor, and prunes.
pub(super) struct Entries {
    pub selection: std::sync::Arc<Selection>,
    /// [channels, states, components].
    pub values: Param,
    /// Whether this is the tensor in which pruning is done.
    pub prunes: bool,
    pub layer: Option<usize>,
}

impl ParamAdapter for Entries {
    fn transform(&self, pass: &Pass<'_>, value: Var) -> Result<Var> {
        let (tape, selection) = (pass.tape, &self.selection);
        let [channels, states, components] = [0, 1, 2].map(|dim| self.values.value().dims()[dim]);
        let values = tape.reshape(&tape.param(&self.values), &[channels * states, components])?;
        let mut change = tape.reshape(&scatter(pass, &values, selection.places())?, value.dims())?;
        if let Some(mask) = selection.pruned().filter(|_| self.prunes) {
            let goal = if selection.pruned_role() == Role::ALog { PRUNED_A_LOG } else { 0.0 };
            let pairs = mask.len();
            let mask = Tensor::from_vec(mask, (pairs, 1), value.value().device())?.broadcast_as((pairs, components))?;
            let mask = mask.contiguous()?.reshape(value.dims())?;
            let away = (value.value().affine(-1.0, goal)? * mask)?;
            change = tape.add(&change, &Var::constant(away))?;
        }
        tape.add(&value, &tape.scale(&change, pass.scale_of(self.layer))?)
    }
}

/// Adds to the columns of a linear layer that read the chosen channels: an update of rank `channels` whose A is a choice of inputs. A step
/// keeps the chosen channels only.
pub(super) struct Columns {
    pub selection: std::sync::Arc<Selection>,
    /// [rows, channels], or [channels, states] where only the rows of the chosen states train.
    pub values: Param,
    pub rows: RowRanges,
    pub by_state: bool,
}

impl LinearAdapter for Columns {
    fn updates(&self, pass: &Pass<'_>, _x: &Var) -> Result<Vec<LowRank>> {
        let (tape, selection) = (pass.tape, &self.selection);
        let values = tape.param(&self.values);
        let b = match self.by_state {
            false => values,
            true => {
                let (channels, states) = (selection.channels(), selection.states());
                let own = indices(&selection.states).collect::<Vec<usize>>();
                let mut places = vec![(channels * states) as u32; self.rows.len() * channels];
                for (i, state) in own.into_iter().enumerate().filter(|(_, state)| *state < self.rows.len()) {
                    places[state * channels + i / states] = i as u32;
                }
                let flat = tape.reshape(&values, &[channels * states, 1])?;
                tape.reshape(&scatter(pass, &flat, places)?, &[self.rows.len(), channels])?
            }
        };
        let a = Var::constant(selection.one_hot()?.to_dtype(b.value().dtype())?);
        Ok(vec![LowRank { a, b, scale: 1.0, rows: self.rows.clone(), input: None }])
    }
}

/// Adds a whole tensor.
pub(super) struct Shift {
    pub change: Param,
    pub layer: Option<usize>,
}

impl ParamAdapter for Shift {
    fn transform(&self, pass: &Pass<'_>, value: Var) -> Result<Var> {
        let tape = pass.tape;
        tape.add(&value, &tape.scale(&tape.param(&self.change), pass.scale_of(self.layer))?)
    }
}

/// Prunes what a gate [channels, states], 1 or 0, shuts: A_log becomes [`PRUNED_A_LOG`], S4D's C becomes 0.
pub(super) struct Gate {
    pub open: Param,
    pub pruned_role: Role,
}

impl ParamAdapter for Gate {
    fn transform(&self, pass: &Pass<'_>, value: Var) -> Result<Var> {
        let open = self.open.value();
        let pairs = open.elem_count();
        let components = value.value().elem_count() / pairs;
        let open = open.reshape((pairs, 1))?.broadcast_as((pairs, components))?.contiguous()?.reshape(value.dims())?;
        let shut = if self.pruned_role == Role::ALog { PRUNED_A_LOG } else { 0.0 };
        let rest = Var::constant(open.affine(-shut, shut)?);
        pass.tape.add(&pass.tape.mul(&value, &Var::constant(open.to_dtype(DType::F32)?))?, &rest)
    }
}
