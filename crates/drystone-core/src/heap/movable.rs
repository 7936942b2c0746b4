//! Movable blocks: marked so that only their id gives them back, and placed where a pass wants them.

use super::{Fit, Heap, HeapCore, Located, Segment};
use crate::block::State;

impl Segment {
    /// Whether a pin lies on the pages of a range of granules; in a segment, anywhere.
    pub(crate) fn is_pinned(&self, start: u32, end: u32) -> bool {
        if self.is_arena() { self.pins.touch(start, end) } else { !self.pins.is_empty() }
    }
}

impl HeapCore {
    /// Marks a used block as movable.
    pub(crate) fn make_movable(&mut self, block: &Located) {
        self.blocks[block.index].set_movable();
    }
}

impl Heap {
    /// Hands out a movable block that begins at a granule of a segment or arena, counted. None if
    /// there is no room for it.
    pub(crate) fn hand_out_movable(
        &self,
        core: &mut HeapCore,
        segment: u32,
        start: u32,
        fit: &Fit,
    ) -> Option<Located> {
        core.unpark(fit.kind);
        let around = core.segments.get(segment as usize)?.as_ref()?;
        // It may be another one by now, for blocks of the other kind.
        if around.kind != fit.kind {
            return None;
        }
        let index = around.around(start, &core.blocks);
        let block = &core.blocks[index];
        let inside = block.offset <= start && start + fit.units <= block.end();
        if block.state() != State::Free || !inside || !fit.accepts(block.units) {
            return None;
        }
        let skip = start - block.offset;
        let (index, address) = core.carve(index, fit, skip);
        core.blocks[index].set_movable();
        Some(self.count(core, index, address, fit))
    }
}
