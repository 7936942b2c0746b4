//! The simulated device under a replay: every event of the trace submits work to its stream, so
//! that streams are behind the host as they were in the recorded run.
//!
//! That work only matters when somebody asks how far a stream has come. So an event costs one
//! store, and the work is submitted to the simulator just before a call that asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverError, EventId, HandleId, HandleKind, ShareId, StreamId,
};
use drystone_sim::{Access, SimDriver};

/// The simulator with streams that are kept busy. Streams are those of the trace, by number.
pub(crate) struct Lagging {
    pub(crate) sim: SimDriver,
    host_lead_ns: u64,
    streams: usize,
    /// When the last work is done, in ns, by device and then stream.
    done_ns: Vec<AtomicU64>,
}

impl Lagging {
    pub(crate) fn new(sim: SimDriver, host_lead_ns: u64, streams: usize) -> Self {
        let all = sim.device_count() as usize * streams;
        let done_ns = (0..all).map(|_| AtomicU64::new(0)).collect();
        Lagging { sim, host_lead_ns, streams, done_ns }
    }

    /// Submits work to the stream, at `now_ns`: done after the host lead.
    #[inline]
    pub(crate) fn submit(&self, device: u32, stream: u32, now_ns: u64) {
        if let Some(done) = self.done_ns.get(device as usize * self.streams + stream as usize) {
            done.store(now_ns.saturating_add(self.host_lead_ns), Relaxed);
        }
    }

    /// Lets the simulator know of the stream's work. A replay is one thread: between the two
    /// calls nobody else submits anything.
    fn tell(&self, device: DeviceId, stream: StreamId) {
        let index = device.0 as usize * self.streams + stream.0 as usize;
        let Some(done) = self.done_ns.get(index) else { return };
        let ahead = done.load(Relaxed).saturating_sub(self.sim.now_ns());
        if ahead > 0 {
            self.sim.set_host_lead_ns(ahead);
            // Without ranges there is nothing to refuse but a foreign device, which the call that
            // follows refuses too.
            let _ = self.sim.launch(device, stream, &[], Access::Read);
        }
    }

    fn tell_all(&self, device: DeviceId) {
        (0..self.streams as u64).for_each(|stream| self.tell(device, StreamId(stream)));
    }
}

impl Driver for Lagging {
    fn device_count(&self) -> u32 {
        self.sim.device_count()
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        self.sim.device_memory(device)
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.sim.segment_alloc(device, bytes)
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.tell_all(device);
        self.sim.segment_free(device, address)
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.sim.page_bytes(device)
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.sim.address_reserve(device, bytes)
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.sim.address_free(device, address, bytes)
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.sim.handle_create(device, bytes, kind)
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.tell_all(device);
        self.sim.handle_release(device, handle)
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.sim.handle_export(device, handle)
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.sim.handle_import(device, share, bytes)
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.sim.map(device, address, handle)
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.sim.set_access(device, address, bytes, accessors)
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.tell_all(device);
        self.sim.unmap(device, address, bytes)
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.sim.event_create(device)
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.sim.event_destroy(device, event)
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.tell(device, stream);
        self.sim.event_record(device, event, stream)
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.sim.event_query(device, event)
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.sim.event_synchronize(device, event)
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.sim.stream_wait_event(device, stream, event)
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.tell_all(device);
        self.sim.device_synchronize(device)
    }

    fn now_ns(&self) -> u64 {
        self.sim.now_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_sim::{Costs, SimConfig};

    const DEVICE: DeviceId = DeviceId(0);

    fn lagging() -> Lagging {
        let sim = SimDriver::new(SimConfig::default().costs(Costs::zero())).unwrap();
        Lagging::new(sim, 1_000, 2)
    }

    #[test]
    fn an_event_is_done_when_the_work_before_it_is() {
        let driver = lagging();
        driver.submit(0, 1, 0);
        driver.sim.advance_to(400);
        let events: Vec<_> = (0..2).map(|_| driver.event_create(DEVICE).unwrap()).collect();
        for (stream, &event) in events.iter().enumerate() {
            driver.event_record(DEVICE, event, StreamId(stream as u64)).unwrap();
        }
        // Stream 0 was given nothing to do.
        assert_eq!(driver.event_query(DEVICE, events[0]), Ok(true));
        assert_eq!(driver.event_query(DEVICE, events[1]), Ok(false));
        driver.sim.advance_to(999);
        assert_eq!(driver.event_query(DEVICE, events[1]), Ok(false));
        driver.sim.advance_to(1_000);
        assert_eq!(driver.event_query(DEVICE, events[1]), Ok(true));
    }

    #[test]
    fn the_device_is_waited_for_with_all_its_streams() {
        let driver = lagging();
        driver.submit(0, 0, 10);
        driver.submit(0, 1, 50);
        driver.device_synchronize(DEVICE).unwrap();
        assert_eq!(driver.now_ns(), 1_050);
        driver.submit(0, 1, 1_050);
        let address = driver.segment_alloc(DEVICE, 512).unwrap();
        driver.segment_free(DEVICE, address).unwrap();
        assert_eq!(driver.now_ns(), 2_050);
    }
}
