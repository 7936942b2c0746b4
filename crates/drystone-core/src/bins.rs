//! Bins: the free blocks of one heap and kind by size, with exact best fit.
//!
//! Sizes are in granules. Below `linear` each size has a bin of its own; above, each power of two
//! has [`STEPS`] bins, whose lists are kept in order of size:
//!
//! ```text
//! bin    0   1   2  ...  L-1 |  L    L+1   ...  L+127 |  L+128 ...
//! size   -   1   2  ...  L-1 | [L, L+L/128)  ...      | [2L, 2L+2L/128) ...
//! ```
//!
//! A bit of the bitmap is set if and only if the bin's list is not empty. So the best fit is the
//! first block of the first list from the request's bin on; only in the request's own bin, if it
//! holds several sizes, are smaller ones stepped over.

use crate::bitmap::Bitmap;
use crate::block::{BlockIndex, Blocks, NONE};

/// Bins between two powers of two above the linear range: 0.8% apart.
const STEPS: u32 = 128;
const STEPS_SHIFT: u32 = STEPS.trailing_zeros();
/// Sizes are below 2³² granules (2 TiB).
const SIZE_BITS: u32 = 32;

/// The free blocks of one heap and kind.
#[derive(Debug)]
pub(crate) struct Bins {
    /// log2 of the size from which bins hold several sizes.
    linear_bits: u32,
    heads: Box<[BlockIndex]>,
    filled: Bitmap,
}

impl Bins {
    /// Empty bins, exact for sizes below 2^`linear_bits` granules.
    pub(crate) fn new(linear_bits: u32) -> Self {
        debug_assert!((STEPS_SHIFT..SIZE_BITS).contains(&linear_bits));
        let count = (1usize << linear_bits) + ((SIZE_BITS - linear_bits) * STEPS) as usize;
        // Zeroed memory comes from the system untouched, so bins never used cost nothing.
        Bins { linear_bits, heads: vec![NONE; count].into(), filled: Bitmap::new(count) }
    }

    /// The bin of a size.
    #[inline]
    fn bin_of(&self, units: u32) -> usize {
        if units >> self.linear_bits == 0 {
            units as usize
        } else {
            let exponent = units.ilog2();
            let step = units >> (exponent - STEPS_SHIFT) & (STEPS - 1);
            (1usize << self.linear_bits) + ((exponent - self.linear_bits) * STEPS + step) as usize
        }
    }

    /// Whether the bin holds one size only.
    #[inline]
    fn is_exact(&self, bin: usize) -> bool {
        bin >> self.linear_bits == 0
    }

    /// Puts a free block that is in no bin into its bin.
    #[inline]
    pub(crate) fn insert(&mut self, blocks: &mut Blocks, index: BlockIndex) {
        let units = blocks[index].units;
        let bin = self.bin_of(units);
        let head = self.heads[bin];
        let (mut before, mut after) = (NONE, head);
        if !self.is_exact(bin) {
            while after != NONE && blocks[after].units < units {
                before = after;
                after = blocks[after].bin_next();
            }
        }
        let block = &mut blocks[index];
        block.set_bin_prev(before);
        block.set_bin_next(after);
        if after != NONE {
            blocks[after].set_bin_prev(index);
        }
        if before != NONE {
            blocks[before].set_bin_next(index);
        } else {
            self.heads[bin] = index;
            if head == NONE {
                self.filled.set(bin);
            }
        }
    }

    /// Takes a free block out of its bin.
    #[inline]
    pub(crate) fn remove(&mut self, blocks: &mut Blocks, index: BlockIndex) {
        let block = &blocks[index];
        let (units, before, after) = (block.units, block.bin_prev(), block.bin_next());
        if after != NONE {
            blocks[after].set_bin_prev(before);
        }
        if before != NONE {
            blocks[before].set_bin_next(after);
        } else {
            let bin = self.bin_of(units);
            self.heads[bin] = after;
            if after == NONE {
                self.filled.clear(bin);
            }
        }
    }

    /// The smallest free block of at least `units` granules; among equals the one freed last.
    #[inline]
    pub(crate) fn best_fit(&self, blocks: &Blocks, units: u32) -> Option<BlockIndex> {
        let mut bin = self.bin_of(units);
        if !self.is_exact(bin) {
            let mut index = self.heads[bin];
            while index != NONE {
                let block = &blocks[index];
                if block.units >= units {
                    return Some(index);
                }
                index = block.bin_next();
            }
            bin += 1;
        }
        self.filled.first_from(bin).map(|bin| self.heads[bin])
    }

    /// The size of the largest free block, in granules; 0 if there is none.
    pub(crate) fn largest(&self, blocks: &Blocks) -> u32 {
        let Some(bin) = (0..self.heads.len()).rev().find(|&bin| self.heads[bin] != NONE) else {
            return 0;
        };
        self.list(blocks, bin).map(|index| blocks[index].units).max().unwrap_or(0)
    }

    /// The blocks of one bin, in list order.
    fn list<'a>(&'a self, blocks: &'a Blocks, bin: usize) -> impl Iterator<Item = BlockIndex> + 'a {
        std::iter::successors(Some(self.heads[bin]), |&index| Some(blocks[index].bin_next()))
            .take_while(|&index| index != NONE)
    }

    /// Checks lists, order and bitmap; gives the number of blocks held.
    pub(crate) fn check(&self, blocks: &Blocks) -> Result<usize, String> {
        let mut held = 0;
        for bin in 0..self.heads.len() {
            if self.filled.contains(bin) != (self.heads[bin] != NONE) {
                return Err(format!("bin {bin}: its bit does not say whether it is empty"));
            }
            let (mut before, mut least) = (NONE, 0);
            for index in self.list(blocks, bin) {
                let block = &blocks[index];
                if self.bin_of(block.units) != bin || block.bin_prev() != before {
                    return Err(format!("bin {bin}: block {index} is not where it should be"));
                }
                if block.units < least {
                    return Err(format!("bin {bin}: block {index} is out of order"));
                }
                (before, least) = (index, block.units);
                held += 1;
                if held > blocks.len() {
                    return Err(format!("bin {bin}: its list does not end"));
                }
            }
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use proptest::prelude::*;

    #[test]
    fn bins_are_in_order_of_size_without_gaps() {
        for linear_bits in [7, 12, 16] {
            let bins = Bins::new(linear_bits);
            let mut last = 0;
            let mut size = 1u64;
            while size < 1 << SIZE_BITS {
                let bin = bins.bin_of(size as u32);
                assert!(bin == last || bin == last + 1, "{size} in {bin} after {last}");
                assert!(bin < bins.heads.len());
                last = bin;
                size += if size >> linear_bits == 0 { 1 } else { 1 + (size >> 9) };
            }
            assert_eq!(bins.bin_of(u32::MAX), bins.heads.len() - 1);
        }
    }

    proptest! {
        #[test]
        fn best_fit_is_the_smallest_that_fits(
            linear_bits in 7u32..14,
            ops in prop::collection::vec((any::<bool>(), 1u32..40_000, 0usize..64), 1..200),
        ) {
            let (mut bins, mut blocks, mut held) = (Bins::new(linear_bits), Blocks::new(), vec![]);
            for (insert, units, pick) in ops {
                if insert || held.is_empty() {
                    let index = blocks.insert(Block::new_free(0, 0, units));
                    bins.insert(&mut blocks, index);
                    held.push(index);
                } else {
                    let index = held.swap_remove(pick % held.len());
                    bins.remove(&mut blocks, index);
                    blocks.remove(index);
                }
                prop_assert_eq!(bins.check(&blocks), Ok(held.len()));
                let found = bins.best_fit(&blocks, units).map(|index| blocks[index].units);
                let least = held.iter().map(|&i| blocks[i].units).filter(|&u| u >= units).min();
                prop_assert_eq!(found, least);
                let largest = held.iter().map(|&i| blocks[i].units).max().unwrap_or(0);
                prop_assert_eq!(bins.largest(&blocks), largest);
            }
        }
    }
}
