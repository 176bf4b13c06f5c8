//! The state space dual scan of Mamba-2 (Dao and Gu, 2024): one scalar decay a head, B and C shared by the heads of a group,
//!
//! dt = clamp(softplus(dt_raw + dt_bias)),  S_t = exp(dt_t A) S_{t−1} + dt_t x_t B_tᵀ,  y_t = S_t C_t + D x_t
//!
//! with a state S of [head_dim, state] a head. It keeps nothing but its inputs; all states are computed again in the backward pass.

use crate::cpu::is_f32_cpu;
use crate::scan::{at, sigmoid, softplus};
use crate::tape::{Tape, Var};
use crate::{ssd_backward, ssd_kernel};
use candle_core::{D, Result, Tensor};

/// Inputs of the scan.
pub struct SsdInputs<'a> {
    /// x, [batch, length, heads · head_dim].
    pub x: &'a Var,
    /// Step sizes before bias and softplus, [batch, length, heads].
    pub dt: &'a Var,
    /// Bias of the step sizes, [heads].
    pub dt_bias: &'a Var,
    /// A, negative, [heads].
    pub a: &'a Var,
    /// B, [batch, length, groups · state].
    pub b: &'a Var,
    /// C, [batch, length, groups · state].
    pub c: &'a Var,
    /// D, [heads].
    pub d: &'a Var,
    /// State before the first step, [batch, heads · head_dim, state]; zeros if absent.
    pub initial_state: Option<&'a Var>,
    /// Groups of consecutive heads that share B and C.
    pub groups: usize,
    /// Bounds of a step size, Hugging Face's `time_step_limit`.
    pub dt_limit: (f64, f64),
}

/// Dimensions of a scan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub batch: usize,
    pub length: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub groups: usize,
    pub state: usize,
    pub dt_limit: (f64, f64),
}

impl Dims {
    /// Channels of x.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Positions of the inputs in the list that a node keeps.
pub(crate) const X: usize = 0;
pub(crate) const DT: usize = 1;
pub(crate) const BIAS: usize = 2;
pub(crate) const A: usize = 3;
pub(crate) const B: usize = 4;
pub(crate) const C: usize = 5;
pub(crate) const SKIP: usize = 6;
pub(crate) const H0: usize = 7;

impl Tape {
    /// The scan: y [batch, length, heads · head_dim] and the state after the last step [batch, heads · head_dim, state], a constant.
    pub fn ssd(&self, inputs: SsdInputs<'_>) -> Result<(Var, Tensor)> {
        let dims = dims(&inputs)?;
        let zeros;
        let initial = match inputs.initial_state {
            Some(initial) => initial,
            None => {
                let x = inputs.x.value();
                zeros = Var::constant(Tensor::zeros((dims.batch, dims.width(), dims.state), x.dtype(), x.device())?);
                &zeros
            }
        };
        let vars = [inputs.x, inputs.dt, inputs.dt_bias, inputs.a, inputs.b, inputs.c, inputs.d, initial];
        check_shapes(&vars, dims)?;
        let values: Vec<Tensor> = vars.iter().map(|v| v.value().clone()).collect();
        let on_kernel = values.iter().all(is_f32_cpu);
        let (output, last_state) = if on_kernel { ssd_kernel::forward(&values, dims)? } else { composed_forward(&values, dims)? };
        let output = self.record(
            "ssd",
            &vars,
            output,
            || values,
            move |back| {
                let grads = if on_kernel {
                    ssd_backward::backward(&back.grad, &back.saved, dims)?
                } else {
                    composed_backward(&back.grad, &back.saved, dims)?
                };
                Ok(grads.into_iter().zip(back.needs).map(|(grad, &needed)| needed.then_some(grad)).collect())
            },
        );
        Ok((output, last_state))
    }
}

fn dims(inputs: &SsdInputs<'_>) -> Result<Dims> {
    let (batch, length, width) = inputs.x.value().dims3()?;
    let (heads, groups, selective) = (inputs.a.value().dims1()?, inputs.groups, inputs.b.value().dim(2)?);
    if heads == 0 || groups == 0 || !width.is_multiple_of(heads) || !heads.is_multiple_of(groups) || !selective.is_multiple_of(groups) {
        candle_core::bail!("ssd: {width} channels, {heads} heads, {groups} groups and a B of width {selective} do not divide evenly")
    }
    Ok(Dims { batch, length, heads, head_dim: width / heads, groups, state: selective / groups, dt_limit: inputs.dt_limit })
}

fn check_shapes(vars: &[&Var; 8], dims: Dims) -> Result<()> {
    let Dims { batch, length, heads, groups, state, .. } = dims;
    let (head, selective) = (vec![heads], vec![batch, length, groups * state]);
    let (x, dt, initial) = (vec![batch, length, dims.width()], vec![batch, length, heads], vec![batch, dims.width(), state]);
    let expected = [&x, &dt, &head, &head, &selective, &selective, &head, &initial];
    for ((var, expected), name) in vars.iter().zip(expected).zip(["x", "dt", "dt_bias", "A", "B", "C", "D", "initial state"]) {
        if var.dims() != expected.as_slice() {
            candle_core::bail!("ssd: {name} has shape {:?}, expected {expected:?}", var.dims())
        }
    }
    Ok(())
}

/// What one step computes with, broadcast to [batch, heads, head_dim, state] where it is of that rank.
struct Step {
    /// dt_raw + dt_bias, [batch, heads].
    raw: Tensor,
    /// [batch, heads].
    dt: Tensor,
    /// [batch, heads, 1, 1].
    decay: Tensor,
    /// [batch, heads, head_dim].
    x: Tensor,
    /// [batch, heads, 1, state].
    b: Tensor,
    /// [batch, heads, 1, state].
    c: Tensor,
}

fn step(values: &[Tensor], dims: Dims, t: usize) -> Result<Step> {
    let Dims { batch, heads, head_dim, groups, state, dt_limit: (low, high), .. } = dims;
    let raw = at(&values[DT], t)?.broadcast_add(&values[BIAS])?;
    let dt = softplus(&raw)?.clamp(low, high)?;
    let decay = dt.broadcast_mul(&values[A])?.exp()?.reshape((batch, heads, 1, 1))?;
    let shared = |x: &Tensor| {
        let x = at(x, t)?.reshape((batch, groups, 1, state))?.broadcast_as((batch, groups, heads / groups, state))?;
        x.contiguous()?.reshape((batch, heads, 1, state))
    };
    Ok(Step { raw, dt, decay, x: at(&values[X], t)?.reshape((batch, heads, head_dim))?, b: shared(&values[B])?, c: shared(&values[C])? })
}

/// The states after each step, from that before the first: [batch, heads, head_dim, state] each.
fn composed_states(values: &[Tensor], dims: Dims) -> Result<Vec<Tensor>> {
    let mut states = vec![values[H0].reshape((dims.batch, dims.heads, dims.head_dim, dims.state))?];
    for t in 0..dims.length {
        let Step { dt, decay, x, b, .. } = step(values, dims, t)?;
        let drive = x.broadcast_mul(&dt.unsqueeze(2)?)?.unsqueeze(3)?.broadcast_mul(&b)?;
        states.push((states[t].broadcast_mul(&decay)? + drive)?);
    }
    Ok(states)
}

fn composed_forward(values: &[Tensor], dims: Dims) -> Result<(Tensor, Tensor)> {
    let states = composed_states(values, dims)?;
    let skip = values[SKIP].reshape((1, dims.heads, 1))?;
    let output = |t: usize| {
        let Step { x, c, .. } = step(values, dims, t)?;
        (states[t + 1].broadcast_mul(&c)?.sum(D::Minus1)? + x.broadcast_mul(&skip)?)?.reshape((dims.batch, dims.width()))
    };
    let outputs = (0..dims.length).map(output).collect::<Result<Vec<_>>>()?;
    Ok((Tensor::stack(&outputs, 1)?, states[dims.length].reshape((dims.batch, dims.width(), dims.state))?))
}

fn composed_backward(grad: &Tensor, saved: &[Tensor], dims: Dims) -> Result<Vec<Tensor>> {
    let Dims { batch, heads, head_dim, groups, state, dt_limit: (low, high), .. } = dims;
    let states = composed_states(saved, dims)?;
    let mut carried = states[0].zeros_like()?;
    let (mut to_a, mut to_skip) = (saved[A].zeros_like()?, saved[SKIP].zeros_like()?);
    let mut steps: [Vec<Tensor>; 4] = Default::default();
    let over_heads = |x: &Tensor| x.reshape((batch, groups, heads / groups, state))?.sum(2)?.reshape((batch, groups * state));
    for t in (0..dims.length).rev() {
        let Step { raw, dt, decay, x, b, c } = step(saved, dims, t)?;
        let g = at(grad, t)?.reshape((batch, heads, head_dim))?;
        let to_state = (g.unsqueeze(3)?.broadcast_mul(&c)? + &carried)?;
        let to_c = g.unsqueeze(3)?.broadcast_mul(&states[t + 1])?.sum(2)?;
        let to_drive = to_state.broadcast_mul(&b)?.sum(D::Minus1)?;
        let drive = x.broadcast_mul(&dt.unsqueeze(2)?)?;
        let to_b = to_state.broadcast_mul(&drive.unsqueeze(3)?)?.sum(2)?;
        carried = to_state.broadcast_mul(&decay)?;
        let to_exponent = (&carried * &states[t])?.sum((2, 3))?;
        let skip = saved[SKIP].reshape((1, heads, 1))?;
        let to_x = (to_drive.broadcast_mul(&dt.unsqueeze(2)?)? + g.broadcast_mul(&skip)?)?;
        let to_dt = ((&to_drive * &x)?.sum(D::Minus1)? + to_exponent.broadcast_mul(&saved[A])?)?;
        let unbounded = softplus(&raw)?;
        let within = (unbounded.ge(low)? * unbounded.le(high)?)?.to_dtype(raw.dtype())?;
        to_a = (to_a + (to_exponent * &dt)?.sum(0)?)?;
        to_skip = (to_skip + (g * x)?.sum((0, 2))?)?;
        let to_raw = ((to_dt * sigmoid(&raw)?)? * within)?;
        for (list, value) in steps.iter_mut().zip([to_x.reshape((batch, dims.width()))?, to_raw, over_heads(&to_b)?, over_heads(&to_c)?]) {
            list.push(value);
        }
    }
    let [to_x, to_dt, to_b, to_c] = steps.map(|mut list| {
        list.reverse();
        Tensor::stack(&list, 1)
    });
    let to_dt = to_dt?;
    let (to_bias, to_initial) = (to_dt.sum((0, 1))?, carried.reshape((batch, dims.width(), state))?);
    Ok(vec![to_x?, to_dt, to_bias, to_a, to_b?, to_c?, to_skip, to_initial])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel, random, relative_error};
    use candle_core::DType;

    /// The scan of random inputs; A is made negative.
    fn scan(groups: usize, dt_limit: (f64, f64)) -> impl Fn(&Tape, &[Var]) -> Result<Var> {
        move |t, v| {
            let a = t.scale(&t.exp(&t.scale(&v[A], 0.5)?)?, -1.0)?;
            let (dt_bias, initial_state) = (&v[BIAS], v.get(H0));
            let inputs =
                SsdInputs { x: &v[X], dt: &v[DT], dt_bias, a: &a, b: &v[B], c: &v[C], d: &v[SKIP], initial_state, groups, dt_limit };
            Ok(t.ssd(inputs)?.0)
        }
    }

    const NO_LIMIT: (f64, f64) = (0.0, f64::INFINITY);

    /// Dimensions of the inputs: batch, length, heads, head_dim, groups, state.
    fn shapes((b, l, h, p, g, n): (usize, usize, usize, usize, usize, usize)) -> [Vec<usize>; 8] {
        [vec![b, l, h * p], vec![b, l, h], vec![h], vec![h], vec![b, l, g * n], vec![b, l, g * n], vec![h], vec![b, h * p, n]]
    }

    #[test]
    fn agrees_with_finite_differences() -> Result<()> {
        for (limit, case) in [(NO_LIMIT, (2, 3, 2, 2, 1, 3)), ((0.4, 0.9), (1, 4, 4, 1, 2, 2))] {
            let shapes = shapes(case);
            check_gradients(&shapes.each_ref().map(Vec::as_slice), scan(case.4, limit))?;
        }
        Ok(())
    }

    #[test]
    fn the_kernel_agrees_with_the_composition_at_odd_shapes() -> Result<()> {
        let cases = [
            (1, 1, 1, 1, 1, 1),
            (1, 1, 4, 8, 2, 16),
            (2, 5, 2, 7, 1, 8),
            (2, 11, 8, 8, 2, 16),
            (1, 65, 3, 5, 1, 1),
            (1, 130, 4, 33, 2, 64),
            (3, 64, 10, 64, 1, 8),
            (1, 200, 6, 16, 1, 128),
        ];
        for case in cases {
            let shapes = shapes(case);
            let shapes = shapes.each_ref().map(Vec::as_slice);
            for limit in [NO_LIMIT, (0.4, 0.9)] {
                check_kernel(&shapes, 2e-5, scan(case.4, limit))?;
                check_kernel(&shapes[..7], 2e-5, scan(case.4, limit))?;
            }
        }
        Ok(())
    }

    /// With decays of e⁻¹⁰⁰ a step, where a subtraction of sums would lose the gradient of A.
    #[test]
    fn the_kernel_holds_under_strong_decay() -> Result<()> {
        let shapes = shapes((1, 70, 2, 4, 1, 4));
        check_kernel(&shapes.each_ref().map(Vec::as_slice), 1e-4, |t, v| {
            let a = t.scale(&t.exp(&v[A])?, -100.0)?;
            let (dt_bias, initial_state) = (&v[BIAS], v.get(H0));
            let (b, c, d) = (&v[B], &v[C], &v[SKIP]);
            Ok(t.ssd(SsdInputs { x: &v[X], dt: &v[DT], dt_bias, a: &a, b, c, d, initial_state, groups: 1, dt_limit: NO_LIMIT })?.0)
        })
    }

    #[test]
    fn two_parts_joined_by_the_state_give_the_whole() -> Result<()> {
        let (case, length, first) = ((2, 90, 4, 8, 2, 16), 90, 23);
        let shapes = shapes(case);
        let mut values: Vec<Tensor> = shapes.iter().enumerate().map(|(i, dims)| random(dims, i as u64, DType::F32)).collect();
        values[A] = values[A].exp()?.neg()?;
        let run = |start: usize, len: usize, initial: &Tensor| {
            let part =
                |i: usize| Ok(Var::constant(if shapes[i].len() == 3 { values[i].narrow(1, start, len)? } else { values[i].clone() }));
            let v = (0..7).map(part).collect::<Result<Vec<_>>>()?;
            let (dt_bias, initial) = (&v[BIAS], Var::constant(initial.clone()));
            let (a, b, c, d, initial_state) = (&v[A], &v[B], &v[C], &v[SKIP], Some(&initial));
            let inputs = SsdInputs { x: &v[X], dt: &v[DT], dt_bias, a, b, c, d, initial_state, groups: 2, dt_limit: NO_LIMIT };
            let (y, last) = Tape::inference().ssd(inputs)?;
            Ok::<_, candle_core::Error>((y.value().clone(), last))
        };
        let (whole, end) = run(0, length, &values[H0])?;
        let (before, state) = run(0, first, &values[H0])?;
        let (after, last) = run(first, length - first, &state)?;
        let joined = Tensor::cat(&[before, after], 1)?;
        assert!(relative_error(&whole.to_dtype(DType::F64)?, &joined)? < 1e-5);
        assert!(relative_error(&end.to_dtype(DType::F64)?, &last)? < 1e-5);
        Ok(())
    }
}
