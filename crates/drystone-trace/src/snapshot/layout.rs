//! Addresses for blocks of which only sizes are known: each arena places by best fit and grows at its
//! end, so that a picture of it looks as one of an allocator would.

use std::collections::{BTreeMap, BTreeSet};

/// Sizes are multiples of this, as torch's.
const GRANULE: u64 = 512;

/// Addresses counted from the start of an arena.
#[derive(Debug, Default)]
pub(super) struct Arena {
    end: u64,
    /// Free ranges by start, and the same by size.
    free: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
}

/// The bytes that a block of this size takes.
pub(super) fn rounded(size: u64) -> u64 {
    size.max(1).next_multiple_of(GRANULE)
}

impl Arena {
    /// How far addresses go.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// A place for `size` bytes, which are rounded; `None` beyond `most`.
    pub(super) fn place(&mut self, size: u64, most: u64) -> Option<u64> {
        let size = rounded(size);
        if let Some(&(found, start)) = self.by_size.range((size, 0)..).next() {
            self.take(start, found);
            if found > size {
                self.give(start + size, found - size);
            }
            return Some(start);
        }
        let start = self.end;
        self.end = start.checked_add(size).filter(|&end| end <= most)?;
        Some(start)
    }

    /// Gives back a place of so many bytes before rounding.
    pub(super) fn free(&mut self, mut start: u64, size: u64) {
        let mut size = rounded(size);
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.take(before, length);
            (start, size) = (before, length + size);
        }
        if let Some(&length) = self.free.get(&(start + size)) {
            self.take(start + size, length);
            size += length;
        }
        self.give(start, size);
    }

    fn take(&mut self, start: u64, size: u64) {
        self.free.remove(&start);
        self.by_size.remove(&(size, start));
    }

    fn give(&mut self, start: u64, size: u64) {
        self.free.insert(start, size);
        self.by_size.insert((size, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_range_that_fits_is_taken_and_neighbours_join() {
        let mut arena = Arena::default();
        let place = |arena: &mut Arena, size| arena.place(size, 1 << 20);
        let places: Vec<_> = (0..5).map(|_| place(&mut arena, 1000).unwrap()).collect();
        assert_eq!(places, [0, 1024, 2048, 3072, 4096]);
        arena.free(places[0], 1000);
        arena.free(places[1], 1000);
        arena.free(places[3], 1000);
        assert_eq!(place(&mut arena, 600), Some(3072));
        assert_eq!(place(&mut arena, 1500), Some(0));
        assert_eq!(place(&mut arena, 0), Some(1536));
        assert_eq!(place(&mut arena, 1), Some(5120));
        assert_eq!(place(&mut arena, 1 << 20), None);
        assert_eq!(rounded(0), 512);
    }
}
