//! Finding a free block for a request, and cutting it to size.

use super::{Heap, HeapCore, Located};
use crate::block::{Block, BlockIndex, NONE, State};
use crate::units::{GRANULE_SHIFT, Kind};

/// Which free blocks a request may take, and when the rest is split off. Sizes in granules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitRule {
    /// Blocks of at least this size are neither split nor given to smaller requests
    /// (`max_split_size`); `u32::MAX` for no limit.
    pub(crate) max_split: u32,
    /// How much larger than a request of at least `max_split` its block may be
    /// (`max_non_split_rounding`).
    pub(crate) max_rounding: u32,
    /// The least remainder of a large block that is split off.
    pub(crate) least_remainder: u32,
}

/// The size of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) kind: Kind,
    /// Granules.
    pub(crate) units: u32,
}

/// A request as the block layer sees it. Sizes in granules unless said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit {
    pub(crate) kind: Kind,
    pub(crate) units: u32,
    /// Bytes that the owner asked for.
    pub(crate) requested: u64,
    /// Alignment of the address in bytes, at least a granule.
    pub(crate) align: u64,
    pub(crate) rule: SplitRule,
    /// How many pages more may be stranded where the request was placed the time before than where
    /// the fewest are.
    pub(crate) recall_loss: f32,
}

impl Fit {
    /// The same request for an arena, whose free memory is no block of a size of its own: there is
    /// nothing that `max_split_size` would keep whole.
    #[inline]
    pub(crate) fn in_arena(&self) -> Fit {
        let rule = SplitRule { max_split: u32::MAX, max_rounding: 0, least_remainder: 1 };
        Fit { rule, ..*self }
    }

    /// The least size of a free block that surely serves the request wherever it starts.
    #[inline]
    pub(crate) fn units_to_find(&self) -> u32 {
        self.units + (self.align >> GRANULE_SHIFT) as u32 - 1
    }

    /// Whether a free block of this size may serve the request.
    #[inline]
    pub(crate) fn accepts(&self, units: u32) -> bool {
        let wanted = self.units_to_find();
        if units < wanted {
            false
        } else if self.kind == Kind::Small {
            true
        } else if wanted < self.rule.max_split {
            units < self.rule.max_split
        } else {
            units < wanted.saturating_add(self.rule.max_rounding)
        }
    }

    /// Whether a remainder of this size is split off.
    #[inline]
    fn splits(&self, remainder: u32) -> bool {
        match self.kind {
            Kind::Small => remainder > 0,
            Kind::Large => {
                self.units < self.rule.max_split && remainder >= self.rule.least_remainder
            }
        }
    }
}

impl HeapCore {
    /// The best fitting free block. Only the smallest that is large enough is considered, as in
    /// torch: if the rules refuse it, larger ones would be refused too.
    #[inline(always)]
    pub(crate) fn find(&mut self, fit: &Fit) -> Option<BlockIndex> {
        self.unpark(fit.kind);
        let index =
            self.bins[fit.kind as usize].best_fit(self.blocks.as_slice(), fit.units_to_find())?;
        fit.accepts(self.blocks[index].units).then_some(index)
    }

    /// Makes the free block `index`, or the part of it that fits, a used one: its index and address.
    /// The part begins at the first aligned address that is `skip` granules or more from the
    /// block's start.
    #[inline(always)]
    pub(super) fn carve(&mut self, index: BlockIndex, fit: &Fit, skip: u32) -> (BlockIndex, u64) {
        debug_assert!(self.blocks[index].state() == State::Free);
        self.tick += 1;
        self.unfile(index, fit.kind);
        let mut index = index;
        let start = self.address_of(index);
        let wanted = start + (u64::from(skip) << GRANULE_SHIFT);
        let address = wanted.next_multiple_of(fit.align);
        if address != start {
            let head = index;
            index = self.split(head, ((address - start) >> GRANULE_SHIFT) as u32);
            self.file(head, fit.kind);
        }
        let remainder = self.blocks[index].units - fit.units;
        if remainder > 0 && fit.splits(remainder) {
            let tail = self.split(index, fit.units);
            self.file(tail, fit.kind);
        }
        self.blocks[index].set_used(fit.requested);
        (index, address)
    }

    /// How far from the start of a free block its last part begins that serves the request.
    pub(super) fn upper_part(&self, index: BlockIndex, fit: &Fit) -> u32 {
        let skip = self.blocks[index].units - fit.units;
        if !fit.splits(skip) {
            return 0;
        }
        let address = self.address_of(index) + (u64::from(skip) << GRANULE_SHIFT);
        let over = (address & (fit.align - 1)) >> GRANULE_SHIFT;
        skip - over as u32
    }

    /// Cuts a free block that is in no bin after `units`; gives the part behind, in no bin.
    #[inline]
    pub(super) fn split(&mut self, index: BlockIndex, units: u32) -> BlockIndex {
        let Block { offset, units: whole, next, .. } = self.blocks[index];
        let segment = self.blocks[index].segment();
        let mut tail = Block::new_free(segment, offset + units, whole - units);
        tail.prev = index;
        tail.next = next;
        let tail = self.blocks.insert(tail);
        let block = &mut self.blocks[index];
        block.units = units;
        block.next = tail;
        self.blocks[next].prev = tail;
        self.segment_mut(segment).started(offset, offset + units, tail);
        tail
    }
}

impl Heap {
    /// Hands out the block that starts at `address`, counted. None if the bytes there are not all
    /// free, or belong to blocks of the other kind.
    pub(crate) fn hand_out_exactly(
        &self,
        core: &mut HeapCore,
        segment: u32,
        address: u64,
        fit: &Fit,
    ) -> Option<Located> {
        core.unpark(fit.kind);
        let found = core.segments.get(segment as usize)?.as_ref()?;
        let offset = address.checked_sub(found.base).filter(|&offset| offset < found.bytes())?;
        if found.kind != fit.kind {
            return None;
        }
        let granule = (offset >> GRANULE_SHIFT) as u32;
        let index = found.around(granule, &core.blocks);
        if index == NONE {
            return None;
        }
        let block = &core.blocks[index];
        if block.state() != State::Free || block.end() - granule < fit.units {
            return None;
        }
        let (index, address) = core.carve(index, &fit.in_arena(), granule - block.offset);
        Some(self.count(core, index, address, fit))
    }
}
