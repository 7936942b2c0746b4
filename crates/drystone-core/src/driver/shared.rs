//! A shared driver is a driver.

use std::sync::Arc;

use super::{
    DeviceId, DeviceMemory, Driver, DriverError, EventId, HandleId, HandleKind, ShareId, StreamId,
    StreamOrdered,
};

/// A shared driver is a driver, so that a test or a program can keep a hand on the device that it
/// gave to the allocator.
impl<D: Driver + ?Sized> Driver for Arc<D> {
    fn device_count(&self) -> u32 {
        (**self).device_count()
    }
    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        (**self).device_memory(device)
    }
    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        (**self).segment_alloc(device, bytes)
    }
    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        (**self).segment_free(device, address)
    }
    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        (**self).page_bytes(device)
    }
    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        (**self).address_reserve(device, bytes)
    }
    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        (**self).address_free(device, address, bytes)
    }
    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        (**self).handle_create(device, bytes, kind)
    }
    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        (**self).handle_release(device, handle)
    }
    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        (**self).handle_export(device, handle)
    }
    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        (**self).handle_import(device, share, bytes)
    }
    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        (**self).map(device, address, handle)
    }
    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        (**self).set_access(device, address, bytes, accessors)
    }
    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        (**self).unmap(device, address, bytes)
    }
    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        (**self).check_stream(device, stream)
    }
    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        (**self).event_create(device)
    }
    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        (**self).event_destroy(device, event)
    }
    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        (**self).event_record(device, event, stream)
    }
    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        (**self).event_query(device, event)
    }
    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        (**self).event_synchronize(device, event)
    }
    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        (**self).stream_wait_event(device, stream, event)
    }
    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        (**self).device_synchronize(device)
    }
    fn stream_ordered(&self) -> Result<&dyn StreamOrdered, DriverError> {
        (**self).stream_ordered()
    }
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
}
