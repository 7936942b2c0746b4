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

/// A free block, and the end of it at which a block is to be put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) index: BlockIndex,
    pub(super) upper_end: bool,
}

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

impl HeapCore {
    /// The free block of an arena for a large request, and the end of it, that strand the least.
    /// None if nothing fits.
    pub(super) fn find_place(&mut self, fit: &Fit, counters: &HeapCounters) -> Option<Choice> {
        self.unpark(Kind::Large);
        let now = counters.of(Kind::Large).current();
        let (held, live) = (now[Metric::ReservedBytes as usize], now[Metric::ActiveBytes as usize]);
        let free = 1.0 - live as f32 / held.max(1) as f32;
        let weight = SIZE_WEIGHT * (1.0 + FREE_WEIGHT * free);
        let units = fit.units_to_find();
        let blocks = self.blocks.as_slice();
        let mut best: Option<(f32, Choice)> = None;
        let fitting = self.bins[Kind::Large as usize].smallest_first(blocks, units);
        for index in fitting.take(LOOKS) {
            let block = &blocks[index as usize];
            let choice = Choice { index, upper_end: false };
            if block.units == fit.units {
                return Some(best.filter(|(loss, _)| *loss < 0.0).map_or(choice, |(_, c)| c));
            }
            let arena = self.segment(block.segment());
            if !arena.is_arena() {
                return Some(choice);
            }
            let (start, end) = (block.offset, block.end());
            let all = arena.movable(start, end) - units as f32 / GRANULES_PER_PAGE as f32;
            let size = weight * (block.units as f32 / units as f32).log2();
            let lower = all - arena.movable(start + units, end) + size;
            let upper = all - arena.movable(start, end - units) + size + UPPER_END;
            let loss = lower.min(upper);
            if best.is_none_or(|(least, _)| loss < least) {
                best = Some((loss, Choice { index, upper_end: upper < lower }));
            }
        }
        best.map(|(_, choice)| choice)
    }
}
