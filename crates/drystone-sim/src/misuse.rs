//! What a caller can do wrong: one variant for each kind, and the log of those committed.

use drystone_core::driver::{DeviceId, DriverCall, EventId, HandleId, ShareId, StreamId};
use parking_lot::Mutex;

use crate::config::OnMisuse;

/// How work touches bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// It only reads them: no conflict with other readers.
    Read,
    /// It writes them, or reads and writes.
    Write,
}

/// What is wrong with a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RangeFault {
    /// It does not start at a page.
    Unaligned,
    /// It is not in one reserved range, or not the whole of one where that is asked for.
    NotReserved,
    /// Something is mapped there.
    Mapped,
    /// Nothing is mapped in some of it.
    NotMapped,
    /// It has a part of a mapping.
    PartOfMapping,
    /// The device has no access to some of it.
    NoAccess,
}

impl RangeFault {
    /// What is wrong, in words.
    pub const fn words(self) -> &'static str {
        match self {
            RangeFault::Unaligned => "not at a page",
            RangeFault::NotReserved => "not a reserved range",
            RangeFault::Mapped => "something is mapped there",
            RangeFault::NotMapped => "not mapped everywhere",
            RangeFault::PartOfMapping => "a part of a mapping",
            RangeFault::NoAccess => "without access",
        }
    }
}

/// Something that a correct program never does. On a real device most of these corrupt data or
/// break the context without a word. Addresses and sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Work touches bytes that never were memory of the device, or whose addresses were given back.
    #[error("{device}, {stream}: {bytes} bytes at {address:#x} were not allocated")]
    UseOfForeign {
        /// The device.
        device: DeviceId,
        /// The stream of the work.
        stream: StreamId,
        /// The first byte touched.
        address: u64,
        /// The bytes touched.
        bytes: u64,
    },
    /// Work touches bytes of a segment that was given back.
    #[error("{device}, {stream}: {bytes} bytes at {address:#x} used after free of {segment:#x}")]
    UseAfterFree {
        /// The device.
        device: DeviceId,
        /// The stream of the work.
        stream: StreamId,
        /// The first byte touched.
        address: u64,
        /// The bytes touched.
        bytes: u64,
        /// The address of the segment that they were part of.
        segment: u64,
    },
    /// Work starts in a segment and ends behind it.
    #[error(
        "{device}, {stream}: {bytes} bytes at {address:#x} pass the end of the \
         {segment_bytes} bytes at {segment:#x}"
    )]
    UsePastEnd {
        /// The device.
        device: DeviceId,
        /// The stream of the work.
        stream: StreamId,
        /// The first byte touched.
        address: u64,
        /// The bytes touched.
        bytes: u64,
        /// The address of the segment.
        segment: u64,
        /// Its bytes.
        segment_bytes: u64,
    },
    /// Two streams touch the same bytes, at least one writes, and nothing orders the two.
    #[error(
        "{device}: {bytes} bytes at {address:#x}: {access:?} on {stream} is not ordered after \
         {earlier_access:?} on {earlier_stream}"
    )]
    Unordered {
        /// The device.
        device: DeviceId,
        /// The first byte that both touch.
        address: u64,
        /// The bytes that both touch.
        bytes: u64,
        /// The stream of the work submitted now.
        stream: StreamId,
        /// What that work does.
        access: Access,
        /// The stream of the work submitted before.
        earlier_stream: StreamId,
        /// What that work does.
        earlier_access: Access,
    },
    /// A segment is given back while work touches it that the host has not waited for (nor been
    /// told by a query that it is done). By order, not by luck: that the work happens to be done
    /// at that moment of the clock is no excuse.
    #[error("{device}: segment of {bytes} bytes at {address:#x} freed under work of {stream}")]
    FreeInFlight {
        /// The device.
        device: DeviceId,
        /// The address of the segment.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// A stream whose work touches it.
        stream: StreamId,
    },
    /// `segment_free` of an address that is not the start of a segment of the device.
    #[error("{device}: {address:#x} freed, which is no segment")]
    ForeignFree {
        /// The device.
        device: DeviceId,
        /// The address.
        address: u64,
    },
    /// `segment_free` of a segment that was given back before.
    #[error("{device}: segment {address:#x} freed twice")]
    DoubleFree {
        /// The device.
        device: DeviceId,
        /// The address.
        address: u64,
    },
    /// Work touches bytes of a reserved range where nothing is mapped, or nothing that the device
    /// has access to.
    #[error("{device}, {stream}: {bytes} bytes at {address:#x} used: {}", fault.words())]
    UseOfUnmapped {
        /// The device.
        device: DeviceId,
        /// The stream of the work.
        stream: StreamId,
        /// The first byte touched.
        address: u64,
        /// The bytes touched.
        bytes: u64,
        /// What is wrong there.
        fault: RangeFault,
    },
    /// One piece of work touches the same bytes through two addresses, and writes: what it sees
    /// is undefined, since aliases agree only from one operation to the next.
    #[error(
        "{device}, {stream}: {bytes} bytes at {address:#x} written through two addresses by one \
         piece of work"
    )]
    AliasedWork {
        /// The device.
        device: DeviceId,
        /// The stream of the work.
        stream: StreamId,
        /// The first byte touched twice, by its second address.
        address: u64,
        /// The bytes touched twice.
        bytes: u64,
    },
    /// A mapping is taken away while work uses its addresses that the host has not waited for (nor
    /// been told by a query that it is done): by order, not by luck, as for
    /// [`Misuse::FreeInFlight`]. Work that uses the same memory through other addresses may go on.
    /// Work of another device counts until its time has passed.
    #[error("{device}: {bytes} bytes at {address:#x} unmapped under work of {stream}")]
    UnmapInFlight {
        /// The device.
        device: DeviceId,
        /// The address of the mapping.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// A stream whose work uses it.
        stream: StreamId,
    },
    /// A call names a range that it cannot have.
    #[error("{device}: {call} of {bytes} bytes at {address:#x}: {}", fault.words())]
    WrongRange {
        /// The device.
        device: DeviceId,
        /// The call.
        call: DriverCall,
        /// The start of the range.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// What is wrong with it.
        fault: RangeFault,
    },
    /// A call names a handle that the device does not have: given back, of another device, or none.
    #[error("{device}: {call} of {handle:?}, which is no handle of the device")]
    UnknownHandle {
        /// The device.
        device: DeviceId,
        /// The call.
        call: DriverCall,
        /// The handle.
        handle: HandleId,
    },
    /// A handle is given back while it is mapped.
    #[error("{device}: {handle:?} released, which is mapped {mappings} times")]
    ReleaseOfMapped {
        /// The device.
        device: DeviceId,
        /// The handle.
        handle: HandleId,
        /// How many times it is mapped.
        mappings: u64,
    },
    /// A handle is exported that was not made for it, or was itself imported.
    #[error("{device}: {handle:?} exported, which is not exportable")]
    NotExportable {
        /// The device.
        device: DeviceId,
        /// The handle.
        handle: HandleId,
    },
    /// Memory is imported that nobody exported under this name and size, or that is gone.
    #[error("{device}: {bytes} bytes imported as {share:?}, which is no such memory")]
    UnknownShare {
        /// The device.
        device: DeviceId,
        /// The name.
        share: ShareId,
        /// The bytes that it was said to have.
        bytes: u64,
    },
    /// Bytes do not hold the stamp that was expected: somebody else wrote to them.
    #[error(
        "{device}, {stream}: {bytes} bytes at {address:#x} hold {found:x?} in place of stamp \
         {expected:#x}"
    )]
    StampLost {
        /// The device.
        device: DeviceId,
        /// The stream of the check.
        stream: StreamId,
        /// The first byte that differs.
        address: u64,
        /// The bytes from there that differ in the same way.
        bytes: u64,
        /// The stamp looked for.
        expected: u64,
        /// The stamp found, if there is one.
        found: Option<u64>,
    },
    /// A driver call that a capture underway on the device forbids.
    #[error("{device}: {call} in a capture")]
    CallInCapture {
        /// The device.
        device: DeviceId,
        /// The call.
        call: DriverCall,
    },
    /// A capture begun on a stream that is being captured, or ended on one that is not.
    #[error("{device}, {stream}: capture begun twice or ended without a beginning")]
    CaptureMismatch {
        /// The device.
        device: DeviceId,
        /// The stream.
        stream: StreamId,
    },
    /// A call names an event that the device does not have: destroyed, of another device, or none.
    #[error("{device}: {call} of {event:?}, which is no event of the device")]
    UnknownEvent {
        /// The device.
        device: DeviceId,
        /// The call.
        call: DriverCall,
        /// The event.
        event: EventId,
    },
    /// A stream that the device's configuration does not have.
    #[error("{device}: there is no {stream}")]
    UnknownStream {
        /// The device.
        device: DeviceId,
        /// The stream.
        stream: StreamId,
    },
    /// A device that the driver does not have.
    #[error("there is no {device}")]
    UnknownDevice {
        /// The device.
        device: DeviceId,
    },
}

/// The misuses kept in full; a broken allocator in a long replay commits millions.
const KEPT: usize = 4096;

/// The misuses so far, of all devices.
#[derive(Debug)]
pub(crate) struct MisuseLog {
    on_misuse: OnMisuse,
    /// The first [`KEPT`], and how many there were in all.
    state: Mutex<(Vec<Misuse>, u64)>,
}

impl MisuseLog {
    pub(crate) fn new(on_misuse: OnMisuse) -> Self {
        MisuseLog { on_misuse, state: Mutex::default() }
    }

    /// Adds what one call did wrong. The caller holds no lock, as this may panic.
    pub(crate) fn add(&self, found: &[Misuse]) {
        let Some(first) = found.first() else { return };
        {
            let (kept, count) = &mut *self.state.lock();
            *count += found.len() as u64;
            let room = KEPT.saturating_sub(kept.len());
            kept.extend(found.iter().take(room).cloned());
        }
        if self.on_misuse == OnMisuse::Panic {
            panic!("misuse of the device: {first}");
        }
    }

    pub(crate) fn kept(&self) -> Vec<Misuse> {
        self.state.lock().0.clone()
    }

    pub(crate) fn count(&self) -> u64 {
        self.state.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_counts_on() {
        let log = MisuseLog::new(OnMisuse::Record);
        let one = Misuse::UnknownDevice { device: DeviceId(1) };
        log.add(&vec![one.clone(); KEPT - 1]);
        log.add(&vec![one; 5]);
        assert_eq!((log.kept().len(), log.count()), (KEPT, KEPT as u64 + 4));
    }
}
