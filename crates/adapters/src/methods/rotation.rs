//! Rotations from skew-symmetric generators, applied block by block, for OFT and BOFT.

use super::initializer::Initializer;
use crate::error::Result;
use peftbench_models::Pass;
use peftbench_ops::{DType, Tape, Tensor, Var};
use rand::seq::index;

/// Skew-symmetric blocks from the elements above their diagonals: [blocks, b (b − 1) / 2] → [blocks, b, b].
pub(crate) struct Skew {
    side: usize,
    /// Where each element of a block is found in [0, the elements].
    index: Tensor,
    /// +1 above the diagonal, −1 below.
    sign: Tensor,
}

impl Skew {
    /// Blocks of `side` rows.
    pub fn new(side: usize, init: &Initializer<'_>) -> Result<Self> {
        let (mut index, mut sign) = (vec![0u32; side * side], vec![0f32; side * side]);
        let pairs = (0..side).flat_map(|i| (i + 1..side).map(move |j| (i, j)));
        for (k, (i, j)) in pairs.enumerate() {
            (index[i * side + j], sign[i * side + j]) = (k as u32 + 1, 1.0);
            (index[j * side + i], sign[j * side + i]) = (k as u32 + 1, -1.0);
        }
        let sign = init.values(sign, (1, side, side))?;
        Ok(Self { side, index: Tensor::from_vec(index, side * side, sign.device())?, sign })
    }

    /// The blocks.
    pub fn blocks(&self, tape: &Tape, elements: &Var) -> peftbench_ops::Result<Var> {
        let (side, index, sign) = (self.side, self.index.clone(), self.sign.clone());
        tape.candle_fn("skew", &[elements], move |v| {
            let blocks = v[0].dim(0)?;
            let zero = Tensor::zeros((blocks, 1), v[0].dtype(), v[0].device())?;
            Tensor::cat(&[&zero, &v[0]], 1)?.contiguous()?.index_select(&index, 1)?.reshape((blocks, side, side))?.broadcast_mul(&sign)
        })
    }
}

fn identity(like: &Var) -> peftbench_ops::Result<Var> {
    let (blocks, side, _) = like.value().dims3()?;
    Ok(Var::constant(Tensor::eye(side, DType::F32, like.value().device())?.broadcast_as((blocks, side, side))?.contiguous()?))
}

/// The Cayley transform (I − Q)(I + Q)⁻¹ of skew-symmetric blocks Q [blocks, b, b], exactly: 2 (I + Q)⁻¹ − I. Keeps the inverse.
pub(crate) fn cayley(tape: &Tape, skew: &Var) -> peftbench_ops::Result<Var> {
    let identity = identity(skew)?;
    let inverse = tape.inverse(&tape.add(&identity, skew)?)?;
    tape.sub(&tape.scale(&inverse, 2.0)?, &identity)
}

/// The Cayley transform of −Q in `terms` terms of Neumann's series, I + 2 Q + 2 Q² + … + Qⁿ, as Hugging Face's `use_cayley_neumann`
/// has it: its generator has the other sign and its last power the factor 1.
pub(crate) fn cayley_neumann(tape: &Tape, skew: &Var, terms: usize) -> peftbench_ops::Result<Var> {
    let mut sum = identity(skew)?;
    if terms < 2 {
        // Without a generator there is nothing to train; the options require more terms.
        return Ok(sum);
    }
    sum = tape.add(&sum, &tape.scale(skew, 2.0)?)?;
    if terms == 2 {
        return Ok(sum);
    }
    let mut power = tape.matmul(skew, skew)?;
    sum = tape.add(&sum, &tape.scale(&power, 2.0)?)?;
    for _ in 3..terms - 1 {
        power = tape.matmul(&power, skew)?;
        sum = tape.add(&sum, &tape.scale(&power, 2.0)?)?;
    }
    power = tape.matmul(&power, skew)?;
    tape.add(&sum, &power)
}

/// In training, sets a share of the blocks to the identity: the multiplicative dropout of OFT and BOFT. ⌊rate · blocks⌋ of them.
pub(crate) fn drop_blocks(pass: &Pass<'_>, blocks: &Var, rate: f64) -> peftbench_ops::Result<Var> {
    let Some(stream) = pass.dropout else { return Ok(blocks.clone()) };
    let count = blocks.dims()[0];
    let dropped = (rate * count as f64) as usize;
    if dropped == 0 || count == 1 {
        return Ok(blocks.clone());
    }
    let mut kept = vec![1f32; count];
    index::sample(&mut *stream.borrow_mut(), count, dropped).into_iter().for_each(|i| kept[i] = 0.0);
    let kept = Tensor::from_vec(kept, (count, 1, 1), blocks.value().device())?;
    let rest = identity(blocks)?.value().broadcast_mul(&(1.0 - &kept)?)?;
    pass.tape.add(&pass.tape.mul(blocks, &Var::constant(kept))?, &Var::constant(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(scale: f64) -> (Tape, Var) {
        let tape = Tape::inference();
        let values: Vec<f32> = (0..12).map(|i| (scale * ((i * 7 % 11) as f64 - 5.0)) as f32).collect();
        let mut stream = peftbench_spec::seed::stream(0, "rotation");
        let init = Initializer::on_cpu(&mut stream);
        let elements = Var::constant(init.values(values, (2, 6)).unwrap());
        let skew = Skew::new(4, &init).unwrap().blocks(&tape, &elements).unwrap();
        (tape, skew)
    }

    fn largest(t: &Tensor) -> f32 {
        t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn generators_are_skew_and_their_cayley_transform_is_orthogonal() {
        let (tape, skew) = blocks(0.1);
        assert_eq!(largest(&(skew.value() + skew.value().transpose(1, 2).unwrap()).unwrap()), 0.0);
        let r = cayley(&tape, &skew).unwrap();
        let product = r.value().matmul(&r.value().transpose(1, 2).unwrap().contiguous().unwrap()).unwrap();
        assert!(largest(&(product - identity(&r).unwrap().value()).unwrap()) < 1e-6);
    }

    #[test]
    fn neumann_s_series_approaches_the_transform_of_the_negative_generator() {
        let (tape, skew) = blocks(0.01);
        let exact = cayley(&tape, &tape.scale(&skew, -1.0).unwrap()).unwrap();
        let error = |terms| largest(&(cayley_neumann(&tape, &skew, terms).unwrap().value() - exact.value()).unwrap());
        assert!(error(8) < 1e-6 && error(5) < 1e-4 && error(2) > error(5), "{} {} {}", error(2), error(5), error(8));
    }
}
