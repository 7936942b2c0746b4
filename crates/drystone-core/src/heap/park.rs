//! The parked block: the block freed last, kept as it is in case the next request has its size.
//!
//! Programs often free a block and ask for one of the same size next. Such a block need not be
//! merged with its neighbours, filed into a bin, found there and cut again. So a freed block of
//! each kind is parked: free for a request of exactly its size, invisible to everything else. The
//! next free, any other request, and whoever looks at the heap as a whole unparks it first, so
//! nothing is ever decided without it. The statistics count it as if it were merged already.

use super::HeapCore;
use crate::block::{BlockIndex, NONE, State};
use crate::stats::counters::Split;
use crate::units::Kind;

/// The parked block of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parked {
    /// The block, or [`NONE`].
    pub(super) index: BlockIndex,
    /// The split blocks as they were before the block was counted as merged.
    before: Split,
}

impl HeapCore {
    /// Parks a used block, unparking the one before it.
    #[inline(always)]
    pub(super) fn park(&mut self, index: BlockIndex, kind: Kind) {
        self.unpark(kind);
        let before = self.split[kind as usize];
        self.blocks[index].set_parked();
        self.split[kind as usize] = self.as_if_merged(index, before);
        self.parked[kind as usize] = Parked { index, before };
    }

    /// The split blocks if a block that is in no bin were merged with its neighbours and filed.
    #[inline(always)]
    fn as_if_merged(&self, index: BlockIndex, before: Split) -> Split {
        let block = &self.blocks[index];
        let mut after = before;
        let mut whole = true;
        for (neighbour, ahead) in [(block.prev, true), (block.next, false)] {
            if neighbour == NONE {
                continue;
            }
            let other = &self.blocks[neighbour];
            if other.state() == State::Free {
                // A neighbour makes it a part of a segment, so it was counted.
                after.blocks -= 1;
                after.bytes -= other.bytes();
                whole &= if ahead { other.prev == NONE } else { other.next == NONE };
            } else {
                whole = false;
            }
        }
        if !whole {
            after.blocks += 1;
            after.bytes = before.bytes + block.bytes();
        }
        after
    }

    /// The parked block, no longer parked but free and in no bin, if it has exactly this size.
    #[inline(always)]
    pub(super) fn take_parked(&mut self, units: u32, kind: Kind) -> Option<BlockIndex> {
        let Parked { index, before } = self.parked[kind as usize];
        if index == NONE || self.blocks[index].units != units {
            return None;
        }
        self.parked[kind as usize].index = NONE;
        self.split[kind as usize] = before;
        Some(index)
    }

    /// Merges the parked block of a kind with its neighbours and files it, if there is one.
    #[inline(always)]
    pub(super) fn unpark(&mut self, kind: Kind) {
        let Parked { index, before } = self.parked[kind as usize];
        if index != NONE {
            self.parked[kind as usize].index = NONE;
            self.split[kind as usize] = before;
            self.make_free(index, kind);
        }
    }

    /// Does so for both kinds, before the heap is looked at as a whole.
    pub(super) fn unpark_all(&mut self) {
        Kind::ALL.into_iter().for_each(|kind| self.unpark(kind));
    }
}
