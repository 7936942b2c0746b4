//! A driver between the allocator and the simulated device: counts what the allocator does, lets
//! its calls fail, and runs a hook inside them, where another thread's operations could fall.
//! What the program under test does goes to the simulated device directly and is not counted.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};
use drystone_sim::SimDriver;

/// Runs inside driver calls of the allocator.
pub(crate) type Hook = Box<dyn FnMut(DriverCall) + Send>;

/// Which calls fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The n-th from now, from 1, of any kind.
    Nth(u64, DriverErrorKind),
    /// All of one kind.
    Every(DriverCall, DriverErrorKind),
    /// One in so many, by a generator's state.
    OneIn(u64, u64, DriverErrorKind),
}

/// What the allocator holds of a device in segments and handles, as its successful calls say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) most_bytes: u64,
    /// How many segments and handles were taken and given back, and their bytes.
    pub(crate) taken: [u64; 2],
    pub(crate) given: [u64; 2],
    /// Bytes that blocks could be in: those of segments, and of handles that were ever mapped.
    usable: u64,
    pub(crate) peak_usable: u64,
    /// Likewise those that came to be so, and that were given back.
    pub(crate) usable_taken: u64,
    pub(crate) usable_given: u64,
    /// How many ranges of addresses were reserved and given back.
    pub(crate) ranges: [u64; 2],
}

impl Held {
    fn give(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.given[0] += 1;
        self.given[1] += bytes;
    }

    fn became_usable(&mut self, bytes: u64) {
        self.usable += bytes;
        self.peak_usable = self.peak_usable.max(self.usable);
        self.usable_taken += bytes;
    }

    fn give_usable(&mut self, bytes: u64) {
        self.usable -= bytes;
        self.usable_given += bytes;
    }
}

/// A handle that the allocator holds.
struct Handle {
    bytes: u64,
    was_mapped: bool,
}

#[derive(Default)]
struct State {
    calls: Vec<DriverCall>,
    fault: Option<Fault>,
    /// Calls since the fault was set.
    since: u64,
    failed: u64,
    hook: Option<Hook>,
    held: [Held; 4],
    /// What may be held of each device.
    limits: [Option<u64>; 4],
    /// Bytes of segments by address.
    segments: HashMap<u64, u64>,
    handles: HashMap<(DeviceId, HandleId), Handle>,
    /// Streams about which the device may not be asked.
    ended: HashSet<(DeviceId, StreamId)>,
}

pub(crate) struct Tap {
    pub(crate) sim: Arc<SimDriver>,
    state: Mutex<State>,
}

impl State {
    fn take(&mut self, device: DeviceId, bytes: u64) {
        let held = &mut self.held[device.0 as usize];
        held.bytes += bytes;
        held.most_bytes = held.most_bytes.max(held.bytes);
        held.taken[0] += 1;
        held.taken[1] += bytes;
        let limit = self.limits[device.0 as usize];
        assert!(limit.is_none_or(|limit| held.bytes <= limit), "{held:?} above {limit:?}");
    }
}

impl Tap {
    pub(crate) fn new(sim: Arc<SimDriver>) -> Self {
        Tap { sim, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.since) = (fault, 0);
    }

    pub(crate) fn set_hook(&self, hook: Option<Hook>) {
        self.state().hook = hook;
    }

    /// Says that a stream has ended, or is used again: while it has, no call may name it.
    pub(crate) fn stream_has_ended(&self, device: DeviceId, stream: StreamId, ended: bool) {
        let mut state = self.state();
        if ended {
            state.ended.insert((device, stream));
        } else {
            state.ended.remove(&(device, stream));
        }
    }

    fn watch(&self, device: DeviceId, stream: StreamId) {
        assert!(!self.state().ended.contains(&(device, stream)), "{stream} of {device} has ended");
    }

    /// How many calls failed on purpose.
    pub(crate) fn failed(&self) -> u64 {
        self.state().failed
    }

    /// All calls so far, failed ones included.
    pub(crate) fn calls(&self) -> Vec<DriverCall> {
        self.state().calls.clone()
    }

    pub(crate) fn count(&self, call: DriverCall) -> usize {
        self.state().calls.iter().filter(|&&one| one == call).count()
    }

    pub(crate) fn held(&self, device: DeviceId) -> Held {
        self.state().held[device.0 as usize]
    }

    /// From now on, to take memory so that more than this is held is an error of the allocator.
    pub(crate) fn set_limit(&self, device: DeviceId, limit: Option<u64>) {
        self.state().limits[device.0 as usize] = limit;
    }

    /// Starts the peak of a device again.
    pub(crate) fn reset_peak(&self, device: DeviceId) {
        let held = &mut self.state().held[device.0 as usize];
        held.peak_usable = held.usable;
    }

    /// Starts the sums of what was taken and given again.
    pub(crate) fn reset_accumulated(&self, device: DeviceId) {
        let held = &mut self.state().held[device.0 as usize];
        (held.taken, held.given, held.ranges) = ([0; 2], [0; 2], [0; 2]);
        (held.usable_taken, held.usable_given) = (0, 0);
    }

    fn enter(&self, call: DriverCall) -> Result<(), DriverError> {
        let hook = self.state().hook.take();
        if let Some(mut hook) = hook {
            hook(call);
            // A hook that sets another one has had its day.
            self.state().hook.get_or_insert(hook);
        }
        let mut state = self.state();
        state.calls.push(call);
        state.since += 1;
        let since = state.since;
        let kind = match &mut state.fault {
            Some(Fault::Nth(n, kind)) if since == *n => Some(*kind),
            Some(Fault::Every(kind_of_call, kind)) if *kind_of_call == call => Some(*kind),
            Some(Fault::OneIn(n, rng, kind)) => {
                *rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
                (*rng >> 33).is_multiple_of(*n).then_some(*kind)
            }
            _ => None,
        };
        let Some(kind) = kind else { return Ok(()) };
        state.failed += 1;
        Err(DriverError { call, kind, code: 7, detail: "on purpose".into() })
    }
}

impl Driver for Tap {
    fn device_count(&self) -> u32 {
        self.sim.device_count()
    }
    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        self.enter(DriverCall::DeviceMemory)?;
        self.sim.device_memory(device)
    }
    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.enter(DriverCall::SegmentAlloc)?;
        let address = self.sim.segment_alloc(device, bytes)?;
        let mut state = self.state();
        state.segments.insert(address, bytes);
        state.take(device, bytes);
        state.held[device.0 as usize].became_usable(bytes);
        Ok(address)
    }
    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.enter(DriverCall::SegmentFree)?;
        self.sim.segment_free(device, address)?;
        let mut state = self.state();
        let bytes = state.segments.remove(&address).unwrap_or(0);
        let held = &mut state.held[device.0 as usize];
        held.give(bytes);
        held.give_usable(bytes);
        Ok(())
    }
    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.enter(DriverCall::PageBytes)?;
        self.sim.page_bytes(device)
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.enter(DriverCall::AddressReserve)?;
        let address = self.sim.address_reserve(device, bytes)?;
        self.state().held[device.0 as usize].ranges[0] += 1;
        Ok(address)
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.enter(DriverCall::AddressFree)?;
        self.sim.address_free(device, address, bytes)?;
        self.state().held[device.0 as usize].ranges[1] += 1;
        Ok(())
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.enter(DriverCall::HandleCreate)?;
        let handle = self.sim.handle_create(device, bytes, kind)?;
        if kind != HandleKind::Host {
            let mut state = self.state();
            state.handles.insert((device, handle), Handle { bytes, was_mapped: false });
            state.take(device, bytes);
        }
        Ok(handle)
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.enter(DriverCall::HandleRelease)?;
        self.sim.handle_release(device, handle)?;
        let mut state = self.state();
        let Some(Handle { bytes, was_mapped }) = state.handles.remove(&(device, handle)) else {
            return Ok(());
        };
        let held = &mut state.held[device.0 as usize];
        held.give(bytes);
        if was_mapped {
            held.give_usable(bytes);
        }
        Ok(())
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.enter(DriverCall::HandleExport)?;
        self.sim.handle_export(device, handle)
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.enter(DriverCall::HandleImport)?;
        self.sim.handle_import(device, share, bytes)
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.enter(DriverCall::Map)?;
        self.sim.map(device, address, handle)?;
        let state = &mut *self.state();
        if let Some(known) = state.handles.get_mut(&(device, handle))
            && !std::mem::replace(&mut known.was_mapped, true)
        {
            state.held[device.0 as usize].became_usable(known.bytes);
        }
        Ok(())
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.enter(DriverCall::SetAccess)?;
        self.sim.set_access(device, address, bytes, accessors)
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.enter(DriverCall::Unmap)?;
        self.sim.unmap(device, address, bytes)
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.enter(DriverCall::EventCreate)?;
        self.sim.event_create(device)
    }
    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.enter(DriverCall::EventDestroy)?;
        self.sim.event_destroy(device, event)
    }
    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.watch(device, stream);
        self.enter(DriverCall::EventRecord)?;
        self.sim.event_record(device, event, stream)
    }
    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.enter(DriverCall::EventQuery)?;
        self.sim.event_query(device, event)
    }
    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.enter(DriverCall::EventSynchronize)?;
        self.sim.event_synchronize(device, event)
    }
    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.watch(device, stream);
        self.enter(DriverCall::StreamWaitEvent)?;
        self.sim.stream_wait_event(device, stream, event)
    }
    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.enter(DriverCall::DeviceSynchronize)?;
        self.sim.device_synchronize(device)
    }
    fn now_ns(&self) -> u64 {
        self.sim.now_ns()
    }
}
