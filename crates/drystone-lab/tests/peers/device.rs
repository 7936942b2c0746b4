//! A device that keeps a ledger: who took and gave back what, in order. It is that of the oracle
//! (`oracle/fake_device.hpp`), whose addresses it hands out too.

use std::sync::{Mutex, MutexGuard};

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};

/// A line of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A segment of so many bytes was taken.
    Taken(u64),
    /// One of so many bytes was refused.
    Refused(u64),
    /// The segment of this number was given back.
    Given(u64),
}

/// The address of a segment, by its number: in a slot of 8 GiB of its own.
pub(crate) fn slot(segment: u64) -> u64 {
    (segment * 40503 % 16384 + 1) << 33
}

pub(crate) struct Device {
    capacity: u64,
    state: Mutex<State>,
}

struct State {
    held: u64,
    peak: u64,
    entries: Vec<Entry>,
    /// Bytes by number; 0 where it was given back.
    segments: Vec<u64>,
    /// Whether streams have passed every event.
    passed: bool,
}

impl Device {
    pub(crate) fn new(capacity: u64) -> Self {
        let (entries, segments) = (Vec::new(), Vec::new());
        let state = State { held: 0, peak: 0, entries, segments, passed: true };
        Device { capacity, state: Mutex::new(state) }
    }

    /// The lines since the last time.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.lock().entries)
    }

    /// Bytes held, and the most that were.
    pub(crate) fn held(&self) -> (u64, u64) {
        let state = self.lock();
        (state.held, state.peak)
    }

    /// From now on streams have passed their events, or not.
    pub(crate) fn set_passed(&self, passed: bool) {
        self.lock().passed = passed;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn error(call: DriverCall, kind: DriverErrorKind) -> DriverError {
    DriverError { call, kind, code: 0, detail: "as the ledger says".to_owned() }
}

/// What none of these policies asks for.
fn not_here<T>(call: DriverCall) -> Result<T, DriverError> {
    Err(error(call, DriverErrorKind::NotSupported))
}

impl Driver for Device {
    fn device_count(&self) -> u32 {
        1
    }

    fn device_memory(&self, _: DeviceId) -> Result<DeviceMemory, DriverError> {
        Ok(DeviceMemory { free: self.capacity - self.lock().held, total: self.capacity })
    }

    fn segment_alloc(&self, _: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let state = &mut *self.lock();
        if bytes > self.capacity - state.held {
            state.entries.push(Entry::Refused(bytes));
            return Err(error(DriverCall::SegmentAlloc, DriverErrorKind::OutOfMemory));
        }
        state.held += bytes;
        state.peak = state.peak.max(state.held);
        state.entries.push(Entry::Taken(bytes));
        state.segments.push(bytes);
        Ok(slot(state.segments.len() as u64 - 1))
    }

    fn segment_free(&self, _: DeviceId, address: u64) -> Result<(), DriverError> {
        let state = &mut *self.lock();
        let found = (0..state.segments.len()).find(|&at| slot(at as u64) == address);
        let found = found.filter(|&at| state.segments[at] > 0);
        let found =
            found.ok_or_else(|| error(DriverCall::SegmentFree, DriverErrorKind::InvalidValue))?;
        state.held -= std::mem::take(&mut state.segments[found]);
        state.entries.push(Entry::Given(found as u64));
        Ok(())
    }

    fn page_bytes(&self, _: DeviceId) -> Result<u64, DriverError> {
        Ok(2 << 20)
    }

    fn address_reserve(&self, _: DeviceId, _: u64) -> Result<u64, DriverError> {
        not_here(DriverCall::AddressReserve)
    }

    fn address_free(&self, _: DeviceId, _: u64, _: u64) -> Result<(), DriverError> {
        not_here(DriverCall::AddressFree)
    }

    fn handle_create(&self, _: DeviceId, _: u64, _: HandleKind) -> Result<HandleId, DriverError> {
        not_here(DriverCall::HandleCreate)
    }

    fn handle_release(&self, _: DeviceId, _: HandleId) -> Result<(), DriverError> {
        not_here(DriverCall::HandleRelease)
    }

    fn handle_export(&self, _: DeviceId, _: HandleId) -> Result<ShareId, DriverError> {
        not_here(DriverCall::HandleExport)
    }

    fn handle_import(&self, _: DeviceId, _: ShareId, _: u64) -> Result<HandleId, DriverError> {
        not_here(DriverCall::HandleImport)
    }

    fn map(&self, _: DeviceId, _: u64, _: HandleId) -> Result<(), DriverError> {
        not_here(DriverCall::Map)
    }

    fn set_access(&self, _: DeviceId, _: u64, _: u64, _: &[DeviceId]) -> Result<(), DriverError> {
        not_here(DriverCall::SetAccess)
    }

    fn unmap(&self, _: DeviceId, _: u64, _: u64) -> Result<(), DriverError> {
        not_here(DriverCall::Unmap)
    }

    fn event_create(&self, _: DeviceId) -> Result<EventId, DriverError> {
        Ok(EventId(1))
    }

    fn event_destroy(&self, _: DeviceId, _: EventId) -> Result<(), DriverError> {
        Ok(())
    }

    fn event_record(&self, _: DeviceId, _: EventId, _: StreamId) -> Result<(), DriverError> {
        Ok(())
    }

    fn event_query(&self, _: DeviceId, _: EventId) -> Result<bool, DriverError> {
        Ok(self.lock().passed)
    }

    fn event_synchronize(&self, _: DeviceId, _: EventId) -> Result<(), DriverError> {
        Ok(())
    }

    fn stream_wait_event(&self, _: DeviceId, _: StreamId, _: EventId) -> Result<(), DriverError> {
        Ok(())
    }

    fn device_synchronize(&self, _: DeviceId) -> Result<(), DriverError> {
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        0
    }
}
