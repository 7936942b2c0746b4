//! The contract between the allocator and a device: what it may ask for, and what each answer means.
//!
//! Two implementations exist: `drystone-cuda` (the CUDA driver) and `drystone-sim` (a simulated
//! device that enforces this page). The allocator holds no lock while it calls any of these
//! functions but [`Driver::now_ns`], so each must be callable from several threads at once.
//!
//! Rules common to all functions:
//!
//! * Sizes and addresses are in bytes. Times are in nanoseconds.
//! * A call that returns an error has had no effect: nothing was taken, given back, recorded or
//!   waited for. The allocator relies on it to roll back.
//! * `device` is an index below [`Driver::device_count`]; any other one gives
//!   [`DriverErrorKind::InvalidDevice`].
//! * The caller's current device, context and capture mode are the same after the call as before.
//! * No function panics.

use std::fmt;
use std::sync::Arc;

/// The index of a device, from 0, in the driver's own order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// A stream as the driver names it (on CUDA the `CUstream` handle); 0 is the default stream.
///
/// A stream is an order of work: what is submitted later starts after what was submitted before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// An event as the driver names it; valid on the device that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub u64);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:#x}", self.0)
    }
}

/// Memory of one device, as the driver sees it over all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes that no process holds.
    pub free: u64,
    /// Bytes the device has; never 0, never below `free`.
    pub total: u64,
}

/// Every kind of driver call: the unit of counting, of costs and of injected faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DriverCall {
    /// [`Driver::device_memory`].
    DeviceMemory,
    /// [`Driver::segment_alloc`].
    SegmentAlloc,
    /// [`Driver::segment_free`].
    SegmentFree,
    /// [`Driver::event_create`].
    EventCreate,
    /// [`Driver::event_destroy`].
    EventDestroy,
    /// [`Driver::event_record`].
    EventRecord,
    /// [`Driver::event_query`].
    EventQuery,
    /// [`Driver::event_synchronize`].
    EventSynchronize,
    /// [`Driver::stream_wait_event`].
    StreamWaitEvent,
    /// [`Driver::device_synchronize`].
    DeviceSynchronize,
}

impl DriverCall {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [DriverCall; 10] = [
        DriverCall::DeviceMemory,
        DriverCall::SegmentAlloc,
        DriverCall::SegmentFree,
        DriverCall::EventCreate,
        DriverCall::EventDestroy,
        DriverCall::EventRecord,
        DriverCall::EventQuery,
        DriverCall::EventSynchronize,
        DriverCall::StreamWaitEvent,
        DriverCall::DeviceSynchronize,
    ];

    /// The name in reports, as in `driver_calls` of `drystone replay --json`.
    pub const fn name(self) -> &'static str {
        match self {
            DriverCall::DeviceMemory => "device_memory",
            DriverCall::SegmentAlloc => "segment_alloc",
            DriverCall::SegmentFree => "segment_free",
            DriverCall::EventCreate => "event_create",
            DriverCall::EventDestroy => "event_destroy",
            DriverCall::EventRecord => "event_record",
            DriverCall::EventQuery => "event_query",
            DriverCall::EventSynchronize => "event_synchronize",
            DriverCall::StreamWaitEvent => "stream_wait_event",
            DriverCall::DeviceSynchronize => "device_synchronize",
        }
    }

    /// Whether the host waits for the device inside the call: its time counts as `wait`, not as
    /// driver time.
    pub const fn waits(self) -> bool {
        matches!(self, DriverCall::EventSynchronize | DriverCall::DeviceSynchronize)
    }
}

impl fmt::Display for DriverCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an error of the driver means to the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DriverErrorKind {
    /// The device has no such memory left now. The only error that the allocator answers by
    /// giving memory back and asking again.
    OutOfMemory,
    /// There is no device of that index.
    InvalidDevice,
    /// An argument was wrong: an address or event that is not the driver's, a size of 0.
    InvalidValue,
    /// The call is not allowed now, for instance inside a stream capture.
    NotPermitted,
    /// The device or its driver cannot do this.
    NotSupported,
    /// The context is broken (a fault in an earlier kernel, a lost device): every later call
    /// fails too.
    DeviceLost,
    /// Anything else; `code` and `detail` say what.
    Other,
}

/// A failed driver call: which, why, and the driver's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {detail} (code {code})")]
pub struct DriverError {
    /// The call that failed.
    pub call: DriverCall,
    /// What it means.
    pub kind: DriverErrorKind,
    /// The driver's own code (a `CUresult` on CUDA), 0 where it has none.
    pub code: i32,
    /// The driver's own words.
    pub detail: String,
}

/// A device driver; see the module text for the rules common to all functions.
pub trait Driver: Send + Sync {
    /// The number of devices, at least 1, the same for the driver's whole life. Never blocks.
    fn device_count(&self) -> u32;

    /// Free and total memory of the device. About 5 µs on CUDA; not for a hot path.
    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError>;

    /// Takes `bytes` (> 0) of physical memory, mapped at an address range of its own, readable and
    /// writable by the device.
    ///
    /// The address is never 0, is a multiple of 512, and `address + bytes` does not pass 2⁴⁸. The
    /// range overlaps no other segment of any device. Does not wait for work in flight. Works
    /// inside a stream capture. Errors: `OutOfMemory`, `InvalidValue` (0 bytes), `DeviceLost`.
    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError>;

    /// Gives a whole segment back, by the address that [`Driver::segment_alloc`] returned.
    ///
    /// The caller vouches that no work in flight touches it: the allocator has called
    /// [`Driver::device_synchronize`] before, since CUDA waits for all running work here anyway
    /// (`cuMemFree` behind a 20 ms kernel takes 20 ms). Errors: `InvalidValue` (not a segment of
    /// this device, or given back already), `NotPermitted` (in a capture), `DeviceLost`.
    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError>;

    /// Whether the driver takes `stream` for an order of work of this device; an error says why
    /// not. The allocator asks once, before it gives the stream memory: a name that stands for
    /// different streams at different times (CUDA's per-thread default stream) would let one of
    /// them reuse what another still uses. Never blocks. The default takes any.
    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        let _ = (device, stream);
        Ok(())
    }

    /// Makes an event that has never been recorded, without timing. About 0.2 µs.
    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError>;

    /// Forgets an event. It may still be pending; nobody may name it afterwards.
    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError>;

    /// Puts the event at the present end of the stream's order: it is done when all work submitted
    /// to the stream before this call is done. Recording again moves it. Never blocks. Not allowed
    /// while the stream is being captured.
    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError>;

    /// Whether the event's last record is done; true for one never recorded. Never blocks. Once
    /// true it stays true until the event is recorded again. Not allowed in a capture.
    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError>;

    /// Blocks the calling thread until the event's last record is done. Not allowed in a capture.
    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError>;

    /// Makes all work submitted to `stream` after this call start only when the event's present
    /// record is done. The host does not wait. Not allowed in a capture.
    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError>;

    /// Blocks the calling thread until all work submitted to the device is done. Not allowed in a
    /// capture.
    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError>;

    /// The driver's clock, in nanoseconds from an origin of its own, never going back. Costs some
    /// tens of nanoseconds at most. Virtual on the simulated device.
    fn now_ns(&self) -> u64;
}

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
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
}
