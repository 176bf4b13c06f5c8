//! S4D (Gu, Goel, Gupta and Ré, 2022): a state space with a diagonal, complex or real, for each channel.
//!
//! h_t = Ā h_{t−1} + B̄ u_t,  y_t = Re(C · h_t) + D u_t,  A = −exp(log_A_real) + i A_imag
//!
//! with Ā and B̄ from the continuous A and B and the step Δ = exp(log_dt). A complex state stands for itself and its conjugate, hence a
//! factor 2 on C, as in the S4D authors' implementation. With the state starting at zero this is their convolution of u with the
//! kernel K_l = 2 Re Σ_n C_n B̄_n Ā_n^l; here it is computed as the recurrence, in time and memory linear in the length.
//!
//! Three nodes: the parameters, a few per channel, are discretised in f64, since e^{ΔA} − 1 cancels; an initial state is brought into
//! the recurrence's coordinates; and the recurrence itself runs, see [`crate::diagonal_scan`].

use crate::complex::Complex;
use crate::tape::{Tape, Var};
use candle_core::{D, DType, Result, Tensor};

/// How the continuous state space is made discrete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discretization {
    /// Zero-order hold: Ā = e^{ΔA}, B̄ = (Ā − 1) / A · B.
    ZeroOrderHold,
    /// The trapezoid rule: Ā = (1 + ΔA/2) / (1 − ΔA/2), B̄ = Δ / (1 − ΔA/2) · B.
    Bilinear,
}

/// Inputs of S4D. `components` is 2 (real part, imaginary part) where [`S4dInputs::a_imag`] is present and 1 where it is not.
pub struct S4dInputs<'a> {
    /// u, [batch, length, channels].
    pub u: &'a Var,
    /// ln(−Re A), [channels, states].
    pub log_a_real: &'a Var,
    /// Im A, [channels, states]; absent where the diagonal is real.
    pub a_imag: Option<&'a Var>,
    /// B, [channels, states, components]; all 1 where absent.
    pub b: Option<&'a Var>,
    /// C, [channels, states, components].
    pub c: &'a Var,
    /// ln Δ, [channels].
    pub log_dt: &'a Var,
    /// D, [channels].
    pub d: &'a Var,
    /// h_0, [batch, channels, states, components]; zeros where absent.
    pub initial_state: Option<&'a Var>,
    /// How Ā and B̄ come about.
    pub discretization: Discretization,
}

impl Tape {
    /// y [batch, length, channels].
    ///
    /// Where only u needs a gradient nothing is kept but the discretised parameters; else u, and the state at every 64th step.
    pub fn s4d(&self, inputs: S4dInputs<'_>) -> Result<Var> {
        check_shapes(&inputs)?;
        let coefficients = self.discretize(&inputs)?;
        let initial = inputs.initial_state.map(|state| self.s4d_start(state, inputs.c)).transpose()?;
        self.diagonal_scan(inputs.u, &coefficients, inputs.d, initial.as_ref())
    }

    /// Ā and gain · B̄ C as [2 · components, channels, states]: real and imaginary part of the one, then of the other.
    fn discretize(&self, inputs: &S4dInputs<'_>) -> Result<Var> {
        let mut vars = vec![inputs.log_a_real, inputs.log_dt, inputs.c];
        vars.extend(inputs.a_imag);
        vars.extend(inputs.b);
        let has = (inputs.a_imag.is_some(), inputs.b.is_some());
        let values: Vec<Tensor> = vars.iter().map(|var| var.value().clone()).collect();
        let rule = inputs.discretization;
        let terms = Terms::new(&Parameters::new(&values, has)?, rule)?;
        let output = join(&terms.a_bar, &terms.drive)?.to_dtype(inputs.u.value().dtype())?;
        Ok(self.record(
            "s4d_discretize",
            &vars,
            output,
            || values,
            move |back| {
                let grads = discretize_backward(&back.grad, &back.saved, has, rule)?;
                let typed = grads.iter().zip(&back.saved).zip(back.needs);
                typed.map(|((grad, like), &needed)| needed.then(|| grad.to_dtype(like.dtype())).transpose()).collect()
            },
        ))
    }

    /// gain · C ⊙ h_0: the initial state in the coordinates of the recurrence.
    fn s4d_start(&self, state: &Var, c: &Var) -> Result<Var> {
        let gain = gain(c.value())?;
        let product = |a: &Tensor, b: &Tensor| Complex::from_components(a)?.mul(&Complex::from_components(b)?)?.scale(gain);
        let output = product(state.value(), c.value())?.to_components()?;
        let saved = || vec![state.value().clone(), c.value().clone()];
        Ok(self.record("s4d_start", &[state, c], output, saved, move |back| {
            let grad = Complex::from_components(&back.grad)?;
            let through = |other: &Tensor| grad.mul(&Complex::from_components(other)?.conj()?)?.scale(gain)?.to_components();
            let to_state = back.needs[0].then(|| through(&back.saved[1])).transpose()?;
            Ok(vec![to_state, back.needs[1].then(|| through(&back.saved[0])?.sum(0)).transpose()?])
        }))
    }
}

fn check_shapes(inputs: &S4dInputs<'_>) -> Result<()> {
    let (batch, _, channels) = inputs.u.value().dims3()?;
    let (_, states) = inputs.log_a_real.value().dims2()?;
    let components = if inputs.a_imag.is_some() { 2 } else { 1 };
    let (matrix, parameter) = (vec![channels, states], vec![channels, states, components]);
    let state = vec![batch, channels, states, components];
    let all = [
        ("log_A_real", Some(inputs.log_a_real), &matrix),
        ("A_imag", inputs.a_imag, &matrix),
        ("B", inputs.b, &parameter),
        ("C", Some(inputs.c), &parameter),
        ("log_dt", Some(inputs.log_dt), &vec![channels]),
        ("D", Some(inputs.d), &vec![channels]),
        ("initial state", inputs.initial_state, &state),
    ];
    for (name, var, expected) in all {
        if let Some(found) = var.map(Var::dims).filter(|dims| dims != expected) {
            candle_core::bail!("S4D: {name} has shape {found:?}, expected {expected:?}")
        }
    }
    Ok(())
}

/// 2 where each state stands for a conjugate pair.
fn gain(c: &Tensor) -> Result<f64> {
    Ok(c.dim(D::Minus1)? as f64)
}

/// Two complex tensors [channels, states] as one.
pub(crate) fn join(a: &Complex, b: &Complex) -> Result<Tensor> {
    let parts: Vec<&Tensor> = std::iter::once(&a.re).chain(&a.im).chain([&b.re]).chain(&b.im).collect();
    Tensor::stack(&parts, 0)
}

/// The inverse of [`join`].
pub(crate) fn split(joined: &Tensor) -> Result<(Complex, Complex)> {
    let parts: Vec<Tensor> = (0..joined.dim(0)?).map(|i| joined.get(i)).collect::<Result<_>>()?;
    Ok(match parts.as_slice() {
        [a, a_im, b, b_im] => (Complex { re: a.clone(), im: Some(a_im.clone()) }, Complex { re: b.clone(), im: Some(b_im.clone()) }),
        [a, b] => (Complex { re: a.clone(), im: None }, Complex { re: b.clone(), im: None }),
        _ => candle_core::bail!("diagonal scan: {} coefficients a state; expected 2 (real) or 4 (complex)", parts.len()),
    })
}

/// The parameters in f64.
struct Parameters {
    a: Complex,
    /// [channels, 1].
    dt: Tensor,
    b: Option<Complex>,
    c: Complex,
    gain: f64,
}

impl Parameters {
    /// From log_A_real, log_dt, C and, where present, A_imag and B.
    fn new(values: &[Tensor], (has_a_imag, has_b): (bool, bool)) -> Result<Self> {
        let exact = |i: usize| values[i].to_dtype(DType::F64);
        let a_imag = has_a_imag.then(|| exact(3)).transpose()?;
        let b = has_b.then(|| Complex::from_components(&exact(values.len() - 1)?)).transpose()?;
        Ok(Self {
            a: Complex { re: exact(0)?.exp()?.neg()?, im: a_imag },
            dt: exact(1)?.exp()?.unsqueeze(1)?,
            b,
            c: Complex::from_components(&exact(2)?)?,
            gain: gain(&values[2])?,
        })
    }

    /// gain · B C.
    fn through(&self) -> Result<Complex> {
        self.b.as_ref().map_or_else(|| Ok(self.c.clone()), |b| b.mul(&self.c))?.scale(self.gain)
    }
}

/// What discretisation yields, with p = ΔA and B̄ = Δ φ(p) B; [channels, states] each.
struct Terms {
    a_bar: Complex,
    /// dĀ/dp.
    a_bar_slope: Complex,
    phi: Complex,
    /// dφ/dp.
    phi_slope: Complex,
    /// gain · B̄ C.
    drive: Complex,
}

impl Terms {
    fn new(parameters: &Parameters, rule: Discretization) -> Result<Self> {
        let p = parameters.a.mul_real(&parameters.dt)?;
        let (a_bar, a_bar_slope, phi, phi_slope) = match rule {
            Discretization::ZeroOrderHold => {
                let (a_bar, inverse) = (p.exp()?, p.recip()?);
                let phi = a_bar.add_number(-1.0)?.mul(&inverse)?;
                let slope = a_bar.add(&phi.scale(-1.0)?)?.mul(&inverse)?;
                (a_bar.clone(), a_bar, phi, slope)
            }
            Discretization::Bilinear => {
                let inverse = p.scale(-0.5)?.add_number(1.0)?.recip()?;
                let square = inverse.mul(&inverse)?;
                (p.scale(0.5)?.add_number(1.0)?.mul(&inverse)?, square.clone(), inverse, square.scale(0.5)?)
            }
        };
        let drive = phi.mul(&parameters.through()?)?.mul_real(&parameters.dt)?;
        Ok(Self { a_bar, a_bar_slope, phi, phi_slope, drive })
    }
}

/// Gradients with respect to log_A_real, log_dt, C and, where present, A_imag and B, in f64. The gradient of a holomorphic f with respect
/// to its argument is the conjugate of f' times that of its value, with gradients written as (∂/∂Re) + i (∂/∂Im).
fn discretize_backward(grad: &Tensor, saved: &[Tensor], has: (bool, bool), rule: Discretization) -> Result<Vec<Tensor>> {
    let parameters = Parameters::new(saved, has)?;
    let terms = Terms::new(&parameters, rule)?;
    let (to_a_bar, to_drive) = split(&grad.to_dtype(DType::F64)?)?;
    let dt = &parameters.dt;
    // Through the drive Δ φ(p) · gain B C.
    let to_factor = to_drive.mul(&parameters.through()?.conj()?)?;
    let to_phi = to_factor.mul_real(dt)?;
    let to_p = to_a_bar.mul(&terms.a_bar_slope.conj()?)?.add(&to_phi.mul(&terms.phi_slope.conj()?)?)?;
    let to_a = to_p.mul_real(dt)?;
    let to_dt = (to_factor.mul(&terms.phi.conj()?)?.re + to_p.mul(&parameters.a.conj()?)?.re)?;
    let to_log_dt = to_dt.broadcast_mul(dt)?.sum(1)?;
    let factor = terms.phi.mul_real(&(dt * parameters.gain)?)?;
    let through = |other: Option<&Complex>| {
        let factor = other.map_or_else(|| Ok(factor.clone()), |other| factor.mul(other))?;
        to_drive.mul(&factor.conj()?)?.to_components()
    };
    // d Re A / d log_A_real = Re A.
    let mut grads = vec![(&to_a.re * &parameters.a.re)?, to_log_dt, through(parameters.b.as_ref())?];
    grads.extend(to_a.im);
    if parameters.b.is_some() {
        grads.push(through(Some(&parameters.c))?);
    }
    Ok(grads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel};

    /// S4D of the inputs u, log_A_real, C, log_dt, D, then A_imag, B and the initial state as far as wanted.
    fn s4d(t: &Tape, v: &[Var], complex: bool, b: bool, rule: Discretization) -> Result<Var> {
        // Steps of about 0.4: neither so short that nothing moves nor so long that nothing is left.
        let log_dt = t.add(&v[3], &Var::constant(Tensor::full(-1f64, 1, v[3].value().device())?.to_dtype(v[3].value().dtype())?))?;
        let a_imag = complex.then(|| t.scale(&v[5], 3.0)).transpose()?;
        let mut rest = v[5 + usize::from(complex)..].iter();
        let b = if b { rest.next() } else { None };
        t.s4d(S4dInputs {
            u: &v[0],
            log_a_real: &v[1],
            c: &v[2],
            log_dt: &log_dt,
            d: &v[4],
            a_imag: a_imag.as_ref(),
            b,
            initial_state: rest.next(),
            discretization: rule,
        })
    }

    /// Runs `check` on every combination of diagonal, B, initial state and rule.
    fn for_each_form([batch, length, channels, states]: [usize; 4], check: impl Fn(&[&[usize]], bool, bool, Discretization)) {
        for form in 0..16usize {
            let [complex, b, initial, bilinear] = [form & 1 != 0, form & 2 != 0, form & 4 != 0, form & 8 != 0];
            let components = 1 + usize::from(complex);
            let (parameter, state) = ([channels, states, components], [batch, channels, states, components]);
            let (sequence, matrix) = ([batch, length, channels], [channels, states]);
            let mut shapes: Vec<&[usize]> = vec![&sequence, &matrix, &parameter, &matrix[..1], &matrix[..1]];
            shapes.extend(complex.then_some(&matrix[..]));
            shapes.extend(b.then_some(&parameter[..]));
            shapes.extend(initial.then_some(&state[..]));
            check(&shapes, complex, b, if bilinear { Discretization::Bilinear } else { Discretization::ZeroOrderHold });
        }
    }

    #[test]
    fn agrees_with_finite_differences() {
        for_each_form([2, 4, 3, 2], |shapes, complex, b, rule| check_gradients(shapes, |t, v| s4d(t, v, complex, b, rule)).unwrap());
    }

    #[test]
    fn the_kernel_agrees_with_the_composition_at_odd_shapes() {
        for dims in [[1, 1, 1, 1], [2, 5, 17, 3], [3, 130, 16, 4], [18, 65, 33, 6]] {
            for_each_form(dims, |shapes, complex, b, rule| check_kernel(shapes, 2e-5, |t, v| s4d(t, v, complex, b, rule)).unwrap());
        }
    }

    /// Values of a complex S4D [2, 70, 20] with 5 states, in f32: u, log_A_real, C, log_dt, D, A_imag, initial state.
    fn params(trainable: &[usize]) -> Vec<crate::Param> {
        let shapes: [&[usize]; 7] = [&[2, 70, 20], &[20, 5], &[20, 5, 2], &[20], &[20], &[20, 5], &[2, 20, 5, 2]];
        let param = |(i, dims): (usize, &&[usize])| {
            let value = crate::testing::random(dims, i as u64, DType::F32);
            if trainable.contains(&i) { crate::Param::trainable("t", value) } else { crate::Param::frozen("f", value) }
        };
        shapes.iter().enumerate().map(param).collect()
    }

    fn run(params: &[crate::Param]) -> (crate::tape::SavedBytes, Vec<Option<Vec<f32>>>) {
        let tape = Tape::new();
        let v: Vec<Var> = params.iter().map(|p| tape.param(p)).collect();
        let y = s4d(&tape, &v, true, false, Discretization::ZeroOrderHold).unwrap();
        let bytes = tape.saved_bytes();
        let grads = tape.backward_from(&y, crate::testing::random(&[2, 70, 20], 50, DType::F32)).unwrap();
        let flat = |p| grads.get(p).map(|g| g.flatten_all().unwrap().to_vec1().unwrap());
        (bytes, params.iter().map(flat).collect())
    }

    #[test]
    fn a_gradient_does_not_depend_on_which_others_are_wanted() {
        let (_, all) = run(&params(&[0, 1, 2, 3, 4, 5, 6]));
        for alone in 0..7 {
            let (_, one) = run(&params(&[alone]));
            for i in 0..7 {
                assert_eq!(one[i].as_ref(), all[i].as_ref().filter(|_| i == alone), "input {i} where only {alone} trains");
            }
        }
    }

    #[test]
    fn a_frozen_state_space_keeps_no_sequence() {
        let scan = |trainable: &[usize]| run(&params(trainable)).0.get(&("model".to_owned(), "diagonal_scan")).copied().unwrap_or(0);
        // 4 · 20 · 5 coefficients; u and D are parameters here and keep nothing of their own.
        assert_eq!(scan(&[0]), 400 * 4);
        // And two kept states of 2 batch rows, 2 blocks of 16 channels, 6 padded states, real and imaginary.
        assert_eq!(scan(&[2]), (400 + 2 * 2 * 2 * 6 * 2 * 16) * 4);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&params(&[0, 1, 2, 3, 4, 5, 6])).1)
        };
        assert_eq!(on(1), on(2));
    }

    #[test]
    fn long_memory_keeps_its_precision() -> Result<()> {
        // The shortest step, the highest frequency and the least damping of a fresh S4D, over a whole image.
        let full = |value: f64, dims: &[usize], dtype| Tensor::full(value, dims, &crate::Device::Cpu)?.to_dtype(dtype);
        let output = |dtype| -> Result<Tensor> {
            let u = crate::testing::random(&[1, 1024, 3], 1, DType::F32).to_dtype(dtype)?;
            let dims = [3, 2];
            let log_dt = Tensor::new(&[1e-3f64.ln(), 1e-2f64.ln(), 0.1f64.ln()], &crate::Device::Cpu)?.to_dtype(dtype)?;
            let v = [u, full(0.5f64.ln(), &dims, dtype)?, full(1.0, &[3, 2, 2], dtype)?, (log_dt + 1.0)?, full(0.0, &[3], dtype)?];
            let mut v: Vec<Var> = v.into_iter().map(Var::constant).collect();
            v.push(Var::constant(full(15.0 * std::f64::consts::PI / 3.0, &dims, dtype)?));
            Ok(s4d(&Tape::inference(), &v, true, false, Discretization::ZeroOrderHold)?.value().clone())
        };
        let error = crate::testing::relative_error(&output(DType::F64)?, &output(DType::F32)?)?;
        assert!(error < 2e-5, "relative error {error}");
        Ok(())
    }
}
