//! Bins: the free blocks of one heap and kind by size, with exact best fit.
//!
//! Sizes are in granules. Below [`LINEAR`] each size has a bin of its own; above, each power of two
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

use crate::bitmap::{BITS, Bitmap};
use crate::block::{Block, BlockIndex, NONE};

/// The size, in granules, below which every size has a bin of its own: 8 MiB. Above it a device
/// has room for some ten thousand blocks at most, so that a list stays short.
const LINEAR: u32 = 1 << 14;
/// Bins between two powers of two above the linear range: 0.8% apart.
const STEPS: u32 = 128;

/// The free blocks of one heap and kind.
#[derive(Debug)]
pub(crate) struct Bins {
    heads: Box<[BlockIndex; BITS]>,
    filled: Box<Bitmap>,
}

/// The bin of a size. Sizes are below 2^32, so bins are below [`BITS`].
#[inline]
fn bin_of(units: u32) -> usize {
    if units < LINEAR {
        units as usize
    } else {
        let exponent = units.ilog2();
        let step = units >> (exponent - STEPS.ilog2()) & (STEPS - 1);
        (LINEAR + (exponent - LINEAR.ilog2()) * STEPS + step) as usize
    }
}

impl Bins {
    /// Empty bins.
    pub(crate) fn new() -> Self {
        // Zeroed memory comes from the system untouched, so bins never used cost nothing.
        let heads = vec![NONE; BITS].into_boxed_slice();
        Bins {
            heads: heads.try_into().expect("as many as were made"),
            filled: Box::new(Bitmap::new()),
        }
    }

    /// Puts a free block that is in no bin into its bin.
    #[inline]
    pub(crate) fn insert(&mut self, blocks: &mut [Block], index: BlockIndex) {
        let units = blocks[index as usize].units;
        let bin = bin_of(units);
        let head = &mut self.heads[bin % BITS];
        let (mut before, mut after) = (NONE, *head);
        if units >= LINEAR {
            while after != NONE && blocks[after as usize].units < units {
                before = after;
                after = blocks[after as usize].bin_next();
            }
        }
        let block = &mut blocks[index as usize];
        block.set_bin_prev(before);
        block.set_bin_next(after);
        // Record 0 takes what is written to no block: a branch here would be mispredicted often.
        blocks[after as usize].set_bin_prev(index);
        if before != NONE {
            blocks[before as usize].set_bin_next(index);
        } else {
            *head = index;
            self.filled.set(bin);
        }
    }

    /// Takes a free block out of its bin.
    #[inline]
    pub(crate) fn remove(&mut self, blocks: &mut [Block], index: BlockIndex) {
        let block = &blocks[index as usize];
        let (units, before, after) = (block.units, block.bin_prev(), block.bin_next());
        blocks[after as usize].set_bin_prev(before);
        blocks[before as usize].set_bin_next(after);
        if before == NONE {
            let bin = bin_of(units);
            self.heads[bin % BITS] = after;
            if after == NONE {
                self.filled.clear(bin);
            }
        }
    }

    /// The smallest free block of at least `units` granules; among equals the one freed last.
    #[inline]
    pub(crate) fn best_fit(&self, blocks: &[Block], units: u32) -> Option<BlockIndex> {
        let mut bin = bin_of(units);
        if units >= LINEAR {
            let mut index = self.heads[bin % BITS];
            while index != NONE {
                let block = &blocks[index as usize];
                if block.units >= units {
                    return Some(index);
                }
                index = block.bin_next();
            }
            bin += 1;
        }
        self.filled.first_from(bin).map(|bin| self.heads[bin % BITS])
    }

    /// The size of the largest free block, in granules; 0 if there is none.
    pub(crate) fn largest(&self, blocks: &[Block]) -> u32 {
        let Some(bin) = self.filled.last() else { return 0 };
        self.list(blocks, bin).map(|index| blocks[index as usize].units).max().unwrap_or(0)
    }

    /// The free blocks of at least `units` granules, from the smallest.
    #[inline]
    pub(crate) fn smallest_first<'a>(
        &'a self,
        blocks: &'a [Block],
        units: u32,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        let next = |bin: usize| self.filled.first_from((bin + 1).min(BITS - 1));
        let bins = std::iter::successors(self.filled.first_from(bin_of(units)), move |&bin| {
            next(bin).filter(|&after| after > bin)
        });
        bins.flat_map(|bin| self.list(blocks, bin))
            .filter(move |&index| blocks[index as usize].units >= units)
    }

    /// The free blocks of at least `units` granules, by bin from the largest.
    pub(crate) fn largest_first<'a>(
        &'a self,
        blocks: &'a [Block],
        units: u32,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        let least = bin_of(units);
        let bins = std::iter::successors(self.filled.last(), |&bin| self.filled.last_below(bin));
        bins.take_while(move |&bin| bin >= least)
            .flat_map(|bin| self.list(blocks, bin))
            .filter(move |&index| blocks[index as usize].units >= units)
    }

    /// The blocks of one bin, in list order.
    fn list<'a>(
        &'a self,
        blocks: &'a [Block],
        bin: usize,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        std::iter::successors(Some(self.heads[bin]), |&index| {
            Some(blocks[index as usize].bin_next())
        })
        .take_while(|&index| index != NONE)
    }

    /// Checks lists, order and bitmap; gives the number of blocks held.
    pub(crate) fn check(&self, blocks: &[Block]) -> Result<usize, String> {
        let mut held = 0;
        for bin in 0..BITS {
            if self.filled.contains(bin) != (self.heads[bin] != NONE) {
                return Err(format!("bin {bin}: its bit does not say whether it is empty"));
            }
            let (mut before, mut least) = (NONE, 0);
            for index in self.list(blocks, bin) {
                let block = &blocks[index as usize];
                if bin_of(block.units) != bin || block.bin_prev() != before {
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
    use crate::block::Blocks;
    use proptest::prelude::*;

    #[test]
    fn bins_are_in_order_of_size_without_gaps() {
        let (mut last, mut size) = (0, 1u32);
        while size < u32::MAX - size / 512 {
            let bin = bin_of(size);
            assert!(bin == last || bin == last + 1, "{size} in {bin} after {last}");
            last = bin;
            size += if size < LINEAR { 1 } else { 1 + size / 512 };
        }
        assert!(bin_of(u32::MAX) < BITS);
    }

    proptest! {
        #[test]
        fn best_fit_is_the_smallest_that_fits(
            ops in prop::collection::vec((any::<bool>(), 1u32..40_000, 0usize..64), 1..200),
        ) {
            let (mut bins, mut blocks, mut held) = (Bins::new(), Blocks::new(), vec![]);
            for (insert, units, pick) in ops {
                // Half of the sizes near each other above the linear range, so that lists grow.
                let units = if units % 2 == 0 { units } else { LINEAR + units % 300 };
                if insert || held.is_empty() {
                    let index = blocks.insert(Block::new_free(0, 0, units));
                    bins.insert(blocks.records(), index);
                    held.push(index);
                } else {
                    let index = held.swap_remove(pick % held.len());
                    bins.remove(blocks.records(), index);
                    blocks.remove(index);
                }
                prop_assert_eq!(bins.check(blocks.records()), Ok(held.len()));
                let found = bins.best_fit(blocks.records(), units).map(|i| blocks[i].units);
                let least = held.iter().map(|&i| blocks[i].units).filter(|&u| u >= units).min();
                prop_assert_eq!(found, least);
                let largest = held.iter().map(|&i| blocks[i].units).max().unwrap_or(0);
                prop_assert_eq!(bins.largest(blocks.records()), largest);
            }
        }
    }
}
