//! `numpy.random.default_rng(seed).permutation(len)`: PCG64 (O'Neill's XSL-RR 128/64), seeded through `SeedSequence`, and Fisher and
//! Yates' shuffle, whose bounds are kept by rejection of masked halves of its outputs.

/// PCG64's multiplier.
const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// The numbers below `len` in the order in which NumPy permutes them.
pub(super) fn permutation(seed: u32, len: usize) -> Vec<usize> {
    let mut generator = Pcg64::new(seed);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, generator.up_to(last as u32) as usize);
    }
    order
}

struct Pcg64 {
    state: u128,
    increment: u128,
    /// The upper half of an output of which the lower one is used.
    half: Option<u32>,
}

impl Pcg64 {
    fn new(seed: u32) -> Self {
        let words = seed_sequence(seed);
        let wide = |high: usize| (u128::from(words[high]) << 64) | u128::from(words[high + 1]);
        let mut generator = Self { state: 0, increment: (wide(2) << 1) | 1, half: None };
        generator.step();
        generator.state = generator.state.wrapping_add(wide(0));
        generator.step();
        generator
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        self.step();
        let folded = ((self.state >> 64) as u64) ^ (self.state as u64);
        let output = folded.rotate_right((self.state >> 122) as u32);
        self.half = Some((output >> 32) as u32);
        output as u32
    }

    /// A number from 0 to `most`, which is not 0.
    fn up_to(&mut self, most: u32) -> u32 {
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let draw = self.next_u32() & mask;
            if draw <= most {
                return draw;
            }
        }
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`: the seed is stirred into a pool of four words, and the pool into eight.
fn seed_sequence(seed: u32) -> [u64; 4] {
    let mut constant: u32 = 0x43b0_d7e5;
    let mut stir = |word: u32| {
        let word = word ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let word = word.wrapping_mul(constant);
        word ^ (word >> 16)
    };
    let mut pool = [seed, 0, 0, 0].map(&mut stir);
    for from in 0..4 {
        for to in (0..4).filter(|&to| to != from) {
            let mixed = pool[to].wrapping_mul(0xca01_f9dd).wrapping_sub(stir(pool[from]).wrapping_mul(0x4973_f715));
            pool[to] = mixed ^ (mixed >> 16);
        }
    }
    let mut constant: u32 = 0x8b51_f9dd;
    let mut word = |index: usize| {
        let word = pool[index % 4] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let word = word.wrapping_mul(constant);
        u64::from(word ^ (word >> 16))
    };
    [0, 2, 4, 6].map(|first| word(first) | (word(first + 1) << 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_numpys() {
        // numpy 2.4.6: `default_rng(seed).permutation(8)`.
        assert_eq!(permutation(123, 8), [0, 6, 4, 2, 7, 3, 1, 5]);
        assert_eq!(permutation(0, 1), [0]);
        assert!(permutation(0, 0).is_empty());
    }
}
