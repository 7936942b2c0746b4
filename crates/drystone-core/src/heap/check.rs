//! The invariants of a heap, checked by every property test.

use super::{Heap, HeapCore, Segment};
use crate::block::{BlockIndex, NONE, State};
use crate::stats::Metric;
use crate::stats::counters::{Split, Values};
use crate::units::Kind;

impl Heap {
    /// Checks blocks, bins, segments and counters against each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut core = self.lock();
        // What was counted with the parked blocks must be what there is without them.
        core.unpark_all();
        let inner = core.check(self);
        inner.map_err(|what| format!("heap {} ({:?}): {what}", self.id, core.key))
    }
}

/// What a walk over the blocks adds up to.
#[derive(Default)]
struct Sums {
    values: [Values; 2],
    blocks: usize,
    free: [usize; 2],
    pending: usize,
    recorded: usize,
    idle: u32,
}

impl HeapCore {
    fn check(&self, heap: &Heap) -> Result<(), String> {
        let mut sums = Sums::default();
        for (at, segment) in self.segments.iter().enumerate() {
            match segment {
                Some(segment) => self.check_segment(at as u32, segment, &mut sums)?,
                None if self.vacant_segments.contains(&(at as u32)) => {}
                None => return Err(format!("segment {at} is gone but not vacant")),
            }
        }
        if sums.blocks != self.blocks.len() {
            return Err(format!("{} blocks in segments of {}", sums.blocks, self.blocks.len()));
        }
        if sums.pending != self.pending.len() || sums.idle != self.idle {
            return Err("pending or idle counts differ from the blocks".into());
        }
        let uses = self.uses.iter().filter(|uses| !uses.is_empty()).count();
        if self.uses.len() - self.vacant_uses.len() != uses || uses != sums.recorded {
            return Err(format!("{uses} sets of streams for {} blocks", sums.recorded));
        }
        for kind in Kind::ALL {
            let filed = self.bins[kind as usize].check(self.blocks.as_slice())?;
            if filed != sums.free[kind as usize] {
                return Err(format!("{filed} {} blocks in bins of {:?}", kind.name(), sums.free));
            }
            let values = sums.values[kind as usize];
            let split = Split {
                blocks: values[Metric::InactiveSplit as usize],
                bytes: values[Metric::InactiveSplitBytes as usize],
            };
            if self.split[kind as usize] != split {
                return Err(format!("split {:?} is not {split:?}", self.split[kind as usize]));
            }
            let counted = heap.counters.of(kind).current();
            if counted != values {
                return Err(format!("counted {counted:?}, there are {values:?}"));
            }
        }
        Ok(())
    }

    fn check_segment(&self, at: u32, segment: &Segment, sums: &mut Sums) -> Result<(), String> {
        let here = |what: &str, index: BlockIndex| {
            Err(format!("segment {at} at {:#x}, block {index}: {what}", segment.base))
        };
        let values = &mut sums.values[segment.kind as usize];
        values[Metric::Segment as usize] += 1;
        if !segment.is_arena() {
            values[Metric::ReservedBytes as usize] += segment.bytes();
        }
        let (mut before, mut end, mut holes) = (NONE, 0, 0);
        for index in self.blocks_of(segment) {
            let block = &self.blocks[index];
            sums.blocks += 1;
            if block.segment() != at || block.offset != end || block.prev != before {
                return here("does not follow the one before it", index);
            }
            if block.units == 0 {
                return here("is empty", index);
            }
            let whole = block.prev == NONE && block.next == NONE;
            let state = block.state();
            if segment.is_arena() && state != State::Hole && !self.spills {
                values[Metric::ReservedBytes as usize] += block.bytes();
            }
            match state {
                State::Free => {
                    sums.free[segment.kind as usize] += 1;
                    if before != NONE && self.blocks[before].state() == State::Free {
                        return here("and the one before it are free but apart", index);
                    }
                    if whole {
                        sums.idle += 1;
                    } else {
                        values[Metric::InactiveSplit as usize] += 1;
                        values[Metric::InactiveSplitBytes as usize] += block.bytes();
                    }
                }
                State::Used | State::Movable | State::Pending => {
                    if block.state() != State::Pending {
                        values[Metric::Allocation as usize] += 1;
                        values[Metric::AllocatedBytes as usize] += block.bytes();
                    } else {
                        sums.pending += 1;
                    }
                    sums.recorded += usize::from(block.uses() != 0);
                    values[Metric::Active as usize] += 1;
                    values[Metric::ActiveBytes as usize] += block.bytes();
                    values[Metric::RequestedBytes as usize] += block.requested();
                    if block.requested() > block.bytes() || block.requested() == 0 {
                        return here("is smaller than what was asked for", index);
                    }
                }
                State::Hole => {
                    let joined = before != NONE && self.blocks[before].state() == State::Hole;
                    if joined || !self.is_known_hole(segment, index) {
                        return here("is a hole that is not as it should be", index);
                    }
                    holes += 1;
                }
                State::Parked | State::Vacant => return here("is in no known state", index),
            }
            (before, end) = (index, block.end());
        }
        if segment.holes.as_ref().map_or(0, |known| known.len()) != holes {
            return here("ends an arena whose holes are not those that are known", before);
        }
        for page in segment.pins.check()? {
            if segment.is_arena() && self.hole_around(at, page).is_some() {
                return here("is there, but a pinned page is not", before);
            }
        }
        if end != segment.units {
            return here("is the last but does not end the segment", before);
        }
        if !segment.finds(self.blocks_of(segment).map(|index| (index, &self.blocks[index]))) {
            return here("and those before it are not what their addresses lead to", before);
        }
        Ok(())
    }
}
