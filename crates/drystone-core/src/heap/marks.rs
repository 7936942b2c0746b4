//! A large sparse set of numbers that finds the last member up to a number in a few steps: levels
//! of 64-bit words, a bit of one level saying whether the word below it has any bit set.

/// A set of numbers below a bound.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// From the members up to a level of one word; empty for the bound 0.
    levels: Vec<Box<[u64]>>,
}

impl Marks {
    /// The empty set of numbers below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = bound.div_ceil(64);
        while words > 0 {
            // Zeroed memory comes from the system untouched.
            levels.push(vec![0; words].into_boxed_slice());
            words = if words == 1 { 0 } else { words.div_ceil(64) };
        }
        Marks { levels }
    }

    /// Adds `i`.
    #[inline]
    pub(super) fn set(&mut self, mut i: usize) {
        for level in &mut self.levels {
            let word = &mut level[i / 64];
            let was_empty = *word == 0;
            *word |= 1 << (i % 64);
            if !was_empty {
                return;
            }
            i /= 64;
        }
    }

    /// Removes `i`.
    #[inline]
    pub(super) fn clear(&mut self, mut i: usize) {
        for level in &mut self.levels {
            let word = &mut level[i / 64];
            *word &= !(1 << (i % 64));
            if *word != 0 {
                return;
            }
            i /= 64;
        }
    }

    /// The largest member that is at most `i`.
    pub(super) fn last_up_to(&self, i: usize) -> Option<usize> {
        let (mut level, mut i) = (0, i);
        // Up until a word has a member before the number, itself included only at the bottom.
        let mut found = loop {
            let words = self.levels.get(level)?;
            let inclusive = level == 0;
            let bits = i % 64 + usize::from(inclusive);
            let mask = if bits == 64 { !0 } else { (1u64 << bits) - 1 };
            let word = words[i / 64] & mask;
            if word != 0 {
                break i / 64 * 64 + word.ilog2() as usize;
            }
            i /= 64;
            level += 1;
        };
        // Down again to the last of each.
        while level > 0 {
            level -= 1;
            found = found * 64 + self.levels[level][found].ilog2() as usize;
        }
        Some(found)
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
            bound in 1usize..20_000,
            ops in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..300),
        ) {
            let (mut marks, mut set) = (Marks::new(bound), BTreeSet::new());
            for (add, i, from) in ops {
                let (i, from) = (i.index(bound), from.index(bound));
                if add {
                    marks.set(i);
                    set.insert(i);
                } else {
                    marks.clear(i);
                    set.remove(&i);
                }
                for up_to in [0, i, from, bound - 1] {
                    prop_assert_eq!(marks.last_up_to(up_to), set.range(..=up_to).last().copied());
                }
            }
        }
    }
}
