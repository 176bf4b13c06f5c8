//! The selective scan of Mamba (Gu and Dao, 2023, equation 2 and algorithm 2), with softplus, skip and gate in one pass:
//!
//! dt = softplus(dt_raw),  h_t = exp(dt_t A) h_{t−1} + dt_t u_t B_t,  y_t = (C_t · h_t + D u_t) silu(z_t)
//!
//! It keeps its inputs and the state at every [`CHUNK`]-th step; the states in between are computed again in the backward pass.

use crate::cpu::is_f32_cpu;
use crate::scan_kernel;
use crate::scan_step;
use crate::tape::{Tape, Var};
use candle_core::{D, Result, Tensor};

/// Steps between two kept states.
pub(crate) const CHUNK: usize = 64;

/// Inputs of the scan.
pub struct ScanInputs<'a> {
    /// u, [batch, length, d_inner].
    pub u: &'a Var,
    /// Step sizes before softplus, [batch, length, d_inner].
    pub dt: &'a Var,
    /// A, negative, [d_inner, state].
    pub a: &'a Var,
    /// B, [batch, length, state].
    pub b: &'a Var,
    /// C, [batch, length, state].
    pub c: &'a Var,
    /// D, [d_inner].
    pub d: &'a Var,
    /// Gate, [batch, length, d_inner].
    pub z: &'a Var,
    /// State before the first step, [batch, d_inner, state]; zeros if absent.
    pub initial_state: Option<&'a Var>,
}

/// Dimensions of a scan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub batch: usize,
    pub length: usize,
    pub width: usize,
    pub state: usize,
}

/// Positions of the inputs in the list that a node keeps.
pub(crate) const U: usize = 0;
pub(crate) const DT: usize = 1;
pub(crate) const A: usize = 2;
pub(crate) const B: usize = 3;
pub(crate) const C: usize = 4;
pub(crate) const SKIP: usize = 5;
pub(crate) const Z: usize = 6;
pub(crate) const H0: usize = 7;

impl Tape {
    /// The scan: y [batch, length, d_inner] and the state after the last step [batch, d_inner, state], a constant.
    pub fn selective_scan(&self, inputs: ScanInputs<'_>) -> Result<(Var, Tensor)> {
        let (batch, length, width) = inputs.u.value().dims3()?;
        let (_, state) = inputs.a.value().dims2()?;
        let dims = Dims { batch, length, width, state };
        let zeros;
        let initial = match inputs.initial_state {
            Some(initial) => initial,
            None => {
                zeros = Var::constant(Tensor::zeros((batch, width, state), inputs.u.value().dtype(), inputs.u.value().device())?);
                &zeros
            }
        };
        let vars = [inputs.u, inputs.dt, inputs.a, inputs.b, inputs.c, inputs.d, inputs.z, initial];
        check_shapes(&vars, dims)?;
        let values: Vec<Tensor> = vars.iter().map(|v| v.value().clone()).collect();
        let on_kernel = values.iter().all(is_f32_cpu);
        let records = self.is_recording() && vars.iter().any(|v| v.needs_grad());
        let forward = match on_kernel {
            true if length == 1 && !records => scan_step::forward(&values, dims)?,
            true => scan_kernel::forward(&values, dims, records)?,
            false => composed_forward(&values, dims)?,
        };
        let mut saved = values;
        saved.extend(forward.states);
        let output = self.record(
            "selective_scan",
            &vars,
            forward.output,
            || saved,
            move |back| {
                let grads = if on_kernel {
                    scan_kernel::backward(&back.grad, &back.saved, dims)?
                } else {
                    composed_backward(&back.grad, &back.saved, dims)?
                };
                Ok(grads.into_iter().zip(back.needs).map(|(grad, &needed)| needed.then_some(grad)).collect())
            },
        );
        Ok((output, forward.last_state))
    }
}

/// What a forward pass yields.
pub(crate) struct Forward {
    pub output: Tensor,
    pub last_state: Tensor,
    /// States kept for the backward pass.
    pub states: Option<Tensor>,
}

fn check_shapes(vars: &[&Var; 8], Dims { batch, length, width, state }: Dims) -> Result<()> {
    let sequence = vec![batch, length, width];
    let selective = vec![batch, length, state];
    let expected = [&sequence, &sequence, &vec![width, state], &selective, &selective, &vec![width], &sequence, &vec![batch, width, state]];
    for ((var, expected), name) in vars.iter().zip(expected).zip(["u", "dt", "A", "B", "C", "D", "z", "initial state"]) {
        if var.dims() != expected.as_slice() {
            candle_core::bail!("selective scan: {name} has shape {:?}, expected {expected:?}", var.dims())
        }
    }
    Ok(())
}

/// Step t of [batch, length, …].
pub(crate) fn at(x: &Tensor, t: usize) -> Result<Tensor> {
    x.narrow(1, t, 1)?.squeeze(1)?.contiguous()
}

/// ln(1 + eˣ) without overflow.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

/// 1 / (1 + e⁻ˣ).
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// exp(dt_t A), dt_t u_t and B_t, broadcast to [batch, d_inner, state].
fn step_terms(values: &[Tensor], t: usize) -> Result<(Tensor, Tensor, Tensor)> {
    let dt = softplus(&at(&values[DT], t)?)?;
    let decay = dt.unsqueeze(D::Minus1)?.broadcast_mul(&values[A].unsqueeze(0)?)?.exp()?;
    let drive = (dt * at(&values[U], t)?)?.unsqueeze(D::Minus1)?;
    Ok((decay, drive, at(&values[B], t)?.unsqueeze(1)?))
}

fn composed_forward(values: &[Tensor], dims: Dims) -> Result<Forward> {
    let mut state = values[H0].clone();
    let (mut outputs, mut states) = (Vec::with_capacity(dims.length), vec![state.clone()]);
    for t in 0..dims.length {
        let (decay, drive, b) = step_terms(values, t)?;
        state = (decay * &state + drive.broadcast_mul(&b)?)?;
        let y = state.broadcast_mul(&at(&values[C], t)?.unsqueeze(1)?)?.sum(D::Minus1)?;
        let z = at(&values[Z], t)?;
        let y = (y + at(&values[U], t)?.broadcast_mul(&values[SKIP])?)?;
        outputs.push((y * (&z * sigmoid(&z)?)?)?);
        states.push(state.clone());
    }
    Ok(Forward { output: Tensor::stack(&outputs, 1)?, last_state: state, states: Some(Tensor::stack(&states, 1)?) })
}

fn composed_backward(grad: &Tensor, saved: &[Tensor], dims: Dims) -> Result<Vec<Tensor>> {
    let states = &saved[H0 + 1];
    let mut carried = saved[H0].zeros_like()?;
    let (mut to_a, mut to_skip) = (saved[A].zeros_like()?, saved[SKIP].zeros_like()?);
    let mut steps: [Vec<Tensor>; 5] = Default::default();
    for t in (0..dims.length).rev() {
        let (decay, drive, b) = step_terms(saved, t)?;
        let (before, after) = (at(states, t)?, at(states, t + 1)?);
        let (u, c, z) = (at(&saved[U], t)?, at(&saved[C], t)?.unsqueeze(1)?, at(&saved[Z], t)?);
        let raw = at(&saved[DT], t)?;
        let (dt, g, gate) = (softplus(&raw)?, at(grad, t)?, sigmoid(&z)?);
        let y = (after.broadcast_mul(&c)?.sum(D::Minus1)? + u.broadcast_mul(&saved[SKIP])?)?;
        let to_z = ((&g * y)? * (&gate * ((&z * (1.0 - &gate)?)? + 1.0)?)?)?;
        let to_y = (g * (&z * &gate)?)?;
        let to_state = (to_y.unsqueeze(D::Minus1)?.broadcast_mul(&c)? + carried)?;
        let to_c = to_y.unsqueeze(D::Minus1)?.broadcast_mul(&after)?.sum(1)?;
        let to_b = to_state.broadcast_mul(&drive)?.sum(1)?;
        let to_drive = to_state.broadcast_mul(&b)?.sum(D::Minus1)?;
        let to_exponent = ((&to_state * &decay)? * before)?;
        to_a = (to_a + to_exponent.broadcast_mul(&dt.unsqueeze(D::Minus1)?)?.sum(0)?)?;
        to_skip = (to_skip + (&to_y * &u)?.sum(0)?)?;
        let to_dt = (to_exponent.broadcast_mul(&saved[A].unsqueeze(0)?)?.sum(D::Minus1)? + (&to_drive * &u)?)?;
        let to_u = ((to_drive * &dt)? + to_y.broadcast_mul(&saved[SKIP])?)?;
        carried = (to_state * decay)?;
        for (list, value) in steps.iter_mut().zip([to_u, (to_dt * sigmoid(&raw)?)?, to_b, to_c, to_z]) {
            list.push(value);
        }
    }
    let [to_u, to_dt, to_b, to_c, to_z] = steps.map(|mut list| {
        list.reverse();
        Tensor::stack(&list, 1)
    });
    Ok(vec![to_u?, to_dt?, to_a, to_b?, to_c?, to_skip, to_z?, carried])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel, random, relative_error};
    use candle_core::DType;

    fn scan(t: &Tape, v: &[Var]) -> Result<Var> {
        let a = t.scale(&t.exp(&t.scale(&v[A], 0.5)?)?, -1.0)?;
        let inputs = ScanInputs { u: &v[U], dt: &v[DT], a: &a, b: &v[B], c: &v[C], d: &v[SKIP], z: &v[Z], initial_state: v.get(H0) };
        Ok(t.selective_scan(inputs)?.0)
    }

    #[test]
    fn agrees_with_finite_differences() -> Result<()> {
        check_gradients(&[&[2, 3, 3], &[2, 3, 3], &[3, 2], &[2, 3, 2], &[2, 3, 2], &[3], &[2, 3, 3], &[2, 3, 2]], scan)
    }

    #[test]
    fn the_kernel_agrees_with_the_composition_at_odd_shapes() -> Result<()> {
        for (b, l, d, n) in [(1, 1, 1, 1), (2, 5, 7, 3), (1, 130, 40, 16), (3, 64, 16, 8), (2, 65, 33, 64)] {
            let shapes: [&[usize]; 8] = [&[b, l, d], &[b, l, d], &[d, n], &[b, l, n], &[b, l, n], &[d], &[b, l, d], &[b, d, n]];
            check_kernel(&shapes, 2e-5, scan)?;
            check_kernel(&shapes[..7], 2e-5, scan)?;
        }
        Ok(())
    }

    #[test]
    fn a_single_step_agrees_with_the_composition() -> Result<()> {
        for (b, d, n) in [(1, 1, 1), (2, 7, 3), (3, 40, 16), (2, 33, 20), (1, 16, 64)] {
            let dims: [Vec<usize>; 8] =
                [vec![b, 1, d], vec![b, 1, d], vec![d, n], vec![b, 1, n], vec![b, 1, n], vec![d], vec![b, 1, d], vec![b, d, n]];
            let run = |dtype: DType| {
                let values = dims.iter().enumerate().map(|(i, dims)| random(dims, i as u64, DType::F32).to_dtype(dtype).map(Var::constant));
                let v = values.collect::<Result<Vec<_>>>()?;
                let t = Tape::inference();
                let a = t.scale(&t.exp(&v[A])?, -1.0)?;
                let inputs =
                    ScanInputs { u: &v[U], dt: &v[DT], a: &a, b: &v[B], c: &v[C], d: &v[SKIP], z: &v[Z], initial_state: v.get(H0) };
                let (y, last) = t.selective_scan(inputs)?;
                Ok::<_, candle_core::Error>((y.value().clone(), last))
            };
            let (found, expected) = (run(DType::F32)?, run(DType::F64)?);
            assert!(relative_error(&expected.0, &found.0)? < 2e-5, "{b} {d} {n}");
            assert!(relative_error(&expected.1, &found.1)? < 2e-5, "{b} {d} {n}");
        }
        Ok(())
    }

    #[test]
    fn two_halves_joined_by_the_state_give_the_whole() -> Result<()> {
        let (b, l, d, n) = (2, 10, 20, 16);
        let dims: [Vec<usize>; 7] = [vec![b, l, d], vec![b, l, d], vec![d, n], vec![b, l, n], vec![b, l, n], vec![d], vec![b, l, d]];
        let mut values: Vec<Tensor> = dims.iter().enumerate().map(|(i, dims)| random(dims, i as u64, DType::F32)).collect();
        values[A] = values[A].exp()?.neg()?;
        let run = |start: usize, len: usize, initial: Option<Tensor>| {
            let part = |i: usize| Ok(Var::constant(if dims[i].len() == 3 { values[i].narrow(1, start, len)? } else { values[i].clone() }));
            let v = (0..7).map(part).collect::<Result<Vec<_>>>()?;
            let initial = initial.map(Var::constant);
            let inputs =
                ScanInputs { u: &v[U], dt: &v[DT], a: &v[A], b: &v[B], c: &v[C], d: &v[SKIP], z: &v[Z], initial_state: initial.as_ref() };
            let (y, last) = Tape::inference().selective_scan(inputs)?;
            Ok::<_, candle_core::Error>((y.value().clone(), last))
        };
        let (whole, end) = run(0, l, None)?;
        let (first, state) = run(0, 3, None)?;
        let (second, last) = run(3, l - 3, Some(state))?;
        let joined = Tensor::cat(&[first, second], 1)?;
        assert!(relative_error(&whole.to_dtype(DType::F64)?, &joined)? < 1e-6);
        assert!(relative_error(&end.to_dtype(DType::F64)?, &last)? < 1e-6);
        Ok(())
    }
}
