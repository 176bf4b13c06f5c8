//! Dropout whose mask is a function of a seed and a position, so that it is never stored.

use crate::tape::{Tape, Var};
use candle_core::{Device, Result, Tensor};

impl Tape {
    /// x with each element set to 0 with probability `p` and the others divided by 1 − p. Equal seeds give equal masks; nothing is
    /// kept for the backward pass.
    pub fn dropout(&self, x: &Var, p: f64, seed: u64) -> Result<Var> {
        let apply = move |x: &Tensor| -> Result<Tensor> { x * mask(x.dims(), p, seed, x.device())?.to_dtype(x.dtype())? };
        let output = apply(x.value())?;
        Ok(self.record("dropout", &[x], output, Vec::new, move |back| Ok(vec![Some(apply(&back.grad)?)])))
    }
}

/// 0 or 1 / (1 − p) for each position.
fn mask(dims: &[usize], p: f64, seed: u64, device: &Device) -> Result<Tensor> {
    let threshold = (p * 2f64.powi(32)) as u64;
    let kept = (1.0 / (1.0 - p)) as f32;
    let values: Vec<f32> =
        (0..dims.iter().product::<usize>() as u64).map(|i| if mix(seed, i) >> 32 < threshold { 0.0 } else { kept }).collect();
    Tensor::from_vec(values, dims, device)
}

/// SplitMix64 (Steele, Lea and Flood, 2014) of the position, keyed by the seed.
fn mix(seed: u64, position: u64) -> u64 {
    let mut z = seed.wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_gradients;

    #[test]
    fn the_mask_is_repeatable_unbiased_and_used_again_backwards() -> Result<()> {
        let draw = |seed| mask(&[100, 100], 0.3, seed, &Device::Cpu)?.to_vec2::<f32>();
        assert_eq!(draw(1)?, draw(1)?);
        assert_ne!(draw(1)?, draw(2)?);
        let zeros = draw(1)?.concat().iter().filter(|v| **v == 0.0).count();
        assert!((2800..3200).contains(&zeros), "{zeros} of 10000 dropped at p = 0.3");
        check_gradients(&[&[4, 5]], |t, v| t.dropout(&v[0], 0.4, 5))
    }
}
