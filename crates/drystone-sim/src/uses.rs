//! Who has used which bytes last: finds unordered accesses, and uses that the host cannot know to
//! be over.
//!
//! For every byte the accesses that matter are kept. An access replaces an earlier one that comes
//! before it if every later access that conflicts with the earlier one conflicts with it as well
//! (it is a write, or both are reads): whoever is ordered after the new one is then ordered after
//! the old one, and whoever is not is caught by the new one. So each stream has at most one read
//! and one write per byte, and no race is lost.

use crate::interval::IntervalMap;
use crate::misuse::Access;
use crate::order::Point;
use crate::stream::Streams;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) point: Point,
    pub(crate) access: Access,
    /// The address of the mapping through which it goes; 0 where memory has only one address.
    pub(crate) via: u64,
}

/// Bytes that two accesses touch without an order between them. With the same point twice they are
/// those of one piece of work, through two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) earlier: Use,
}

/// Below this number of runs there is no sweeping.
const SWEEP_MIN: usize = 1024;

#[derive(Debug)]
pub(crate) struct Uses {
    map: IntervalMap<Vec<Use>>,
    /// The number of runs at which to look for those that are over.
    sweep_at: usize,
}

impl Uses {
    pub(crate) fn new() -> Self {
        Uses { map: IntervalMap::default(), sweep_at: SWEEP_MIN }
    }

    /// Enters the use of `[start, end)`; the bytes on which it clashes with earlier ones, first
    /// by address, with pieces that clash with the same stream joined.
    pub(crate) fn enter(
        &mut self,
        start: u64,
        end: u64,
        new: Use,
        streams: &Streams,
    ) -> Vec<Clash> {
        let mut clashes: Vec<Clash> = Vec::new();
        self.map.update(start, end, |from, to, uses| {
            let mut uses = uses.unwrap_or_default();
            uses.retain(|old| {
                let aliased = old.point == new.point && old.via != new.via;
                if !aliased && streams.ordered(old.point, new.point.stream) {
                    // What the host knows to be over is before everything to come.
                    return new.access == Access::Read
                        && old.access == Access::Write
                        && !streams.host.covers(old.point);
                }
                if new.access == Access::Write || old.access == Access::Write {
                    match clashes.iter_mut().find(|clash| {
                        // It ends where this piece starts, or is this piece, by its other use.
                        (clash.end == from || clash.end == to)
                            && clash.earlier.point.stream == old.point.stream
                    }) {
                        Some(clash) => clash.end = to,
                        None => clashes.push(Clash { start: from, end: to, earlier: *old }),
                    }
                }
                true
            });
            uses.push(new);
            Some(uses)
        });
        if self.map.len() >= self.sweep_at {
            self.map.retain(|uses| {
                uses.retain(|one| !streams.host.covers(one.point));
                !uses.is_empty()
            });
            // Twice what is left: the sweeps cost a constant per use entered.
            self.sweep_at = (self.map.len() * 2).max(SWEEP_MIN);
        }
        clashes
    }

    /// A use of some of these bytes that the host does not know to be over.
    pub(crate) fn unfinished(&self, start: u64, end: u64, streams: &Streams) -> Option<Use> {
        let mut uses = self.map.overlapping(start, end).flat_map(|(_, _, uses)| uses);
        uses.find(|one| !streams.host.covers(one.point)).copied()
    }

    /// Forgets the bytes: they are not memory any more.
    pub(crate) fn forget(&mut self, start: u64, end: u64) {
        self.map.remove(start, end);
    }

    /// Forgets everything, as the host has waited for it all: whatever comes is ordered after it.
    pub(crate) fn all_over(&mut self) {
        self.map.clear();
    }
}

#[cfg(test)]
mod tests {
    use drystone_core::driver::StreamId;

    use super::*;

    /// The race detector is checked as a whole in `tests/order.rs`; here, that it forgets.
    #[test]
    fn uses_known_to_be_over_are_swept() {
        let mut streams = Streams::new(None);
        let index = streams.find(StreamId(1)).unwrap();
        let mut uses = Uses::new();
        for at in 0..SWEEP_MIN as u64 {
            let point = streams.submit(index, 0);
            // Gaps, so that no two runs become one.
            uses.enter(at * 10, at * 10 + 5, Use { point, access: Access::Read, via: 0 }, &streams);
            if at == 10 {
                streams.host.learn(point);
            }
        }
        assert_eq!(uses.map.len(), SWEEP_MIN - 11);
        assert_eq!(uses.unfinished(0, 105, &streams), None);
        assert!(uses.unfinished(0, 111, &streams).is_some());
    }

    #[test]
    fn a_byte_keeps_one_read_and_one_write_per_stream() {
        let mut streams = Streams::new(None);
        let index = streams.find(StreamId(1)).unwrap();
        let mut uses = Uses::new();
        for round in 0..50 {
            let point = streams.submit(index, 0);
            let access = if round % 5 == 0 { Access::Write } else { Access::Read };
            uses.enter(0, 100, Use { point, access, via: 0 }, &streams);
        }
        assert_eq!(uses.map.get(0).map(Vec::len), Some(2));
    }
}
