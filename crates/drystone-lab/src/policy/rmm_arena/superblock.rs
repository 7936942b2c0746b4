//! Superblocks: ranges of memory in which blocks lie, in the order of their addresses.

use std::collections::BTreeMap;

use crate::policy::parts::{FreeList, Span};

/// The least bytes of a superblock, and the largest block that a stream's arena serves.
pub(super) const MINIMUM: u64 = 1 << 20;

/// A range and what is free in it.
#[derive(Debug)]
pub(super) struct Superblock {
    address: u64,
    bytes: u64,
    free: FreeList,
}

impl Superblock {
    fn empty(address: u64, bytes: u64) -> Self {
        let mut superblock = Superblock { address, bytes, free: FreeList::default() };
        superblock.free(address, bytes);
        superblock
    }

    fn is_empty(&self) -> bool {
        self.free.largest() == self.bytes
    }

    /// The lowest place for a block.
    fn first_fit(&mut self, bytes: u64) -> Option<u64> {
        let mut span = self.free.first_fit(bytes)?;
        if let Some(rest) = span.cut(bytes) {
            self.free.insert(rest);
        }
        Some(span.address)
    }

    fn free(&mut self, address: u64, bytes: u64) {
        self.free.insert(Span { address, bytes, head: false });
    }
}

/// The superblocks of an arena.
#[derive(Debug, Default)]
pub(super) struct Superblocks {
    all: BTreeMap<u64, Superblock>,
    /// The largest free span of those that have any: most are full.
    open: BTreeMap<u64, u64>,
}

impl Superblocks {
    /// The lowest place for a block, in the first superblock that has one.
    pub(super) fn first_fit(&mut self, bytes: u64) -> Option<u64> {
        let found = self.find(bytes)?;
        let superblock = self.all.get_mut(&found)?;
        let address = superblock.first_fit(bytes);
        let largest = superblock.free.largest();
        self.note(found, largest);
        address
    }

    /// Takes the first superblock out that has room for a block: if it is empty, only as much of it
    /// as a superblock has at least.
    pub(super) fn acquire(&mut self, bytes: u64) -> Option<Superblock> {
        let mut found = self.remove(self.find(bytes)?)?;
        let least = bytes.max(MINIMUM);
        if found.is_empty() && found.bytes >= least + MINIMUM {
            self.add(Superblock::empty(found.address + least, found.bytes - least));
            found = Superblock::empty(found.address, least);
        }
        Some(found)
    }

    /// A place for a large block, in a superblock of its own where there is one to cut.
    pub(super) fn carve(&mut self, bytes: u64) -> Option<u64> {
        let mut superblock = self.acquire(bytes)?;
        let address = superblock.first_fit(bytes);
        self.add(superblock);
        address
    }

    /// Adds a superblock as it is.
    pub(super) fn add(&mut self, superblock: Superblock) {
        self.note(superblock.address, superblock.free.largest());
        self.all.insert(superblock.address, superblock);
    }

    /// Adds a range as an empty superblock.
    pub(super) fn add_range(&mut self, address: u64, bytes: u64) {
        self.add(Superblock::empty(address, bytes));
    }

    /// Adds those of another arena.
    pub(super) fn add_all(&mut self, other: Superblocks) {
        other.all.into_values().for_each(|superblock| self.join(superblock));
    }

    /// Frees a block; whether it lies here.
    pub(super) fn free(&mut self, address: u64, bytes: u64) -> bool {
        let Some((&found, superblock)) = self.all.range_mut(..=address).next_back() else {
            return false;
        };
        if address - found >= superblock.bytes {
            return false;
        }
        superblock.free(address, bytes);
        let largest = superblock.free.largest();
        self.note(found, largest);
        true
    }

    /// Frees a block, and joins its superblock with its neighbours if it is empty now; whether it
    /// lies here.
    pub(super) fn free_and_join(&mut self, address: u64, bytes: u64) -> bool {
        let freed = self.free(address, bytes);
        let around = self.all.range(..=address).next_back().map(|(&start, _)| start);
        if let Some(superblock) = around.filter(|_| freed).and_then(|start| self.remove(start)) {
            self.join(superblock);
        }
        freed
    }

    /// Adds a superblock, joined with its neighbours where they and it are empty.
    fn join(&mut self, mut superblock: Superblock) {
        if superblock.is_empty() {
            let (mut start, mut end) = (superblock.address, superblock.address + superblock.bytes);
            let before = self.all.range(..start).next_back().map(|(_, before)| before);
            if let Some(before) = before
                && before.is_empty()
                && before.address + before.bytes == start
            {
                start = before.address;
                self.remove(start);
            }
            if self.all.get(&end).is_some_and(Superblock::is_empty)
                && let Some(after) = self.remove(end)
            {
                end += after.bytes;
            }
            superblock = Superblock::empty(start, end - start);
        }
        self.add(superblock);
    }

    /// The first superblock with a free span of so many bytes.
    fn find(&self, bytes: u64) -> Option<u64> {
        self.open.iter().find(|&(_, &largest)| largest >= bytes).map(|(&address, _)| address)
    }

    fn remove(&mut self, address: u64) -> Option<Superblock> {
        self.open.remove(&address);
        self.all.remove(&address)
    }

    fn note(&mut self, address: u64, largest: u64) {
        if largest > 0 {
            self.open.insert(address, largest);
        } else {
            self.open.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = MINIMUM;

    /// (address, bytes) in MiB.
    fn ranges(superblocks: &Superblocks) -> Vec<(u64, u64)> {
        superblocks.all.values().map(|s| (s.address / MIB, s.bytes / MIB)).collect()
    }

    #[test]
    fn a_superblock_is_cut_only_if_two_remain() {
        let mut all = Superblocks::default();
        all.add_range(0, 4 * MIB);
        let first = all.acquire(100).unwrap();
        assert_eq!((first.address, first.bytes), (0, MIB));
        assert_eq!(ranges(&all), [(1, 3)]);
        assert_eq!(all.carve(2 * MIB + 256), Some(MIB), "less than a superblock would remain");
        assert_eq!(ranges(&all), [(1, 3)]);
        assert_eq!(all.first_fit(256), Some(3 * MIB + 256));
    }

    #[test]
    fn empty_neighbours_become_one() {
        let mut all = Superblocks::default();
        all.add_range(0, 8 * MIB);
        for place in 0..4 {
            assert_eq!(all.carve(2 * MIB), Some(2 * MIB * place));
        }
        assert_eq!(all.carve(2 * MIB), None);
        assert!(all.free_and_join(0, 2 * MIB));
        assert!(all.free_and_join(4 * MIB, 2 * MIB));
        assert_eq!(ranges(&all), [(0, 2), (2, 2), (4, 2), (6, 2)]);
        assert!(all.free_and_join(2 * MIB, 2 * MIB));
        assert_eq!(ranges(&all), [(0, 6), (6, 2)]);
        assert!(!all.free_and_join(9 * MIB, MIB), "not here");
    }

    #[test]
    fn superblocks_that_are_used_stay_what_they_are() {
        let (mut global, mut arena) = (Superblocks::default(), Superblocks::default());
        global.add_range(0, 3 * MIB);
        arena.add(global.acquire(256).unwrap());
        arena.add(global.acquire(256).unwrap());
        assert_eq!(arena.first_fit(256), Some(0));
        global.add_all(arena);
        assert_eq!(ranges(&global), [(0, 1), (1, 2)]);
        assert!(global.free_and_join(0, 256));
        assert_eq!(ranges(&global), [(0, 3)]);
    }
}
