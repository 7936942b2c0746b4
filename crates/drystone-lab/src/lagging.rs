//! The simulated device under a replay: every event of the trace submits work to its stream, so
//! that streams are behind the host as they were in the recorded run.
//!
//! That work only matters when somebody asks how far a stream has come. So an event costs one
//! store, and the work is submitted to the simulator just before a call that asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use drystone_core::{DeviceId, Driver, DriverCall, StreamId};
use drystone_sim::{Access, SimDriver};
use drystone_trace::{Event, Op};

use crate::meter::Below;

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

    /// Submits work that uses the block: it writes the block's stamp at first, and then looks for
    /// it. The simulator notes what is wrong with it.
    #[cold]
    pub(crate) fn stamp(&self, event: &Event, address: u64) {
        let (device, stream) = (DeviceId(event.device), StreamId(u64::from(event.stream)));
        let (bytes, tag) = (event.size, event.id.into());
        self.sim.set_host_lead_ns(self.host_lead_ns);
        let _ = match event.op {
            Op::Alloc => self.sim.stamp_write(device, stream, address, bytes, tag),
            _ => self.sim.stamp_check(device, stream, address, bytes, tag),
        };
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
}

impl Below for Lagging {
    type Driver = SimDriver;

    fn driver(&self) -> &SimDriver {
        &self.sim
    }

    fn before(&self, call: DriverCall, device: DeviceId, stream: Option<StreamId>) {
        match (call, stream) {
            (DriverCall::EventRecord, Some(stream)) => self.tell(device, stream),
            // They wait for what is underway, or must not meet it.
            (
                DriverCall::SegmentFree
                | DriverCall::HandleRelease
                | DriverCall::Unmap
                | DriverCall::DeviceSynchronize,
                _,
            ) => (0..self.streams as u64).for_each(|stream| self.tell(device, StreamId(stream))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meter;
    use drystone_sim::{Costs, SimConfig};

    const DEVICE: DeviceId = DeviceId(0);

    fn lagging() -> Meter<Lagging> {
        let sim = SimDriver::new(SimConfig::default().costs(Costs::zero())).unwrap();
        Meter::new(Lagging::new(sim, 1_000, 2), None)
    }

    #[test]
    fn an_event_is_done_when_the_work_before_it_is() {
        let driver = lagging();
        driver.below.submit(0, 1, 0);
        driver.below.sim.advance_to(400);
        let events: Vec<_> = (0..2).map(|_| driver.event_create(DEVICE).unwrap()).collect();
        for (stream, &event) in events.iter().enumerate() {
            driver.event_record(DEVICE, event, StreamId(stream as u64)).unwrap();
        }
        // Stream 0 was given nothing to do.
        assert_eq!(driver.event_query(DEVICE, events[0]), Ok(true));
        assert_eq!(driver.event_query(DEVICE, events[1]), Ok(false));
        driver.below.sim.advance_to(999);
        assert_eq!(driver.event_query(DEVICE, events[1]), Ok(false));
        driver.below.sim.advance_to(1_000);
        assert_eq!(driver.event_query(DEVICE, events[1]), Ok(true));
    }

    #[test]
    fn the_device_is_waited_for_with_all_its_streams() {
        let driver = lagging();
        driver.below.submit(0, 0, 10);
        driver.below.submit(0, 1, 50);
        driver.device_synchronize(DEVICE).unwrap();
        assert_eq!(driver.now_ns(), 1_050);
        driver.below.submit(0, 1, 1_050);
        let address = driver.segment_alloc(DEVICE, 512).unwrap();
        driver.segment_free(DEVICE, address).unwrap();
        assert_eq!(driver.now_ns(), 2_050);
    }
}
