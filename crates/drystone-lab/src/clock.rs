//! Time in a replay: virtual on the simulated device, where it follows the trace, and real elsewhere.

use drystone_core::{Driver, DriverStats, StreamId};
use drystone_trace::{Event, Trace};

use crate::lagging::Lagging;

/// How the time of a device follows the trace.
pub(crate) trait Clock {
    /// The driver's name of a stream of the trace.
    fn stream(&self, number: u32) -> StreamId;

    /// The event's moment has come.
    fn arrive(&mut self, event: &Event);

    /// The program submits work to the event's stream now, which uses the block at `address`.
    fn work(&self, event: &Event, address: u64);

    /// The event has been dealt with.
    fn leave(&mut self);

    /// Nanoseconds spent in driver calls, and waiting for the device.
    fn spent(&self, measured: &DriverStats) -> (u64, u64);
}

/// The simulated device's time: the trace's, and what driver calls and waits have delayed it by.
pub(crate) struct VirtualClock<'a> {
    device: &'a Lagging,
    stamps: bool,
    origin_us: u64,
    delay_ns: u64,
    due_ns: u64,
}

impl<'a> VirtualClock<'a> {
    pub(crate) fn new(device: &'a Lagging, trace: &Trace, stamps: bool) -> Self {
        let origin_us = trace.events.first().map_or(0, |event| event.t_us);
        VirtualClock { device, stamps, origin_us, delay_ns: 0, due_ns: 0 }
    }
}

impl Clock for VirtualClock<'_> {
    #[inline]
    fn stream(&self, number: u32) -> StreamId {
        StreamId(u64::from(number))
    }

    #[inline]
    fn arrive(&mut self, event: &Event) {
        let since_ns = (event.t_us - self.origin_us).saturating_mul(1_000);
        self.due_ns = since_ns.saturating_add(self.delay_ns);
        self.device.sim.advance_to(self.due_ns);
    }

    #[inline]
    fn work(&self, event: &Event, address: u64) {
        self.device.submit(event.device, event.stream, self.device.sim.now_ns());
        if self.stamps {
            self.device.stamp(event, address);
        }
    }

    #[inline]
    fn leave(&mut self) {
        self.delay_ns += self.device.sim.now_ns().saturating_sub(self.due_ns);
    }

    fn spent(&self, _: &DriverStats) -> (u64, u64) {
        // The simulator also knows of the wait inside a call that frees memory.
        let total = self.device.sim.stats().total();
        (total.driver_ns, total.wait_ns)
    }
}

/// A real device's time goes by itself.
pub(crate) struct RealClock<'a> {
    pub(crate) streams: &'a [StreamId],
}

impl Clock for RealClock<'_> {
    #[inline]
    fn stream(&self, number: u32) -> StreamId {
        self.streams[number as usize]
    }

    #[inline]
    fn arrive(&mut self, _: &Event) {}

    #[inline]
    fn work(&self, _: &Event, _: u64) {}

    #[inline]
    fn leave(&mut self) {}

    fn spent(&self, measured: &DriverStats) -> (u64, u64) {
        (measured.driver_ns, measured.wait_ns)
    }
}
