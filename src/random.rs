//! Counter-based random numbers: a pure function of (seed, stream, counter), with the same integers on CPU and GPU.
//!
//! There is no hidden state to save: three words say where a sequence stands, any element of it can be computed alone,
//! and a kernel that is handed a seed and a stream draws element `i` in invocation `i`. The WGSL twin is
//! in `shaders/dropout/forward.wgsl`.
//!
//! Source: `pcg3d` of Jarzynski and Olano, *Hash Functions for GPU Rendering*, JCGT 9(3), 2020. Not for cryptography.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

/// Three mixed words from three words; every output word depends on every input word.
///
/// The low bits of an output word are weak: bit `b` repeats after `2^(17+b)` steps of an input word. [`hash`] mends that.
pub fn pcg3d(words: [u32; 3]) -> [u32; 3] {
    let [mut x, mut y, mut z] = words.map(|word| word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    x = x.wrapping_add(y.wrapping_mul(z));
    y = y.wrapping_add(z.wrapping_mul(x));
    z = z.wrapping_add(x.wrapping_mul(y));
    [x, y, z] = [x, y, z].map(|word| word ^ (word >> 16));
    x = x.wrapping_add(y.wrapping_mul(z));
    y = y.wrapping_add(z.wrapping_mul(x));
    z = z.wrapping_add(x.wrapping_mul(y));
    [x, y, z]
}

/// Element `counter` of the sequence `stream` of `seed`: the first word of [`pcg3d`] with its high half folded in.
pub fn hash(seed: u32, stream: u32, counter: u32) -> u32 {
    let [word, _, _] = pcg3d([counter, stream, seed]);
    word ^ (word >> 16)
}

/// The top 24 bits of a word as a number in `[0, 1)`, exact in f32.
pub fn to_unit(word: u32) -> f32 {
    (word >> 8) as f32 * 2.0_f32.powi(-24)
}

/// A position in a random sequence.
///
/// Different streams of one seed are independent sequences of 2³² words, so that everything that draws (initial
/// weights, batches, dropout, generated images) has a stream of its own and none disturbs another.
///
/// ```
/// use tilewise::random::Random;
///
/// let mut random = Random::new(7, 0);
/// let first = random.next_u32();
/// assert_eq!(first, tilewise::random::hash(7, 0, 0));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Random {
    /// What the user chose.
    pub seed: u32,
    /// Which sequence of that seed.
    pub stream: u32,
    /// How many words have been drawn, modulo 2³².
    pub counter: u32,
}

impl Random {
    /// The start of sequence `stream` of `seed`.
    pub fn new(seed: u32, stream: u32) -> Self {
        Self { seed, stream, counter: 0 }
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        let word = hash(self.seed, self.stream, self.counter);
        self.counter = self.counter.wrapping_add(1);
        word
    }

    /// The next number in `[0, 1)`, a multiple of 2⁻²⁴. Draws one word.
    pub fn uniform(&mut self) -> f32 {
        to_unit(self.next_u32())
    }

    /// The next number in `[low, high)`. Draws one word.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// The next integer in `0..n`; 0 for `n = 0`. Draws exactly one word, at the price of a bias below `n / 2³²`.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// The next number of the standard normal distribution, by Box and Muller's transform in f64. Draws two words.
    pub fn normal(&mut self) -> f32 {
        let unit = 2.0_f64.powi(-32);
        let radius = (-2.0 * ((f64::from(self.next_u32()) + 1.0) * unit).ln()).sqrt();
        let angle = TAU * f64::from(self.next_u32()) * unit;
        (radius * angle.cos()) as f32
    }

    /// Puts the items into a random order, all orders being equally likely. Draws one word per item but the first.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of `count` draws.
    fn moments(count: usize, mut draw: impl FnMut() -> f32) -> (f64, f64) {
        let values: Vec<f64> = (0..count).map(|_| f64::from(draw())).collect();
        let mean = values.iter().sum::<f64>() / count as f64;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64)
    }

    #[test]
    fn pcg3d_is_the_published_function() {
        // Values from the paper's listing in unbounded integers, reduced modulo 2^32 after every operation.
        assert_eq!(pcg3d([0, 0, 0]), [0x9baf_d7c6, 0xa8e8_8a6b, 0x3f15_482c]);
        assert_eq!(pcg3d([1, 2, 3]), [0xfa9f_79a6, 0x48f2_f44c, 0x596f_5ab1]);
    }

    #[test]
    fn every_bit_is_fair_and_independent_of_its_predecessors() {
        let words: Vec<u32> = (0..1 << 19).map(|counter| hash(1, 2, counter)).collect();
        for lag in [0, 1, 2, 16, 1 << 16, 1 << 18] {
            for bit in 0..32 {
                let pairs = words.len() - lag;
                let sum: i64 = (0..pairs)
                    .map(|i| {
                        let set = if lag == 0 { words[i] } else { words[i] ^ words[i + lag] } >> bit & 1;
                        1 - 2 * i64::from(set)
                    })
                    .sum();
                let deviations = sum.abs() as f64 / (pairs as f64).sqrt();
                assert!(deviations < 5.0, "bit {bit}, lag {lag}: {deviations} standard deviations");
            }
        }
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let mut random = Random::new(3, 1);
        let (mean, variance) = moments(100_000, || random.uniform());
        assert!((mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.002, "{mean} {variance}");
        let (mean, variance) = moments(100_000, || random.normal());
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut random = Random::new(0, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..6_000 {
            counts[random.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn a_saved_position_continues_the_same_sequence() {
        let mut random = Random::new(9, 4);
        random.normal();
        let saved = serde_json::to_string(&random).unwrap();
        let mut resumed: Random = serde_json::from_str(&saved).unwrap();
        assert_eq!(resumed.next_u32(), random.next_u32());
        assert_eq!(random.counter, 3);
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Random::new(5, 5).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
