//! The pool of each block. Entries of Drystone's histories name it. torch's do not, but the segments at
//! the end do: a block lay in the pool of the segment that covers its address, if that segment was there
//! already.
//!
//! A segment that came from the device whole was there behind the last entry that takes its address,
//! or from the beginning where the ring has none. An expandable one is mapped piece by piece and
//! belongs to one pool all the while: its addresses alone decide. What no segment at the end covers
//! counts to the default pool.
//!
//! torch's segments never change pools. Drystone's may, once a pool is released: for the blocks that no
//! entry names, those live from before the ring to the end, the pool is the last one.

use crate::limits::{Budget, Exceeded};
use crate::snapshot::{Action, EntryPools, Segment, Snapshot, TraceEntry};

/// The default pool's id.
const DEFAULT: (u64, u64) = (0, 0);

/// The private pools of a snapshot, each named by a number from 1 on; 0 is the default pool. Without
/// private pools all is empty.
pub(super) struct Pools<'a> {
    /// What entries say themselves.
    said: &'a EntryPools,
    /// By number less 1, sorted.
    ids: Vec<(u64, u64)>,
    /// The segments of private pools by device and address; no two begin at one address.
    places: Vec<Place>,
}

/// A segment of a private pool.
struct Place {
    device: u32,
    is_expandable: bool,
    start: u64,
    bytes: u64,
    pool: u64,
    /// It was there from this entry of the ring on.
    since: u64,
}

impl<'a> Pools<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, budget: &mut Budget) -> Result<Self, Exceeded> {
        let private = |segment: &&Segment| segment.segment_pool_id != DEFAULT;
        let segments = || snapshot.segments.iter().filter(private);
        let said = &snapshot.entry_pools;
        let mut pools = Pools { said, ids: Vec::new(), places: Vec::new() };
        let of_entries = said.ids().iter().copied().filter(|&id| id != DEFAULT);
        for id in segments().map(|segment| segment.segment_pool_id).chain(of_entries) {
            budget.push(&mut pools.ids, id)?;
        }
        pools.ids.sort_unstable();
        pools.ids.dedup();
        for segment in segments() {
            let place = Place {
                device: segment.device,
                is_expandable: segment.is_expandable,
                start: segment.address,
                bytes: segment.total_size,
                pool: pools.of_segment(segment),
                since: 0,
            };
            budget.push(&mut pools.places, place)?;
        }
        // torch's segments do not overlap; of others that begin at one address one stays.
        pools.places.sort_unstable_by_key(|place| (place.device, place.start));
        pools.places.dedup_by_key(|place| (place.device, place.start));
        pools.note_beginnings(snapshot);
        Ok(pools)
    }

    fn note_beginnings(&mut self, snapshot: &Snapshot) {
        if self.places.is_empty() {
            return;
        }
        for (device, ring) in (0..).zip(&snapshot.device_traces) {
            for (index, entry) in (0..).zip(ring) {
                if entry.action != Action::SegmentAlloc {
                    continue;
                }
                let found = self.places.binary_search_by_key(&(device, entry.addr), |place| {
                    (place.device, place.start)
                });
                if let Ok(found) = found
                    && !self.places[found].is_expandable
                {
                    self.places[found].since = index;
                }
            }
        }
    }

    /// The pool of the segment.
    pub(super) fn of_segment(&self, segment: &Segment) -> u64 {
        self.number(segment.segment_pool_id)
    }

    fn number(&self, id: (u64, u64)) -> u64 {
        // The default pool is not among the ids.
        self.ids.binary_search(&id).map_or(0, |found| found as u64 + 1)
    }

    /// The pool of the block of entry `index` of the device's ring: what the entry says, else of where
    /// it was.
    pub(super) fn of_entry(&self, entry: &TraceEntry, device: u32, index: u64) -> u64 {
        let said = self.said.get(entry.pool).map(|id| self.number(id));
        said.unwrap_or_else(|| self.at(device, entry.addr, index))
    }

    /// The pool of the block that was at this address at entry `index` of the device's ring. Where
    /// segments overlap, the one that begins last counts.
    fn at(&self, device: u32, address: u64, index: u64) -> u64 {
        let next =
            self.places.partition_point(|place| (place.device, place.start) <= (device, address));
        let Some(place) = next.checked_sub(1).map(|last| &self.places[last]) else { return 0 };
        let covers = place.device == device && address - place.start < place.bytes;
        if covers && index >= place.since { place.pool } else { 0 }
    }
}
