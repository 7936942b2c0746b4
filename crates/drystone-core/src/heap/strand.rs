//! Placing large blocks in arenas so that few free pages are stranded.
//!
//! A free page can be moved to where it is needed if its whole handle is free, or if it lies at an
//! end of it. A block that ends in the middle of a handle strands the rest. So not the smallest free
//! block that fits is taken but, of a few, the one and the end of it where the least is lost.

use super::{Fit, HeapCore, Segment};
use crate::block::BlockIndex;
use crate::stats::Metric;
use crate::stats::counters::HeapCounters;
use crate::units::{GRANULES_PER_PAGE, Kind};

/// Free blocks that are compared.
const LOOKS: usize = 16;
/// Pages that taking a run twice as large as needed is worth, where nothing is free besides.
const SIZE_WEIGHT: f32 = 0.2;
/// How much more it is worth where all is free.
const FREE_WEIGHT: f32 = 20.0;
/// How much of a page is lost if only a part of its handle is in the run.
const PART_LOSS: f32 = 0.5;
/// What the upper end must be better by.
const UPPER_END: f32 = 0.01;

/// Which page of its handle is at home at a page of an arena.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spot {
    /// Its number in the handle.
    pub(crate) number: u32,
    /// The pages of the handle.
    pub(crate) pages: u32,
}

/// Where in a free block a large block is put: so many granules from its start.
pub(super) type Place = (BlockIndex, u32);

impl Segment {
    /// Pages of a range of granules that could be moved elsewhere; those that only a part of their
    /// handle is with count less.
    fn movable(&self, start: u32, end: u32) -> f32 {
        let (first, last) = (start.div_ceil(GRANULES_PER_PAGE), end / GRANULES_PER_PAGE);
        if first >= last {
            return 0.0;
        }
        let mut pages = (last - first) as f32;
        let span = |page: u32| {
            let spot = self.spots[page as usize];
            let from = page - spot.number.min(page);
            (from, from + spot.pages)
        };
        let (from, to) = span(first);
        if from < first || to > last {
            pages -= PART_LOSS * (to.min(last) - first) as f32;
            if to >= last {
                return pages;
            }
        }
        let (from, to) = span(last - 1);
        if to > last {
            pages -= PART_LOSS * (last - from.max(first)) as f32;
        }
        pages
    }
}

/// A free block of which a part is to be taken, in granules of its arena.
struct Ends<'a> {
    arena: &'a Segment,
    start: u32,
    end: u32,
    /// Pages that are lost if nothing of the rest is movable.
    whole: f32,
    /// What the size of the block counts, in pages.
    size: f32,
}

impl Ends<'_> {
    /// What is lost if so many pages before and behind the part that is taken are movable.
    fn loss(&self, before: f32, behind: f32) -> f32 {
        self.whole - before - behind + self.size
    }

    /// Pages before a granule that stay movable.
    fn before(&self, granule: u32) -> f32 {
        self.arena.movable(self.start, granule)
    }

    /// Pages from a granule on that stay movable.
    fn behind(&self, granule: u32) -> f32 {
        self.arena.movable(granule, self.end)
    }
}

impl HeapCore {
    /// Where a large request goes in the arenas: where the least is stranded, or where it was the
    /// time before if that is hardly worse. None if nothing fits.
    pub(super) fn find_place(
        &mut self,
        fit: &Fit,
        before: Option<Place>,
        counters: &HeapCounters,
    ) -> Option<Place> {
        self.unpark(Kind::Large);
        let weight = size_weight(counters);
        let (loss, best) = self.least_stranding(fit, weight)?;
        let close = |&(index, skip): &Place| {
            let block = &self.blocks[index];
            let start = block.offset + skip;
            block.units == fit.units || {
                let ends = self.ends(index, fit.units, weight);
                let behind = ends.behind(start + fit.units);
                ends.loss(ends.before(start), behind) <= loss + fit.recall_loss
            }
        };
        Some(before.filter(close).unwrap_or(best))
    }

    /// What taking so many granules of a free block costs where it keeps nothing that is movable.
    fn ends(&self, index: BlockIndex, units: u32, weight: f32) -> Ends<'_> {
        let block = &self.blocks[index];
        let arena = self.segment(block.segment());
        let (start, end) = (block.offset, block.end());
        let whole = arena.movable(start, end) - units as f32 / GRANULES_PER_PAGE as f32;
        let size = weight * (block.units as f32 / units as f32).log2();
        Ends { arena, start, end, whole, size }
    }

    /// The free block and the end of it that strand the least, and what they strand.
    fn least_stranding(&self, fit: &Fit, weight: f32) -> Option<(f32, Place)> {
        let units = fit.units_to_find();
        let blocks = self.blocks.as_slice();
        let mut best: Option<(f32, Place)> = None;
        let fitting = self.bins[Kind::Large as usize].smallest_first(blocks, units);
        for index in fitting.take(LOOKS) {
            let block = &blocks[index as usize];
            let (whole, lower_end) = (block.units == fit.units, (0.0, (index, 0)));
            if whole || !self.segment(block.segment()).is_arena() {
                return best.filter(|(loss, _)| whole && *loss < 0.0).or(Some(lower_end));
            }
            let left = block.units - units;
            let ends = self.ends(index, units, weight);
            let lower = ends.loss(0.0, ends.behind(ends.end - left));
            let upper = ends.loss(ends.before(ends.start + left), 0.0) + UPPER_END;
            if best.is_none_or(|(least, _)| lower.min(upper) < least) {
                let skip = if upper < lower { self.upper_part(index, fit) } else { 0 };
                best = Some((lower.min(upper), (index, skip)));
            }
        }
        best
    }
}

/// What a free block twice as large as needed counts, in pages: the more is free, the more.
fn size_weight(counters: &HeapCounters) -> f32 {
    let now = counters.of(Kind::Large).current();
    let (held, live) = (now[Metric::ReservedBytes as usize], now[Metric::ActiveBytes as usize]);
    let free = 1.0 - live as f32 / held.max(1) as f32;
    SIZE_WEIGHT * (1.0 + FREE_WEIGHT * free)
}
