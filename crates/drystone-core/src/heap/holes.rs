//! Arenas in a heap: holes that are filled with pages, and free blocks that give pages away.
//!
//! An arena is a range of addresses of which only some pages have memory at home. The rest are
//! holes: blocks like others to their neighbours, but in no bin. Whoever fills and drains holds the
//! lock of the device's pages besides the heap's, so a hole that was seen under that lock stays.

use std::collections::BTreeMap;

use super::{Heap, HeapCore, Segment, Spot};
use crate::block::{Block, BlockIndex, NONE, State};
use crate::units::{GRANULES_PER_PAGE, Kind, PAGE};

/// Consecutive pages of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Pages {
    pub(crate) fn new(first: u32, count: u32) -> Self {
        Pages { first, count }
    }

    /// The page after the last.
    pub(crate) fn end(&self) -> u32 {
        self.first + self.count
    }

    /// The pages that lie wholly in a range of granules.
    fn inside(offset: u32, end: u32) -> Pages {
        let first = offset.div_ceil(GRANULES_PER_PAGE);
        Pages { first, count: (end / GRANULES_PER_PAGE).saturating_sub(first) }
    }

    /// The offset of the first in granules.
    fn offset(&self) -> u32 {
        self.first * GRANULES_PER_PAGE
    }

    /// Their size in granules.
    fn units(&self) -> u32 {
        self.count * GRANULES_PER_PAGE
    }
}

/// A free block of an arena that has whole pages, or borders on a hole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreeRun {
    pub(crate) block: BlockIndex,
    /// The index of the arena's segment in the heap.
    pub(crate) segment: u32,
    /// Where the block lies, in granules of the arena.
    pub(crate) offset: u32,
    pub(crate) units: u32,
    /// The pages that lie wholly in it.
    pub(crate) pages: Pages,
    /// Whether there is a hole right before it, and right behind it.
    pub(crate) hole_before: bool,
    pub(crate) hole_behind: bool,
}

impl HeapCore {
    /// Whether a block lies in an arena.
    pub(crate) fn lies_in_arena(&self, block: BlockIndex) -> bool {
        self.segment(self.blocks[block].segment()).is_arena()
    }

    /// Takes an arena in as one hole: its index.
    pub(crate) fn add_arena(&mut self, mut arena: Segment) -> u32 {
        let at = self.vacant_segments.pop().unwrap_or_else(|| {
            self.segments.push(None);
            self.segments.len() as u32 - 1
        });
        let mut hole = Block::new_free(at, 0, arena.units);
        hole.set_hole();
        let index = self.blocks.insert(hole);
        arena.started_whole(index);
        self.segments[at as usize] = Some(arena);
        self.holes(at).insert(0, index);
        self.arenas += 1;
        at
    }

    /// Lets an arena go if it is one hole. True if it did.
    pub(crate) fn remove_arena(&mut self, at: u32) -> bool {
        let Some(Some(arena)) = self.segments.get(at as usize) else { return false };
        let first = arena.first;
        let block = &self.blocks[first];
        if block.state() != State::Hole || block.next != NONE {
            return false;
        }
        self.blocks.remove(first);
        self.segments[at as usize] = None;
        self.vacant_segments.push(at);
        self.arenas -= 1;
        true
    }

    /// What is known of a free block of an arena; none if it is one of a segment.
    fn run(&self, block: BlockIndex) -> Option<FreeRun> {
        let record = &self.blocks[block];
        let (segment, offset, units) = (record.segment(), record.offset, record.units);
        if !self.segment(segment).is_arena() {
            return None;
        }
        let hole_before = self.blocks[record.prev].state() == State::Hole;
        let hole_behind = self.blocks[record.next].state() == State::Hole;
        let pages = Pages::inside(offset, record.end());
        Some(FreeRun { block, segment, offset, units, pages, hole_before, hole_behind })
    }

    /// The free blocks of arenas that have at least `units` granules, from the largest.
    pub(crate) fn runs(&mut self, kind: Kind, units: u32) -> impl Iterator<Item = FreeRun> + '_ {
        self.unpark(kind);
        let largest = self.bins[kind as usize].largest_first(self.blocks.as_slice(), units);
        largest.filter_map(|block| self.run(block))
    }

    /// The free block around a page of an arena, if the page is wholly free and no pin lies on it;
    /// of its pages those around this one that can go with it.
    pub(crate) fn run_around(&mut self, at: u32, page: u32) -> Option<FreeRun> {
        let run = self.run_at(at, page * GRANULES_PER_PAGE)?;
        if !(run.pages.first <= page && page < run.pages.end()) {
            return None;
        }
        let pages = self.segment(at).pins.free_around(run.pages, page)?;
        Some(FreeRun { pages, ..run })
    }

    /// Notes which pages of their handle pages of an arena are, from `number` on.
    pub(crate) fn set_spots(&mut self, at: u32, pages: Pages, number: u32, of: u32) {
        let arena = self.segment_mut(at);
        for page in 0..pages.count {
            let spot = Spot { number: number + page, pages: of };
            arena.spots[(pages.first + page) as usize] = spot;
        }
    }

    /// The free block around a granule of an arena, if it is free.
    pub(crate) fn run_at(&mut self, at: u32, granule: u32) -> Option<FreeRun> {
        let kind = self.segments.get(at as usize)?.as_ref()?.kind;
        self.unpark(kind);
        let block = self.segment(at).around(granule, &self.blocks);
        if self.blocks[block].state() == State::Free { self.run(block) } else { None }
    }

    /// The hole that lies around a page of an arena, if there is one.
    pub(crate) fn hole_around(&self, at: u32, page: u32) -> Option<Pages> {
        let holes = self.segments.get(at as usize)?.as_ref()?.holes.as_ref()?;
        let (_, &hole) = holes.range(..=page * GRANULES_PER_PAGE).next_back()?;
        let block = &self.blocks[hole];
        let pages = Pages::inside(block.offset, block.end());
        (page < pages.end()).then_some(pages)
    }

    /// Whether a hole is of whole pages and known by its offset.
    pub(super) fn is_known_hole(&self, arena: &Segment, hole: BlockIndex) -> bool {
        let block = &self.blocks[hole];
        let known = arena.holes.as_ref().and_then(|holes| holes.get(&block.offset));
        let whole = block.offset.is_multiple_of(GRANULES_PER_PAGE)
            && block.units.is_multiple_of(GRANULES_PER_PAGE);
        known == Some(&hole) && whole
    }

    /// The bytes of pages that count as reserved.
    fn counted(&self, pages: Pages) -> u64 {
        if self.spills { 0 } else { u64::from(pages.count) * PAGE }
    }

    fn holes(&mut self, at: u32) -> &mut BTreeMap<u32, BlockIndex> {
        self.segment_mut(at).holes.as_mut().expect("an arena has holes")
    }

    /// Cuts a block after `units` if it goes on; the part behind keeps the state.
    fn cut(&mut self, index: BlockIndex, units: u32) -> Option<BlockIndex> {
        (self.blocks[index].units > units).then(|| self.split(index, units))
    }
}

impl Heap {
    /// Makes pages of a hole a free block, merged with what is free around them and counted: the
    /// whole.
    pub(crate) fn fill(&self, core: &mut HeapCore, at: u32, pages: Pages) -> BlockIndex {
        let kind = core.segment(at).kind;
        // The pages change the sums that a parked block remembers.
        core.unpark_all();
        let (offset, units) = (pages.offset(), pages.units());
        let before = core.holes(at).range(..=offset).next_back();
        let (&start, &hole) = before.expect("the pages are a hole's");
        let mut index = hole;
        if start < offset {
            index = core.split(hole, offset - start);
        } else {
            core.holes(at).remove(&start);
        }
        if let Some(behind) = core.cut(index, units) {
            core.blocks[behind].set_hole();
            core.holes(at).insert(offset + units, behind);
        }
        let whole = core.make_free(index, kind);
        let bytes = core.counted(pages);
        self.counters.of(kind).pages_in(bytes, core.split_of(kind));
        whole
    }

    /// Takes pages that lie wholly in one free block away from it, so that they are a hole, and
    /// counts them as if they had never come. False, and nothing done, if they are not free or a
    /// pin lies on them.
    pub(crate) fn drain(&self, core: &mut HeapCore, at: u32, pages: Pages) -> bool {
        let free = core.run_around(at, pages.first);
        let Some(run) = free.filter(|run| pages.end() <= run.pages.end()) else { return false };
        core.unpark_all();
        let kind = core.segment(at).kind;
        core.unfile(run.block, kind);
        let mut index = run.block;
        let skipped = pages.offset() - run.offset;
        if skipped > 0 {
            index = core.split(run.block, skipped);
        }
        // Filed only now: whether a free block is split shows at its neighbours.
        if let Some(behind) = core.cut(index, pages.units()) {
            core.file(behind, kind);
        }
        core.blocks[index].set_hole();
        if skipped > 0 {
            core.file(run.block, kind);
        }
        core.join_holes(at, index);
        let bytes = core.counted(pages);
        self.counters.of(kind).pages_out(bytes, core.split_of(kind));
        true
    }
}

impl HeapCore {
    /// Joins a new hole with the holes around it.
    fn join_holes(&mut self, at: u32, index: BlockIndex) {
        let Block { prev, next, offset, .. } = self.blocks[index];
        if self.blocks[next].state() == State::Hole {
            let start = self.blocks[next].offset;
            self.holes(at).remove(&start);
            self.absorb(index, next);
        }
        if self.blocks[prev].state() == State::Hole {
            self.absorb(prev, index);
        } else {
            self.holes(at).insert(offset, index);
        }
    }
}
