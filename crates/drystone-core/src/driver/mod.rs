//! The contract between the allocator and a device: what it may ask for, and what each answer means.
//!
//! Two implementations exist: `drystone-cuda` (the CUDA driver) and `drystone-sim` (a simulated
//! device that enforces this page). The allocator calls them from several threads at once, so each
//! must be callable so. While it calls any of them but [`Driver::now_ns`], it holds no lock that an
//! allocation from its cache or a free waits for.
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

mod call;
mod shared;
mod stream_ordered;

use std::fmt;

pub use call::{DriverCall, DriverError, DriverErrorKind};
pub use stream_ordered::{MemPoolId, StreamOrdered};

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

/// Physical memory as the driver names it: made by one [`Driver::handle_create`], mapped whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// An exported handle's name for other processes (on CUDA a POSIX file descriptor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareId(pub u64);

/// Where a handle's memory lies, and what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandleKind {
    /// Memory of the device.
    Device,
    /// Memory of the device that can be exported to other processes.
    Exportable,
    /// Memory of the host that the device reaches over the bus: slow, but not the device's.
    Host,
}

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

    /// Bytes in a page: handles and addresses of mappings are multiples of it. A power of two, the
    /// same for the driver's whole life (2 MiB on CUDA). Errors: `NotSupported` (the device or its
    /// driver cannot map memory; then none of the calls below works), `DeviceLost`.
    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError>;

    /// Sets a range of addresses aside, with nothing behind them: `bytes` (> 0, a multiple of the
    /// page) at a multiple of the page. The address is never 0, `address + bytes` does not pass
    /// 2⁴⁸, and the range overlaps nothing else of any device. Costs no memory. Errors:
    /// `OutOfMemory` (no addresses left), `InvalidValue`.
    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError>;

    /// Gives a whole range of addresses back, as [`Driver::address_reserve`] returned it, with
    /// nothing mapped in it. Errors: `InvalidValue`.
    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError>;

    /// Makes a handle: `bytes` (> 0, a multiple of the page) of physical memory, mapped nowhere.
    /// Does not wait for work in flight. Errors: `OutOfMemory`, `InvalidValue`, `NotSupported` (the
    /// kind cannot be made).
    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError>;

    /// Gives a handle back; it is mapped nowhere. Its memory is free once every process that
    /// imported it has given it back too. Errors: `InvalidValue` (no such handle, or it is mapped).
    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError>;

    /// Makes a name under which another process can import the handle. On CUDA the name is a POSIX
    /// file descriptor, which the caller owns and closes. Errors: `InvalidValue` (no such handle,
    /// or it was not created as exportable), `NotSupported`.
    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError>;

    /// Makes a handle to memory that another process (or this one) exported, of the `bytes` that
    /// it was created with. Both are the same memory. Errors: `InvalidValue`, `NotSupported`.
    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError>;

    /// Maps a whole handle at `address`, a multiple of the page, inside one reserved range and over
    /// no other mapping. A handle may be mapped at several addresses (aliases): they are the same
    /// bytes, but what was written through one is seen through another only by operations that are
    /// later in stream order. Not usable before [`Driver::set_access`]. Does not wait for work in
    /// flight. Errors: `InvalidValue`.
    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError>;

    /// Lets `accessors` read and write a range that consists of whole mappings. Does not wait for
    /// work in flight. Errors: `InvalidValue` (a part of a mapping, nothing mapped there),
    /// `InvalidDevice`, `NotSupported` (a device that cannot reach the memory).
    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError>;

    /// Takes away the mappings of which a range consists; the handles and what is in them stay.
    /// Immediate, also for the device: work in flight that uses these addresses faults, so the
    /// caller vouches that there is none. Other aliases of the handles may be in use. Errors:
    /// `InvalidValue` (a part of a mapping, nothing mapped there).
    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError>;

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

    /// The driver's own pools, for comparisons. Errors: `NotSupported` (the driver has none, as the
    /// default says).
    fn stream_ordered(&self) -> Result<&dyn StreamOrdered, DriverError> {
        Err(DriverError {
            call: DriverCall::SegmentAlloc,
            kind: DriverErrorKind::NotSupported,
            code: 0,
            detail: "the driver has no pools of its own".to_owned(),
        })
    }

    /// The driver's clock, in nanoseconds from an origin of its own, never going back. Costs some
    /// tens of nanoseconds at most. Virtual on the simulated device.
    fn now_ns(&self) -> u64;
}
