//! The physical memory that is held of a driver: segments and handles, of devices and of the host.

use std::collections::HashMap;

use drystone_core::driver::MemPoolId;
use drystone_core::{DeviceId, HandleId, HandleKind};

/// Bytes over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) now: u64,
    pub(crate) peak: u64,
}

impl Level {
    fn rise(&mut self, bytes: u64) {
        self.now = self.now.saturating_add(bytes);
        self.peak = self.peak.max(self.now);
    }

    fn fall(&mut self, bytes: u64) {
        self.now = self.now.saturating_sub(bytes);
    }
}

/// What is held. Mappings do not count: a handle is the same memory at however many addresses. Nor
/// do imported handles: whoever made them holds them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Bytes by address; segments of different devices do not overlap.
    segments: HashMap<u64, u64>,
    handles: HashMap<(DeviceId, HandleId), (u64, HandleKind)>,
    /// Bytes in pools of the driver's own.
    pools: HashMap<(DeviceId, MemPoolId), u64>,
    /// Bytes of each device.
    devices: HashMap<DeviceId, u64>,
    /// Bytes of all devices.
    pub(crate) device: Level,
    /// Bytes of the host.
    pub(crate) host: Level,
}

impl Held {
    /// Bytes held of a device.
    pub(crate) fn of(&self, device: DeviceId) -> u64 {
        self.devices.get(&device).copied().unwrap_or(0)
    }

    pub(crate) fn took_segment(&mut self, device: DeviceId, address: u64, bytes: u64) {
        self.segments.insert(address, bytes);
        self.rise(device, bytes);
    }

    pub(crate) fn gave_segment(&mut self, device: DeviceId, address: u64) {
        if let Some(bytes) = self.segments.remove(&address) {
            self.fall(device, bytes);
        }
    }

    pub(crate) fn took_handle(
        &mut self,
        device: DeviceId,
        handle: HandleId,
        bytes: u64,
        kind: HandleKind,
    ) {
        self.handles.insert((device, handle), (bytes, kind));
        match kind {
            HandleKind::Host => self.host.rise(bytes),
            _ => self.rise(device, bytes),
        }
    }

    pub(crate) fn gave_handle(&mut self, device: DeviceId, handle: HandleId) {
        match self.handles.remove(&(device, handle)) {
            Some((bytes, HandleKind::Host)) => self.host.fall(bytes),
            Some((bytes, _)) => self.fall(device, bytes),
            None => {}
        }
    }

    /// A pool of the driver's own holds so much now.
    pub(crate) fn pool_holds(&mut self, device: DeviceId, pool: MemPoolId, bytes: u64) {
        let before = self.pools.insert((device, pool), bytes).unwrap_or(0);
        if bytes > before {
            self.rise(device, bytes - before);
        } else {
            self.fall(device, before - bytes);
        }
    }

    fn rise(&mut self, device: DeviceId, bytes: u64) {
        *self.devices.entry(device).or_default() += bytes;
        self.device.rise(bytes);
    }

    fn fall(&mut self, device: DeviceId, bytes: u64) {
        if let Some(sum) = self.devices.get_mut(&device) {
            *sum = sum.saturating_sub(bytes);
        }
        self.device.fall(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_handles_of_a_device_are_one_sum_and_the_hosts_another() {
        let (a, b) = (DeviceId(0), DeviceId(1));
        let mut held = Held::default();
        held.took_segment(a, 512, 10);
        held.took_handle(a, HandleId(1), 20, HandleKind::Device);
        held.took_handle(b, HandleId(1), 40, HandleKind::Exportable);
        held.took_handle(b, HandleId(2), 80, HandleKind::Host);
        assert_eq!((held.of(a), held.of(b)), (30, 40));
        assert_eq!((held.device.now, held.host.now), (70, 80));
        held.gave_handle(b, HandleId(2));
        held.gave_handle(b, HandleId(1));
        held.gave_segment(a, 512);
        assert_eq!((held.of(a), held.of(b)), (20, 0));
        assert_eq!((held.device, held.host.now), (Level { now: 20, peak: 70 }, 0));
        assert_eq!(held.host.peak, 80);
    }

    #[test]
    fn a_pool_counts_with_what_it_says_that_it_holds() {
        let (a, pool) = (DeviceId(0), MemPoolId(7));
        let mut held = Held::default();
        held.took_segment(a, 512, 10);
        for (bytes, level) in [
            (30, Level { now: 40, peak: 40 }),
            (50, Level { now: 60, peak: 60 }),
            (0, Level { now: 10, peak: 60 }),
        ] {
            held.pool_holds(a, pool, bytes);
            assert_eq!((held.device, held.of(a)), (level, level.now));
        }
    }

    #[test]
    fn what_was_never_taken_gives_nothing_back() {
        let mut held = Held::default();
        held.took_handle(DeviceId(0), HandleId(1), 20, HandleKind::Device);
        // The same number is another handle on another device; an imported one is not known.
        held.gave_handle(DeviceId(1), HandleId(1));
        held.gave_handle(DeviceId(0), HandleId(7));
        held.gave_segment(DeviceId(0), 512);
        assert_eq!(held.of(DeviceId(0)), 20);
        held.gave_handle(DeviceId(0), HandleId(1));
        held.gave_handle(DeviceId(0), HandleId(1));
        assert_eq!(held.device, Level { now: 0, peak: 20 });
    }
}
