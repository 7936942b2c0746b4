//! Which addresses segments and reserved ranges get: lowest first, so that a freed range is soon
//! handed out again.

use std::collections::{BTreeMap, BTreeSet};

use drystone_core::driver::DeviceId;

use crate::config::MAX_DEVICES;
use crate::rng::SplitMix64;

/// Addresses of segments per device. Device 0 has the highest, just below 2⁴⁷, which look like
/// CUDA's.
const REGION: u64 = 1 << 40;
const TOP: u64 = 1 << 47;
/// The end of the addresses that can be reserved: below the segments of every device.
const RESERVABLE_TOP: u64 = TOP - MAX_DEVICES as u64 * REGION;
/// The alignment of every segment.
const GRANULE: u64 = 512;
/// The alignment of segments of at least this size, as CUDA has it, and of all that is mapped.
pub(crate) const PAGE: u64 = 2 << 20;
/// The part of a region in which segments below [`PAGE`] share pages.
const SMALL_AREA: u64 = 64 << 30;

/// The addresses of one device.
#[derive(Debug)]
pub(crate) enum AddressSpace {
    /// As CUDA: small segments packed together, large ones on pages of their own.
    Packed { small: Area, large: Area },
    /// At odd multiples of [`GRANULE`], with a gap before some: catches who relies on more
    /// alignment than the contract gives, or merges neighbouring segments.
    Scattered { area: Area, rng: SplitMix64 },
}

impl AddressSpace {
    pub(crate) fn new(device: DeviceId, scatter: Option<u64>) -> Self {
        let start = TOP - (u64::from(device.0) + 1) * REGION;
        match scatter {
            None => AddressSpace::Packed {
                small: Area::new(start, SMALL_AREA),
                large: Area::new(start + SMALL_AREA, REGION - SMALL_AREA),
            },
            Some(seed) => AddressSpace::Scattered {
                area: Area::new(start, REGION),
                rng: SplitMix64::new(seed ^ u64::from(device.0)),
            },
        }
    }

    /// Addresses for a segment of `bytes` (> 0), if there are any left.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        match self {
            AddressSpace::Packed { small, large } => {
                let (area, unit) = if bytes < PAGE { (small, GRANULE) } else { (large, PAGE) };
                let len = bytes.checked_next_multiple_of(unit)?;
                area.take(len)
            }
            AddressSpace::Scattered { area, rng } => {
                let len = bytes.checked_next_multiple_of(GRANULE)?;
                let odd = |start: u64| start | GRANULE;
                let (start, room) =
                    area.lowest(len, |start, room| room >= len + (odd(start) - start))?;
                let slack = (room - len - (odd(start) - start)) / (2 * GRANULE);
                // Half of the segments directly behind what is there, the others up to 7 KiB on.
                let gap = match rng.next_u64() % 16 {
                    steps @ 0..8 => steps.min(slack) * 2 * GRANULE,
                    _ => 0,
                };
                let at = odd(start) + gap;
                area.carve(start, at, len);
                Some(at)
            }
        }
    }

    /// Takes the addresses of a segment of `bytes` back.
    pub(crate) fn give_back(&mut self, address: u64, bytes: u64) {
        match self {
            AddressSpace::Packed { small, .. } if bytes < PAGE => {
                small.give_back(address, bytes.next_multiple_of(GRANULE));
            }
            AddressSpace::Packed { large, .. } => {
                large.give_back(address, bytes.next_multiple_of(PAGE));
            }
            AddressSpace::Scattered { area, .. } => {
                area.give_back(address, bytes.next_multiple_of(GRANULE));
            }
        }
    }
}

/// The device whose part of the reservable addresses this one is in, if each has `share` bytes.
pub(crate) fn reserved_by(address: u64, share: u64) -> Option<DeviceId> {
    let below_top = RESERVABLE_TOP.checked_sub(address)?.checked_sub(1)?;
    below_top.checked_div(share).and_then(|index| u32::try_from(index).ok()).map(DeviceId)
}

/// The free ranges of one part of the addresses.
#[derive(Debug)]
pub(crate) struct Area {
    /// Start of a free range to its length; no two of them touch.
    free: BTreeMap<u64, u64>,
    /// The starts of the same ranges by the floor of log₂ of their length, so that a fit is found
    /// without passing by all the smaller ones.
    by_class: Vec<BTreeSet<u64>>,
}

impl Area {
    fn new(start: u64, len: u64) -> Self {
        let mut area = Area { free: BTreeMap::new(), by_class: vec![BTreeSet::new(); 64] };
        area.insert(start, len);
        area
    }

    /// The `share` bytes of a device that it can reserve.
    pub(crate) fn reservable(device: DeviceId, share: u64) -> Self {
        Area::new(RESERVABLE_TOP - (u64::from(device.0) + 1) * share, share)
    }

    /// The lowest `len` bytes (> 0) that are free in one piece.
    pub(crate) fn take(&mut self, len: u64) -> Option<u64> {
        let (start, _) = self.lowest(len, |_, room| room >= len)?;
        self.carve(start, start, len);
        Some(start)
    }

    /// The lowest free range (start, length) of at least `len` that `fits`.
    fn lowest(&self, len: u64, fits: impl Fn(u64, u64) -> bool) -> Option<(u64, u64)> {
        let mut best = None;
        for starts in &self.by_class[class(len)..] {
            for start in starts {
                if best.is_some_and(|(lowest, _)| *start >= lowest) {
                    break;
                }
                let room = self.free.get(start).copied().unwrap_or(0);
                if fits(*start, room) {
                    best = Some((*start, room));
                    break;
                }
            }
        }
        best
    }

    /// Takes `[at, at + len)` out of the free range that starts at `start`.
    fn carve(&mut self, start: u64, at: u64, len: u64) {
        let room = self.remove(start);
        self.insert(start, at - start);
        self.insert(at + len, start + room - (at + len));
    }

    pub(crate) fn give_back(&mut self, mut start: u64, mut len: u64) {
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.remove(before);
            (start, len) = (before, room + len);
        }
        if self.free.contains_key(&(start + len)) {
            len += self.remove(start + len);
        }
        self.insert(start, len);
    }

    fn insert(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.free.insert(start, len);
            self.by_class[class(len)].insert(start);
        }
    }

    fn remove(&mut self, start: u64) -> u64 {
        let len = self.free.remove(&start).unwrap_or(0);
        if len > 0 {
            self.by_class[class(len)].remove(&start);
        }
        len
    }
}

/// The floor of log₂ of `len` (> 0).
fn class(len: u64) -> usize {
    len.ilog2() as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn looks_like_cuda() {
        let mut space = AddressSpace::new(DeviceId(0), None);
        assert_eq!(space.take(1), Some(0x7f00_0000_0000));
        assert_eq!(space.take(513), Some(0x7f00_0000_0200));
        assert_eq!(space.take(1), Some(0x7f00_0000_0600));
        assert_eq!(space.take(PAGE), Some(0x7f10_0000_0000));
        assert_eq!(space.take(PAGE + 1), Some(0x7f10_0020_0000));
        assert_eq!(space.take(PAGE), Some(0x7f10_0060_0000));
        assert_eq!(space.take(REGION), None);
        assert_eq!(AddressSpace::new(DeviceId(3), None).take(1), Some(0x7c00_0000_0000));
    }

    #[test]
    fn freed_addresses_come_back_lowest_first() {
        let mut space = AddressSpace::new(DeviceId(0), None);
        let taken: Vec<u64> = (0..8).filter_map(|_| space.take(4 * PAGE)).collect();
        space.give_back(taken[5], 4 * PAGE);
        space.give_back(taken[1], 4 * PAGE);
        space.give_back(taken[2], 4 * PAGE);
        assert_eq!(space.take(8 * PAGE), Some(taken[1]), "two neighbours have become one");
        assert_eq!(space.take(PAGE), Some(taken[5]));
    }

    #[test]
    fn scattered_segments_are_odd_and_sometimes_adjacent() {
        let mut space = AddressSpace::new(DeviceId(0), Some(1));
        let taken: Vec<u64> = (0..100).filter_map(|_| space.take(PAGE)).collect();
        assert!(taken.iter().all(|address| address % 1024 == 512));
        let adjacent = taken.windows(2).filter(|w| w[0] + PAGE == w[1]).count();
        assert!((20..90).contains(&adjacent), "{adjacent} of 99");
        // A hole that fits exactly is used.
        space.give_back(taken[0], PAGE);
        assert_eq!(space.take(PAGE), Some(taken[0]));
    }

    proptest! {
        /// Against a plain list of what is taken: aligned, in the region, never overlapping, and
        /// without scatter always the lowest place.
        #[test]
        fn never_overlaps(
            ops in prop::collection::vec((any::<bool>(), 1..3 * PAGE, any::<prop::sample::Index>()), 1..80),
            scatter in any::<Option<u64>>(),
        ) {
            let mut space = AddressSpace::new(DeviceId(1), scatter);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (free, bytes, which) in ops {
                if free && !taken.is_empty() {
                    let (address, bytes) = taken.swap_remove(which.index(taken.len()));
                    space.give_back(address, bytes);
                    continue;
                }
                let address = space.take(bytes).unwrap();
                let unit = if scatter.is_none() && bytes >= PAGE { PAGE } else { GRANULE };
                prop_assert_eq!(address % unit, 0);
                prop_assert!(address >= TOP - 2 * REGION && address + bytes <= TOP - REGION);
                let clash = |start: u64, end: u64| {
                    taken.iter().find(|(at, len)| *at < end && start < at + len).copied()
                };
                prop_assert_eq!(clash(address, address + bytes), None);
                if scatter.is_none() {
                    let base = TOP - 2 * REGION + if bytes < PAGE { 0 } else { SMALL_AREA };
                    let mut lowest = base;
                    while let Some((at, len)) = clash(lowest, lowest + bytes) {
                        lowest = (at + len).next_multiple_of(unit);
                    }
                    prop_assert_eq!(address, lowest);
                }
                taken.push((address, bytes));
            }
            taken.drain(..).for_each(|(address, bytes)| space.give_back(address, bytes));
            // All of it has grown together again.
            prop_assert!(space.take(REGION - SMALL_AREA - PAGE).is_some());
        }
    }
}
