//! Elementary operators, composed of candle's own: enough to write a new method in plain lines, on any device and type. Shapes
//! broadcast as in candle.

use crate::elementwise;
use crate::tape::{Tape, Var};
use candle_core::{D, Result, Tensor};

/// Sums `grad` over the dimensions that broadcasting `dims` had stretched, so that it has the shape `dims` again.
pub(crate) fn reduce_to(grad: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let mut grad = grad.clone();
    while grad.rank() > dims.len() {
        grad = grad.sum(0)?;
    }
    for (i, &dim) in dims.iter().enumerate() {
        if dim == 1 && grad.dim(i)? != 1 {
            grad = grad.sum_keepdim(i)?;
        }
    }
    Ok(grad)
}

impl Tape {
    /// a + b, with broadcasting.
    pub fn add(&self, a: &Var, b: &Var) -> Result<Var> {
        let same = a.dims() == b.dims();
        let output = if same { elementwise::add(a.value(), b.value())? } else { a.value().broadcast_add(b.value())? };
        let (a_dims, b_dims) = (a.dims().to_vec(), b.dims().to_vec());
        Ok(self.record("add", &[a, b], output, Vec::new, move |back| {
            let part = |i: usize, dims: &[usize]| back.needs[i].then(|| reduce_to(&back.grad, dims)).transpose();
            Ok(vec![part(0, &a_dims)?, part(1, &b_dims)?])
        }))
    }

    /// a - b, with broadcasting.
    pub fn sub(&self, a: &Var, b: &Var) -> Result<Var> {
        self.add(a, &self.scale(b, -1.0)?)
    }

    /// a · b elementwise, with broadcasting.
    pub fn mul(&self, a: &Var, b: &Var) -> Result<Var> {
        let output = a.value().broadcast_mul(b.value())?;
        let (a_dims, b_dims) = (a.dims().to_vec(), b.dims().to_vec());
        let saved = || vec![a.value().clone(), b.value().clone()];
        Ok(self.record("mul", &[a, b], output, saved, move |back| {
            let part = |i: usize, dims: &[usize]| {
                let product = || reduce_to(&back.grad.broadcast_mul(&back.saved[1 - i])?, dims);
                back.needs[i].then(product).transpose()
            };
            Ok(vec![part(0, &a_dims)?, part(1, &b_dims)?])
        }))
    }

    /// factor · a.
    pub fn scale(&self, a: &Var, factor: f64) -> Result<Var> {
        let output = elementwise::scale(a.value(), factor)?;
        Ok(self.record("scale", &[a], output, Vec::new, move |back| Ok(vec![Some(elementwise::scale(&back.grad, factor)?)])))
    }

    /// e^a.
    pub fn exp(&self, a: &Var) -> Result<Var> {
        let output = a.value().exp()?;
        let kept = output.clone();
        Ok(self.record("exp", &[a], output, || vec![kept], |back| Ok(vec![Some((back.grad * &back.saved[0])?)])))
    }

    /// tanh(a).
    pub fn tanh(&self, a: &Var) -> Result<Var> {
        let output = a.value().tanh()?;
        let kept = output.clone();
        Ok(self.record(
            "tanh",
            &[a],
            output,
            || vec![kept],
            |back| {
                let slope = (1.0 - back.saved[0].sqr()?)?;
                Ok(vec![Some((back.grad * slope)?)])
            },
        ))
    }

    /// 1 / (1 + e^−a).
    pub fn sigmoid(&self, a: &Var) -> Result<Var> {
        let output = (a.value().neg()?.exp()? + 1.0)?.recip()?;
        let kept = output.clone();
        Ok(self.record(
            "sigmoid",
            &[a],
            output,
            || vec![kept],
            |back| {
                let slope = (&back.saved[0] * (1.0 - &back.saved[0])?)?;
                Ok(vec![Some((back.grad * slope)?)])
            },
        ))
    }

    /// a · b as matrices: [.., m, k] · [.., k, n] with equal leading dimensions, or with a plain matrix on the right.
    pub fn matmul(&self, a: &Var, b: &Var) -> Result<Var> {
        let output = a.value().broadcast_matmul(b.value())?;
        let (a_dims, b_dims) = (a.dims().to_vec(), b.dims().to_vec());
        let saved = || vec![a.value().clone(), b.value().clone()];
        Ok(self.record("matmul", &[a, b], output, saved, move |back| {
            let (a, b) = (&back.saved[0], &back.saved[1]);
            let to_a = || reduce_to(&back.grad.broadcast_matmul(&b.transpose(D::Minus1, D::Minus2)?)?, &a_dims);
            let to_b = || reduce_to(&a.transpose(D::Minus1, D::Minus2)?.broadcast_matmul(&back.grad)?, &b_dims);
            Ok(vec![back.needs[0].then(to_a).transpose()?, back.needs[1].then(to_b).transpose()?])
        }))
    }

    /// The same elements in another shape.
    pub fn reshape(&self, a: &Var, dims: &[usize]) -> Result<Var> {
        let output = a.value().reshape(dims)?;
        let old = a.dims().to_vec();
        Ok(self.record("reshape", &[a], output, Vec::new, move |back| Ok(vec![Some(back.grad.reshape(old)?)])))
    }

    /// Swaps two dimensions.
    pub fn transpose(&self, a: &Var, first: usize, second: usize) -> Result<Var> {
        let output = a.value().transpose(first, second)?;
        Ok(self.record("transpose", &[a], output, Vec::new, move |back| Ok(vec![Some(back.grad.transpose(first, second)?)])))
    }

    /// Stretches dimensions of size 1, or adds leading ones, to `dims`.
    pub fn broadcast_to(&self, a: &Var, dims: &[usize]) -> Result<Var> {
        let output = a.value().broadcast_as(dims)?;
        let old = a.dims().to_vec();
        Ok(self.record("broadcast_to", &[a], output, Vec::new, move |back| Ok(vec![Some(reduce_to(&back.grad, &old)?)])))
    }

    /// Cuts dimension `dim` into consecutive views of the given sizes, which must add up to it.
    pub fn split(&self, a: &Var, dim: usize, sizes: &[usize]) -> Result<Vec<Var>> {
        if sizes.iter().sum::<usize>() != a.value().dim(dim)? {
            candle_core::bail!("split into {sizes:?} does not cover dimension {dim} of {:?}", a.dims())
        }
        let mut start = 0;
        let mut parts = Vec::with_capacity(sizes.len());
        for &len in sizes {
            parts.push(self.narrow(a, dim, start, len)?);
            start += len;
        }
        Ok(parts)
    }

    /// Joins along dimension `dim`.
    pub fn cat(&self, parts: &[&Var], dim: usize) -> Result<Var> {
        let values: Vec<&Tensor> = parts.iter().map(|part| part.value()).collect();
        let output = Tensor::cat(&values, dim)?;
        let sizes = values.iter().map(|value| value.dim(dim)).collect::<Result<Vec<_>>>()?;
        Ok(self.record("cat", parts, output, Vec::new, move |back| {
            let mut start = 0;
            let mut grads = Vec::with_capacity(sizes.len());
            for (&size, &needed) in sizes.iter().zip(back.needs) {
                grads.push(needed.then(|| back.grad.narrow(dim, start, size)).transpose()?);
                start += size;
            }
            Ok(grads)
        }))
    }

    /// Mean over dimension `dim`, which goes away.
    pub fn mean(&self, a: &Var, dim: usize) -> Result<Var> {
        let (output, dims) = (a.value().mean(dim)?, a.dims().to_vec());
        let scale = 1.0 / dims[dim] as f64;
        Ok(self.record("mean", &[a], output, Vec::new, move |back| {
            Ok(vec![Some((back.grad.unsqueeze(dim)? * scale)?.broadcast_as(dims)?.contiguous()?)])
        }))
    }

    /// Sum of all elements, as a scalar.
    pub fn sum_all(&self, a: &Var) -> Result<Var> {
        let output = a.value().sum_all()?;
        let dims = a.dims().to_vec();
        Ok(self.record("sum_all", &[a], output, Vec::new, move |back| Ok(vec![Some(back.grad.broadcast_as(dims)?.contiguous()?)])))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;
    use candle_core::Result;

    #[test]
    fn elementary_operators_agree_with_finite_differences() -> Result<()> {
        check_gradients(&[&[2, 3], &[3]], |t, v| t.add(&v[0], &v[1]))?;
        check_gradients(&[&[2, 3], &[2, 1]], |t, v| t.sub(&v[0], &v[1]))?;
        check_gradients(&[&[2, 3], &[1, 3]], |t, v| t.mul(&v[0], &v[1]))?;
        check_gradients(&[&[2, 3]], |t, v| t.exp(&v[0]))?;
        check_gradients(&[&[2, 3]], |t, v| t.tanh(&v[0]))?;
        check_gradients(&[&[2, 3]], |t, v| t.sigmoid(&v[0]))?;
        check_gradients(&[&[2, 3, 4]], |t, v| t.mean(&v[0], 1))?;
        check_gradients(&[&[2, 3, 4], &[4, 5]], |t, v| t.matmul(&v[0], &v[1]))?;
        check_gradients(&[&[2, 3, 4], &[2, 4, 2]], |t, v| t.matmul(&v[0], &v[1]))?;
        check_gradients(&[&[2, 6]], |t, v| t.transpose(&t.reshape(&v[0], &[3, 4])?, 0, 1))?;
        check_gradients(&[&[1, 3]], |t, v| t.broadcast_to(&v[0], &[4, 2, 3]))?;
        check_gradients(&[&[2, 5]], |t, v| {
            let parts = t.split(&v[0], 1, &[2, 3])?;
            t.cat(&[&parts[1], &parts[0], &parts[1]], 1)
        })?;
        check_gradients(&[&[2, 5]], |t, v| t.sum_all(&t.mul(&v[0], &v[0])?))
    }
}
