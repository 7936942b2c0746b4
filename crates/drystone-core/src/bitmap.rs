//! A set of small numbers that finds the next member in a few instructions: levels of 64-bit words,
//! each bit of an upper level saying whether the word below it has any bit set.
//!
//! ```text
//! top   .......1        bit j set  <=>  mid[j] != 0
//! mid   ..1....1        bit j set  <=>  leaf[j] != 0
//! leaf  ..1..1.. ...    bit i set  <=>  i is in the set
//! ```

/// Most members a [`Bitmap`] can have: three levels of 64.
pub(crate) const MAX_BITS: usize = 64 * 64 * 64;

/// A set of numbers below a fixed bound of at most [`MAX_BITS`].
#[derive(Debug)]
pub(crate) struct Bitmap {
    leaf: Box<[u64]>,
    mid: Box<[u64]>,
    top: u64,
}

impl Bitmap {
    /// The empty set of numbers below `bits`.
    pub(crate) fn new(bits: usize) -> Self {
        assert!(bits <= MAX_BITS, "a bitmap of {bits} bits");
        let leaf = bits.div_ceil(64);
        Bitmap { leaf: vec![0; leaf].into(), mid: vec![0; leaf.div_ceil(64)].into(), top: 0 }
    }

    /// Adds `i`.
    #[inline]
    pub(crate) fn set(&mut self, i: usize) {
        self.leaf[i / 64] |= 1 << (i % 64);
        self.mid[i / 4096] |= 1 << (i / 64 % 64);
        self.top |= 1 << (i / 4096);
    }

    /// Removes `i`.
    #[inline]
    pub(crate) fn clear(&mut self, i: usize) {
        let word = &mut self.leaf[i / 64];
        *word &= !(1 << (i % 64));
        if *word == 0 {
            let word = &mut self.mid[i / 4096];
            *word &= !(1 << (i / 64 % 64));
            if *word == 0 {
                self.top &= !(1 << (i / 4096));
            }
        }
    }

    /// Whether `i` is a member.
    pub(crate) fn contains(&self, i: usize) -> bool {
        self.leaf[i / 64] >> (i % 64) & 1 == 1
    }

    /// The smallest member that is at least `i`.
    #[inline]
    pub(crate) fn first_from(&self, i: usize) -> Option<usize> {
        let w = i / 64;
        if w >= self.leaf.len() {
            return None;
        }
        let word = self.leaf[w] & (!0 << (i % 64));
        if word != 0 {
            return Some(w * 64 + word.trailing_zeros() as usize);
        }
        // Above the word: shifting by 63 and then by 1 leaves 0 where a single shift would be by 64.
        let m = w / 64;
        let above = self.mid[m] & (!0 << (w % 64) << 1);
        let w = if above != 0 {
            m * 64 + above.trailing_zeros() as usize
        } else {
            let above = self.top & (!0 << m << 1);
            if above == 0 {
                return None;
            }
            let m = above.trailing_zeros() as usize;
            m * 64 + self.mid[m].trailing_zeros() as usize
        };
        Some(w * 64 + self.leaf[w].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_an_ordered_set(
            bits in 1usize..MAX_BITS,
            ops in prop::collection::vec((any::<bool>(), any::<usize>(), any::<usize>()), 1..200),
        ) {
            let mut map = Bitmap::new(bits);
            let mut set = BTreeSet::new();
            for (insert, i, from) in ops {
                // Half of the numbers near each other, so that words fill and empty again.
                let i = if i % 2 == 0 { i % bits } else { i % bits % 130 };
                if insert {
                    map.set(i);
                    set.insert(i);
                } else {
                    map.clear(i);
                    set.remove(&i);
                }
                prop_assert_eq!(map.contains(i), set.contains(&i));
                for from in [0, i, i + 1, from % (bits + 70)] {
                    prop_assert_eq!(map.first_from(from), set.range(from..).next().copied());
                }
            }
        }
    }
}
