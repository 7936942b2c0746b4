//! Driver calls by kind, and what their errors mean.

use std::fmt;

#[cfg(doc)]
use super::Driver;

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
    /// [`Driver::page_bytes`].
    PageBytes,
    /// [`Driver::address_reserve`].
    AddressReserve,
    /// [`Driver::address_free`].
    AddressFree,
    /// [`Driver::handle_create`].
    HandleCreate,
    /// [`Driver::handle_release`].
    HandleRelease,
    /// [`Driver::handle_export`].
    HandleExport,
    /// [`Driver::handle_import`].
    HandleImport,
    /// [`Driver::map`].
    Map,
    /// [`Driver::set_access`].
    SetAccess,
    /// [`Driver::unmap`].
    Unmap,
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
    pub const ALL: [DriverCall; 20] = [
        DriverCall::DeviceMemory,
        DriverCall::SegmentAlloc,
        DriverCall::SegmentFree,
        DriverCall::PageBytes,
        DriverCall::AddressReserve,
        DriverCall::AddressFree,
        DriverCall::HandleCreate,
        DriverCall::HandleRelease,
        DriverCall::HandleExport,
        DriverCall::HandleImport,
        DriverCall::Map,
        DriverCall::SetAccess,
        DriverCall::Unmap,
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
            DriverCall::PageBytes => "page_bytes",
            DriverCall::AddressReserve => "address_reserve",
            DriverCall::AddressFree => "address_free",
            DriverCall::HandleCreate => "handle_create",
            DriverCall::HandleRelease => "handle_release",
            DriverCall::HandleExport => "handle_export",
            DriverCall::HandleImport => "handle_import",
            DriverCall::Map => "map",
            DriverCall::SetAccess => "set_access",
            DriverCall::Unmap => "unmap",
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
