//! The parked block: the block freed last, kept as it is in case the next request has its size.
//!
//! Programs often free a block and ask for one of the same size next. Such a block need not be
//! merged with its neighbours, filed into a bin, found there and cut again. While that happens, the
//! last freed block of each kind is parked: free for a request of exactly its size, invisible to
//! everything else. The next free, any other request, and whoever looks at the heap as a whole
//! unparks it first, so nothing is ever decided without it. The statistics count it as if it were
//! merged already.

use super::{Extent, HeapCore, Located};
use crate::block::{BlockIndex, NONE, State};
use crate::stats::counters::Split;
use crate::units::{GRANULE_SHIFT, Kind};

/// The parked block of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parked {
    /// The block, or [`NONE`].
    index: BlockIndex,
    /// Its address.
    address: u64,
    /// The split blocks as they were before the block was counted as merged, and as they were then.
    before: Split,
    after: Split,
    /// The block that was parked last, and the shape of the heap then.
    known: BlockIndex,
    shape: u64,
    /// The size, in granules, of the block freed last.
    last: u32,
    /// Whether the latest request had the size of the block freed last: then blocks are parked.
    on: bool,
}

impl HeapCore {
    /// Whether a block that comes back is to be parked.
    #[inline(always)]
    pub(super) fn parks(&mut self, block: Located) -> bool {
        self.unpark(block.kind);
        let parked = &mut self.parked[block.kind as usize];
        parked.last = (block.bytes >> GRANULE_SHIFT) as u32;
        parked.on
    }

    /// Parks a used block; none is parked.
    #[inline(always)]
    pub(super) fn park(&mut self, block: Located) {
        let Located { index, kind, .. } = block;
        self.blocks[index].set_parked();
        let parked = &mut self.parked[kind as usize];
        parked.index = index;
        // Handed out and given back with nothing filed or unfiled in between, it has the neighbours
        // that it had.
        if parked.known != index || parked.shape != self.shape {
            self.look_around(block);
        }
        self.split[kind as usize] = self.parked[kind as usize].after;
    }

    /// Notes what the parked block would be merged with.
    fn look_around(&mut self, block: Located) {
        let Located { index, kind, address, .. } = block;
        let before = self.split[kind as usize];
        let after = self.as_if_merged(index, before);
        let shape = self.shape;
        let parked = &mut self.parked[kind as usize];
        *parked = Parked { address, before, after, known: index, shape, ..*parked };
    }

    /// The split blocks if a block that is in no bin were merged with its neighbours and filed.
    fn as_if_merged(&self, index: BlockIndex, before: Split) -> Split {
        let block = &self.blocks[index];
        let (prev, next) = (block.prev, block.next);
        let mut after = before;
        let mut whole = true;
        // A neighbour makes a free block a part of its segment, so it was counted.
        if prev != NONE {
            let prev = &self.blocks[prev];
            whole = prev.state() == State::Free && prev.prev == NONE;
            if prev.state() == State::Free {
                after.blocks -= 1;
                after.bytes -= prev.bytes();
            }
        }
        if next != NONE {
            let next = &self.blocks[next];
            whole &= next.state() == State::Free && next.next == NONE;
            if next.state() == State::Free {
                after.blocks -= 1;
                after.bytes -= next.bytes();
            }
        }
        if whole {
            return after;
        }
        Split { blocks: after.blocks + 1, bytes: before.bytes + block.bytes() }
    }

    /// The parked block, no longer parked but free and in no bin, if it has exactly this size: its
    /// index and address.
    #[inline(always)]
    pub(super) fn take_parked(&mut self, size: Extent) -> Option<(BlockIndex, u64)> {
        let parked = &mut self.parked[size.kind as usize];
        parked.on = parked.last == size.units;
        if parked.index == NONE || !parked.on {
            return None;
        }
        let index = std::mem::replace(&mut parked.index, NONE);
        self.split[size.kind as usize] = parked.before;
        Some((index, parked.address))
    }

    /// Merges the parked block of a kind with its neighbours and files it, if there is one.
    #[inline(always)]
    pub(super) fn unpark(&mut self, kind: Kind) {
        let parked = &mut self.parked[kind as usize];
        if parked.index != NONE {
            let index = std::mem::replace(&mut parked.index, NONE);
            self.split[kind as usize] = parked.before;
            self.make_free(index, kind);
        }
    }

    /// Does so for both kinds, before the heap is looked at as a whole.
    pub(super) fn unpark_all(&mut self) {
        Kind::ALL.into_iter().for_each(|kind| self.unpark(kind));
    }
}
