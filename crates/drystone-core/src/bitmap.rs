//! A set of small numbers that finds the next member in a few instructions: two levels of 64-bit
//! words, a bit of the upper level saying whether the word below it has any bit set.
//!
//! ```text
//! summary  ..1....1        bit j set  <=>  leaf[j] != 0
//! leaf     ..1..1.. ...    bit i set  <=>  i is in the set
//! ```
//!
//! All sizes are powers of two and every index is masked, so the compiler needs no bounds check.

/// The members are the numbers below this.
pub(crate) const BITS: usize = 1 << 15;

const LEAF: usize = BITS / 64;
const SUMMARY: usize = LEAF / 64;

/// A set of numbers below [`BITS`].
#[derive(Debug)]
pub(crate) struct Bitmap {
    leaf: [u64; LEAF],
    summary: [u64; SUMMARY],
}

impl Bitmap {
    /// The empty set.
    pub(crate) fn new() -> Self {
        Bitmap { leaf: [0; LEAF], summary: [0; SUMMARY] }
    }

    /// Adds `i`.
    #[inline]
    pub(crate) fn set(&mut self, i: usize) {
        let w = i / 64 % LEAF;
        self.leaf[w] |= 1 << (i % 64);
        self.summary[w / 64] |= 1 << (w % 64);
    }

    /// Removes `i`.
    #[inline]
    pub(crate) fn clear(&mut self, i: usize) {
        let w = i / 64 % LEAF;
        self.leaf[w] &= !(1 << (i % 64));
        if self.leaf[w] == 0 {
            self.summary[w / 64] &= !(1 << (w % 64));
        }
    }

    /// Whether `i` is a member.
    pub(crate) fn contains(&self, i: usize) -> bool {
        self.leaf[i / 64 % LEAF] >> (i % 64) & 1 == 1
    }

    /// The smallest member that is at least `i`, which is below [`BITS`].
    #[inline]
    pub(crate) fn first_from(&self, i: usize) -> Option<usize> {
        let w = i / 64 % LEAF;
        let word = self.leaf[w] & (!0 << (i % 64));
        if word != 0 {
            return Some(w * 64 + word.trailing_zeros() as usize);
        }
        // Above the word: a shift by up to 63 and another by 1, since one by 64 is undefined.
        let mut s = w / 64;
        let mut words = self.summary[s] & (!0 << (w % 64) << 1);
        while words == 0 {
            s += 1;
            if s == SUMMARY {
                return None;
            }
            words = self.summary[s];
        }
        let w = s * 64 + words.trailing_zeros() as usize;
        Some(w * 64 + self.leaf[w % LEAF].trailing_zeros() as usize)
    }

    /// The largest member below `i`, which is below [`BITS`].
    pub(crate) fn last_below(&self, i: usize) -> Option<usize> {
        let w = i / 64 % LEAF;
        let word = self.leaf[w] & !(!0 << (i % 64));
        if word != 0 {
            return Some(w * 64 + word.ilog2() as usize);
        }
        let mut s = w / 64;
        let mut words = self.summary[s] & !(!0 << (w % 64));
        while words == 0 {
            s = s.checked_sub(1)?;
            words = self.summary[s];
        }
        let w = s * 64 + words.ilog2() as usize;
        Some(w * 64 + self.leaf[w].ilog2() as usize)
    }

    /// The largest member.
    pub(crate) fn last(&self) -> Option<usize> {
        let s = (0..SUMMARY).rev().find(|&s| self.summary[s] != 0)?;
        let w = s * 64 + self.summary[s].ilog2() as usize;
        Some(w * 64 + self.leaf[w].ilog2() as usize)
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
            ops in prop::collection::vec((any::<bool>(), 0..BITS, 0..BITS), 1..200),
        ) {
            let mut map = Bitmap::new();
            let mut set = BTreeSet::new();
            for (insert, i, from) in ops {
                // Half of the numbers near each other, so that words fill and empty again.
                let i = if i % 2 == 0 { i } else { BITS - 1 - i % 130 };
                if insert {
                    map.set(i);
                    set.insert(i);
                } else {
                    map.clear(i);
                    set.remove(&i);
                }
                prop_assert_eq!(map.contains(i), set.contains(&i));
                prop_assert_eq!(map.last(), set.last().copied());
                for below in [0, i, (i + 1).min(BITS - 1), from] {
                    prop_assert_eq!(map.last_below(below), set.range(..below).last().copied());
                }
                for from in [0, i, (i + 1).min(BITS - 1), from] {
                    prop_assert_eq!(map.first_from(from), set.range(from..).next().copied());
                }
            }
        }
    }
}
