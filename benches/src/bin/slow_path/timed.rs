//! A driver that times the calls of the one below it, so that the allocator's own time can be told
//! from the simulated device's.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, EventId, HandleId, HandleKind,
    ShareId, StreamId,
};
use drystone_sim::SimDriver;

use super::DEVICE;

/// What has been asked of the driver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// Calls of all kinds.
    pub(crate) calls: u64,
    pub(crate) maps: u64,
    pub(crate) unmaps: u64,
    pub(crate) creates: u64,
    pub(crate) releases: u64,
    /// Real nanoseconds inside the calls.
    pub(crate) inside_ns: u64,
}

impl Asked {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Asked) -> Asked {
        Asked {
            calls: self.calls - before.calls,
            maps: self.maps - before.maps,
            unmaps: self.unmaps - before.unmaps,
            creates: self.creates - before.creates,
            releases: self.releases - before.releases,
            inside_ns: self.inside_ns - before.inside_ns,
        }
    }
}

/// The simulated device, timed.
pub(crate) struct Timed {
    sim: SimDriver,
    calls: [AtomicU64; DriverCall::ALL.len()],
    inside_ns: AtomicU64,
}

impl Timed {
    pub(crate) fn new(sim: SimDriver) -> Self {
        let calls = std::array::from_fn(|_| AtomicU64::new(0));
        Timed { sim, calls, inside_ns: AtomicU64::new(0) }
    }

    /// Bytes that are held of the device.
    pub(crate) fn held(&self) -> u64 {
        self.sim.device_memory(DEVICE).map_or(0, |memory| memory.total - memory.free)
    }

    pub(crate) fn asked(&self) -> Asked {
        let count = |call: DriverCall| self.calls[call as usize].load(Relaxed);
        Asked {
            calls: DriverCall::ALL.into_iter().map(count).sum(),
            maps: count(DriverCall::Map),
            unmaps: count(DriverCall::Unmap),
            creates: count(DriverCall::HandleCreate),
            releases: count(DriverCall::HandleRelease),
            inside_ns: self.inside_ns.load(Relaxed),
        }
    }

    /// What timing a call takes besides what it measures, in nanoseconds.
    pub(crate) fn overhead_ns(&self) -> f64 {
        const CALLS: u32 = 100_000;
        let (before, start) = (self.asked(), Instant::now());
        (0..CALLS).for_each(|_| self.time(DriverCall::EventQuery, |_| ()));
        let all = start.elapsed().as_nanos() as u64;
        (all - self.asked().since(&before).inside_ns) as f64 / f64::from(CALLS)
    }

    #[inline(never)]
    fn time<T>(&self, call: DriverCall, run: impl FnOnce(&SimDriver) -> T) -> T {
        let start = Instant::now();
        let result = run(&self.sim);
        self.inside_ns.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        self.calls[call as usize].fetch_add(1, Relaxed);
        result
    }
}

impl Driver for Timed {
    fn device_count(&self) -> u32 {
        self.sim.device_count()
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        self.time(DriverCall::DeviceMemory, |sim| sim.device_memory(device))
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.time(DriverCall::SegmentAlloc, |sim| sim.segment_alloc(device, bytes))
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.time(DriverCall::SegmentFree, |sim| sim.segment_free(device, address))
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.time(DriverCall::PageBytes, |sim| sim.page_bytes(device))
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.time(DriverCall::AddressReserve, |sim| sim.address_reserve(device, bytes))
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.time(DriverCall::AddressFree, |sim| sim.address_free(device, address, bytes))
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.time(DriverCall::HandleCreate, |sim| sim.handle_create(device, bytes, kind))
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.time(DriverCall::HandleRelease, |sim| sim.handle_release(device, handle))
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.time(DriverCall::HandleExport, |sim| sim.handle_export(device, handle))
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.time(DriverCall::HandleImport, |sim| sim.handle_import(device, share, bytes))
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.time(DriverCall::Map, |sim| sim.map(device, address, handle))
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.time(DriverCall::SetAccess, |sim| sim.set_access(device, address, bytes, accessors))
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.time(DriverCall::Unmap, |sim| sim.unmap(device, address, bytes))
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.time(DriverCall::EventCreate, |sim| sim.event_create(device))
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.time(DriverCall::EventDestroy, |sim| sim.event_destroy(device, event))
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.time(DriverCall::EventRecord, |sim| sim.event_record(device, event, stream))
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.time(DriverCall::EventQuery, |sim| sim.event_query(device, event))
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.time(DriverCall::EventSynchronize, |sim| sim.event_synchronize(device, event))
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.time(DriverCall::StreamWaitEvent, |sim| sim.stream_wait_event(device, stream, event))
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.time(DriverCall::DeviceSynchronize, |sim| sim.device_synchronize(device))
    }

    fn now_ns(&self) -> u64 {
        self.sim.now_ns()
    }
}
