//! The state space of each layer, and how its channels and states are ranked.

use super::options::{Counts, Ranking};
use crate::error::Result;
use crate::method::Carried;
use crate::methods::parts::unsupported;
use crate::selection::Chosen;
use peftbench_models::Network;
use peftbench_models::slots::{ParamSlot, SlotMut};
use peftbench_ops::{DType, Device, Tensor};
use peftbench_spec::seed::Stream;
use peftbench_spec::{Role, SpecError};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};

/// What is carried beside a tensor's own change: scores of channels and of states.
pub(super) const CHANNEL_SCORES: &str = "channels";
pub(super) const STATE_SCORES: &str = "states";

/// The state spaces of the layers where SDT is attached.
pub(super) struct Layers(BTreeMap<usize, StateSpace>);

/// One layer's state space, with its tensors as they are in the base model.
pub(super) struct StateSpace {
    /// Path of A_log (S4D: log_A_real).
    pub path: String,
    /// Channels; heads in Mamba-2.
    pub channels: usize,
    /// States of a channel; 1 where heads are chosen.
    pub states: usize,
    /// The role of the tensor in which pruning is done.
    pub pruned_role: Role,
    /// Where its tensors lie.
    pub device: Device,
    /// Tensors by role, with their paths.
    tensors: BTreeMap<Role, (String, Tensor)>,
}

/// How much each channel, and each state of it, counts: [channels] and [channels · states].
pub(super) struct Scores {
    pub channels: Vec<f64>,
    pub states: Vec<f64>,
    /// Whether something has been measured; where an adapter is loaded or a run planned, nothing has.
    pub known: bool,
}

/// Indices from the highest score to the lowest; of equal ones the first comes first.
pub(super) fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The tensors that rankings look at. The bias of `dt_proj` is told from its weight by its rank.
fn is_read(slot: &ParamSlot) -> bool {
    match slot.info.role {
        Role::ALog | Role::AImag | Role::B | Role::C | Role::DtBias | Role::LogDt => true,
        Role::DtProj => slot.param.value().rank() == 1,
        _ => false,
    }
}

impl Layers {
    /// Reads the state spaces of the layers that `chosen` lies in.
    pub fn read(model: &mut dyn Network, chosen: &[Chosen]) -> Result<Self> {
        let wanted: BTreeSet<usize> = chosen.iter().filter_map(|chosen| chosen.layer).collect();
        let mut tensors: BTreeMap<usize, BTreeMap<Role, (String, Tensor)>> = BTreeMap::new();
        model.visit_slots(&mut |slot| {
            if let SlotMut::Param(slot) = slot
                && let Some(layer) = slot.info.layer.filter(|layer| wanted.contains(layer))
                && is_read(slot)
            {
                tensors.entry(layer).or_default().insert(slot.info.role, (slot.info.path.clone(), slot.param.value()));
            }
        });
        let space = |(layer, tensors): (usize, BTreeMap<Role, (String, Tensor)>)| {
            let Some((path, a_log)) = tensors.get(&Role::ALog).cloned() else {
                return Err(unsupported("sdt", format!("layer {layer} has no state space; leave it out of `layers`")));
            };
            let (channels, states) = match *a_log.dims() {
                [heads] => (heads, 1),
                [channels, states] => (channels, states),
                ref other => return Err(unsupported("sdt", format!("`{path}` has the shape {other:?}; expected [channels, states]"))),
            };
            // Mamba has no C of its own: there a channel is pruned by the decay of its states.
            let pruned_role = if tensors.contains_key(&Role::C) { Role::C } else { Role::ALog };
            let device = a_log.device().clone();
            Ok((layer, StateSpace { path, channels, states, pruned_role, device, tensors }))
        };
        Ok(Self(tensors.into_iter().map(space).collect::<Result<_>>()?))
    }

    /// By layer index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &StateSpace)> {
        self.0.iter().map(|(index, layer)| (*index, layer))
    }

    /// That of one layer.
    pub fn get(&self, layer: Option<usize>) -> Option<&StateSpace> {
        self.0.get(&layer?)
    }
}

impl StateSpace {
    /// Ranks by what the warm-up has handed on; all alike where there is nothing yet. `init` is drawn from to rank at random.
    pub fn scores(&self, ranking: Ranking, carried: &Carried, init: &mut Stream) -> Result<Scores> {
        let known = ranking == Ranking::Magnitude || !carried.is_empty();
        let states = match ranking {
            Ranking::Random => {
                let mut draw = |count: usize| (0..count).map(|_| init.random::<f64>()).collect();
                return Ok(Scores { channels: draw(self.channels), states: draw(self.channels * self.states), known: false });
            }
            _ if !known => vec![0.0; self.channels * self.states],
            Ranking::DeltaALog | Ranking::Gradient => self.sums_of_squares(ranking, carried)?,
            Ranking::DeltaABar => self.distances(carried)?,
            Ranking::Magnitude => self.magnitudes()?,
            Ranking::Loss => {
                let read = |what: &str| carried.get(&format!("{}/{what}", self.path)).map_or_else(|| Ok(Vec::new()), numbers);
                let (channels, states) = (read(CHANNEL_SCORES)?, read(STATE_SCORES)?);
                return Ok(Scores { channels, states, known });
            }
        };
        Ok(Scores { channels: states.chunks(self.states).map(|own| own.iter().sum()).collect(), states, known })
    }

    /// Scores by which these channels, and these states of each, come first.
    pub fn named(&self, channels: &[usize], states: Option<&[Vec<usize>]>) -> Result<(Counts, Scores)> {
        let all: Vec<usize> = (0..self.states).collect();
        let own = |i: usize| states.map_or(all.as_slice(), |states| &states[i]);
        let mut scores = Scores { channels: vec![0.0; self.channels], states: vec![0.0; self.channels * self.states], known: false };
        for (i, &channel) in channels.iter().enumerate() {
            *scores.channels.get_mut(channel).ok_or_else(|| self.beyond("channels", channel, self.channels))? = 1.0;
            for &state in own(i) {
                let score = scores.states[channel * self.states..][..self.states].get_mut(state);
                *score.ok_or_else(|| self.beyond("states", state, self.states))? = 1.0;
            }
        }
        Ok((Counts { channels: channels.len(), states: own(0).len(), zero_channels: 0, zero_states: 0 }, scores))
    }

    fn beyond(&self, name: &str, index: usize, count: usize) -> SpecError {
        SpecError::at(name, format!("{index} is out of range: `{}` has {count} {name}, from 0", self.path))
    }

    /// The squares of what was carried for A_log and A_imag; gradients are carried as sums of squares.
    fn sums_of_squares(&self, ranking: Ranking, carried: &Carried) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; self.channels * self.states];
        for (path, _) in [Role::ALog, Role::AImag].iter().filter_map(|role| self.tensors.get(role)) {
            for (sum, value) in sums.iter_mut().zip(carried.get(path).map(numbers).transpose()?.unwrap_or_default()) {
                *sum += if ranking == Ranking::Gradient { value } else { value * value };
            }
        }
        Ok(sums)
    }

    /// |Ā after − Ā before|².
    fn distances(&self, carried: &Carried) -> Result<Vec<f64>> {
        let (before, after) = (self.a_bar(&Carried::new())?, self.a_bar(carried)?);
        Ok(before.iter().zip(after).map(|(b, a)| (a.0 - b.0).powi(2) + (a.1 - b.1).powi(2)).collect())
    }

    /// |Ā|², in S4D |C B̄ Ā|².
    fn magnitudes(&self) -> Result<Vec<f64>> {
        let nothing = Carried::new();
        let a_bar = self.a_bar(&nothing)?;
        let square = |(re, im): (f64, f64)| re * re + im * im;
        let Some(c) = self.values(Role::C, &nothing)? else { return Ok(a_bar.into_iter().map(square).collect()) };
        let components = c.len() / a_bar.len();
        let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let b = self.values(Role::B, &nothing)?;
        let b = |i: usize| b.as_ref().map_or(1.0, |b| length(&b[i * components..(i + 1) * components]));
        let a = self.a(&nothing)?;
        let score = |(i, &a_bar): (usize, &(f64, f64))| {
            // B̄ = (Ā − 1) / A · B.
            let held = square((a_bar.0 - 1.0, a_bar.1)) / square(a[i]);
            length(&c[i * components..(i + 1) * components]) * held * b(i) * square(a_bar)
        };
        Ok(a_bar.iter().enumerate().map(score).collect())
    }

    /// A of each channel and state, real and imaginary part, after the carried changes.
    fn a(&self, carried: &Carried) -> Result<Vec<(f64, f64)>> {
        let real = self.values(Role::ALog, carried)?.unwrap_or_default();
        let imaginary = self.values(Role::AImag, carried)?.unwrap_or_else(|| vec![0.0; real.len()]);
        Ok(real.into_iter().map(|a_log| -a_log.exp()).zip(imaginary).collect())
    }

    /// Ā = exp(Δ A), with Δ of the channel without input.
    fn a_bar(&self, carried: &Carried) -> Result<Vec<(f64, f64)>> {
        let softplus = |bias: Vec<f64>| bias.into_iter().map(|b| if b > 20.0 { b } else { b.exp().ln_1p() }).collect::<Vec<f64>>();
        let steps = match (self.values(Role::DtProj, carried)?, self.values(Role::DtBias, carried)?, self.values(Role::LogDt, carried)?) {
            (Some(bias), ..) | (_, Some(bias), _) => softplus(bias),
            (.., Some(log_dt)) => log_dt.into_iter().map(f64::exp).collect(),
            _ => {
                return Err(unsupported(
                    "sdt",
                    format!("the layer of `{}` has no step size to rank by; use `ranking = \"delta_a_log\"`", self.path),
                ));
            }
        };
        let of = |(i, (re, im)): (usize, (f64, f64))| {
            let dt = steps[i / self.states];
            let size = (dt * re).exp();
            (size * (dt * im).cos(), size * (dt * im).sin())
        };
        Ok(self.a(carried)?.into_iter().enumerate().map(of).collect())
    }

    /// The tensor of a role with its carried change, where the layer has one.
    fn values(&self, role: Role, carried: &Carried) -> Result<Option<Vec<f64>>> {
        let Some((path, base)) = self.tensors.get(&role) else { return Ok(None) };
        let mut values = numbers(base)?;
        if let Some(change) = carried.get(path) {
            values.iter_mut().zip(numbers(change)?).for_each(|(value, change)| *value += change);
        }
        Ok(Some(values))
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_ops::device::host;

    /// Two channels of two states; what the warm-up has changed is given by hand.
    fn space(tensors: &[(Role, &str, &[f32], &[usize])]) -> StateSpace {
        let tensor = |values: &[f32], dims: &[usize]| Tensor::from_vec(values.to_vec(), dims, &host()).unwrap();
        let tensors = tensors.iter().map(|(role, path, values, dims)| (*role, ((*path).to_owned(), tensor(values, dims))));
        let tensors: BTreeMap<_, _> = tensors.collect();
        let pruned_role = if tensors.contains_key(&Role::C) { Role::C } else { Role::ALog };
        StateSpace { path: "A_log".to_owned(), channels: 2, states: 2, pruned_role, device: host(), tensors }
    }

    fn carried(path: &str, values: &[f32]) -> Carried {
        [(path.to_owned(), Tensor::from_vec(values.to_vec(), (2, 2), &host()).unwrap())].into()
    }

    fn init() -> Stream {
        peftbench_spec::seed::stream(0, "init")
    }

    #[test]
    fn changes_of_a_log_are_squared_and_summed() {
        let space = space(&[(Role::ALog, "A_log", &[0.0; 4], &[2, 2])]);
        let scores = space.scores(Ranking::DeltaALog, &carried("A_log", &[1.0, -2.0, 0.5, 0.0]), &mut init()).unwrap();
        assert_eq!((scores.states, scores.channels), (vec![1.0, 4.0, 0.25, 0.0], vec![5.0, 0.25]));
        let scores = space.scores(Ranking::Gradient, &carried("A_log", &[1.0, 2.0, 0.5, 0.0]), &mut init()).unwrap();
        assert_eq!(scores.channels, [3.0, 0.5]);
    }

    /// The same change of A_log moves Ā most where Δ |A| is 1: a fast channel's states are forgotten anyway.
    #[test]
    fn changes_of_a_bar_count_at_the_channels_own_step() {
        // softplus(0.5413) = 1, softplus(−6.9) ≈ 0.001.
        let space = space(&[(Role::ALog, "A_log", &[0.0, 3.0, 0.0, 3.0], &[2, 2]), (Role::DtProj, "dt", &[0.541_324_85, -6.9], &[2])]);
        let scores = space.scores(Ranking::DeltaABar, &carried("A_log", &[0.1; 4]), &mut init()).unwrap();
        let expected = |dt: f64, a_log: f64| ((-dt * (a_log + f64::from(0.1f32)).exp()).exp() - (-dt * a_log.exp()).exp()).powi(2);
        let slow = f64::from(-6.9f32).exp().ln_1p();
        for (found, expected) in
            scores.states.iter().zip([expected(1.0, 0.0), expected(1.0, 3.0), expected(slow, 0.0), expected(slow, 3.0)])
        {
            assert!((found - expected).abs() < 1e-9 * (1.0 + expected), "{found} {expected}");
        }
        assert_eq!(descending(&scores.states), [0, 3, 2, 1]);
    }

    #[test]
    fn a_random_ranking_is_that_of_the_stream_and_needs_nothing_else() {
        let space = space(&[(Role::ALog, "A_log", &[0.0; 4], &[2, 2])]);
        let orders: BTreeSet<Vec<usize>> = (0..50)
            .map(|seed| {
                let drawn = |mut init: Stream| space.scores(Ranking::Random, &Carried::new(), &mut init).unwrap().states;
                let stream = || peftbench_spec::seed::stream(seed, "init");
                assert_eq!(drawn(stream()), drawn(stream()));
                descending(&drawn(stream()))
            })
            .collect();
        // Of the 24 orders of four states, 50 draws leave out three in expectation.
        assert!(orders.len() > 12, "{}", orders.len());
    }

    #[test]
    fn named_channels_and_states_come_first() {
        let space = space(&[(Role::ALog, "A_log", &[0.0; 4], &[2, 2])]);
        let (counts, scores) = space.named(&[1], Some(&[vec![1]])).unwrap();
        assert_eq!((counts.channels, counts.states), (1, 1));
        assert_eq!((descending(&scores.channels)[0], descending(&scores.states)[0]), (1, 3));
        let (counts, _) = space.named(&[0, 1], None).unwrap();
        assert_eq!((counts.channels, counts.states), (2, 2));
        let beyond = |channels: &[usize], states: Option<&[Vec<usize>]>| space.named(channels, states).err().unwrap().to_string();
        assert_eq!(beyond(&[2], None), "`channels`: 2 is out of range: `A_log` has 2 channels, from 0");
        assert_eq!(beyond(&[1], Some(&[vec![0, 2]])), "`states`: 2 is out of range: `A_log` has 2 states, from 0");
    }

    #[test]
    fn magnitudes_of_s4d_weigh_what_reaches_the_output() {
        let space = space(&[
            (Role::ALog, "A_log", &[0.0; 4], &[2, 2]),
            (Role::AImag, "A_imag", &[0.0; 4], &[2, 2]),
            (Role::LogDt, "log_dt", &[0.0, 0.0], &[2]),
            (Role::C, "C", &[1.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0, 0.0], &[2, 2, 2]),
        ]);
        let scores = space.scores(Ranking::Magnitude, &Carried::new(), &mut init()).unwrap();
        // Ā = 1/e, B̄ = 1 − 1/e.
        let unit = ((-1f64).exp() * (1.0 - (-1f64).exp())).powi(2);
        for (found, c) in scores.states.iter().zip([1.0, 4.0, 25.0, 0.0]) {
            assert!((found - c * unit).abs() < 1e-12);
        }
        assert_eq!(descending(&scores.channels), [1, 0]);
    }
}
