//! Helpers of this crate's tests: random tensors, finite differences, and the comparison of a kernel with its composition.

use crate::{Param, Tape, Var};
use candle_core::{DType, Device, Result, Tensor};
use rand_distr::{Distribution, StandardNormal};

/// A repeatable tensor of standard normal values.
pub(crate) fn random(dims: &[usize], seed: u64, dtype: DType) -> Tensor {
    use rand_chacha::rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..dims.iter().product()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn inputs(shapes: &[&[usize]], dtype: DType) -> Vec<Param> {
    shapes
        .iter()
        .enumerate()
        .map(|(i, dims)| Param::trainable(format!("input {i}"), (random(dims, 7 + i as u64, dtype) * 0.7).unwrap()))
        .collect()
}

/// The gradients of Σ output · weights, for weights that make every output element count differently.
fn gradients(params: &[Param], f: impl Fn(&Tape, &[Var]) -> Result<Var>) -> Result<(Tensor, Vec<Tensor>)> {
    let tape = Tape::new();
    let vars: Vec<Var> = params.iter().map(|p| tape.param(p)).collect();
    let output = f(&tape, &vars)?;
    let weights = random(output.dims(), 99, output.value().dtype());
    let value = output.value().clone();
    let grads = tape.backward_from(&output, weights)?;
    let of = |p: &Param| grads.get(p).cloned().ok_or_else(|| candle_core::Error::Msg(format!("no gradient for {}", p.name())));
    Ok((value, params.iter().map(of).collect::<Result<_>>()?))
}

/// Compares every input's gradient with central differences, in f64.
pub(crate) fn check_gradients(shapes: &[&[usize]], f: impl Fn(&Tape, &[Var]) -> Result<Var>) -> Result<()> {
    let params = inputs(shapes, DType::F64);
    let (_, grads) = gradients(&params, &f)?;
    let objective = |params: &[Param]| -> Result<f64> {
        let tape = Tape::inference();
        let vars: Vec<Var> = params.iter().map(|p| tape.param(p)).collect();
        let output = f(&tape, &vars)?;
        (output.value() * random(output.dims(), 99, DType::F64))?.sum_all()?.to_scalar::<f64>()
    };
    for (param, grad) in params.iter().zip(&grads) {
        let original = param.value();
        let flat = original.flatten_all()?.to_vec1::<f64>()?;
        let grad = grad.flatten_all()?.to_vec1::<f64>()?;
        for i in 0..flat.len() {
            let moved = |delta: f64| -> Result<f64> {
                let mut values = flat.clone();
                values[i] += delta;
                param.set(Tensor::from_vec(values, original.shape(), &Device::Cpu)?)?;
                objective(&params)
            };
            let numeric = (moved(1e-5)? - moved(-1e-5)?) / 2e-5;
            let error = (numeric - grad[i]).abs() / (1.0 + numeric.abs());
            assert!(error < 1e-6, "{}[{i}]: tape {} but finite differences {numeric}", param.name(), grad[i]);
        }
        param.set(original)?;
    }
    Ok(())
}

/// Compares the f32 kernel with the f64 composition, which [`check_gradients`] holds against finite differences: output and gradients.
pub(crate) fn check_kernel(shapes: &[&[usize]], tolerance: f64, f: impl Fn(&Tape, &[Var]) -> Result<Var>) -> Result<()> {
    let (exact, exact_grads) = gradients(&inputs(shapes, DType::F64), &f)?;
    let (fast, fast_grads) = gradients(&inputs(shapes, DType::F32), &f)?;
    let pairs = std::iter::once((&exact, &fast)).chain(exact_grads.iter().zip(&fast_grads));
    for (i, (exact, fast)) in pairs.enumerate() {
        let error = relative_error(exact, fast)?;
        assert!(error < tolerance, "tensor {i} (0 is the output, then the inputs' gradients) of {shapes:?}: relative error {error}");
    }
    Ok(())
}

/// ‖a − b‖ / ‖a‖.
pub(crate) fn relative_error(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b.to_dtype(DType::F64)?)?;
    let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f64>();
    Ok((norm(&difference)? / norm(a)?.max(1e-20)).sqrt())
}
