//! The memory of one device: what is taken, which segments live, which are gone, and what tests
//! have stamped on them.

use std::collections::BTreeMap;

use drystone_core::driver::{DeviceId, DeviceMemory, HandleKind};

use crate::address::AddressSpace;
use crate::config::DeviceConfig;
use crate::interval::IntervalMap;

/// Why bytes are not a part of one live segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    /// Never memory of this device.
    Foreign,
    /// In a segment given back, that started here.
    Freed { segment: u64 },
    /// Starts in this segment and ends behind it.
    PastEnd { segment: u64, segment_bytes: u64 },
}

#[derive(Debug)]
pub(crate) struct Memory {
    capacity: u64,
    /// Bytes that other processes hold; may pass the capacity less what is taken.
    pub(crate) held_by_others: u64,
    /// Bytes in segments and handles.
    pub(crate) taken: u64,
    pub(crate) peak_taken: u64,
    host_capacity: u64,
    /// Bytes in handles to host memory.
    pub(crate) host_taken: u64,
    /// Address to bytes.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// For each byte the segment, now gone, that had it last. Bytes handed out again keep theirs:
    /// live segments are looked for first, and a stale pointer into one is still a stale pointer.
    freed: IntervalMap<u64>,
    pub(crate) stamps: IntervalMap<u64>,
    space: AddressSpace,
}

impl Memory {
    pub(crate) fn new(device: DeviceId, config: &DeviceConfig, scatter: Option<u64>) -> Self {
        Memory {
            capacity: config.capacity,
            held_by_others: config.held_by_others,
            taken: 0,
            peak_taken: 0,
            host_capacity: config.host_capacity,
            host_taken: 0,
            segments: BTreeMap::new(),
            freed: IntervalMap::default(),
            stamps: IntervalMap::default(),
            space: AddressSpace::new(device, scatter),
        }
    }

    pub(crate) fn info(&self) -> DeviceMemory {
        let free = self.capacity.saturating_sub(self.taken).saturating_sub(self.held_by_others);
        DeviceMemory { free, total: self.capacity }
    }

    /// A new segment of `bytes` (> 0), or none where memory or addresses run out.
    pub(crate) fn alloc(&mut self, bytes: u64) -> Option<u64> {
        if bytes > self.info().free {
            return None;
        }
        let address = self.space.take(bytes)?;
        self.segments.insert(address, bytes);
        self.take(bytes, HandleKind::Device);
        Some(address)
    }

    /// Takes `bytes` of where such handles lie; whether there were as many.
    pub(crate) fn take(&mut self, bytes: u64, kind: HandleKind) -> bool {
        if kind == HandleKind::Host {
            let fits = bytes <= self.host_capacity - self.host_taken;
            self.host_taken += if fits { bytes } else { 0 };
            return fits;
        }
        let fits = bytes <= self.info().free;
        self.taken += if fits { bytes } else { 0 };
        self.peak_taken = self.peak_taken.max(self.taken);
        fits
    }

    /// Gives back what [`Memory::take`] took.
    pub(crate) fn give(&mut self, bytes: u64, kind: HandleKind) {
        *(if kind == HandleKind::Host { &mut self.host_taken } else { &mut self.taken }) -= bytes;
    }

    /// Ends the segment that starts at `address`; its bytes, or why there is none.
    pub(crate) fn free(&mut self, address: u64) -> Result<u64, Outside> {
        let Some(bytes) = self.segments.remove(&address) else {
            return Err(match self.freed.get(address) {
                Some(&segment) if segment == address => Outside::Freed { segment },
                _ => Outside::Foreign,
            });
        };
        self.freed.set(address, address + bytes, address);
        self.stamps.remove(address, address + bytes);
        self.space.give_back(address, bytes);
        self.give(bytes, HandleKind::Device);
        Ok(bytes)
    }

    /// Whether the bytes lie in one live segment.
    pub(crate) fn locate(&self, address: u64, bytes: u64) -> Result<(), Outside> {
        if let Some((&segment, &segment_bytes)) = self.segments.range(..=address).next_back()
            && address < segment + segment_bytes
        {
            // Neighbouring segments are not one: CUDA may free the one and keep the other.
            return if bytes <= segment + segment_bytes - address {
                Ok(())
            } else {
                Err(Outside::PastEnd { segment, segment_bytes })
            };
        }
        match self.freed.get(address) {
            Some(&segment) => Err(Outside::Freed { segment }),
            None => Err(Outside::Foreign),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(capacity: u64) -> Memory {
        Memory::new(DeviceId(0), &DeviceConfig { capacity, ..DeviceConfig::default() }, None)
    }

    #[test]
    fn free_is_capacity_less_held_less_taken() {
        let mut memory = memory(1000);
        let a = memory.alloc(600).unwrap();
        memory.held_by_others = 300;
        assert_eq!(memory.info(), DeviceMemory { free: 100, total: 1000 });
        assert_eq!(memory.alloc(101), None);
        memory.held_by_others = 5000;
        assert_eq!(memory.info().free, 0);
        memory.held_by_others = 0;
        assert!(memory.alloc(400).is_some());
        memory.free(a).unwrap();
        memory.alloc(1).unwrap();
        assert_eq!((memory.taken, memory.peak_taken), (401, 1000));
    }

    #[test]
    fn the_whole_of_a_huge_device_has_no_addresses() {
        let mut memory = memory(u64::MAX);
        assert_eq!(memory.alloc(u64::MAX), None);
        assert_eq!(memory.alloc(1 << 41), None);
        assert_eq!(memory.info().free, u64::MAX);
    }

    #[test]
    fn freed_foreign_and_double_are_told_apart() {
        let mut memory = memory(1 << 30);
        let a = memory.alloc(4096).unwrap();
        assert_eq!(memory.free(a + 512), Err(Outside::Foreign));
        assert_eq!(memory.free(a), Ok(4096));
        assert_eq!(memory.free(a), Err(Outside::Freed { segment: a }));
        assert_eq!(memory.free(a + 512), Err(Outside::Foreign));
        // Freed again when the addresses are the inside of another segment.
        assert_eq!(memory.alloc(512), Some(a));
        let b = memory.alloc(512).unwrap();
        assert_eq!((memory.free(a), memory.free(b)), (Ok(512), Ok(512)));
        assert_eq!(memory.alloc(2048), Some(a));
        assert_eq!(memory.free(b), Err(Outside::Freed { segment: b }));
        assert_eq!(memory.free(a), Ok(2048));
        // The addresses are handed out again, in part.
        assert_eq!(memory.alloc(1024), Some(a));
        assert_eq!(memory.locate(a, 1024), Ok(()));
        assert_eq!(memory.locate(a + 1024, 1), Err(Outside::Freed { segment: a }));
    }

    #[test]
    fn bytes_belong_to_one_segment() {
        let mut memory = memory(1 << 30);
        let a = memory.alloc(512).unwrap();
        let b = memory.alloc(512).unwrap();
        assert_eq!(a + 512, b);
        assert_eq!(memory.locate(a, 512), Ok(()));
        assert_eq!(memory.locate(a + 511, 1), Ok(()));
        let past = Err(Outside::PastEnd { segment: a, segment_bytes: 512 });
        assert_eq!(memory.locate(a + 1, 512), past);
        assert_eq!(memory.locate(a, u64::MAX), past);
        assert_eq!(memory.locate(b + 512, 1), Err(Outside::Foreign));
        assert_eq!(memory.locate(a - 1, 2), Err(Outside::Foreign));
    }
}
