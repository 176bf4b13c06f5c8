//! Operators written as plain candle code, differentiated by candle's own autograd.
//!
//! For small, exotic mathematics: a rotation from its generator, a spectrum's inverse Fourier transform, an adapter's weight. The
//! closure runs twice, on constants in the forward pass and under candle's autograd in the backward pass, so that nothing but its
//! inputs is kept between the two.

use crate::linear::column_sums;
use crate::products::{Operand, Product, sum_of_products};
use crate::tape::{InputGradients, Tape, Var};
use candle_core::{Result, Tensor};
use std::rc::Rc;

/// A weight computed from the one that a linear layer has, [out, in], and some parameters.
pub struct DerivedWeight {
    /// The parameters.
    pub params: Vec<Var>,
    /// From the layer's weight and the parameters' values to the weight to use, in the same shape. candle operators with a gradient only.
    pub function: Rc<WeightFunction>,
}

/// From a weight and the values of some parameters to another weight.
pub type WeightFunction = dyn Fn(&Tensor, &[Tensor]) -> Result<Tensor>;

impl Tape {
    /// f(inputs), where f is a composition of candle operators. It keeps the inputs.
    ///
    /// # Errors
    /// In the backward pass, where f cuts the graph at an operator that candle cannot differentiate.
    pub fn candle_fn<F>(&self, name: &'static str, inputs: &[&Var], f: F) -> Result<Var>
    where
        F: Fn(&[Tensor]) -> Result<Tensor> + 'static,
    {
        let values: Vec<Tensor> = inputs.iter().map(|input| input.value().clone()).collect();
        let output = f(&values)?;
        Ok(self.record(
            name,
            inputs,
            output,
            || values,
            move |back| {
                let leaves = leaves(&back.saved, back.needs)?;
                let output = f(&leaves)?;
                pull_back(name, &output, &back.grad, &leaves, back.needs)
            },
        ))
    }

    /// What `derived` make of a weight [out, in], one after the other, as a tensor that is kept.
    pub fn derived_weight(&self, weight: &Var, derived: &[DerivedWeight]) -> Result<Var> {
        let (mut inputs, derive) = (vec![weight], chain(derived));
        inputs.extend(derived.iter().flat_map(|d| &d.params));
        self.candle_fn("derived_weight", &inputs, move |v| derive(&v[0], &v[1..]))
    }

    /// x W'ᵀ + bias, where W' is what `derived` make of the weight [out, in], one after the other: x [.., in] → [.., out]. W' is not
    /// kept but computed again in the backward pass; x and the parameters are.
    pub fn derived_linear(&self, x: &Var, weight: &Var, bias: Option<&Var>, derived: &[DerivedWeight]) -> Result<Var> {
        let mut inputs = vec![x, weight];
        inputs.extend(bias);
        let first = inputs.len();
        inputs.extend(derived.iter().flat_map(|d| &d.params));
        let derive = chain(derived);
        let params: Vec<Tensor> = inputs[first..].iter().map(|p| p.value().clone()).collect();
        let value = derive(weight.value(), &params)?;
        let product = Product::new(Operand::rows(x.value()), Operand::columns(&value), 1.0)?;
        let mut dims = x.dims().to_vec();
        dims.pop();
        dims.push(value.dims()[0]);
        let output = sum_of_products(&product, &[], bias.map(Var::value))?.reshape(dims)?;
        let saved = || [&[x.value().clone(), weight.value().clone()][..], &params].concat();
        Ok(self.record("derived_linear", &inputs, output, saved, move |back| {
            let x = &back.saved[0];
            let needs: Vec<bool> = std::iter::once(back.needs[1]).chain(back.needs[first..].iter().copied()).collect();
            let leaves = leaves(&back.saved[1..], &needs)?;
            let weight = derive(&leaves[0], &leaves[1..])?;
            let product = |left, right| sum_of_products(&Product::new(left, right, 1.0)?, &[], None);
            let constant = weight.detach();
            let to_x = || product(Operand::rows(&back.grad), Operand::rows(&constant))?.reshape(x.dims());
            let mut grads = vec![back.needs[0].then(to_x).transpose()?];
            let to_weight = product(Operand::columns(&back.grad), Operand::rows(x))?;
            let mut pulled = pull_back("derived_linear", &weight, &to_weight, &leaves, &needs)?.into_iter();
            grads.extend(pulled.next());
            if first == 3 {
                grads.push(back.needs[2].then(|| column_sums(&back.grad)).transpose()?);
            }
            grads.extend(pulled);
            Ok(grads)
        }))
    }
}

/// What the functions make of a weight one after the other, from the parameters of all.
fn chain(derived: &[DerivedWeight]) -> impl Fn(&Tensor, &[Tensor]) -> Result<Tensor> + 'static {
    let functions: Vec<_> = derived.iter().map(|d| (d.function.clone(), d.params.len())).collect();
    move |weight, params| {
        let mut start = 0;
        functions.iter().try_fold(weight.clone(), |weight, (function, count)| {
            start += count;
            function(&weight, &params[start - count..start])
        })
    }
}

/// The values, those that need a gradient as candle's variables.
fn leaves(values: &[Tensor], needs: &[bool]) -> Result<Vec<Tensor>> {
    let leaf = |(value, &needed): (&Tensor, &bool)| match needed {
        true => Ok(candle_core::Var::from_tensor(value)?.into_inner()),
        false => Ok(value.clone()),
    };
    values.iter().zip(needs).map(leaf).collect()
}

/// The gradients of Σ output · grad with respect to the leaves that need one.
fn pull_back(name: &str, output: &Tensor, grad: &Tensor, leaves: &[Tensor], needs: &[bool]) -> Result<InputGradients> {
    if !needs.contains(&true) {
        return Ok(vec![None; leaves.len()]);
    }
    let store = (output * grad)?.sum_all()?.backward()?;
    let of = |(leaf, &needed): (&Tensor, &bool)| match (needed, store.get(leaf)) {
        (false, _) => Ok(None),
        (true, Some(grad)) => Ok(Some(grad.clone())),
        (true, None) => candle_core::bail!("the closure of `{name}` cuts the graph: an input that needs a gradient gets none"),
    };
    leaves.iter().zip(needs).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Param;
    use crate::testing::{check_gradients, random};
    use candle_core::DType;

    #[test]
    fn a_closure_is_differentiated_and_keeps_only_its_inputs() -> Result<()> {
        let f = |v: &[Tensor]| v[0].matmul(&v[1])?.tanh()?.broadcast_mul(&v[2]);
        check_gradients(&[&[3, 4], &[4, 2], &[1, 2]], |t, v| t.candle_fn("test", &[&v[0], &v[1], &v[2]], f))?;
        let tape = Tape::new();
        let param = Param::trainable("p", random(&[4, 2], 1, DType::F32));
        let (x, s) = (Var::constant(random(&[3, 4], 2, DType::F32)), Var::constant(random(&[1, 2], 3, DType::F32)));
        let y = tape.candle_fn("test", &[&x, &tape.param(&param), &s], f)?;
        assert_eq!(tape.saved_bytes().values().sum::<u64>(), (12 + 2) * 4);
        assert_eq!(tape.backward_from(&y, random(&[3, 2], 4, DType::F32))?.len(), 1);
        Ok(())
    }

    #[test]
    fn a_closure_that_cuts_the_graph_is_an_error() -> Result<()> {
        let tape = Tape::new();
        let param = Param::trainable("p", random(&[4], 1, DType::F32));
        let y = tape.candle_fn("round", &[&tape.param(&param)], |v| v[0].detach() + 1.0)?;
        let message = tape.backward_from(&y, random(&[4], 2, DType::F32)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("`round` cuts the graph"), "{message}");
        Ok(())
    }

    fn derived(t: &Tape, v: &[Var]) -> Result<Var> {
        let add = DerivedWeight { params: vec![v[3].clone()], function: Rc::new(|w, p| w.broadcast_add(&p[0])) };
        let scale = DerivedWeight { params: vec![v[4].clone()], function: Rc::new(|w, p| w.broadcast_mul(&p[0].exp()?)) };
        t.derived_linear(&v[0], &v[1], Some(&v[2]), &[add, scale])
    }

    #[test]
    fn derived_weights_chain_and_are_not_kept() -> Result<()> {
        check_gradients(&[&[2, 3, 4], &[5, 4], &[5], &[5, 1], &[1, 4]], derived)?;
        check_gradients(&[&[5, 4], &[5, 1]], |t, v| {
            let add = DerivedWeight { params: vec![v[1].clone()], function: Rc::new(|w, p| w.broadcast_add(&p[0])?.sqr()) };
            t.derived_weight(&v[0], &[add])
        })?;
        let tape = Tape::new();
        let vars: Vec<Var> = [[6, 4], [5, 4], [1, 5], [5, 1], [1, 4]].iter().map(|d| Var::constant(random(d, 1, DType::F32))).collect();
        let scale = tape.param(&Param::trainable("s", vars[4].value().clone()));
        let frozen = tape.param(&Param::frozen("w", vars[1].value().clone()));
        let bias = Var::constant(vars[2].value().squeeze(0)?);
        derived(&tape, &[vars[0].clone(), frozen, bias, vars[3].clone(), scale])?;
        assert_eq!(tape.saved_bytes().values().sum::<u64>(), (24 + 5) * 4);
        Ok(())
    }
}
