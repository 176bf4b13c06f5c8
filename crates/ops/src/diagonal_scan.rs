//! The recurrence of a diagonal, time-invariant state space, one state after the other for each channel:
//!
//! z_t = a ⊙ z_{t−1} + w u_t,  y_t = Σ_n Re z_{t,n} + D u_t
//!
//! with a and w complex or real. Where the gradients of a and w are wanted, the state is kept at every [`CHUNK`]-th step and the states in
//! between are computed again in the backward pass; where only that of u is, the backward pass is one recurrence in the other direction.

use crate::complex::Complex;
use crate::cpu::is_f32_cpu;
use crate::diagonal_scan_kernel as kernel;
use crate::s4d::split;
use crate::tape::{Tape, Var};
use candle_core::{D, Result, Tensor};

/// Steps between two kept states.
pub(crate) const CHUNK: usize = 64;

/// Dimensions of a scan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub batch: usize,
    pub length: usize,
    pub width: usize,
    pub states: usize,
    /// 2 where the states are complex.
    pub components: usize,
}

/// Tensors that the backward pass needs; the last two only for some gradients.
pub(crate) struct Saved<'a> {
    pub coefficients: &'a Tensor,
    pub d: &'a Tensor,
    pub u: Option<&'a Tensor>,
    pub states: Option<&'a Tensor>,
}

/// Which gradients are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub u: bool,
    pub coefficients: bool,
    pub d: bool,
    pub initial: bool,
}

impl Tape {
    /// The recurrence: u [batch, length, channels], coefficients [2 · components, channels, states] (parts of a, then of w), D [channels],
    /// initial z [batch, channels, states, components] (zeros where absent) → y [batch, length, channels].
    pub(crate) fn diagonal_scan(&self, u: &Var, coefficients: &Var, d: &Var, initial: Option<&Var>) -> Result<Var> {
        let (batch, length, width) = u.value().dims3()?;
        let (parts, _, states) = coefficients.value().dims3()?;
        let dims = Dims { batch, length, width, states, components: parts / 2 };
        let mut inputs = vec![u, coefficients, d];
        inputs.extend(initial);
        let on_kernel = inputs.iter().all(|input| is_f32_cpu(input.value()));
        let keeps_states = self.is_recording() && coefficients.needs_grad();
        let keeps_u = keeps_states || d.needs_grad();
        let forward = if on_kernel { kernel::forward } else { composed_forward };
        let (output, kept) = forward(u.value(), coefficients.value(), d.value(), initial.map(Var::value), dims, keeps_states)?;
        let saved = || {
            let mut saved = vec![coefficients.value().clone(), d.value().clone()];
            saved.extend(keeps_u.then(|| u.value().clone()));
            saved.extend(kept);
            saved
        };
        Ok(self.record("diagonal_scan", &inputs, output, saved, move |back| {
            let [coefficients, d, rest @ ..] = back.saved.as_slice() else { candle_core::bail!("diagonal scan: nothing was saved") };
            let saved = Saved { coefficients, d, u: rest.first(), states: rest.get(1) };
            let needs = back.needs;
            let wanted = Wanted { u: needs[0], coefficients: needs[1], d: needs[2], initial: needs.get(3).copied().unwrap_or(false) };
            let backward = if on_kernel { kernel::backward } else { composed_backward };
            let mut grads = Vec::from(backward(&back.grad, &saved, dims, wanted)?);
            grads.truncate(needs.len());
            Ok(grads)
        }))
    }
}

fn at(x: &Tensor, t: usize) -> Result<Tensor> {
    x.narrow(1, t, 1)?.squeeze(1)?.contiguous()
}

/// The output and, if they are to be kept, the states before each step, [batch, length, channels, states, components].
fn composed_forward(
    u: &Tensor,
    coefficients: &Tensor,
    d: &Tensor,
    initial: Option<&Tensor>,
    dims: Dims,
    keep: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (a, w) = split(coefficients)?;
    let mut state = match initial {
        Some(initial) => Complex::from_components(initial)?,
        None => {
            let zeros = Tensor::zeros((dims.batch, dims.width, dims.states), u.dtype(), u.device())?;
            Complex { im: (dims.components == 2).then(|| zeros.clone()), re: zeros }
        }
    };
    let (mut outputs, mut states) = (Vec::with_capacity(dims.length), Vec::new());
    for t in 0..dims.length {
        let input = at(u, t)?;
        if keep {
            states.push(state.to_components()?);
        }
        let drive = w.map(|part| input.unsqueeze(D::Minus1)?.broadcast_mul(&part.unsqueeze(0)?))?;
        state = state.mul(&a)?.add(&drive)?;
        outputs.push((state.re.sum(D::Minus1)? + input.broadcast_mul(d)?)?);
    }
    let kept = keep.then(|| Tensor::stack(&states, 1)).transpose()?;
    Ok((Tensor::stack(&outputs, 1)?, kept))
}

/// Gradients with respect to u, the coefficients, D and the initial state.
fn composed_backward(grad: &Tensor, saved: &Saved<'_>, dims: Dims, wanted: Wanted) -> Result<[Option<Tensor>; 4]> {
    let (a, w) = split(saved.coefficients)?;
    let back = a.conj()?;
    let zeros = Tensor::zeros((dims.batch, dims.width, dims.states), grad.dtype(), grad.device())?;
    let mut carried = Complex { im: a.im.as_ref().map(|_| zeros.clone()), re: zeros };
    let mut to_u = Vec::with_capacity(dims.length);
    let mut sums: Option<(Complex, Complex)> = None;
    for t in (0..dims.length).rev() {
        let g = at(grad, t)?;
        // The gradient with respect to z_t: that of y_t, which only reads the real part, and what comes back from z_{t+1}.
        let to_state = Complex { re: carried.re.broadcast_add(&g.unsqueeze(D::Minus1)?)?, im: carried.im.clone() };
        to_u.push((to_state.mul(&w.conj()?)?.re.sum(D::Minus1)? + g.broadcast_mul(saved.d)?)?);
        if let (Some(u), Some(states)) = (saved.u, saved.states.filter(|_| wanted.coefficients)) {
            let before = Complex::from_components(&at(states, t)?)?;
            let to_a = to_state.mul(&before.conj()?)?.map(|part| part.sum(0))?;
            let to_w = to_state.map(|part| part.broadcast_mul(&at(u, t)?.unsqueeze(D::Minus1)?)?.sum(0))?;
            sums = Some(match sums {
                Some((a, w)) => (a.add(&to_a)?, w.add(&to_w)?),
                None => (to_a, to_w),
            });
        }
        carried = to_state.mul(&back)?;
    }
    to_u.reverse();
    let to_d = match saved.u.filter(|_| wanted.d) {
        Some(u) => Some((grad * u)?.sum((0, 1))?),
        None => None,
    };
    let to_u = wanted.u.then(|| Tensor::stack(&to_u, 1)).transpose()?;
    let to_coefficients = sums.map(|(a, w)| crate::s4d::join(&a, &w)).transpose()?;
    Ok([to_u, to_coefficients, to_d, wanted.initial.then(|| carried.to_components()).transpose()?])
}
