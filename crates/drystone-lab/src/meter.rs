//! The driver as a policy sees it, measured: calls, their time, and the bytes that are held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use drystone_core::driver::{MemPoolId, StreamOrdered};
use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, DriverStats, EventId,
    HandleId, HandleKind, ShareId, StreamId,
};
use parking_lot::Mutex;

use crate::held::Held;
use crate::journal::Change;

/// What a meter measures: a driver, and perhaps something to do before each of its calls.
pub(crate) trait Below: Send + Sync {
    type Driver: Driver + ?Sized;

    fn driver(&self) -> &Self::Driver;

    /// The call comes next, on this device, and for events on this stream.
    #[inline]
    fn before(&self, call: DriverCall, device: DeviceId, stream: Option<StreamId>) {
        let _ = (call, device, stream);
    }
}

/// A driver as it is.
impl<D: Driver + ?Sized> Below for Arc<D> {
    type Driver = D;

    fn driver(&self) -> &D {
        self
    }
}

/// A driver whose calls are counted, and which may have less memory than it has.
pub(crate) struct Meter<B> {
    pub(crate) below: B,
    /// The most bytes that may be held of each device, if that is to be less than it has.
    capacity: Option<u64>,
    calls: [AtomicU64; DriverCall::ALL.len()],
    driver_ns: AtomicU64,
    wait_ns: AtomicU64,
    /// Bytes of all devices, as in `held`, for those who look at every event.
    reserved: AtomicU64,
    held: Mutex<Held>,
    /// What changed and was not yet asked for, if somebody wants to know.
    changes: Option<Mutex<Vec<Change>>>,
}

impl<B: Below> Meter<B> {
    pub(crate) fn new(below: B, capacity: Option<u64>) -> Self {
        Meter {
            below,
            capacity,
            calls: std::array::from_fn(|_| AtomicU64::new(0)),
            driver_ns: AtomicU64::new(0),
            wait_ns: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            held: Mutex::default(),
            changes: None,
        }
    }

    /// The same, with every change of what is held and mapped noted.
    pub(crate) fn noting(self) -> Self {
        Meter { changes: Some(Mutex::default()), ..self }
    }

    /// What changed since the last time.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        self.changes
            .as_ref()
            .map(|changes| std::mem::take(&mut *changes.lock()))
            .unwrap_or_default()
    }

    fn note(&self, change: Change) {
        if let Some(changes) = &self.changes {
            changes.lock().push(change);
        }
    }

    /// Physical bytes held now, of all devices.
    #[inline]
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Relaxed)
    }

    /// The most physical bytes that were ever held at once, of all devices.
    pub(crate) fn peak_reserved(&self) -> u64 {
        self.held.lock().device.peak
    }

    /// Bytes of the host held now.
    pub(crate) fn host_bytes(&self) -> u64 {
        self.held.lock().host.now
    }

    /// The most bytes of the host that were ever held at once.
    pub(crate) fn peak_host_bytes(&self) -> u64 {
        self.held.lock().host.peak
    }

    /// Calls, and what they took by the driver's clock.
    pub(crate) fn stats(&self) -> DriverStats {
        DriverStats {
            calls: std::array::from_fn(|i| self.calls[i].load(Relaxed)),
            driver_ns: self.driver_ns.load(Relaxed),
            wait_ns: self.wait_ns.load(Relaxed),
        }
    }

    fn count<T>(
        &self,
        call: DriverCall,
        device: DeviceId,
        run: impl FnOnce(&B::Driver) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        self.count_on(call, device, None, run)
    }

    fn count_on<T>(
        &self,
        call: DriverCall,
        device: DeviceId,
        stream: Option<StreamId>,
        run: impl FnOnce(&B::Driver) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        self.below.before(call, device, stream);
        let driver = self.below.driver();
        let before = driver.now_ns();
        let result = run(driver);
        let took = driver.now_ns().saturating_sub(before);
        self.calls[call as usize].fetch_add(1, Relaxed);
        let sum = if call.waits() { &self.wait_ns } else { &self.driver_ns };
        sum.fetch_add(took, Relaxed);
        result
    }

    fn room(&self, device: DeviceId) -> u64 {
        let held = self.held.lock().of(device);
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(held))
    }

    /// Refuses what the capacity that was set has no room for.
    fn admit(&self, call: DriverCall, device: DeviceId, bytes: u64) -> Result<(), DriverError> {
        if bytes <= self.room(device) {
            return Ok(());
        }
        Err(DriverError {
            call,
            kind: DriverErrorKind::OutOfMemory,
            code: 0,
            detail: "over the capacity that was set".to_owned(),
        })
    }

    fn hold(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock();
        change(&mut held);
        self.reserved.store(held.device.now, Relaxed);
    }
}

impl<B: Below> Driver for Meter<B> {
    fn device_count(&self) -> u32 {
        self.below.driver().device_count()
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        let memory = self.count(DriverCall::DeviceMemory, device, |d| d.device_memory(device))?;
        Ok(DeviceMemory {
            free: memory.free.min(self.room(device)),
            total: memory.total.min(self.capacity.unwrap_or(u64::MAX)),
        })
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let call = DriverCall::SegmentAlloc;
        let address = self.count(call, device, |d| {
            self.admit(call, device, bytes)?;
            d.segment_alloc(device, bytes)
        })?;
        self.hold(|held| held.took_segment(device, address, bytes));
        self.note(Change::Segment { device, address, bytes });
        Ok(address)
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.count(DriverCall::SegmentFree, device, |d| d.segment_free(device, address))?;
        self.hold(|held| held.gave_segment(device, address));
        self.note(Change::SegmentGone { address });
        Ok(())
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.count(DriverCall::PageBytes, device, |d| d.page_bytes(device))
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.count(DriverCall::AddressReserve, device, |d| d.address_reserve(device, bytes))
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.count(DriverCall::AddressFree, device, |d| d.address_free(device, address, bytes))
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        let call = DriverCall::HandleCreate;
        let handle = self.count(call, device, |d| {
            if kind != HandleKind::Host {
                self.admit(call, device, bytes)?;
            }
            d.handle_create(device, bytes, kind)
        })?;
        self.hold(|held| held.took_handle(device, handle, bytes, kind));
        self.note(Change::Handle { device, handle, bytes, host: kind == HandleKind::Host });
        Ok(handle)
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.count(DriverCall::HandleRelease, device, |d| d.handle_release(device, handle))?;
        self.hold(|held| held.gave_handle(device, handle));
        self.note(Change::HandleGone { device, handle });
        Ok(())
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.count(DriverCall::HandleExport, device, |d| d.handle_export(device, handle))
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.count(DriverCall::HandleImport, device, |d| d.handle_import(device, share, bytes))
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.count(DriverCall::Map, device, |d| d.map(device, address, handle))?;
        self.note(Change::Map { device, address, handle });
        Ok(())
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.count(DriverCall::SetAccess, device, |d| {
            d.set_access(device, address, bytes, accessors)
        })
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.count(DriverCall::Unmap, device, |d| d.unmap(device, address, bytes))?;
        self.note(Change::Unmap { address, bytes });
        Ok(())
    }

    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        self.below.driver().check_stream(device, stream)
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.count(DriverCall::EventCreate, device, |d| d.event_create(device))
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.count(DriverCall::EventDestroy, device, |d| d.event_destroy(device, event))
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.count_on(DriverCall::EventRecord, device, Some(stream), |d| {
            d.event_record(device, event, stream)
        })
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.count(DriverCall::EventQuery, device, |d| d.event_query(device, event))
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.count(DriverCall::EventSynchronize, device, |d| d.event_synchronize(device, event))
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.count_on(DriverCall::StreamWaitEvent, device, Some(stream), |d| {
            d.stream_wait_event(device, stream, event)
        })
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.count(DriverCall::DeviceSynchronize, device, |d| d.device_synchronize(device))
    }

    fn stream_ordered(&self) -> Result<&dyn StreamOrdered, DriverError> {
        self.below.driver().stream_ordered()?;
        Ok(self)
    }

    fn now_ns(&self) -> u64 {
        self.below.driver().now_ns()
    }
}

/// The driver's own pools, with the meter's capacity as their limit.
impl<B: Below> StreamOrdered for Meter<B> {
    fn pool_create(
        &self,
        device: DeviceId,
        limit: u64,
        keep: u64,
    ) -> Result<MemPoolId, DriverError> {
        let limit = self.capacity.map_or(limit, |capacity| capacity.min(limit));
        self.below.driver().stream_ordered()?.pool_create(device, limit, keep)
    }

    fn pool_destroy(&self, device: DeviceId, pool: MemPoolId) -> Result<(), DriverError> {
        self.below.driver().stream_ordered()?.pool_destroy(device, pool)?;
        self.hold(|held| held.pool_holds(device, pool, 0));
        Ok(())
    }

    fn pool_alloc(
        &self,
        device: DeviceId,
        pool: MemPoolId,
        bytes: u64,
        stream: StreamId,
    ) -> Result<u64, DriverError> {
        let address = self.count(DriverCall::SegmentAlloc, device, |d| {
            d.stream_ordered()?.pool_alloc(device, pool, bytes, stream)
        })?;
        // Not a call of the policy's: its time is not counted.
        if let Ok(reserved) = self.pool_reserved(device, pool) {
            self.hold(|held| held.pool_holds(device, pool, reserved));
        }
        Ok(address)
    }

    fn pool_free(
        &self,
        device: DeviceId,
        pool: MemPoolId,
        address: u64,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.count(DriverCall::SegmentFree, device, |d| {
            d.stream_ordered()?.pool_free(device, pool, address, stream)
        })
    }

    fn pool_reserved(&self, device: DeviceId, pool: MemPoolId) -> Result<u64, DriverError> {
        self.below.driver().stream_ordered()?.pool_reserved(device, pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_sim::{SimConfig, SimDriver};

    const DEVICE: DeviceId = DeviceId(0);

    #[test]
    fn what_is_held_and_the_most_that_was() {
        let sim = SimDriver::new(SimConfig::default()).unwrap();
        let meter = Meter::new(Arc::new(sim), None);
        let a = meter.segment_alloc(DEVICE, 4 << 20).unwrap();
        let b = meter.segment_alloc(DEVICE, 2 << 20).unwrap();
        meter.segment_free(DEVICE, a).unwrap();
        assert!(meter.segment_free(DEVICE, a).is_err());
        assert_eq!((meter.reserved(), meter.peak_reserved()), (2 << 20, 6 << 20));
        meter.segment_free(DEVICE, b).unwrap();
        assert_eq!(meter.reserved(), 0);
        assert_eq!(meter.stats().calls_of(DriverCall::SegmentFree), 3);
        assert_eq!(meter.stats().driver_ns, meter.below.stats().total().driver_ns);
    }

    #[test]
    fn a_capacity_below_the_devices_is_all_there_is() {
        let sim = SimDriver::new(SimConfig::default().devices(2).capacity(10 << 20)).unwrap();
        let meter = Meter::new(Arc::new(sim), Some(6 << 20));
        let memory = |device| meter.device_memory(DeviceId(device)).unwrap();
        let a = meter.segment_alloc(DEVICE, 4 << 20).unwrap();
        assert_eq!(memory(0), DeviceMemory { free: 2 << 20, total: 6 << 20 });
        assert_eq!(memory(1), DeviceMemory { free: 6 << 20, total: 6 << 20 });
        let refused = meter.segment_alloc(DEVICE, 3 << 20).unwrap_err();
        assert_eq!(refused.kind, DriverErrorKind::OutOfMemory);
        meter.segment_free(DEVICE, a).unwrap();
        meter.segment_alloc(DEVICE, 3 << 20).unwrap();
    }

    #[test]
    fn handles_are_held_like_segments_and_the_hosts_beside_them() {
        let sim = SimDriver::new(SimConfig::default().capacity(40 << 20)).unwrap();
        let meter = Meter::new(Arc::new(sim), Some(8 << 20));
        let create = |kind| meter.handle_create(DEVICE, 4 << 20, kind);
        let segment = meter.segment_alloc(DEVICE, 2 << 20).unwrap();
        let handle = create(HandleKind::Exportable).unwrap();
        let host = [create(HandleKind::Host).unwrap(), create(HandleKind::Host).unwrap()];
        assert_eq!((meter.reserved(), meter.host_bytes()), (6 << 20, 8 << 20));
        assert_eq!(meter.device_memory(DEVICE).unwrap().free, 2 << 20);
        let refused = create(HandleKind::Device).unwrap_err();
        assert_eq!(refused.kind, DriverErrorKind::OutOfMemory);
        assert_eq!(refused.call, DriverCall::HandleCreate);
        meter.segment_free(DEVICE, segment).unwrap();
        let other = create(HandleKind::Device).unwrap();

        // The same memory under another name, and at two addresses: nothing new.
        let share = meter.handle_export(DEVICE, handle).unwrap();
        let import = meter.handle_import(DEVICE, share, 4 << 20).unwrap();
        let range = meter.address_reserve(DEVICE, 8 << 20).unwrap();
        for address in [range, range + (4 << 20)] {
            meter.map(DEVICE, address, import).unwrap();
        }
        assert_eq!((meter.reserved(), meter.peak_reserved()), (8 << 20, 8 << 20));
        assert!(meter.handle_release(DEVICE, import).is_err(), "it is mapped");
        meter.unmap(DEVICE, range, 8 << 20).unwrap();
        meter.address_free(DEVICE, range, 8 << 20).unwrap();
        for handle in [import, handle, other, host[0], host[1]] {
            meter.handle_release(DEVICE, handle).unwrap();
        }
        assert_eq!((meter.reserved(), meter.host_bytes()), (0, 0));
        assert_eq!((meter.peak_reserved(), meter.peak_host_bytes()), (8 << 20, 8 << 20));
        let calls = |call| meter.stats().calls_of(call);
        assert_eq!(calls(DriverCall::HandleCreate), 5);
        assert_eq!((calls(DriverCall::Map), calls(DriverCall::Unmap)), (2, 1));
        assert_eq!(calls(DriverCall::HandleRelease), 6);
    }
}
