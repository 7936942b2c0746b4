//! Looking a pointer up, and giving its block back: coalescing with the free neighbours.

use std::sync::Arc;

use super::{Heap, HeapCore, Segment};
use crate::block::{BlockIndex, NONE, State};
use crate::driver::StreamId;
use crate::error::PointerError;
use crate::ticket::Ticker;
use crate::units::{GRANULE, GRANULE_SHIFT, Kind};

/// A used block: one that a pointer names, or that is handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) index: BlockIndex,
    pub(crate) kind: Kind,
    pub(crate) address: u64,
    /// The block's size in bytes.
    pub(crate) bytes: u64,
    /// What its owner asked for, in bytes.
    pub(crate) requested: u64,
}

/// What became of a block that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// It is free.
    Free,
    /// It waits for the streams recorded on it.
    Pending,
}

impl HeapCore {
    /// The block of this state, used or movable, that starts at `pointer`, in the segment that the
    /// address table named; none if that segment is not around the pointer: not any more, or the
    /// table's page is only partly its own.
    pub(crate) fn locate(
        &self,
        at: u32,
        pointer: u64,
        state: State,
    ) -> Option<Result<Located, PointerError>> {
        let segment = self.segments.get(at as usize)?.as_ref()?;
        if pointer.wrapping_sub(segment.base) >= segment.bytes() {
            return None;
        }
        let found = self.live(at, pointer, state);
        Some(found.ok_or_else(|| self.why_not(segment, pointer)))
    }

    /// Likewise, without a reason where there is none.
    #[inline(always)]
    pub(crate) fn live(&self, at: u32, pointer: u64, state: State) -> Option<Located> {
        let segment = self.segments.get(at as usize)?.as_ref()?;
        let offset = pointer.wrapping_sub(segment.base);
        if offset >= segment.bytes() || offset % GRANULE != 0 {
            return None;
        }
        let granule = (offset >> GRANULE_SHIFT) as u32;
        let mut index = segment.first_near(granule);
        while index != NONE {
            let block = &self.blocks[index];
            if block.offset < granule {
                index = block.next;
                continue;
            }
            if block.offset > granule || block.state() != state {
                break;
            }
            let (kind, bytes, requested) = (segment.kind, block.bytes(), block.requested());
            return Some(Located { index, kind, address: pointer, bytes, requested });
        }
        None
    }

    /// Why a pointer into a segment names no block of the wanted state.
    #[cold]
    fn why_not(&self, segment: &Segment, pointer: u64) -> PointerError {
        let granule = ((pointer - segment.base) >> GRANULE_SHIFT) as u32;
        let around = self.blocks_of(segment).find(|&index| self.blocks[index].end() > granule);
        match around.map(|index| &self.blocks[index]) {
            Some(block) if matches!(block.state(), State::Used | State::Movable) => {
                let start = segment.base + (u64::from(block.offset) << GRANULE_SHIFT);
                if start == pointer {
                    return PointerError::Movable { pointer };
                }
                PointerError::Interior { pointer, block: start }
            }
            _ => PointerError::DoubleFree { pointer },
        }
    }

    /// Notes that `ticker`'s stream uses the block too. False if that was known.
    pub(crate) fn add_use(&mut self, index: BlockIndex, ticker: Arc<Ticker>) -> bool {
        let at = self.blocks[index].uses();
        if at == 0 {
            let slot = match self.vacant_uses.pop() {
                Some(slot) => slot,
                None => {
                    self.uses.push(Vec::new());
                    self.uses.len() as u32 - 1
                }
            };
            self.uses[slot as usize].push(ticker);
            self.blocks[index].set_uses(slot + 1);
            return true;
        }
        let uses = &mut self.uses[at as usize - 1];
        let new = uses.iter().all(|known| known.stream != ticker.stream);
        if new {
            uses.push(ticker);
        }
        new
    }

    /// Whether the stream has been recorded on the block.
    pub(crate) fn is_used_by(&self, index: BlockIndex, stream: StreamId) -> bool {
        match self.blocks[index].uses() {
            0 => false,
            at => self.uses[at as usize - 1].iter().any(|ticker| ticker.stream == stream),
        }
    }

    /// The recorded streams of a block, which it loses.
    pub(crate) fn take_uses(&mut self, index: BlockIndex) -> Vec<Arc<Ticker>> {
        match self.blocks[index].uses() {
            0 => Vec::new(),
            at => {
                self.blocks[index].set_uses(0);
                self.vacant_uses.push(at - 1);
                std::mem::take(&mut self.uses[at as usize - 1])
            }
        }
    }

    /// Makes a block that is in no bin a free one, merged with its free neighbours: the whole.
    #[inline]
    pub(super) fn make_free(&mut self, index: BlockIndex, kind: Kind) -> BlockIndex {
        let mut index = index;
        self.blocks[index].set_free();
        let (prev, next) = (self.blocks[index].prev, self.blocks[index].next);
        // Record 0, which stands for no neighbour, is not free.
        if self.blocks[next].state() == State::Free {
            self.unfile(next, kind);
            self.absorb(index, next);
        }
        if self.blocks[prev].state() == State::Free {
            self.unfile(prev, kind);
            self.absorb(prev, index);
            index = prev;
        }
        self.file(index, kind);
        index
    }

    /// Lets a block grow over the one behind it, which is in the same state; both are in no bin.
    #[inline]
    pub(super) fn absorb(&mut self, index: BlockIndex, behind: BlockIndex) {
        let gone = self.blocks[behind];
        let before = self.blocks[index].offset;
        self.segment_mut(gone.segment()).ended(before, &gone);
        self.blocks.remove(behind);
        let block = &mut self.blocks[index];
        block.units += gone.units;
        block.next = gone.next;
        self.blocks[gone.next].prev = index;
    }
}

impl Heap {
    /// Gives a used block back, counted: free at once, or pending if streams are recorded on it.
    #[inline(always)]
    pub(crate) fn give(&self, core: &mut HeapCore, block: Located) -> Given {
        if core.blocks[block.index].uses() != 0 {
            core.make_pending(block);
            core.thresholds.distrust();
            self.counters.of(block.kind).became_pending(block.bytes);
            return Given::Pending;
        }
        if core.parks(block) {
            core.park(block);
        } else {
            core.make_free(block.index, block.kind);
        }
        self.counters.of(block.kind).freed(block.bytes, block.requested, core.split_of(block.kind));
        Given::Free
    }
}
