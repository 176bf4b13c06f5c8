//! Vectorised elementary functions on groups of [`LANES`] floats, in plain arrays that LLVM turns into vector registers inside
//! [`dispatch`].

/// Floats handled together: one AVX-512 register, two AVX2 registers.
pub(crate) const LANES: usize = 16;

/// A group of floats.
pub(crate) type Lanes = [f32; LANES];

pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// Runs `body` compiled for the best instruction set of this processor (AVX-512, AVX2 with FMA, or the baseline). Everything inside
/// must be inlined for that, so helpers are `#[inline(always)]`.
#[inline(always)]
pub(crate) fn dispatch<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// Fills a group from a function of the lane.
#[inline(always)]
pub(crate) fn lanes(f: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for (i, value) in out.iter_mut().enumerate() {
        *value = f(i);
    }
    out
}

/// The first `LANES` values of `source`, or fewer, padded with zeros.
#[inline(always)]
pub(crate) fn load(source: &[f32]) -> Lanes {
    let mut out = [0.0; LANES];
    if source.len() >= LANES {
        out.copy_from_slice(&source[..LANES]);
    } else {
        out[..source.len()].copy_from_slice(source);
    }
    out
}

/// Writes a group, or as much of it as fits.
#[inline(always)]
pub(crate) fn store(target: &mut [f32], values: &Lanes) {
    let n = target.len().min(LANES);
    if n == LANES {
        target[..LANES].copy_from_slice(values);
    } else {
        target[..n].copy_from_slice(&values[..n]);
    }
}

/// The sum of a group, by halves.
#[inline(always)]
pub(crate) fn total(group: &Lanes) -> f32 {
    folded(group, |a, b| a + b)
}

/// What `join` makes of a group, by halves: the first half with the second, and so on.
#[inline(always)]
pub(crate) fn folded(group: &Lanes, join: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| join(group[i], group[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| join(eight[i], eight[i + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

/// 2^x to a relative error of 2e-7, for x clamped to ±126: rounding to an exponent and a minimax polynomial of degree 5 on the rest.
#[inline(always)]
pub(crate) fn exp2(x: &Lanes) -> Lanes {
    lanes(|i| exp2_one(x[i]))
}

#[inline(always)]
fn exp2_one(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-126.0, 126.0);
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let mut p = 0.001_327_645_2f32;
    p = p.mul_add(rest, 0.009_675_541);
    p = p.mul_add(rest, 0.055_507_135);
    p = p.mul_add(rest, 0.240_221_2);
    p = p.mul_add(rest, 0.693_146_94);
    p = p.mul_add(rest, 1.000_000_1);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// e^x.
#[inline(always)]
pub(crate) fn exp_one(x: f32) -> f32 {
    exp2_one(x * LOG2_E)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid_one(x: f32) -> f32 {
    1.0 / (1.0 + exp_one(-x))
}

/// ln(1 + e^x) without overflow: max(x, 0) + ln(1 + t) with t = e^-|x|, and ln(1 + t) = 2 artanh(t / (2 + t)) by its series, whose
/// argument is at most 1/3.
#[inline(always)]
pub(crate) fn softplus_one(x: f32) -> f32 {
    let t = exp_one(-x.abs());
    let s = t / (2.0 + t);
    let q = s * s;
    let mut p = 1.0 / 15.0;
    for divisor in [13.0f32, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = q.mul_add(p, 1.0 / divisor);
    }
    x.max(0.0) + 2.0 * s * p
}

/// erf(x) to a relative error of 5e-7, as Eigen and XLA compute it: a rational function of x², for |x| ≤ 4.
#[inline(always)]
pub(crate) fn erf_one(x: f32) -> f32 {
    const NUMERATOR: [f32; 7] =
        [-2.726_142_3e-10, 2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2];
    const DENOMINATOR: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let (mut p, mut q) = (NUMERATOR[0], DENOMINATOR[0]);
    for coefficient in &NUMERATOR[1..] {
        p = p.mul_add(square, *coefficient);
    }
    for coefficient in &DENOMINATOR[1..] {
        q = q.mul_add(square, *coefficient);
    }
    x * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_the_standard_library() {
        let mut x = -30.0f32;
        while x < 30.0 {
            let (e, s) = (f64::from(x).exp(), f64::from(x).exp().ln_1p());
            assert!((f64::from(exp_one(x)) - e).abs() <= 4e-6 * e, "exp({x})");
            assert!((f64::from(softplus_one(x)) - s).abs() <= 4e-6 * s, "softplus({x}) {s}");
            assert!((f64::from(sigmoid_one(x)) - e / (1.0 + e)).abs() < 1e-6, "sigmoid({x})");
            assert!((f64::from(erf_one(x)) - candle_core::cpu::erf::erf_f64(f64::from(x))).abs() < 6e-7, "erf({x})");
            x += 0.0137;
        }
    }
}
