//! `random.Random(seed).shuffle(list(range(len)))` of Python: the Mersenne Twister (MT19937), and Fisher and Yates' shuffle with bounds by
//! rejection of the upper bits.

const SIZE: usize = 624;

/// The numbers below `len` in the order in which Python shuffles them.
pub(super) fn shuffled(seed: u32, len: usize) -> Vec<usize> {
    let mut twister = Twister::new(seed);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, twister.below(last as u32 + 1) as usize);
    }
    order
}

struct Twister {
    state: [u32; SIZE],
    next: usize,
}

impl Twister {
    /// `init_by_array` with the seed as its only word.
    fn new(seed: u32) -> Self {
        let mut state = [19_650_218u32; SIZE];
        let spread = |word: u32| word ^ (word >> 30);
        for at in 1..SIZE {
            state[at] = spread(state[at - 1]).wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        let mut at = 1;
        let mut advance = |state: &mut [u32; SIZE], value: &dyn Fn(u32, u32, usize) -> u32| {
            state[at] = value(state[at], spread(state[at - 1]), at);
            at += 1;
            if at == SIZE {
                state[0] = state[SIZE - 1];
                at = 1;
            }
        };
        for _ in 0..SIZE {
            advance(&mut state, &|word, before, _| (word ^ before.wrapping_mul(1_664_525)).wrapping_add(seed));
        }
        for _ in 1..SIZE {
            advance(&mut state, &|word, before, at| (word ^ before.wrapping_mul(1_566_083_941)).wrapping_sub(at as u32));
        }
        state[0] = 0x8000_0000;
        Self { state, next: SIZE }
    }

    fn refill(&mut self) {
        for at in 0..SIZE {
            let joined = (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % SIZE] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + 397) % SIZE] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == SIZE {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u32) -> u32 {
        let unused = bound.leading_zeros();
        loop {
            let draw = self.next_u32() >> unused;
            if draw < bound {
                return draw;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_pythons() {
        let mut twister = Twister::new(123);
        // Python 3.11: `random.Random(123).getrandbits(32)`, three times.
        assert_eq!([twister.next_u32(), twister.next_u32(), twister.next_u32()], [224_899_942, 1_149_664_691, 374_463_918]);
    }
}
