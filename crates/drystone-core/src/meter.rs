//! A driver that counts: calls by kind, the time they took, and the time spent waiting.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, EventId, HandleId, HandleKind,
    ShareId, StreamId,
};
use crate::stats::DriverStats;

/// The driver below, counted.
pub(crate) struct Metered<D> {
    pub(crate) inner: D,
    calls: [AtomicU64; DriverCall::ALL.len()],
    driver_ns: AtomicU64,
    wait_ns: AtomicU64,
}

impl<D: Driver> Metered<D> {
    pub(crate) fn new(inner: D) -> Self {
        Metered {
            inner,
            calls: std::array::from_fn(|_| AtomicU64::new(0)),
            driver_ns: AtomicU64::new(0),
            wait_ns: AtomicU64::new(0),
        }
    }

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
}

impl<D: Driver> Driver for Metered<D> {
    fn device_count(&self) -> u32 {
        self.inner.device_count()
    }
    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        self.count(DriverCall::DeviceMemory, |d| d.device_memory(device))
    }
    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.count(DriverCall::SegmentAlloc, |d| d.segment_alloc(device, bytes))
    }
    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.count(DriverCall::SegmentFree, |d| d.segment_free(device, address))
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
    // Not counted: it asks the driver for nothing.
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
