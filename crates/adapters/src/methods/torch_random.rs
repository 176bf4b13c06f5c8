//! torch's random permutation, for methods whose frozen choices Hugging Face draws with torch and does not save.

use std::collections::HashMap;

/// The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded as torch's CPU generator.
struct MersenneTwister {
    state: [u32; 624],
    next: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before: u32 = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: 624 }
    }

    fn twist(&mut self) {
        for i in 0..624 {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + 397) % 624] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn draw(&mut self) -> u32 {
        if self.next == 624 {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

/// The first `count` elements of `torch.randperm(n, generator=torch.Generator().manual_seed(seed))` on the CPU, for n below 2³².
pub(crate) fn random_permutation(n: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut random = MersenneTwister::new(seed as u32);
    // Fisher-Yates from the front; only what has been moved is stored.
    let mut moved: HashMap<usize, usize> = HashMap::new();
    let mut chosen = Vec::with_capacity(count);
    for i in 0..count.min(n) {
        let other = match n - i {
            1 => i,
            rest => i + random.draw() as usize % rest,
        };
        let at = |moved: &HashMap<usize, usize>, j: usize| moved.get(&j).copied().unwrap_or(j);
        let (here, there) = (at(&moved, i), at(&moved, other));
        moved.insert(other, here);
        moved.insert(i, there);
        chosen.push(there);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_reference_sequence() {
        // The first outputs of the authors' own implementation for init_genrand(5489), C++'s default-seeded std::mt19937.
        let mut random = MersenneTwister::new(5489);
        assert_eq!([random.draw(), random.draw(), random.draw()], [3_499_211_612, 581_869_302, 3_890_346_734]);
        // The C++ standard gives the 10000th.
        let mut random = MersenneTwister::new(5489);
        assert_eq!((0..10_000).map(|_| random.draw()).last(), Some(4_123_659_995));
    }

    #[test]
    fn a_whole_permutation_holds_every_element_once() {
        let mut all = random_permutation(50, 50, 7);
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
