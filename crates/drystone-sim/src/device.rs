//! One device under its lock, and the frame of a call: the time it takes, what it does wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use drystone_core::driver::{DeviceId, DriverCall, DriverErrorKind, EventId, StreamId};

use crate::address::Area;
use crate::clock::{Clock, SimStats, Spent};
use crate::config::SimConfig;
use crate::costs::Costs;
use crate::event::Events;
use crate::mapping::Mappings;
use crate::memory::Memory;
use crate::misuse::Misuse;
use crate::physical::Physical;
use crate::stream::Streams;
use crate::uses::Uses;

/// All that one device has.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) memory: Memory,
    /// Whether it can map memory.
    pub(crate) vmm: bool,
    pub(crate) physical: Physical,
    pub(crate) mappings: Mappings,
    pub(crate) streams: Streams,
    pub(crate) events: Events,
    pub(crate) uses: Uses,
    /// The streams being captured.
    pub(crate) captures: BTreeSet<StreamId>,
    pub(crate) stats: SimStats,
}

impl Device {
    /// The device of this index.
    pub(crate) fn new(id: DeviceId, config: &SimConfig) -> Self {
        let share = config.share();
        let (scatter, config) = (config.scatter, &config.devices[id.0 as usize]);
        Device {
            id,
            memory: Memory::new(id, config, scatter),
            vmm: config.vmm,
            physical: Physical::new(id),
            mappings: Mappings::new(Area::reservable(id, share)),
            streams: Streams::new(config.streams.as_deref()),
            events: Events::new(id),
            uses: Uses::new(),
            captures: BTreeSet::new(),
            stats: SimStats::default(),
        }
    }

    /// Refuses the call while any stream of the device is being captured.
    pub(crate) fn outside_captures(&self, call: &mut Call<'_>) -> Result<(), Refusal> {
        if self.captures.is_empty() {
            return Ok(());
        }
        call.found.push(Misuse::CallInCapture { device: self.id, call: call.kind });
        Err(Refusal::new(DriverErrorKind::NotPermitted, "a stream is being captured"))
    }

    /// Refuses the call while this stream is being captured.
    pub(crate) fn not_captured(
        &self,
        call: &mut Call<'_>,
        stream: StreamId,
    ) -> Result<(), Refusal> {
        if !self.captures.contains(&stream) {
            return Ok(());
        }
        call.found.push(Misuse::CallInCapture { device: self.id, call: call.kind });
        Err(Refusal::new(DriverErrorKind::NotPermitted, "the stream is being captured"))
    }

    /// The index of the stream, or the refusal of one that does not exist.
    pub(crate) fn stream(&mut self, call: &mut Call<'_>, id: StreamId) -> Result<u32, Refusal> {
        self.streams.find(id).ok_or_else(|| {
            call.found.push(Misuse::UnknownStream { device: self.id, stream: id });
            Refusal::new(DriverErrorKind::InvalidValue, "no such stream")
        })
    }
}

/// What all devices share.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) clock: Clock,
    pub(crate) costs: Costs,
    pub(crate) host_lead_ns: AtomicU64,
}

impl Env {
    /// When work submitted now is done, if nothing earlier holds it up.
    pub(crate) fn work_done_ns(&self) -> u64 {
        self.clock.now().saturating_add(self.host_lead_ns.load(Relaxed))
    }
}

/// A driver call underway.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) kind: DriverCall,
    pub(crate) env: &'a Env,
    pub(crate) spent: Spent,
    pub(crate) found: Vec<Misuse>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(kind: DriverCall, env: &'a Env) -> Self {
        Call { kind, env, spent: Spent::default(), found: Vec::new() }
    }

    /// Takes `ns` of the host's time; returns the time after it.
    pub(crate) fn spend(&mut self, ns: u64) -> u64 {
        self.spent.driver_ns = self.spent.driver_ns.saturating_add(ns);
        self.env.clock.advance(ns)
    }

    /// Waits for the device until this time.
    pub(crate) fn wait_until(&mut self, ns: u64) {
        let waited = self.env.clock.advance_to(ns);
        self.spent.wait_ns = self.spent.wait_ns.saturating_add(waited);
    }
}

/// Why a call fails. Except for finding the device full, a refused call takes no time: the driver
/// sees at once that the arguments are wrong.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: DriverErrorKind,
    pub(crate) detail: &'static str,
}

impl Refusal {
    pub(crate) fn new(kind: DriverErrorKind, detail: &'static str) -> Self {
        Refusal { kind, detail }
    }

    pub(crate) fn no_event(call: &mut Call<'_>, device: DeviceId, event: EventId) -> Self {
        call.found.push(Misuse::UnknownEvent { device, call: call.kind, event });
        Refusal::new(DriverErrorKind::InvalidValue, "no such event")
    }
}
