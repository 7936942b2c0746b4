//! What was freed on a stream, by size, and how far the stream has come.

use std::collections::{BTreeMap, BTreeSet};

use drystone_core::DriverError;

use crate::policy::parts::Event;

/// A block of a stream's list that is less than this larger is not cut.
const LEAST_REST: u64 = 16;

/// Memory of which a stream may not be done yet.
pub(super) struct Freed {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) event: Event,
}

/// What was freed on a stream.
#[derive(Default)]
pub(super) struct StreamList {
    /// In the order of the frees.
    pub(super) freed: BTreeMap<u64, Freed>,
    /// (bytes, key of `freed`).
    by_size: BTreeSet<(u64, u64)>,
}

impl StreamList {
    pub(super) fn insert(&mut self, key: u64, freed: Freed) {
        self.by_size.insert((freed.bytes, key));
        self.freed.insert(key, freed);
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Freed> {
        let freed = self.freed.remove(&key)?;
        self.by_size.remove(&(freed.bytes, key));
        Some(freed)
    }

    /// Takes the smallest memory that fits, cut: its address and bytes; and its event if it is not
    /// needed any more.
    pub(super) fn take(&mut self, bytes: u64) -> Option<(u64, u64, Option<Event>)> {
        let &(_, key) = self.by_size.range((bytes, 0)..).next()?;
        let freed = self.remove(key)?;
        if freed.bytes - bytes <= LEAST_REST {
            return Some((freed.address, freed.bytes, Some(freed.event)));
        }
        let (address, rest) = (freed.address, freed.bytes - bytes);
        self.insert(key, Freed { address: address + bytes, bytes: rest, event: freed.event });
        Some((address, bytes, None))
    }

    /// The key of the last free that the stream has passed: with it all before it. Looked for from
    /// the latest on in growing steps, then by halves, as DALI does.
    pub(super) fn last_done(&self) -> Result<Option<u64>, DriverError> {
        let keys: Vec<u64> = self.freed.keys().rev().copied().collect();
        let done = |index: usize| self.freed[&keys[index]].event.is_done();
        let (mut low, mut probe, mut step) = (0, 0, 1);
        while probe < keys.len() && !done(probe)? {
            low = probe + 1;
            probe += step;
            step *= 2;
        }
        let mut high = probe.min(keys.len());
        while low < high {
            let middle = (low + high) / 2;
            if done(middle)? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(keys.get(low).copied())
    }
}
