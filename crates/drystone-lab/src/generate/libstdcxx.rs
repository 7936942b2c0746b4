//! Random numbers as libstdc++ makes them, so that a C++ program's choices can be repeated.
//!
//! `std::minstd_rand0` is `std::default_random_engine` there: the multiplicative congruential
//! generator x ← 16807·x mod 2³¹−1 (Lewis, Goodman and Miller 1969; [rand.predef] of the C++
//! standard). What `std::uniform_int_distribution` makes of it is not in the standard; libstdc++'s
//! way, for an engine whose range is no power of two, is described at [`MinStdRand0::uniform`]. (For
//! engines of 32 or 64 whole bits newer versions multiply instead, after Lemire; this is none.)

/// 2³¹ − 1.
const MODULUS: u64 = 2_147_483_647;
const MULTIPLIER: u64 = 16_807;
/// The engine's greatest number less its least: numbers are from 1 to 2³¹ − 2.
const RANGE: u64 = MODULUS - 2;

/// `std::minstd_rand0`.
pub(super) struct MinStdRand0(u64);

impl MinStdRand0 {
    /// As seeded with this number; the default seed is 1, which 0 stands for too.
    pub(super) fn new(seed: u64) -> Self {
        MinStdRand0(if seed.is_multiple_of(MODULUS) { 1 } else { seed % MODULUS })
    }

    /// The next number, counted from 0.
    fn next(&mut self) -> u64 {
        self.0 = self.0 * MULTIPLIER % MODULUS;
        self.0 - 1
    }

    /// A number from `least` to `most`, which is no less.
    ///
    /// Where the engine has more numbers, it is drawn from again until the draw is below the
    /// greatest multiple of the wanted count, and the draw divided by the factor is the number.
    /// Where it has fewer, a number of whole engine ranges is chosen in the same way and a draw is
    /// added, again until the sum is not too great.
    pub(super) fn uniform(&mut self, least: u64, most: u64) -> u64 {
        let wanted = most - least;
        let offset = if wanted < RANGE {
            let count = wanted + 1;
            let factor = RANGE / count;
            let draw = loop {
                let draw = self.next();
                if draw < count * factor {
                    break draw;
                }
            };
            draw / factor
        } else if wanted == RANGE {
            self.next()
        } else {
            loop {
                let whole = (RANGE + 1).checked_mul(self.uniform(0, wanted / (RANGE + 1)));
                let draw = self.next();
                if let Some(sum) = whole.and_then(|whole| whole.checked_add(draw))
                    && sum <= wanted
                {
                    break sum;
                }
            }
        };
        least + offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_number_is_that_of_the_standard() {
        // [rand.predef]: "the 10000th consecutive invocation of a default-constructed object of
        // type minstd_rand0 shall produce the value 1043618065".
        let mut engine = MinStdRand0::new(1);
        let last = (0..10_000).map(|_| engine.next() + 1).last();
        assert_eq!(last, Some(1_043_618_065));
    }

    /// The sum and the last of 100,000 numbers of `std::uniform_int_distribution<size_t>(1, most)`,
    /// as printed by a C++ program built with g++ 12.2: one engine for all in turn.
    #[test]
    fn the_distribution_is_that_of_libstdcxx() {
        let mut engine = MinStdRand0::new(1);
        for (most, sum, last) in EXPECTED {
            let drawn: Vec<u64> = (0..100_000).map(|_| engine.uniform(1, most)).collect();
            assert_eq!((drawn.iter().sum::<u64>(), drawn[99_999]), (sum, last), "up to {most}");
        }
    }

    const EXPECTED: [(u64, u64, u64); 9] = [
        (100, 5_052_725, 3),
        (1_048_576, 52_471_896_637, 592_041),
        (4_194_304, 209_899_333_522, 2_108_399),
        (1_073_741_824, 53_461_087_462_690, 184_070_273),
        (2_147_483_646, 107_508_817_426_596, 1_218_027_412),
        (2_147_483_647, 107_379_988_255_488, 957_603_143),
        (4_294_967_296, 214_728_223_086_264, 3_839_034_807),
        (16_777_216_000, 839_195_404_171_521, 1_188_880_968),
        (1_099_511_627_776, 55_081_469_134_680_187, 737_663_597_359),
    ];
}
