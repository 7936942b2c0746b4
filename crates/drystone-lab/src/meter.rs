//! The driver as a policy sees it, measured: calls, their time, and the bytes that are held.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, DriverStats, EventId,
    HandleId, HandleKind, ShareId, StreamId,
};
use parking_lot::Mutex;

/// A driver whose calls are counted, and which may have less memory than it has.
pub(crate) struct Meter<D> {
    pub(crate) inner: D,
    /// The most bytes that may be held of each device, if that is to be less than it has.
    capacity: Option<u64>,
    calls: [AtomicU64; DriverCall::ALL.len()],
    driver_ns: AtomicU64,
    wait_ns: AtomicU64,
    reserved: AtomicU64,
    peak_reserved: AtomicU64,
    held: Mutex<Held>,
}

/// The segments that live.
#[derive(Default)]
struct Held {
    /// Bytes by address; segments of different devices do not overlap.
    segments: HashMap<u64, u64>,
    /// Bytes by device.
    devices: HashMap<DeviceId, u64>,
}

impl<D: Driver> Meter<D> {
    pub(crate) fn new(inner: D, capacity: Option<u64>) -> Self {
        Meter {
            inner,
            capacity,
            calls: std::array::from_fn(|_| AtomicU64::new(0)),
            driver_ns: AtomicU64::new(0),
            wait_ns: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            peak_reserved: AtomicU64::new(0),
            held: Mutex::default(),
        }
    }

    /// Bytes held now, of all devices.
    #[inline]
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Relaxed)
    }

    /// The most bytes that were ever held at once, of all devices.
    pub(crate) fn peak_reserved(&self) -> u64 {
        self.peak_reserved.load(Relaxed)
    }

    /// Calls, and what they took by the driver's clock.
    pub(crate) fn stats(&self) -> DriverStats {
        DriverStats {
            calls: std::array::from_fn(|i| self.calls[i].load(Relaxed)),
            driver_ns: self.driver_ns.load(Relaxed),
            wait_ns: self.wait_ns.load(Relaxed),
        }
    }

    fn count<T>(&self, call: DriverCall, run: impl FnOnce(&D) -> T) -> T {
        let before = self.inner.now_ns();
        let result = run(&self.inner);
        let took = self.inner.now_ns().saturating_sub(before);
        self.calls[call as usize].fetch_add(1, Relaxed);
        let sum = if call.waits() { &self.wait_ns } else { &self.driver_ns };
        sum.fetch_add(took, Relaxed);
        result
    }

    fn room(&self, device: DeviceId) -> u64 {
        let held = self.held.lock().devices.get(&device).copied().unwrap_or(0);
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(held))
    }

    fn took(&self, device: DeviceId, address: u64, bytes: u64) {
        let mut held = self.held.lock();
        held.segments.insert(address, bytes);
        *held.devices.entry(device).or_default() += bytes;
        let reserved = self.reserved.fetch_add(bytes, Relaxed) + bytes;
        self.peak_reserved.fetch_max(reserved, Relaxed);
    }

    fn gave(&self, device: DeviceId, address: u64) {
        let mut held = self.held.lock();
        let Some(bytes) = held.segments.remove(&address) else { return };
        if let Some(sum) = held.devices.get_mut(&device) {
            *sum = sum.saturating_sub(bytes);
        }
        self.reserved.fetch_sub(bytes, Relaxed);
    }
}

impl<D: Driver> Driver for Meter<D> {
    fn device_count(&self) -> u32 {
        self.inner.device_count()
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        let memory = self.count(DriverCall::DeviceMemory, |d| d.device_memory(device))?;
        Ok(DeviceMemory {
            free: memory.free.min(self.room(device)),
            total: memory.total.min(self.capacity.unwrap_or(u64::MAX)),
        })
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let address = self.count(DriverCall::SegmentAlloc, |d| {
            if bytes > self.room(device) {
                return Err(DriverError {
                    call: DriverCall::SegmentAlloc,
                    kind: DriverErrorKind::OutOfMemory,
                    code: 0,
                    detail: "over the capacity that was set".to_owned(),
                });
            }
            d.segment_alloc(device, bytes)
        })?;
        self.took(device, address, bytes);
        Ok(address)
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.count(DriverCall::SegmentFree, |d| d.segment_free(device, address))?;
        self.gave(device, address);
        Ok(())
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.count(DriverCall::PageBytes, |d| d.page_bytes(device))
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.count(DriverCall::AddressReserve, |d| d.address_reserve(device, bytes))
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.count(DriverCall::AddressFree, |d| d.address_free(device, address, bytes))
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.count(DriverCall::HandleCreate, |d| d.handle_create(device, bytes, kind))
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.count(DriverCall::HandleRelease, |d| d.handle_release(device, handle))
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.count(DriverCall::HandleExport, |d| d.handle_export(device, handle))
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.count(DriverCall::HandleImport, |d| d.handle_import(device, share, bytes))
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.count(DriverCall::Map, |d| d.map(device, address, handle))
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.count(DriverCall::SetAccess, |d| d.set_access(device, address, bytes, accessors))
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.count(DriverCall::Unmap, |d| d.unmap(device, address, bytes))
    }

    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        self.inner.check_stream(device, stream)
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.count(DriverCall::EventCreate, |d| d.event_create(device))
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.count(DriverCall::EventDestroy, |d| d.event_destroy(device, event))
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.count(DriverCall::EventRecord, |d| d.event_record(device, event, stream))
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.count(DriverCall::EventQuery, |d| d.event_query(device, event))
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.count(DriverCall::EventSynchronize, |d| d.event_synchronize(device, event))
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.count(DriverCall::StreamWaitEvent, |d| d.stream_wait_event(device, stream, event))
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.count(DriverCall::DeviceSynchronize, |d| d.device_synchronize(device))
    }

    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_sim::{SimConfig, SimDriver};

    const DEVICE: DeviceId = DeviceId(0);

    #[test]
    fn what_is_held_and_the_most_that_was() {
        let meter = Meter::new(SimDriver::new(SimConfig::default()).unwrap(), None);
        let a = meter.segment_alloc(DEVICE, 4 << 20).unwrap();
        let b = meter.segment_alloc(DEVICE, 2 << 20).unwrap();
        meter.segment_free(DEVICE, a).unwrap();
        assert!(meter.segment_free(DEVICE, a).is_err());
        assert_eq!((meter.reserved(), meter.peak_reserved()), (2 << 20, 6 << 20));
        meter.segment_free(DEVICE, b).unwrap();
        assert_eq!(meter.reserved(), 0);
        assert_eq!(meter.stats().calls_of(DriverCall::SegmentFree), 3);
        assert_eq!(meter.stats().driver_ns, meter.inner.stats().total().driver_ns);
    }

    #[test]
    fn a_capacity_below_the_devices_is_all_there_is() {
        let sim = SimDriver::new(SimConfig::default().devices(2).capacity(10 << 20)).unwrap();
        let meter = Meter::new(sim, Some(6 << 20));
        let memory = |device| meter.device_memory(DeviceId(device)).unwrap();
        let a = meter.segment_alloc(DEVICE, 4 << 20).unwrap();
        assert_eq!(memory(0), DeviceMemory { free: 2 << 20, total: 6 << 20 });
        assert_eq!(memory(1), DeviceMemory { free: 6 << 20, total: 6 << 20 });
        let refused = meter.segment_alloc(DEVICE, 3 << 20).unwrap_err();
        assert_eq!(refused.kind, DriverErrorKind::OutOfMemory);
        meter.segment_free(DEVICE, a).unwrap();
        meter.segment_alloc(DEVICE, 3 << 20).unwrap();
    }
}
