//! Blocks with their neighbours, and the pools that know the free ones by size. Private pools are apart:
//! no block goes from one to another.

use std::collections::BTreeSet;

use slab::Slab;

/// No neighbour, or no segment that grows.
pub(super) const NONE: u32 = u32::MAX;

/// What is behind a block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Memory that was handed out.
    Used,
    /// Memory that is cached.
    Free,
    /// Addresses only, at a multiple of the segment's handles.
    Unmapped,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) stream: u64,
    /// How many searches there had been in its pool when it became free.
    pub(super) searches: u64,
    /// Neighbours in the same segment.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// Which segment that grows it belongs to.
    pub(super) segment: u32,
    /// 0 for the default pool, then private ones.
    pub(super) pool: u32,
    pub(super) small: bool,
    pub(super) state: State,
}

/// A free block: first by stream, then by size, then by address.
pub(super) type FreeKey = (u64, u64, u64, u32);

/// The free blocks of small or of large requests.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) free: BTreeSet<FreeKey>,
    /// Unmapped blocks: stream, address, number.
    pub(super) unmapped: BTreeSet<(u64, u64, u32)>,
    /// Searches so far, counted where garbage collection asks how old free blocks are.
    pub(super) searches: u64,
}

/// The two pools of a number: those of large requests, and of small ones.
#[derive(Default)]
struct Pair {
    large: Pool,
    small: Pool,
}

/// All blocks of a device, and its pools.
pub(super) struct Blocks {
    pub(super) all: Slab<Block>,
    /// By number, the default one first.
    pools: Vec<Pair>,
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks { all: Slab::new(), pools: vec![Pair::default()] }
    }
}

impl Blocks {
    pub(super) fn get(&self, block: u32) -> &Block {
        &self.all[block as usize]
    }

    pub(super) fn get_mut(&mut self, block: u32) -> &mut Block {
        &mut self.all[block as usize]
    }

    pub(super) fn add(&mut self, block: Block) -> u32 {
        self.all.insert(block) as u32
    }

    /// Makes the pools up to that number.
    pub(super) fn know(&mut self, pool: u32) {
        let count = self.pools.len().max(pool as usize + 1);
        self.pools.resize_with(count, Pair::default);
    }

    /// The free blocks of a pool that is known.
    pub(super) fn pool(&self, pool: u32, small: bool) -> &Pool {
        let pair = &self.pools[pool as usize];
        if small { &pair.small } else { &pair.large }
    }

    pub(super) fn pool_mut(&mut self, pool: u32, small: bool) -> &mut Pool {
        let pair = &mut self.pools[pool as usize];
        if small { &mut pair.small } else { &mut pair.large }
    }

    /// Bytes that private pools have free.
    pub(super) fn free_in_private(&self) -> u64 {
        let both = self.pools.iter().skip(1).flat_map(|pair| [&pair.large, &pair.small]);
        both.flat_map(|pool| &pool.free).map(|key| key.1).sum()
    }

    fn key(&self, block: u32) -> FreeKey {
        let &Block { stream, size, address, .. } = self.get(block);
        (stream, size, address, block)
    }

    /// Whether the block is a whole segment of its own.
    pub(super) fn is_whole(&self, block: u32) -> bool {
        let block = self.get(block);
        block.prev == NONE && block.next == NONE
    }

    /// Makes a block known as free, or as unmapped, as its state says.
    pub(super) fn list(&mut self, block: u32) {
        let key = self.key(block);
        let Block { pool, small, state, .. } = *self.get(block);
        let pool = self.pool_mut(pool, small);
        if state == State::Unmapped {
            pool.unmapped.insert((key.0, key.2, block));
        } else {
            pool.free.insert(key);
            let searches = pool.searches;
            self.get_mut(block).searches = searches;
        }
    }

    /// The opposite of [`list`](Self::list).
    pub(super) fn unlist(&mut self, block: u32) {
        let key = self.key(block);
        let Block { pool, small, state, .. } = *self.get(block);
        let pool = self.pool_mut(pool, small);
        if state == State::Unmapped {
            pool.unmapped.remove(&(key.0, key.2, block));
        } else {
            pool.free.remove(&key);
        }
    }

    /// Cuts a block that is not listed after `size` bytes; the rest, with the same state, is not
    /// listed either.
    pub(super) fn cut(&mut self, block: u32, size: u64) -> u32 {
        let whole = *self.get(block);
        let (address, left) = (whole.address + size, whole.size - size);
        let rest = self.add(Block { address, size: left, prev: block, ..whole });
        if whole.next != NONE {
            self.get_mut(whole.next).prev = rest;
        }
        let low = self.get_mut(block);
        low.size = size;
        low.next = rest;
        rest
    }

    /// Merges a block that is not listed with its neighbours of the same kind.
    pub(super) fn merge(&mut self, block: u32) {
        let Block { prev, next, state, .. } = *self.get(block);
        if prev != NONE && self.get(prev).state == state {
            let before = self.take(prev);
            if before.prev != NONE {
                self.get_mut(before.prev).next = block;
            }
            let merged = self.get_mut(block);
            merged.address = before.address;
            merged.size += before.size;
            merged.prev = before.prev;
        }
        if next != NONE && self.get(next).state == state {
            let after = self.take(next);
            if after.next != NONE {
                self.get_mut(after.next).prev = block;
            }
            let merged = self.get_mut(block);
            merged.size += after.size;
            merged.next = after.next;
        }
    }

    fn take(&mut self, block: u32) -> Block {
        self.unlist(block);
        self.all.remove(block as usize)
    }
}
