//! A driver that keeps a ledger: who was given which addresses in which order. It is that of the
//! oracle's fake CUDA runtime (`tests/oracle/fake_cuda.c`), whose addresses it hands out too.

use std::sync::{Mutex, MutexGuard};

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};

/// A line of the ledger, by the oracle's letters: `S` a segment was taken, `R` given back; `V`
/// addresses were reserved, `v` given up; `m` a handle was mapped, `u` unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: char,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

/// Where new pieces of addresses lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// In slots of 8 GiB, in an order that jumps: the oracle's.
    Slots,
    /// Each above those before.
    Rising,
    /// As CUDA places segments while programs run (see [`State::as_cuda`]).
    Cuda,
}

impl Placement {
    /// The address of a piece, by its number, in a slot of its own.
    pub(crate) fn slot(piece: u64) -> u64 {
        (piece * 40503 % 16384 + 1) << 33
    }
}

pub(crate) struct Ledger {
    capacity: u64,
    placement: Placement,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: u64,
    pieces: u64,
    entries: Vec<Entry>,
    /// Address and bytes of segments.
    segments: Vec<(u64, u64)>,
    /// Bytes by number; 0 where it was given back.
    handles: Vec<u64>,
    /// Address and bytes of mappings.
    mapped: Vec<(u64, u64)>,
    /// Address and bytes of what is free in the chunks that CUDA has taken, lowest first.
    holes: Vec<(u64, u64)>,
    /// The lowest chunk.
    bottom: u64,
}

impl State {
    fn note(&mut self, kind: char, address: u64, bytes: u64) {
        self.entries.push(Entry { kind, address, bytes });
    }

    /// The snapshots of recorded runs (`traces/*.pickle.xz`) show where segments lie: at the lowest
    /// address where a hole is large enough, else at the beginning of a new chunk of whole 32 MiB
    /// right below all others; and that a range of some 500 MiB that CUDA itself had used before
    /// is filled first.
    fn as_cuda(&mut self, bytes: u64) -> u64 {
        const CHUNK: u64 = 32 << 20;
        if self.bottom == 0 {
            self.bottom = 1 << 46;
            self.holes.push((self.bottom, 512 << 20));
        }
        if let Some(hole) = self.holes.iter_mut().find(|hole| hole.1 >= bytes) {
            let address = hole.0;
            *hole = (address + bytes, hole.1 - bytes);
            return address;
        }
        let chunk = bytes.next_multiple_of(CHUNK);
        self.bottom -= chunk;
        self.holes.insert(0, (self.bottom + bytes, chunk - bytes));
        self.bottom
    }
}

impl Ledger {
    pub(crate) fn new(capacity: u64, placement: Placement) -> Self {
        Ledger { capacity, placement, state: Mutex::default() }
    }

    /// The lines since the last time.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.lock().entries)
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> u64 {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn admit(&self, state: &mut State, call: DriverCall, bytes: u64) -> Result<(), DriverError> {
        if state.held + bytes > self.capacity {
            return Err(error(call, DriverErrorKind::OutOfMemory));
        }
        state.held += bytes;
        Ok(())
    }

    fn place(&self, state: &mut State, bytes: u64) -> u64 {
        state.pieces += 1;
        match self.placement {
            Placement::Slots => Placement::slot(state.pieces - 1),
            Placement::Rising => state.pieces << 36,
            Placement::Cuda => state.as_cuda(bytes),
        }
    }
}

fn error(call: DriverCall, kind: DriverErrorKind) -> DriverError {
    DriverError { call, kind, code: 0, detail: "as the ledger says".to_owned() }
}

fn take(list: &mut Vec<(u64, u64)>, address: u64, call: DriverCall) -> Result<u64, DriverError> {
    let at = list.iter().position(|&(at, _)| at == address);
    let at = at.ok_or_else(|| error(call, DriverErrorKind::InvalidValue))?;
    Ok(list.swap_remove(at).1)
}

impl Driver for Ledger {
    fn device_count(&self) -> u32 {
        1
    }

    fn device_memory(&self, _: DeviceId) -> Result<DeviceMemory, DriverError> {
        Ok(DeviceMemory { free: self.capacity - self.lock().held, total: self.capacity })
    }

    fn segment_alloc(&self, _: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let state = &mut *self.lock();
        self.admit(state, DriverCall::SegmentAlloc, bytes)?;
        let address = self.place(state, bytes);
        state.segments.push((address, bytes));
        state.note('S', address, bytes);
        Ok(address)
    }

    fn segment_free(&self, _: DeviceId, address: u64) -> Result<(), DriverError> {
        let state = &mut *self.lock();
        let bytes = take(&mut state.segments, address, DriverCall::SegmentFree)?;
        state.held -= bytes;
        state.note('R', address, bytes);
        Ok(())
    }

    fn page_bytes(&self, _: DeviceId) -> Result<u64, DriverError> {
        Ok(2 << 20)
    }

    fn address_reserve(&self, _: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let state = &mut *self.lock();
        let address = self.place(state, bytes);
        state.note('V', address, bytes);
        Ok(address)
    }

    fn address_free(&self, _: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.lock().note('v', address, bytes);
        Ok(())
    }

    fn handle_create(
        &self,
        _: DeviceId,
        bytes: u64,
        _: HandleKind,
    ) -> Result<HandleId, DriverError> {
        let state = &mut *self.lock();
        self.admit(state, DriverCall::HandleCreate, bytes)?;
        state.handles.push(bytes);
        Ok(HandleId(state.handles.len() as u64 - 1))
    }

    fn handle_release(&self, _: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        let state = &mut *self.lock();
        state.held -= std::mem::take(&mut state.handles[handle.0 as usize]);
        Ok(())
    }

    fn handle_export(&self, _: DeviceId, _: HandleId) -> Result<ShareId, DriverError> {
        Err(error(DriverCall::HandleExport, DriverErrorKind::NotSupported))
    }

    fn handle_import(&self, _: DeviceId, _: ShareId, _: u64) -> Result<HandleId, DriverError> {
        Err(error(DriverCall::HandleImport, DriverErrorKind::NotSupported))
    }

    fn map(&self, _: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        let state = &mut *self.lock();
        let bytes = state.handles[handle.0 as usize];
        state.mapped.push((address, bytes));
        state.note('m', address, bytes);
        Ok(())
    }

    fn set_access(&self, _: DeviceId, _: u64, _: u64, _: &[DeviceId]) -> Result<(), DriverError> {
        Ok(())
    }

    fn unmap(&self, _: DeviceId, address: u64, _: u64) -> Result<(), DriverError> {
        let state = &mut *self.lock();
        let bytes = take(&mut state.mapped, address, DriverCall::Unmap)?;
        state.note('u', address, bytes);
        Ok(())
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
        Ok(true)
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
