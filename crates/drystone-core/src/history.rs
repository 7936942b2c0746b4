//! An opt-in record of what happened: the last events of each device, in a ring.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::driver::{DeviceId, StreamId};
use crate::pool::PoolId;

/// What happened. Names and meanings are torch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// A block was handed out.
    Alloc,
    /// Its owner freed it.
    FreeRequested,
    /// Its bytes became reusable.
    FreeCompleted,
    /// A segment was taken from the driver.
    SegmentAlloc,
    /// A segment was given back to the driver.
    SegmentFree,
    /// Pages came to an arena: the address and size of where.
    SegmentMap,
    /// Pages left an arena.
    SegmentUnmap,
    /// A request ended in out of memory.
    Oom,
    /// A snapshot was taken.
    Snapshot,
}

impl Action {
    /// torch's name, as in the `action` of a trace entry.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Alloc => "alloc",
            Action::FreeRequested => "free_requested",
            Action::FreeCompleted => "free_completed",
            Action::SegmentAlloc => "segment_alloc",
            Action::SegmentFree => "segment_free",
            Action::SegmentMap => "segment_map",
            Action::SegmentUnmap => "segment_unmap",
            Action::Oom => "oom",
            Action::Snapshot => "snapshot",
        }
    }
}

/// One event of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The driver's clock, in nanoseconds.
    pub time_ns: u64,
    /// What happened.
    pub action: Action,
    /// The device.
    pub device: DeviceId,
    /// The pool.
    pub pool: PoolId,
    /// The stream.
    pub stream: StreamId,
    /// The block's or segment's address; the device's free bytes for [`Action::Oom`].
    pub address: u64,
    /// Bytes asked for, of a block; bytes of a segment.
    pub size: u64,
}

/// The ring. Off, it costs one load per operation.
pub(crate) struct History {
    on: AtomicBool,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<HistoryEvent>,
    capacity: usize,
    /// How many events were ever added: the number of the next.
    added: u64,
}

impl History {
    pub(crate) fn new(capacity: usize) -> Self {
        let history = History { on: AtomicBool::new(false), ring: Mutex::new(Ring::default()) };
        history.resize(capacity);
        history
    }

    /// Keeps the last `capacity` events from now on; 0 forgets all and stops.
    pub(crate) fn resize(&self, capacity: usize) {
        let mut ring = self.ring.lock();
        ring.capacity = capacity;
        let excess = ring.events.len().saturating_sub(capacity);
        ring.events.drain(..excess);
        if capacity == 0 {
            ring.events = VecDeque::new();
        }
        self.on.store(capacity > 0, Relaxed);
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Adds an event; the oldest goes if the ring is full.
    pub(crate) fn push(&self, event: HistoryEvent) {
        let mut ring = self.ring.lock();
        if ring.capacity == 0 {
            return;
        }
        if ring.events.len() == ring.capacity {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        ring.added += 1;
    }

    /// What the ring holds, oldest first.
    pub(crate) fn events(&self) -> Vec<HistoryEvent> {
        self.since(0).0
    }

    /// Likewise those with a number of at least `number`, and the number of the next event.
    pub(crate) fn since(&self, number: u64) -> (Vec<HistoryEvent>, u64) {
        let ring = self.ring.lock();
        let oldest = ring.added - ring.events.len() as u64;
        let known = number.saturating_sub(oldest).min(ring.events.len() as u64);
        (ring.events.range(known as usize..).copied().collect(), ring.added)
    }
}
